"""Plain and concatenating networks: AlexNet to DenseNet."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.images.parts import NUM_CLASSES, kaiming_fan_out


class AlexNet(nn.Module):
    def __init__(self, width: int = 16) -> None:
        super().__init__()
        w = width
        self.features = nn.Sequential(
            nn.Conv2d(3, w, 5, 2, 2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(w, 3 * w, 5, padding=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(3 * w, 6 * w, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(6 * w, 4 * w, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(4 * w, 4 * w, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2),
        )
        self.avgpool = nn.AdaptiveAvgPool2d((3, 3))
        self.classifier = nn.Sequential(
            nn.Dropout(),
            nn.Linear(4 * w * 9, 128),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(128, 128),
            nn.ReLU(inplace=True),
            nn.Linear(128, NUM_CLASSES),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.avgpool(self.features(x))
        return self.classifier(torch.flatten(x, 1))


class Vgg(nn.Module):
    def __init__(
        self, repeats: tuple[int, ...], *, norm: bool, width: int = 16
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels, hidden = 3, 8 * width
        for stage, repeat in enumerate(repeats):
            outputs = width * min(2**stage, 8)
            for _ in range(repeat):
                layers.append(nn.Conv2d(channels, outputs, 3, padding=1))
                if norm:
                    layers.append(nn.BatchNorm2d(outputs))
                layers.append(nn.ReLU(inplace=True))
                channels = outputs
            layers.append(nn.MaxPool2d(2, 2))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d((2, 2))
        self.classifier = nn.Sequential(
            nn.Linear(channels * 4, hidden),
            nn.ReLU(True),
            nn.Dropout(),
            nn.Linear(hidden, hidden),
            nn.ReLU(True),
            nn.Dropout(),
            nn.Linear(hidden, NUM_CLASSES),
        )
        # 0.01 at the published width of 4096: the same gain in the hidden layers.
        kaiming_fan_out(self, linear_std=0.01 * math.sqrt(4096 / hidden))

    def forward(self, x: Tensor) -> Tensor:
        x = self.avgpool(self.features(x))
        return self.classifier(torch.flatten(x, 1))


VGG16 = (2, 2, 3, 3, 3)
VGG19 = (2, 2, 4, 4, 4)


class Fire(nn.Module):
    def __init__(self, inputs: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeeze, 1)
        self.expand1x1 = nn.Conv2d(squeeze, expand, 1)
        self.expand3x3 = nn.Conv2d(squeeze, expand, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.squeeze(x))
        left, right = self.expand1x1(x), self.expand3x3(x)
        return torch.cat([functional.relu(left), functional.relu(right)], 1)


class SqueezeNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 24, 3, 2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            Fire(24, 8, 24),
            Fire(48, 8, 24),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            Fire(48, 12, 32),
            Fire(64, 12, 32),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            Fire(64, 16, 48),
            Fire(96, 16, 48),
            Fire(96, 20, 64),
            Fire(128, 20, 64),
        )
        final = nn.Conv2d(128, NUM_CLASSES, 1)
        self.classifier = nn.Sequential(
            nn.Dropout(), final, nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1)
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                if module is final:
                    nn.init.normal_(module.weight, 0.0, 0.01)
                else:
                    nn.init.kaiming_uniform_(module.weight)
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        return torch.flatten(self.classifier(self.features(x)), 1)


class BasicConv2d(nn.Module):
    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int | tuple[int, int],
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.bn(self.conv(x)), inplace=True)


def _truncated(model: nn.Module, std: float) -> None:
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.trunc_normal_(module.weight, 0.0, std, -2, 2)


class InceptionBlock(nn.Module):
    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        w = width
        self.branch1 = BasicConv2d(inputs, w, 1)
        self.branch2 = nn.Sequential(
            BasicConv2d(inputs, w, 1), BasicConv2d(w, w, 3, padding=1)
        )
        self.branch3 = nn.Sequential(
            BasicConv2d(inputs, w // 2, 1), BasicConv2d(w // 2, w, 3, padding=1)
        )
        self.branch4 = nn.Sequential(
            nn.MaxPool2d(3, 1, 1, ceil_mode=True), BasicConv2d(inputs, w, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        branches = (self.branch1, self.branch2, self.branch3, self.branch4)
        return torch.cat([branch(x) for branch in branches], 1)


class InceptionAux(nn.Module):
    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.conv = BasicConv2d(inputs, 32, 1)
        self.fc1 = nn.Linear(32 * 4, 64)
        self.fc2 = nn.Linear(64, NUM_CLASSES)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(functional.adaptive_avg_pool2d(x, (2, 2)))
        x = functional.relu(self.fc1(torch.flatten(x, 1)), inplace=True)
        return self.fc2(self.dropout(x))


class GoogLeNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = BasicConv2d(3, 16, 7, 2, 3)
        self.pool = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.conv2 = BasicConv2d(16, 16, 1)
        self.conv3 = BasicConv2d(16, 32, 3, padding=1)
        self.inception3a = InceptionBlock(32, 8)
        self.inception3b = InceptionBlock(32, 12)
        self.inception4a = InceptionBlock(48, 16)
        self.inception4b = InceptionBlock(64, 16)
        self.inception4c = InceptionBlock(64, 16)
        self.inception4d = InceptionBlock(64, 16)
        self.inception4e = InceptionBlock(64, 24)
        self.inception5a = InceptionBlock(96, 24)
        self.inception5b = InceptionBlock(96, 32)
        self.aux1 = InceptionAux(64)
        self.aux2 = InceptionAux(64)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(0.2)
        self.fc = nn.Linear(128, NUM_CLASSES)
        _truncated(self, 0.01)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.conv3(self.conv2(self.pool(self.conv1(x))))
        x = self.pool(self.inception3b(self.inception3a(self.pool(x))))
        x = self.inception4a(x)
        aux1 = self.aux1(x)
        x = self.inception4d(self.inception4c(self.inception4b(x)))
        aux2 = self.aux2(x)
        x = self.inception5b(self.inception5a(self.inception4e(x)))
        x = self.dropout(torch.flatten(self.avgpool(x), 1))
        return self.fc(x), aux2, aux1


class InceptionC(nn.Module):
    """Factorised 7x7 convolutions, four branches."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        w = width
        wide, tall = ((1, 7), (0, 3)), ((7, 1), (3, 0))
        self.branch1x1 = BasicConv2d(inputs, w, 1)
        self.branch7x7 = nn.Sequential(
            BasicConv2d(inputs, w, 1),
            BasicConv2d(w, w, wide[0], padding=wide[1]),
            BasicConv2d(w, w, tall[0], padding=tall[1]),
        )
        self.branch7x7dbl = nn.Sequential(
            BasicConv2d(inputs, w, 1),
            BasicConv2d(w, w, tall[0], padding=tall[1]),
            BasicConv2d(w, w, wide[0], padding=wide[1]),
            BasicConv2d(w, w, tall[0], padding=tall[1]),
            BasicConv2d(w, w, wide[0], padding=wide[1]),
        )
        self.branch_pool = BasicConv2d(inputs, w, 1)

    def forward(self, x: Tensor) -> Tensor:
        pooled = functional.avg_pool2d(x, 3, 1, 1)
        return torch.cat(
            [
                self.branch1x1(x),
                self.branch7x7(x),
                self.branch7x7dbl(x),
                self.branch_pool(pooled),
            ],
            1,
        )


