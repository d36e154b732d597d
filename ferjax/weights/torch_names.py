"""Maps the variables of ferjax networks to the tensor names of other frameworks' weights files."""

import re
from collections.abc import Callable
from statistics import fmean
from typing import NamedTuple


class Preprocessing(NamedTuple):
    """The preprocessing of a pretrained network: (p / 255 - mean) / std for a pixel p in 0..255."""

    color_order: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def gray(self) -> "Preprocessing":
        """Returns the mean over the three channels, for one channel."""
        return Preprocessing("gray", (fmean(self.mean),), (fmean(self.std),))


IMAGENET = Preprocessing("rgb", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CENTERED = Preprocessing("rgb", (0.5,) * 3, (0.5,) * 3)
# VGGFace2's means, of pixels in 0..255, in the order blue, green, red.
_FACE_MEAN = (91.4953 / 255, 103.8827 / 255, 131.0912 / 255)
VGGFACE2_BGR = Preprocessing("bgr", _FACE_MEAN, (1 / 255,) * 3)
VGGFACE2_RGB = Preprocessing("rgb", _FACE_MEAN[::-1], (1 / 255,) * 3)

Rules = tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...]


class Format(NamedTuple):
    """The tensor names of one source of weights.

    Attributes:
      signature: a tensor that only this format has.
      rules: (pattern, replacement) pairs; the first pattern that matches a ferjax module path applies.
      preprocessing: preprocessing of the networks in this format.
      epsilon: epsilon of its batch normalizations, if it differs from ferjax's 1e-3.
    """

    signature: str
    rules: Rules
    preprocessing: Preprocessing = IMAGENET
    epsilon: float | None = None


_RESNET: Rules = (
    (r"stem/conv", "conv1"),
    (r"stem/bn", "bn1"),
    (r"layer(\d)_(\d)/conv(\d)/conv", r"layer\1.\2.conv\3"),
    (r"layer(\d)_(\d)/conv(\d)/bn", r"layer\1.\2.bn\3"),
    (r"layer(\d)_(\d)/shortcut/conv", r"layer\1.\2.downsample.0"),
    (r"layer(\d)_(\d)/shortcut/bn", r"layer\1.\2.downsample.1"),
    (r"head/out", "fc"),
)
_CAFFE_KINDS = {"conv1": "1x1_reduce", "conv2": "3x3", "conv3": "1x1_increase", "shortcut": "1x1_proj"}


def _caffe_block(match: re.Match[str]) -> str:
    stage, block, kind, layer = match.groups()
    return f"conv{int(stage) + 1}_{int(block) + 1}_{_CAFFE_KINDS[kind]}" + ("_bn" if layer == "bn" else "")


_RESNET_CAFFE: Rules = (
    (r"stem/conv", "conv1_7x7_s2"),
    (r"stem/bn", "conv1_7x7_s2_bn"),
    (r"layer(\d)_(\d)/(\w+)/(conv|bn)", _caffe_block),
    (r"head/out", "classifier"),
)
_WITHOUT_SE = (1, 2)  # blocks of MobileNetV3-Small's table
_TIMM_STAGES = ("0.0", "1.0", "1.1", "2.0", "2.1", "2.2", "3.0", "3.1", "4.0", "4.1", "4.2")


def _torchvision_block(match: re.Match[str]) -> str:
    """Returns the torchvision name; it numbers the parts of a block: expansion, depthwise, SE, projection."""
    block, part, layer = int(match[1]), match[2], match[3]
    parts = ["depthwise", "project"] if block == 0 else ["expand", "depthwise", "project"]
    if block not in _WITHOUT_SE:
        parts.insert(-1, "se")
    leaf = layer if part == "se" else {"conv": "0", "bn": "1"}[layer]
    return f"features.{block + 1}.block.{parts.index(part)}.{leaf}"


def _timm_block(match: re.Match[str]) -> str:
    block, part, layer = int(match[1]), match[2], match[3]
    prefix = f"blocks.{_TIMM_STAGES[block]}."
    if part == "se":
        return prefix + {"fc1": "se.conv_reduce", "fc2": "se.conv_expand"}[layer]
    return _timm_layer(prefix, part, layer, first=block == 0)


def _timm_layer(prefix: str, part: str, layer: str, *, first: bool) -> str:
    """The first block has no expansion, and its projection the expansion's name."""
    parts = ["depthwise", "project"] if first else ["expand", "depthwise", "project"]
    convs = {"expand": "conv_pw", "depthwise": "conv_dw", "project": "conv_pw" if first else "conv_pwl"}
    return prefix + (convs[part] if layer == "conv" else f"bn{parts.index(part) + 1}")


