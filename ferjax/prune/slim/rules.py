"""Defines which channels of a network can be removed and which arrays change with them, one function per family.

A group of channels is the output of one or more makers (several if a residual sum adds their outputs), may pass through
carriers, which process each channel separately, and is the input of readers. The arrays of makers and carriers are cut
along their last axis, the kernels of readers along the input axis.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ferjax import errors, models

Place = tuple[str | int, ...]


class Group(NamedTuple):
    """Channels that are removed together.

    Attributes:
      name: name in messages and reports.
      places: keys of the width in the arguments of `ferjax.models.create`, such as ("hidden", 3, 0).
      makers: paths of the modules that output the channels.
      readers: paths of the modules that take the channels as input.
      carriers: paths of the modules that scale or filter each channel separately.
      least: smallest width.
    """

    name: str
    places: tuple[Place, ...]
    makers: tuple[str, ...]
    readers: tuple[str, ...]
    carriers: tuple[str, ...] = ()
    least: int = 8


class Rules(NamedTuple):
    """Rules for slimming a network.

    Attributes:
      groups: the groups of channels.
      arguments: all widths of the network as lists, by name of the argument.
    """

    groups: tuple[Group, ...]
    arguments: dict[str, Any]


def find_groups(name: str, arguments: Mapping[str, Any]) -> tuple[Group, ...]:
    """Returns the groups of channels of a network; see `find_rules`."""
    return find_rules(name, arguments).groups


def find_rules(name: str, arguments: Mapping[str, Any]) -> Rules:
    """Returns the rules for slimming a network.

    Args:
      name: one of `ferjax.models.list_models()`.
      arguments: keyword arguments of `ferjax.models.create`.

    Raises:
      InputError: for a network without rules.
    """
    module = models.create(name, **arguments)
    if name not in _RULES:
        raise errors.InputError(f"{name} cannot be slimmed. Accepted: {', '.join(_RULES)}.")
    return Rules(tuple(_RULES[name](module)), _lists(_WIDTHS[_RULES[name]](module)))


def _resnet(net: Any) -> Iterator[Group]:
    hidden, inner = net.block_widths(), ("conv1", "conv2", "conv3") if net.bottleneck else ("conv1", "conv2")
    blocks = [f"layer{stage}_{i}" for stage, depth in enumerate(net.depths, 1) for i in range(depth)]
    for number, block in enumerate(blocks):
        for i in range(len(hidden[number])):
            maker, reader = f"{block}/{inner[i]}", f"{block}/{inner[i + 1]}"
            yield Group(f"{block}.{inner[i]}", (("hidden", number, i),), (maker,), (reader,))
    for stage, depth in enumerate(net.depths, 1):
        own = [f"layer{stage}_{i}" for i in range(depth)]
        readers = [f"{block}/conv1" for block in own[1:]]
        if stage < len(net.depths):
            readers += [f"layer{stage + 1}_0/conv1", f"layer{stage + 1}_0/shortcut"]
        else:
            readers.append(_first_of_head(net))
        makers = [f"{block}/{inner[-1]}" for block in own]
        places: tuple[Place, ...] = (("widths", stage - 1),)
        least = 8
        if stage == 1 and not net.bottleneck:  # the first block adds the stem to its output
            makers, readers, places = ["stem", *makers], [f"{own[0]}/conv1", *readers], (("stem_width",), *places)
        else:
            makers.append(f"{own[0]}/shortcut")
            if stage == 1:  # at the stem's width, the first block would have no shortcut convolution
                least = net.stem_width + 8
        yield Group(f"stage{stage}", places, tuple(makers), tuple(readers), least=least)
    yield from _head(net)


def _mobilenet(net: Any) -> Iterator[Group]:
    yield from _inverted_residuals(models.mobilenet.ROWS, net.all_widths().squeezed)
    attention = ("attention_se/fc1",), ("attention_se/fc2",)
    readers = (*(attention[0] if net.attention else ()), _first_of_head(net))
    yield Group("last", (("widths", 4),), ("last",), readers, attention[1] if net.attention else ())
    if net.attention:
        yield Group("attention_se", (("attention",),), *attention)
    yield from _head(net)


def _efficientnet(net: Any) -> Iterator[Group]:
    rows = models.efficientnet.ROWS
    yield from _inverted_residuals(rows, (0,) * len(rows))
    yield Group("last", (("widths", 3),), ("last",), (_first_of_head(net),))
    yield from _head(net)


def _inverted_residuals(rows: Sequence[Any], squeezed: Sequence[int]) -> Iterator[Group]:
    """Yields the groups of the stem and the blocks; their widths are the first entries of `widths`."""
    stream: list[str] = ["stem"]
    for i, row in enumerate(rows):
        block, squeeze = f"block{i}", squeezed[i] > 0
        gate = ((f"block{i}/se/fc1",), (f"block{i}/se/fc2",)) if squeeze else ((), ())
        readers = (*gate[0], f"{block}/project")
        if i:
            carriers = (f"{block}/expand", *gate[1])
            yield Group(f"{block}.expand", (("widths", 1, i),), (f"{block}/depthwise",), readers, carriers)
        else:  # no expansion: the depthwise convolution has the stem's channels
            places: tuple[Place, ...] = (("widths", 0), ("widths", 1, 0))
            yield Group("stem", places, (f"{block}/depthwise",), readers, ("stem", *gate[1]))
        if squeeze:
            yield Group(f"{block}.se", (("widths", 3, i),), gate[0], gate[1])
        added = i > 0 and row.stride == 1 and row.output == rows[i - 1].output
        stream = [*stream, block] if added else [block]
        if i + 1 == len(rows) or not (rows[i + 1].stride == 1 and rows[i + 1].output == row.output):
            members = [int(b.removeprefix("block")) for b in stream]
            after = "last" if i + 1 == len(rows) else f"block{i + 1}/expand"
            inside = [f"block{m}/expand" for m in members[1:]]
            yield Group(
                f"{stream[0]}.output",
                tuple(("widths", 2, m) for m in members),
                tuple(f"block{m}/project" for m in members),
                (*inside, after),
            )


def _mini_xception(net: Any) -> Iterator[Group]:
    stems = [f"stem{i}" for i in range(1, len(net.stem_widths) + 1)]
    for i, (stem, after) in enumerate(itertools.pairwise(stems)):
        yield Group(stem, (("stem_widths", i),), (stem,), (after,))
    before: tuple[Place, tuple[str, ...], str] = (("stem_widths", len(stems) - 1), (stems[-1],), stems[-1])
    for i in range(len(net.widths)):
        module = f"module{i + 1}"
        place, makers, name = before
        readers = (f"{module}/sep1/pointwise", f"{module}/shortcut")
        yield Group(name, (place,), makers, readers, (f"{module}/sep1/depthwise",))
        inner = (f"{module}/sep1/pointwise",), (f"{module}/sep2/pointwise",), (f"{module}/sep2/depthwise",)
        yield Group(f"{module}.sep1", (("hidden", i),), *inner)
        before = ("widths", i), (f"{module}/sep2/pointwise", f"{module}/shortcut"), module
    yield Group(before[2], (before[0],), before[1], ("head",))


def _deit(net: Any) -> Iterator[Group]:
    for i in range(net.depth):
        yield Group(f"block{i}.fc1", (("hidden", i),), (f"block{i}/fc1",), (f"block{i}/fc2",))


def _resemotenet(net: Any) -> Iterator[Group]:
    stems = [f"stem{i}" for i in range(1, len(net.stem_widths) + 1)]
    for i, (stem, after) in enumerate(itertools.pairwise(stems)):
        yield Group(stem, (("stem_widths", i),), (stem,), (after,))
    last = ("stem_widths", len(stems) - 1)
    yield Group(stems[-1], (last,), (stems[-1],), ("se/fc1", "layer1/conv1", "layer1/shortcut"), ("se/fc2",))
    yield Group("se", (("squeezed",),), ("se/fc1",), ("se/fc2",))
    for i in range(1, len(net.widths) + 1):
        block, after = f"layer{i}", f"layer{i + 1}"
        yield Group(f"{block}.conv1", (("hidden", i - 1),), (f"{block}/conv1",), (f"{block}/conv2",))
        readers = (_first_of_head(net),) if i == len(net.widths) else (f"{after}/conv1", f"{after}/shortcut")
        yield Group(block, (("widths", i - 1),), (f"{block}/conv2", f"{block}/shortcut"), readers)
    yield from _head(net)


def _baseline(net: Any) -> Iterator[Group]:
    for i in range(1, len(net.widths) + 1):
        reader = f"conv{i + 1}" if i < len(net.widths) else "head/out"
        yield Group(f"conv{i}", (("widths", i - 1),), (f"conv{i}",), (reader,))


def _first_of_head(net: Any) -> str:
    return "head/hidden1" if net.head_hidden else "head/out"


def _head(net: Any) -> Iterator[Group]:
    for i in range(1, len(net.head_hidden) + 1):
        reader = f"head/hidden{i + 1}" if i < len(net.head_hidden) else "head/out"
        yield Group(f"head.hidden{i}", (("head_hidden", i - 1),), (f"head/hidden{i}",), (reader,))


_RULES: dict[str, Callable[[Any], Iterator[Group]]] = {
    **dict.fromkeys(("resnet18", "resnet18_imagenet", "resnet20", "resnet50", "resnet50_caffe"), _resnet),
    **dict.fromkeys(("mobilenetv3_small", "microexpnet"), _mobilenet),
    "efficientnet_lite0": _efficientnet,
    "mini_xception": _mini_xception,
    **dict.fromkeys(("deit_tiny", "deit_tiny_distilled"), _deit),
    "resemotenet": _resemotenet,
    **dict.fromkeys(("baseline_cnn5", "baseline_cnn3"), _baseline),
}

_WIDTHS: dict[Callable[[Any], Iterator[Group]], Callable[[Any], dict[str, Any]]] = {
    _resnet: lambda net: {
        "stem_width": net.stem_width,
        "widths": net.widths,
        "hidden": net.block_widths(),
        "head_hidden": net.head_hidden,
    },
    _mobilenet: lambda net: {
        "widths": net.all_widths(),
        "attention": net.attention,
        "head_hidden": net.head_hidden,
    },
    _efficientnet: lambda net: {"widths": net.all_widths(), "head_hidden": net.head_hidden},
    _mini_xception: lambda net: {
        "stem_widths": net.stem_widths,
        "widths": net.widths,
        "hidden": net.hidden or net.widths,
    },
    _deit: lambda net: {"hidden": net.hidden or (4 * net.width,) * net.depth},
    _resemotenet: lambda net: {
        "stem_widths": net.stem_widths,
        "squeezed": net.squeezed,
        "widths": net.widths,
        "hidden": net.hidden or net.widths,
        "head_hidden": net.head_hidden,
    },
    _baseline: lambda net: {"widths": net.widths},
}


def _lists(value: Any) -> Any:
    """Converts tuples to lists, as in JSON."""
    if isinstance(value, Mapping):
        return {k: _lists(v) for k, v in value.items()}
    return [_lists(v) for v in value] if isinstance(value, list | tuple) else value
