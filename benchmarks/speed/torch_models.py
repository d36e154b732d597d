"""The registry's networks in plain PyTorch, eager, as the other side of the training benchmark.

Same layers, widths and order of operations as `ferjax.models`; input NCHW. Only torch is needed.
"""
# ruff: noqa: D102
# (what a forward does is its class's docstring)

from functools import partial

import torch
from torch import nn
from torch.nn import functional as F


def conv_norm(inputs, outputs, kernel=3, stride=1, act=nn.ReLU, groups=1, eps=1e-5):
    """Convolution, batch normalisation, activation."""
    layers = [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs, eps=eps),
    ]
    return nn.Sequential(*layers, act(inplace=True)) if act else nn.Sequential(*layers)


class Residual(nn.Module):
    """A branch and a shortcut, added."""

    def __init__(self, branch, shortcut=None, act=True):
        super().__init__()
        self.branch, self.shortcut, self.act = branch, shortcut, act

    def forward(self, x):
        y = self.branch(x) + (x if self.shortcut is None else self.shortcut(x))
        return F.relu(y) if self.act else y


def basic_block(inputs, outputs, stride):
    branch = nn.Sequential(conv_norm(inputs, outputs, 3, stride), conv_norm(outputs, outputs, act=None))
    same = stride == 1 and inputs == outputs
    return Residual(branch, None if same else conv_norm(inputs, outputs, 1, stride, act=None))


def resnet(num_classes, channels, depths, widths):
    layers = [conv_norm(channels, widths[0])]
    inputs = widths[0]
    for stage, (depth, width) in enumerate(zip(depths, widths, strict=True)):
        for i in range(depth):
            layers.append(basic_block(inputs, width, 2 if stage and not i else 1))
            inputs = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, num_classes))


class SqueezeExcite(nn.Module):
    """Channel weights from the mean over the map."""

    def __init__(self, channels, squeezed, gate):
        super().__init__()
        self.fc1, self.fc2, self.gate = nn.Conv2d(channels, squeezed, 1), nn.Conv2d(squeezed, channels, 1), gate

    def forward(self, x):
        s = F.relu(self.fc1(x.mean((2, 3), keepdim=True)), inplace=True)
        return x * self.gate(self.fc2(s))


# kernel, expanded, output, squeeze-excite, activation, stride (Howard et al. 2019, table 2)
MOBILENET_V3_SMALL = [
    (3, 16, 16, True, nn.ReLU, 2),
    (3, 72, 24, False, nn.ReLU, 2),
    (3, 88, 24, False, nn.ReLU, 1),
    (5, 96, 40, True, nn.Hardswish, 2),
    (5, 240, 40, True, nn.Hardswish, 1),
    (5, 240, 40, True, nn.Hardswish, 1),
    (5, 120, 48, True, nn.Hardswish, 1),
    (5, 144, 48, True, nn.Hardswish, 1),
    (5, 288, 96, True, nn.Hardswish, 2),
    (5, 576, 96, True, nn.Hardswish, 1),
    (5, 576, 96, True, nn.Hardswish, 1),
]