class InceptionDown(nn.Module):
    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.branch3x3 = BasicConv2d(inputs, width, 3, 2)
        self.branch3x3dbl = nn.Sequential(
            BasicConv2d(inputs, width, 1),
            BasicConv2d(width, width, 3, padding=1),
            BasicConv2d(width, width, 3, 2),
        )

    def forward(self, x: Tensor) -> Tensor:
        pooled = functional.max_pool2d(x, 3, 2)
        return torch.cat([self.branch3x3(x), self.branch3x3dbl(x), pooled], 1)


class InceptionV3(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a = BasicConv2d(3, 16, 3, 2)
        self.Conv2d_2a = BasicConv2d(16, 16, 3)
        self.Conv2d_2b = BasicConv2d(16, 32, 3, padding=1)
        self.maxpool = nn.MaxPool2d(3, 2)
        self.Mixed_5b = InceptionBlock(32, 12)
        self.Mixed_5c = InceptionBlock(48, 12)
        self.Mixed_6a = InceptionDown(48, 16)
        self.Mixed_6b = InceptionC(80, 20)
        self.Mixed_6c = InceptionC(80, 20)
        self.Mixed_6d = InceptionC(80, 20)
        self.AuxLogits = InceptionAux(80)
        self.Mixed_7a = InceptionDown(80, 24)
        self.Mixed_7b = InceptionBlock(128, 32)
        self.Mixed_7c = InceptionBlock(128, 32)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(0.5)
        self.fc = nn.Linear(128, NUM_CLASSES)
        _truncated(self, 0.1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.Conv2d_2b(self.Conv2d_2a(self.Conv2d_1a(x)))
        x = self.Mixed_5c(self.Mixed_5b(self.maxpool(x)))
        x = self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x))))
        aux = self.AuxLogits(x)
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))
        x = torch.flatten(self.dropout(self.avgpool(x)), 1)
        return self.fc(x), aux


class DenseLayer(nn.Module):
    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv1 = nn.Conv2d(inputs, 4 * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(4 * growth)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, features: list[Tensor]) -> Tensor:
        x = self.conv1(self.relu1(self.norm1(torch.cat(features, 1))))
        return self.conv2(self.relu2(self.norm2(x)))


class DenseBlock(nn.ModuleDict):
    def __init__(self, layers: int, inputs: int, growth: int) -> None:
        super().__init__()
        for number in range(layers):
            layer = DenseLayer(inputs + number * growth, growth)
            self.add_module(f"denselayer{number + 1}", layer)

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for layer in self.values():
            features.append(layer(features))
        return torch.cat(features, 1)


class DenseNet(nn.Module):
    def __init__(
        self, blocks: tuple[int, ...] = (6, 12, 24, 16), growth: int = 6
    ) -> None:
        super().__init__()
        width = 2 * growth
        self.features = nn.Sequential()
        self.features.add_module("conv0", nn.Conv2d(3, width, 7, 2, 3, bias=False))
        self.features.add_module("norm0", nn.BatchNorm2d(width))
        self.features.add_module("relu0", nn.ReLU(inplace=True))
        self.features.add_module("pool0", nn.MaxPool2d(3, 2, 1))
        for number, layers in enumerate(blocks):
            block = DenseBlock(layers, width, growth)
            self.features.add_module(f"denseblock{number + 1}", block)
            width += layers * growth
            if number < len(blocks) - 1:
                transition = nn.Sequential()
                transition.add_module("norm", nn.BatchNorm2d(width))
                transition.add_module("relu", nn.ReLU(inplace=True))
                half = nn.Conv2d(width, width // 2, 1, bias=False)
                transition.add_module("conv", half)
                transition.add_module("pool", nn.AvgPool2d(2, 2))
                self.features.add_module(f"transition{number + 1}", transition)
                width //= 2
        self.features.add_module("norm5", nn.BatchNorm2d(width))
        self.classifier = nn.Linear(width, NUM_CLASSES)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
            elif isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.features(x), inplace=True)
        x = torch.flatten(functional.adaptive_avg_pool2d(x, (1, 1)), 1)
        return self.classifier(x)
