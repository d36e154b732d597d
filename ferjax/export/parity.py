"""The gate: an exported file against the Flax network, from uint8 images to probabilities, by the code that serves."""

import math
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ferjax import errors, runtime
from ferjax.data import Split, subsets
from ferjax.evaluate import inference, intervals, metrics
from ferjax.evaluate.calibration import softmax
from ferjax.export.formats import Tolerance
from ferjax.runtime.model import NotFinite
from ferjax.spec import ModelSpec
from ferjax.weights import Trained

AT_LEAST = 512
TIE = 1e-5  # of probabilities: on a grid of integers two logits are often the same but for the last bit of the floats


class Reference(NamedTuple):
    """What the Flax network answers, and to what.

    Attributes:
      spec: the checkpoint's.
      images: uint8 (N + made, H, W, C): real ones, then all 0, all 255 and noise.
      labels: int (N,) of the real ones.
      probabilities: float32 (N + made, classes), in the order of the contract's names.
    """

    spec: ModelSpec
    images: np.ndarray
    labels: np.ndarray
    probabilities: np.ndarray


class Comparison(NamedTuple):
    """How a file's answers differ from the network's.

    Attributes:
      images: number of real images.
      max_difference: of any probability of any image, made ones included; NaN where there is none.
      agreement: share of real images with the same answer, or another that the network gives the same probability
        to within 1e-5, in 0..1.
      flips: real images whose answer the network holds less probable than its own by more than 1e-4.
      accuracy: of the file on the real images, in 0..1.
      accuracy_interval: 95 % bootstrap interval.
      accuracy_difference: the file's accuracy minus the network's, in points of 100.
      difference_interval: 95 % paired bootstrap interval, in points.
      confusion: (C, C) counts of the file's answers; row = true class.
    """

    images: int
    max_difference: float
    agreement: float
    flips: int
    accuracy: float
    accuracy_interval: tuple[float, float]
    accuracy_difference: float
    difference_interval: tuple[float, float]
    confusion: Sequence[Sequence[int]] = ()


def reference(network: Trained, split: Split, *, count: int = 0, seed: int = 0) -> Reference:
    """Runs the Flax network.

    Args:
      network: the checkpoint.
      split: real images with labels.
      count: how many of them, each class by its share; all if 0 or if there are fewer.
      seed: of the noise.

    Raises:
      InputError: if fewer than 512 images are asked for of a split that has them, or the images do not fit.
    """
    if count and count < min(AT_LEAST, len(split.labels)):
        raise errors.InputError(f"the comparison needs at least {AT_LEAST} images, got {count}")
    spec, chosen = network.spec, subsets.stratified(split.labels, count or len(split.labels))
    noise = np.random.default_rng(seed).integers(0, 256, (4, *spec.input_shape), np.uint8)
    made = np.stack([np.zeros(spec.input_shape, np.uint8), np.full(spec.input_shape, 255, np.uint8), *noise])
    images = np.concatenate([split.images[chosen], made])
    logits = inference.logits(network, images, batch_size=min(64, len(images)))
    return Reference(spec, images, split.labels[chosen], softmax(logits, spec.temperature))


def compare(path: pathlib.Path, truth: Reference) -> Comparison:
    """Runs a file over the reference's images and compares; answers that are not finite give a difference of NaN.

    The file is fed what its own contract asks for and its answers are read by the names in it, so that a wrong
    contract shows as much as a wrong graph.

    Raises:
      InputError: if it cannot be loaded or takes other images, or knows other classes.
    """
    model = runtime.load(path)
    names = model.spec.class_names
    if sorted(names) != sorted(truth.spec.class_names):
        raise errors.InputError(f"{path.name} knows the classes {', '.join(names)}, not those of its network")
    places = [names.index(name) for name in truth.spec.class_names]
    images = truth.images
    if model.spec.color_order != truth.spec.color_order and model.spec.channels == 3:
        images = images[..., ::-1]
    try:
        found = model.probabilities(np.ascontiguousarray(images))[:, places]
    except NotFinite:
        found = np.full_like(truth.probabilities, np.nan)
    return measure(found, truth.probabilities, truth.labels)


def measure(found: np.ndarray, wanted: np.ndarray, labels: np.ndarray) -> Comparison:
    """Compares probabilities (N + made, classes) of a file and of its network; labels are those of the first N."""
    count, classes = len(labels), wanted.shape[1]
    ours, theirs = found[:count].argmax(1), wanted[:count].argmax(1)
    behind = wanted[np.arange(count), theirs] - wanted[np.arange(count), ours]  # of the file's answer, for the network
    counts = metrics.confusion(labels, ours, classes)
    accuracy = intervals.bootstrap(counts)["accuracy"]
    change = intervals.paired_bootstrap(labels, theirs, ours, classes)["accuracy"]
    difference = np.abs(found - wanted)
    return Comparison(
        images=count,
        max_difference=float(difference.max()) if np.isfinite(difference).all() else math.nan,
        agreement=float((behind <= TIE).mean()),
        flips=int((behind > 1e-4).sum()),
        accuracy=float(accuracy.value),
        accuracy_interval=(float(accuracy.low), float(accuracy.high)),
        accuracy_difference=100 * float(change.value),
        difference_interval=(100 * float(change.low), 100 * float(change.high)),
        confusion=counts.tolist(),
    )


def faults(found: Comparison, tolerance: Tolerance) -> list[str]:
    """Returns what a comparison shows beyond a tolerance, in words; empty for a file that passes."""
    said = []
    if math.isnan(found.max_difference):
        return ["its answers are not finite"]
    if found.max_difference > tolerance.max_difference:
        said.append(f"probabilities differ by {found.max_difference:.2g}, allowed are {tolerance.max_difference:g}")
    if found.agreement < tolerance.agreement:
        said.append(f"{found.agreement:.2%} of answers agree, at least {tolerance.agreement:.1%} must")
    if tolerance.max_difference <= 1e-4 and found.flips:
        said.append(f"{found.flips} of {found.images} answers changed that were no tie")
    if found.accuracy_difference < -tolerance.accuracy_loss - 1e-9:
        low, high = found.difference_interval
        said.append(
            f"accuracy changes by {found.accuracy_difference:+.2f} points (95 % interval {low:+.2f} … {high:+.2f}), "
            f"at most -{tolerance.accuracy_loss:g} is allowed"
        )
    return said