_MOBILENET: Rules = (
    (r"stem/conv", "features.0.0"),
    (r"stem/bn", "features.0.1"),
    (r"block(\d+)/(\w+)/(\w+)", _torchvision_block),
    (r"last/conv", "features.12.0"),
    (r"last/bn", "features.12.1"),
    (r"head/hidden1/dense", "classifier.0"),
    (r"head/out", "classifier.3"),
)
_MOBILENET_TIMM: Rules = (
    (r"stem/conv", "conv_stem"),
    (r"stem/bn", "bn1"),
    (r"block(\d+)/(\w+)/(\w+)", _timm_block),
    (r"last/conv", "blocks.5.0.conv"),
    (r"last/bn", "blocks.5.0.bn1"),
    (r"head/hidden1/dense", "conv_head"),
    (r"head/out", "classifier"),
)
# Blocks of EfficientNet-Lite0 in each of timm's stages.
_LITE_STAGES = tuple(f"{stage}.{i}" for stage, depth in enumerate((1, 2, 2, 3, 3, 4, 1)) for i in range(depth))


def _timm_lite_block(match: re.Match[str]) -> str:
    return _timm_layer(f"blocks.{_LITE_STAGES[int(match[1])]}.", match[2], match[3], first=match[1] == "0")


def _lite_block(match: re.Match[str]) -> str:
    """efficientnet-lite-pytorch counts the normalizations as if every block had an expansion."""
    block, part, layer = match.groups()
    parts = ["expand", "depthwise", "project"]
    return f"_blocks.{block}." + (f"_{part}_conv" if layer == "conv" else f"_bn{parts.index(part)}")


_EFFICIENTNET_TIMM: Rules = (
    (r"stem/conv", "conv_stem"),
    (r"stem/bn", "bn1"),
    (r"block(\d+)/(\w+)/(\w+)", _timm_lite_block),
    (r"last/conv", "conv_head"),
    (r"last/bn", "bn2"),
    (r"head/out", "classifier"),
)
_EFFICIENTNET: Rules = (
    (r"stem/conv", "_conv_stem"),
    (r"stem/bn", "_bn0"),
    (r"block(\d+)/(\w+)/(\w+)", _lite_block),
    (r"last/conv", "_conv_head"),
    (r"last/bn", "_bn1"),
    (r"head/out", "_fc"),
)
_DEIT: Rules = (
    (r"patch/conv", "patch_embed.proj"),
    (r"block(\d+)/(norm\d)", r"blocks.\1.\2"),
    (r"block(\d+)/attn/(\w+)", r"blocks.\1.attn.\2"),
    (r"block(\d+)/(fc\d)", r"blocks.\1.mlp.\2"),
    (r"norm", "norm"),
    (r"(head\w*)/out", r"\1"),
)

_TORCH_RESNET = (Format("layer1.0.conv1.weight", _RESNET),)
_MOBILENETS = (
    Format("features.0.0.weight", _MOBILENET),
    Format("conv_stem.weight", _MOBILENET_TIMM, epsilon=1e-5),
)
FORMATS: dict[str, tuple[Format, ...]] = {
    "resnet18": _TORCH_RESNET,
    "resnet18_imagenet": _TORCH_RESNET,
    "resnet50": _TORCH_RESNET,
    "resnet50_caffe": (
        Format("layer1.0.conv1.weight", _RESNET, VGGFACE2_BGR),
        Format("conv1_7x7_s2.weight", _RESNET_CAFFE, VGGFACE2_RGB),
    ),
    "mobilenetv3_small": _MOBILENETS,
    "microexpnet": _MOBILENETS,
    "efficientnet_lite0": (
        # timm's tf_efficientnet_lite0. Its efficientnet_lite0, of the same names, pads and is fed in another way.
        Format("conv_stem.weight", _EFFICIENTNET_TIMM, CENTERED),
        Format("_conv_stem.weight", _EFFICIENTNET, CENTERED),
    ),
    "deit_tiny": (Format("patch_embed.proj.weight", _DEIT),),
    "deit_tiny_distilled": (Format("patch_embed.proj.weight", _DEIT),),
}
# How classifiers are called, whatever their layers: "fc.weight", "fc.1.weight", "classifier.3.bias".
CLASSIFIER = r"(_?fc|classifier|heads?|head_dist|linear|last_linear|output)\d*\."
# Modules of a network that its pretrained weights lack.
NEW_PARTS = {"microexpnet": r"^attention_se"}
_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
VGGFACE2_IDENTITIES = 8631  # outputs of VGGFace2's ResNet-50, which distinguish it from ImageNet's


def tensor_name(path: str, form: Format) -> str:
    """Returns the tensor name of a variable path, such as "stem/conv/kernel"; "(new) path" if no rule applies."""
    module, _, leaf = path.rpartition("/")
    if not module:
        return leaf
    for pattern, replacement in form.rules:
        if match := re.fullmatch(pattern, module):
            prefix = replacement(match) if callable(replacement) else match.expand(replacement)
            return f"{prefix}.{_LEAVES[leaf]}"
    return f"(new) {path}"