def mobilenet_features(channels, stem_stride):
    conv = partial(conv_norm, eps=1e-3)
    layers = [conv(channels, 16, 3, stem_stride, nn.Hardswish)]
    inputs = 16
    for kernel, expanded, outputs, squeeze, act, stride in MOBILENET_V3_SMALL:
        block = [conv(inputs, expanded, 1, 1, act)] if expanded != inputs else []
        block.append(conv(expanded, expanded, kernel, stride, act, groups=expanded))
        if squeeze:
            block.append(SqueezeExcite(expanded, max(8, (expanded // 4 + 4) // 8 * 8), F.hardsigmoid))
        block = nn.Sequential(*block, conv(expanded, outputs, 1, act=None))
        layers.append(Residual(block, act=False) if stride == 1 and inputs == outputs else block)
        inputs = outputs
    return nn.Sequential(*layers, conv(inputs, 576, 1, 1, nn.Hardswish))


def mobilenetv3_small(num_classes, stem_stride=2):
    head = [nn.Linear(576, 1024), nn.Hardswish(inplace=True), nn.Dropout(0.2), nn.Linear(1024, num_classes)]
    return nn.Sequential(mobilenet_features(3, stem_stride), nn.AdaptiveAvgPool2d(1), nn.Flatten(), *head)


def microexpnet(num_classes, stem_stride=2):
    head = [nn.Linear(576, 256), nn.ReLU(inplace=True), nn.Dropout(0.4), nn.Linear(256, num_classes)]
    squeeze = SqueezeExcite(576, 144, torch.sigmoid)
    return nn.Sequential(mobilenet_features(1, stem_stride), squeeze, nn.AdaptiveAvgPool2d(1), nn.Flatten(), *head)


class SameConv(nn.Conv2d):
    """A convolution of stride 2 with TensorFlow's SAME padding, as timm's `Conv2dSame`."""

    def forward(self, x):
        side = self.kernel_size[0]
        h, w = (max(0, 2 * ((n + 1) // 2 - 1) + side - n) for n in x.shape[2:])
        padded = F.pad(x, (w // 2, w - w // 2, h // 2, h - h // 2))
        return F.conv2d(padded, self.weight, None, self.stride, 0, 1, self.groups)


# kernel, output, stride, blocks (Tan and Le 2019, table 1)
EFFICIENTNET_LITE0 = [
    (3, 16, 1, 1),
    (3, 24, 2, 2),
    (5, 40, 2, 2),
    (3, 80, 2, 3),
    (5, 112, 1, 3),
    (5, 192, 2, 4),
    (3, 320, 1, 1),
]


def efficientnet_lite0(num_classes):
    conv, act = partial(conv_norm, eps=1e-3), partial(nn.ReLU6, inplace=True)

    def strided(inputs, outputs, kernel, groups=1):
        layer = SameConv(inputs, outputs, kernel, 2, groups=groups, bias=False)
        return nn.Sequential(layer, nn.BatchNorm2d(outputs, eps=1e-3), act())

    layers, inputs = [strided(3, 32, 3)], 32
    for kernel, outputs, stage_stride, depth in EFFICIENTNET_LITE0:
        for i in range(depth):
            stride, expanded = 1 if i else stage_stride, inputs * (1 if outputs == 16 else 6)
            block = [conv(inputs, expanded, 1, 1, nn.ReLU6)] if expanded != inputs else []
            if stride == 2:
                block.append(strided(expanded, expanded, kernel, groups=expanded))
            else:
                block.append(conv(expanded, expanded, kernel, 1, nn.ReLU6, groups=expanded))
            block = nn.Sequential(*block, conv(expanded, outputs, 1, act=None))
            layers.append(Residual(block, act=False) if i else block)
            inputs = outputs
    layers.append(conv(inputs, 1280, 1, 1, nn.ReLU6))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(1280, num_classes))


class SamePool(nn.Module):
    """3x3 max-pool of stride 2 with TensorFlow's SAME padding."""

    def forward(self, x):
        h, w = (2 * ((n + 1) // 2 - 1) + 3 - n for n in x.shape[2:])
        return F.max_pool2d(F.pad(x, (w // 2, w - w // 2, h // 2, h - h // 2), value=float("-inf")), 3, 2)


def separable(inputs, outputs, act=nn.ReLU):
    depthwise = nn.Conv2d(inputs, inputs, 3, padding=1, groups=inputs, bias=False)
    return nn.Sequential(depthwise, conv_norm(inputs, outputs, 1, act=act))


def valid(inputs, outputs):
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


def mini_xception(num_classes):
    layers = [valid(1, 8), valid(8, 8)]
    inputs = 8
    for width in (16, 32, 64, 128):
        branch = nn.Sequential(separable(inputs, width), separable(width, width, act=None), SamePool())
        layers.append(Residual(branch, conv_norm(inputs, width, 1, 2, act=None), act=False))
        inputs = width
    return nn.Sequential(*layers, nn.Conv2d(inputs, num_classes, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten())


class Attention(nn.Module):
    """Multi-head self-attention, as timm's, with torch's fused kernel."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads, self.qkv, self.proj = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        n, t, d = x.shape
        q, k, v = self.qkv(x).reshape(n, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, d))


class DeiT(nn.Module):
    """DeiT-Tiny without the distillation token."""

    def __init__(self, num_classes, size=224, patch=16, width=192, depth=12, heads=3):
        super().__init__()
        norm = partial(nn.LayerNorm, width, eps=1e-6)
        self.patch = nn.Conv2d(3, width, patch, patch)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.position = nn.Parameter(0.02 * torch.randn(1, (size // patch) ** 2 + 1, width))
        blocks = []
        for _ in range(depth):
            mlp = [norm(), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)]
            blocks += [Residual(nn.Sequential(norm(), Attention(width, heads)), act=False)]
            blocks += [Residual(nn.Sequential(*mlp), act=False)]
        self.blocks = nn.Sequential(*blocks, norm())
        self.head = nn.Linear(width, num_classes)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.position
        return self.head(self.blocks(x)[:, 0])


_MODELS = {
    "resnet18": lambda n: resnet(n, 1, (2, 2, 2, 2), (64, 128, 256, 512)),
    "resnet20": lambda n: resnet(n, 1, (3, 3, 3), (16, 32, 64)),
    "mobilenetv3_small": mobilenetv3_small,
    "microexpnet": microexpnet,
    "efficientnet_lite0": efficientnet_lite0,
    "mini_xception": mini_xception,
    "deit_tiny": DeiT,
}


def create(name, num_classes=7, **arguments):
    """Returns the network of a registry name, for images of the registry's default size.

    Args:
      name: one of `list_models()`.
      num_classes: number of logits.
      **arguments: the registry's, those that are known here: `stem_stride` of the MobileNets.

    Returns:
      An nn.Module that maps (N, C, H, W) to (N, num_classes).

    Raises:
      TypeError: for another argument.
    """
    return _MODELS[name](num_classes, **arguments)


def list_models():
    """Returns the names that `create` knows."""
    return list(_MODELS)
