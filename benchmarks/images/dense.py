"""Dense prediction, detection, and nets with several inputs or outputs."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.images.parts import NUM_CLASSES, conv_norm
from benchmarks.images.residual import BasicBlock, Bottleneck, ResNet


def _upsample(x: Tensor, like: Tensor) -> Tensor:
    size = like.shape[-2:]
    return functional.interpolate(x, size=size, mode="bilinear", align_corners=False)


class FcnHead(nn.Sequential):
    def __init__(self, inputs: int) -> None:
        mid = inputs // 4
        super().__init__(
            *conv_norm(inputs, mid), nn.Dropout(0.1), nn.Conv2d(mid, NUM_CLASSES, 1)
        )


class AsppPooling(nn.Sequential):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(nn.AdaptiveAvgPool2d(1), *conv_norm(inputs, outputs, 1))

    def forward(self, x: Tensor) -> Tensor:
        return _upsample(super().forward(x), x)


class Aspp(nn.Module):
    def __init__(self, inputs: int, outputs: int = 24) -> None:
        super().__init__()
        self.convs = nn.ModuleList([conv_norm(inputs, outputs, 1)])
        for rate in (2, 3):
            self.convs.append(conv_norm(inputs, outputs, 3, dilation=rate))
        self.convs.append(AsppPooling(inputs, outputs))
        self.project = nn.Sequential(
            *conv_norm(4 * outputs, outputs, 1), nn.Dropout(0.5)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.project(torch.cat([conv(x) for conv in self.convs], dim=1))


class Segmentation(nn.Module):
    """torchvision's FCN and DeepLab v3: a dict with `out` and `aux`."""

    def __init__(self, *, deeplab: bool) -> None:
        super().__init__()
        self.backbone = ResNet(Bottleneck, (2, 2, 2, 2), dilated=True)
        del self.backbone.fc
        inputs = self.backbone.channels
        self.classifier: nn.Module = FcnHead(inputs)
        if deeplab:
            self.classifier = nn.Sequential(
                Aspp(inputs), *conv_norm(24, 24), nn.Conv2d(24, NUM_CLASSES, 1)
            )
        self.aux_classifier = FcnHead(inputs // 2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        stages = self.backbone.features(x)
        out, aux = self.classifier(stages[-1]), self.aux_classifier(stages[-2])
        return {"out": _upsample(out, x), "aux": _upsample(aux, x)}


class DoubleConv(nn.Module):
    def __init__(self, inputs: int, outputs: int, *, norm: bool) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for channels in (inputs, outputs):
            layers.append(nn.Conv2d(channels, outputs, 3, padding=1, bias=not norm))
            if norm:
                layers.append(nn.BatchNorm2d(outputs))
            layers.append(nn.ReLU(inplace=True))
        self.double_conv = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.double_conv(x)


class Unet(nn.Module):
    def __init__(self, *, norm: bool, width: int = 8) -> None:
        super().__init__()
        w = width
        self.inc = DoubleConv(3, w, norm=norm)
        self.down1 = DoubleConv(w, 2 * w, norm=norm)
        self.down2 = DoubleConv(2 * w, 4 * w, norm=norm)
        self.down3 = DoubleConv(4 * w, 8 * w, norm=norm)
        self.up1 = nn.ConvTranspose2d(8 * w, 4 * w, 2, 2)
        self.conv1 = DoubleConv(8 * w, 4 * w, norm=norm)
        self.up2 = nn.ConvTranspose2d(4 * w, 2 * w, 2, 2)
        self.conv2 = DoubleConv(4 * w, 2 * w, norm=norm)
        self.up3 = nn.ConvTranspose2d(2 * w, w, 2, 2)
        self.conv3 = DoubleConv(2 * w, w, norm=norm)
        self.outc = nn.Conv2d(w, NUM_CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        x1 = self.inc(x)
        x2 = self.down1(functional.max_pool2d(x1, 2))
        x3 = self.down2(functional.max_pool2d(x2, 2))
        x = self.up1(self.down3(functional.max_pool2d(x3, 2)))
        x = self.conv1(torch.cat([x3, x], dim=1))
        x = self.conv2(torch.cat([x2, self.up2(x)], dim=1))
        x = self.conv3(torch.cat([x1, self.up3(x)], dim=1))
        return self.outc(x)


class Fpn(nn.Module):
    """RetinaNet: a feature pyramid and heads shared by its levels."""

    def __init__(self, width: int = 24, depth: int = 4) -> None:
        super().__init__()
        self.body = ResNet(BasicBlock, (2, 2, 2, 2))
        del self.body.fc
        channels = (16, 32, 64)
        self.inner_blocks = nn.ModuleList(nn.Conv2d(c, width, 1) for c in channels)
        self.layer_blocks = nn.ModuleList(
            nn.Conv2d(width, width, 3, padding=1) for _ in channels
        )
        self.p6 = nn.Conv2d(width, width, 3, 2, 1)
        self.cls_conv = _tower(width, depth)
        self.cls_logits = nn.Conv2d(width, NUM_CLASSES, 3, padding=1)
        self.reg_conv = _tower(width, depth)
        self.bbox_reg = nn.Conv2d(width, 4, 3, padding=1)
        for part in (self.cls_conv, self.cls_logits, self.reg_conv, self.bbox_reg):
            for module in part.modules():
                if isinstance(module, nn.Conv2d):
                    # 0.01 at the published width of 256.
                    nn.init.normal_(module.weight, std=0.01 * (256 / width) ** 0.5)
                    nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.body.features(x)[1:]
        last = self.inner_blocks[-1](features[-1])
        levels = [self.layer_blocks[-1](last)]
        for number in (1, 0):
            inner = self.inner_blocks[number](features[number])
            last = inner + functional.interpolate(last, size=inner.shape[-2:])
            levels.insert(0, self.layer_blocks[number](last))
        levels.append(self.p6(levels[-1]))
        scores = [self.cls_logits(self.cls_conv(level)) for level in levels]
        boxes = [self.bbox_reg(self.reg_conv(level)) for level in levels]
        return {
            "scores": torch.cat([s.flatten(2) for s in scores], dim=2),
            "boxes": torch.cat([b.flatten(2) for b in boxes], dim=2),
        }


def _tower(width: int, depth: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Conv2d(width, width, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers)


class Ssd(nn.Module):
    """A plain backbone with one pair of heads for each of four scales."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        w = width
        self.features = nn.Sequential(
            *[nn.Conv2d(3, w, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)],
            *[nn.Conv2d(w, 2 * w, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)],
            *[nn.Conv2d(2 * w, 4 * w, 3, padding=1), nn.ReLU()],
            *[nn.Conv2d(4 * w, 4 * w, 3, padding=1), nn.ReLU()],
        )
        self.extra = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(4 * w, 2 * w, 1),
                nn.ReLU(),
                nn.Conv2d(2 * w, 4 * w, 3, 2, 1),
                nn.ReLU(),
            )
            for _ in range(3)
        )
        self.scores = nn.ModuleList(nn.Conv2d(4 * w, 4, 3, 1, 1) for _ in range(4))
        self.boxes = nn.ModuleList(nn.Conv2d(4 * w, 4, 3, 1, 1) for _ in range(4))
        self.scale_weight = nn.Parameter(torch.ones(4 * w) * 20)
        for module in (*self.extra.modules(), *self.scores, *self.boxes):
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.features(x)
        scaled = self.scale_weight.view(1, -1, 1, 1) * functional.normalize(x)
        levels = [scaled]
        for block in self.extra:
            x = block(x)
            levels.append(x)
        scores = [h(level) for h, level in zip(self.scores, levels, strict=True)]
        boxes = [h(level) for h, level in zip(self.boxes, levels, strict=True)]
        return {
            "scores": torch.cat([s.flatten(2) for s in scores], dim=2),
            "boxes": torch.cat([b.flatten(2) for b in boxes], dim=2),
        }


class CspBlock(nn.Module):
    """YOLO: half of the channels run through bottlenecks."""

    def __init__(self, inputs: int, outputs: int, depth: int, *, skip: bool) -> None:
        super().__init__()
        half = outputs // 2
        self.skip = skip
        self.cv1 = conv_norm(inputs, half, 1, act=nn.SiLU)
        self.cv2 = conv_norm(inputs, half, 1, act=nn.SiLU)
        self.cv3 = conv_norm(2 * half, outputs, 1, act=nn.SiLU)
        self.m = nn.ModuleList(
            nn.Sequential(
                conv_norm(half, half, 1, act=nn.SiLU),
                conv_norm(half, half, 3, act=nn.SiLU),
            )
            for _ in range(depth)
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.cv1(x)
        for block in self.m:
            y = y + block(y) if self.skip else block(y)
        return self.cv3(torch.cat((y, self.cv2(x)), 1))


class Yolo(nn.Module):
    """CSP backbone, path aggregation and one output convolution a level."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_norm(3, 16, 3, 2, act=nn.SiLU)
        self.dark2 = self._stage(16, 24)
        self.dark3 = self._stage(24, 32)
        self.dark4 = self._stage(32, 48)
        self.top = CspBlock(80, 32, 1, skip=False)
        self.bottom_conv = conv_norm(32, 32, 3, 2, act=nn.SiLU)
        self.bottom = CspBlock(80, 48, 1, skip=False)
        self.out = nn.ModuleList(nn.Conv2d(c, NUM_CLASSES + 4, 1) for c in (32, 48))

    @staticmethod
    def _stage(inputs: int, outputs: int) -> nn.Sequential:
        down = conv_norm(inputs, outputs, 3, 2, act=nn.SiLU)
        return nn.Sequential(down, CspBlock(outputs, outputs, 2, skip=True))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        p3 = self.dark3(self.dark2(self.stem(x)))
        p4 = self.dark4(p3)
        top = self.top(torch.cat([functional.interpolate(p4, scale_factor=2), p3], 1))
        bottom = self.bottom(torch.cat([self.bottom_conv(top), p4], 1))
        outs = [o(level) for o, level in zip(self.out, (top, bottom), strict=True)]
        flat = torch.cat([o.flatten(2) for o in outs], dim=2)
        return {"scores": flat[:, :NUM_CLASSES], "boxes": flat[:, NUM_CLASSES:]}


class Siamese(nn.Module):
    """One encoder for two images; their distance is classified."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            *conv_norm(3, 16, 3, 2), *conv_norm(16, 32, 3, 2), *conv_norm(32, 32, 3, 2)
        )
        self.embed = nn.Sequential(nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 32))
        self.fc = nn.Linear(32, 2)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        a, b = (self.embed(self.encoder(x).flatten(1)) for x in (left, right))
        return self.fc(torch.abs(a - b))


class AutoEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            *[nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1)],
            *[nn.ReLU(), nn.Conv2d(32, 32, 3, 2, 1), nn.ReLU()],
            *[nn.Flatten(), nn.Linear(512, 32)],
        )
        self.decoder = nn.Sequential(
            *[nn.Linear(32, 512), nn.ReLU(), nn.Unflatten(1, (32, 4, 4))],
            *[nn.ConvTranspose2d(32, 32, 4, 2, 1), nn.ReLU()],
            *[nn.ConvTranspose2d(32, 16, 4, 2, 1), nn.ReLU()],
            *[nn.ConvTranspose2d(16, 3, 4, 2, 1), nn.Sigmoid()],
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.encoder(x))


def discriminator(width: int = 16) -> nn.Module:
    """Return DCGAN's discriminator."""
    w = width
    model = nn.Sequential(
        *[nn.Conv2d(3, w, 4, 2, 1, bias=False), nn.LeakyReLU(0.2, inplace=True)],
        *conv_norm4(w, 2 * w),
        *conv_norm4(2 * w, 4 * w),
        nn.Conv2d(4 * w, 1, 4, 1, 0, bias=False),
        nn.Sigmoid(),
        nn.Flatten(0),
    )
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, 0.0, 0.02)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, 0.02)
    return model


def conv_norm4(inputs: int, outputs: int) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, outputs, 4, 2, 1, bias=False)
    return [conv, nn.BatchNorm2d(outputs), nn.LeakyReLU(0.2, inplace=True)]
