"""The image models, what they are fed and the rates they train at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import nn

from benchmarks.images import (
    aggregation,
    class_attention,
    classic,
    data,
    dense,
    hybrids,
    mixers,
    mobile,
    pyramids,
    residual,
    transformers,
)
from benchmarks.images.parts import Affine
from benchmarks.images.residual import BasicBlock, Bottleneck, ResNet


@dataclass(frozen=True, slots=True)
class Rates:
    """Learning rates of SGD with momentum .9 and of AdamW."""

    sgd: float = 0.05
    adamw: float = 1e-3


RATES = Rates()
DEEP_PLAIN = Rates(sgd=0.03, adamw=5e-4)
#: Networks without norms need a smaller step under SGD.
PLAIN_RATES = Rates(sgd=0.01)


@dataclass(frozen=True, slots=True)
class Model:
    """One image model.

    Attributes:
        name: Unique name.
        build: Returns a fresh model in training mode; draws from torch's generator.
        batch: Step to inputs and target; draws from no global generator.
        optimizers: Learning rates.
        loss: Output and target to a scalar.
    """

    name: str
    build: Callable[[], nn.Module]
    batch: data.MakeBatch = field(default_factory=data.images)
    optimizers: Rates = RATES
    loss: data.Loss = data.classified


LARGE = data.images(64)
FAST = Rates(adamw=3e-3)

MODELS: tuple[Model, ...] = (
    # Plain and concatenating.
    Model("alexnet", classic.AlexNet, LARGE, PLAIN_RATES),
    Model("vgg16", lambda: classic.Vgg(classic.VGG16, norm=False), LARGE, Rates(0.03)),
    Model("vgg19", lambda: classic.Vgg(classic.VGG19, norm=False), LARGE, DEEP_PLAIN),
    Model(
        "vgg16-bn", lambda: classic.Vgg(classic.VGG16, norm=True), LARGE, PLAIN_RATES
    ),
    Model(
        "vgg19-bn", lambda: classic.Vgg(classic.VGG19, norm=True), LARGE, PLAIN_RATES
    ),
    Model("squeezenet", classic.SqueezeNet, LARGE, PLAIN_RATES),
    Model("googlenet", classic.GoogLeNet, LARGE),
    Model("inception-v3", classic.InceptionV3, data.images(96)),
    Model("densenet121", classic.DenseNet, LARGE),
    # Residual.
    Model("resnet18", lambda: ResNet(BasicBlock, (2, 2, 2, 2)), LARGE),
    Model("resnet50", lambda: ResNet(Bottleneck, (3, 4, 6, 3)), LARGE),
    Model(
        "resnet50-zero-gamma",
        lambda: ResNet(Bottleneck, (3, 4, 6, 3), zero_init=True),
        LARGE,
    ),
    Model("wide-resnet50", lambda: ResNet(Bottleneck, (3, 4, 6, 3), wide=2.0), LARGE),
    Model(
        "resnext50",
        lambda: ResNet(Bottleneck, (3, 4, 6, 3), groups=8, wide=2.0),
        LARGE,
    ),
    Model("resnet101", lambda: ResNet(Bottleneck, (3, 4, 23, 3)), LARGE),
    Model("preact-resnet110", residual.PreActResNet),
    Model("regnet-x", lambda: residual.RegNet(gated=False), LARGE),
    Model("regnet-y", lambda: residual.RegNet(gated=True), LARGE),
    Model("res2net", lambda: residual.Staged(residual.Res2Block, (3, 4, 3))),
    Model("sknet", lambda: residual.Staged(residual.SkBlock, (2, 3, 2))),
    Model("dpn", residual.DualPath),
    # Mobile.
    Model("mobilenet-v2", mobile.mobilenet_v2, LARGE),
    Model("mobilenet-v3", mobile.mobilenet_v3, LARGE),
    Model("mnasnet", mobile.mnasnet, LARGE),
    Model("shufflenet-v2", mobile.ShuffleNet, LARGE),
    Model("efficientnet", mobile.efficientnet, LARGE),
    Model("efficientnet-v2", mobile.efficientnet_v2, LARGE),
    Model("ghostnet", mobile.GhostNet, LARGE),
    # Aggregation.
    Model("hrnet", aggregation.HrNet, LARGE),
    Model("dla", aggregation.Dla, LARGE),
    Model("vovnet", aggregation.VovNet, LARGE),
    Model("repvgg", aggregation.RepVgg, LARGE),
    Model("repvgg-se", lambda: aggregation.RepVgg(gated=True), LARGE),
    Model("nfnet", aggregation.NfNet, LARGE, PLAIN_RATES),
    Model("r3d", aggregation.R3d, data.videos),
    # Without attention.
    Model("convnext", mixers.ConvNext, LARGE, FAST),
    Model("convmixer", mixers.conv_mixer),
    Model("mlp-mixer", lambda: mixers.Mixer(mixers.MixerBlock)),
    Model("resmlp", lambda: mixers.Mixer(mixers.ResMlpBlock, norm=Affine)),
    Model("gmlp", lambda: mixers.Mixer(mixers.GmlpBlock)),
    Model("poolformer", mixers.PoolFormer, LARGE, FAST),
    # Transformers.
    Model("vit", transformers.VisionTransformer),
    Model("vit-gap", transformers.TimmVit),
    Model("vit-layerscale", lambda: transformers.TimmVit(scale=1e-5, depth=12)),
    Model(
        "deit-distilled",
        lambda: transformers.TimmVit(distilled=True),
        loss=data.distilled,
    ),
    Model("beit", transformers.Beit, optimizers=FAST),
    Model("swin-torchvision", transformers.Swin),
    Model("swin-timm", lambda: transformers.Swin(timm=True)),
    Model("swin-v2", lambda: transformers.Swin(version=2), optimizers=PLAIN_RATES),
    Model(
        "swin-v2-timm",
        lambda: transformers.Swin(version=2, timm=True),
        optimizers=PLAIN_RATES,
    ),
    Model("cait", class_attention.Cait, optimizers=FAST),
    Model("xcit", class_attention.Xcit),
    Model("crossvit", class_attention.CrossVit),
    Model("volo", class_attention.Volo),
    # Hybrids.
    Model("coat-lite", hybrids.CoatLite),
    Model("levit", hybrids.Levit),
    Model("maxvit", hybrids.MaxVit),
    Model("efficientformer", hybrids.EfficientFormer, optimizers=FAST),
    Model("pvt-v2", pyramids.PvtV2),
    Model("twins", pyramids.Twins),
    Model("cvt", pyramids.Cvt),
    Model("edgenext", pyramids.EdgeNext, LARGE, FAST),
    # Dense prediction, several inputs or outputs.
    Model(
        "fcn",
        lambda: dense.Segmentation(deeplab=False),
        data.masks,
        loss=data.segmented,
    ),
    Model(
        "deeplab",
        lambda: dense.Segmentation(deeplab=True),
        data.masks,
        loss=data.segmented,
    ),
    Model("unet", lambda: dense.Unet(norm=False), data.masks, loss=data.segmented),
    Model("unet-bn", lambda: dense.Unet(norm=True), data.masks, loss=data.segmented),
    Model("fpn", dense.Fpn, LARGE, PLAIN_RATES, loss=data.detected),
    Model("ssd", dense.Ssd, LARGE, Rates(sgd=2e-3), loss=data.detected),
    Model("yolo", dense.Yolo, LARGE, loss=data.detected),
    Model("siamese", dense.Siamese, data.pairs),
    Model(
        "autoencoder",
        dense.AutoEncoder,
        data.copies,
        Rates(sgd=2.0, adamw=3e-3),
        loss=data.reconstructed,
    ),
    Model("discriminator", dense.discriminator, data.real_or_fake, loss=data.binary),
)


def by_name(names: Sequence[str]) -> tuple[Model, ...]:
    """Return the models of these names, all of them without names.

    Args:
        names: Names, in the order wanted.

    Returns:
        The models.

    Raises:
        ValueError: If a name is unknown.
    """
    known = {model.name: model for model in MODELS}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"`names` (={unknown}): no such model; known: {list(known)}")
    return tuple(known[name] for name in names) if names else MODELS
