"""Compares an exported file with the Flax network, from uint8 images to probabilities, through `ferjax.runtime`."""

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
TIE = 1e-5  # maximum difference of tied probabilities; in integer networks two logits are often equal up to rounding


class Reference(NamedTuple):
    """The images of the comparison and the probabilities of the Flax network.

    Attributes:
      spec: the spec of the checkpoint.
      images: uint8 (N + M, H, W, C): N real images, then M synthetic ones (all 0, all 255, noise).
      labels: int (N,) of the real images; -1 if they are unknown.
      probabilities: float32 (N + M, classes), in the order of the spec's class names.
    """

    spec: ModelSpec
    images: np.ndarray
    labels: np.ndarray
    probabilities: np.ndarray


class Comparison(NamedTuple):
    """The differences between a file and its network.

    Attributes:
      images: number of real images. Without labels, the accuracies are NaN.
      max_difference: maximum difference of any probability of all images; NaN if a logit of the file is not finite.
      agreement: share of real images with the same prediction, up to ties of 1e-5, in 0..1.
      flips: number of real images whose predictions differ in the network's probability by more than 1e-4.
      accuracy: accuracy of the file on the real images, in 0..1.
      accuracy_interval: 95 % bootstrap interval.
      accuracy_difference: accuracy of the file minus that of the network, in percentage points.
      difference_interval: 95 % paired bootstrap interval, in percentage points.
      confusion: (C, C) counts of the file's predictions; row = true class; empty without labels.
    """

    images: int
    max_difference: float
    agreement: float
    flips: int
    accuracy: float = math.nan
    accuracy_interval: tuple[float, float] = (math.nan, math.nan)
    accuracy_difference: float = math.nan
    difference_interval: tuple[float, float] = (math.nan, math.nan)
    confusion: Sequence[Sequence[int]] = ()


def reference(network: Trained, split: Split, *, count: int = 0, seed: int = 0) -> Reference:
    """Runs the Flax network on real and synthetic images.

    Args:
      network: the network.
      split: real images with labels.
      count: number of real images, stratified by class; 0 for all.
      seed: seed of the noise.

    Raises:
      InputError: if `count` is below 512, unless the split has fewer images.
    """
    if count and count < min(AT_LEAST, len(split.labels)):
        raise errors.InputError(f"--images must be at least {AT_LEAST} or 0 for all, got {count}")
    spec, chosen = network.spec, subsets.stratified(split.labels, count or len(split.labels))
    noise = np.random.default_rng(seed).integers(0, 256, (4, *spec.input_shape), np.uint8)
    synthetic = np.stack([np.zeros(spec.input_shape, np.uint8), np.full(spec.input_shape, 255, np.uint8), *noise])
    images = np.concatenate([split.images[chosen], synthetic])
    logits = inference.logits(network, images, batch_size=min(64, len(images)))
    return Reference(spec, images, split.labels[chosen], softmax(logits, spec.temperature))


def compare(path: pathlib.Path, truth: Reference) -> Comparison:
    """Runs a file on the images of the reference and compares the probabilities.

    A file for any number of images gets them in batches of 1, 2, 3, … images.

    The inputs and outputs follow the spec in the file, so a wrong spec shows like a wrong graph.

    Raises:
      InputError: if the file cannot be loaded, or has other classes or another input shape.
    """
    model = runtime.load(path)
    names = model.spec.class_names
    if sorted(names) != sorted(truth.spec.class_names):
        expected = ", ".join(truth.spec.class_names)
        raise errors.InputError(f"{path.name} has the classes {', '.join(names)}, expected {expected}")
    places = [names.index(name) for name in truth.spec.class_names]
    images = truth.images
    if model.spec.color_order != truth.spec.color_order and model.spec.channels == 3:
        images = images[..., ::-1]
    sizes = range(1, math.isqrt(2 * len(images)) if model.spec.batch_size == 0 else 1)
    try:
        parts = [model.probabilities(np.ascontiguousarray(part)) for part in np.split(images, np.cumsum(sizes))]
        found = np.concatenate(parts)[:, places]
    except NotFinite:
        found = np.full_like(truth.probabilities, np.nan)
    return measure(found, truth.probabilities, truth.labels)


def measure(found: np.ndarray, wanted: np.ndarray, labels: np.ndarray) -> Comparison:
    """Compares probabilities (N + M, classes) of a file with the wanted ones; labels are of the first N images."""
    count, classes = len(labels), wanted.shape[1]
    predicted, expected = found[:count].argmax(1), wanted[:count].argmax(1)
    margin = wanted[np.arange(count), expected] - wanted[np.arange(count), predicted]
    difference = np.abs(found - wanted)
    agreement = Comparison(
        images=count,
        max_difference=float(difference.max()) if np.isfinite(difference).all() else math.nan,
        agreement=float((margin <= TIE).mean()),
        flips=int((margin > 1e-4).sum()),
    )
    if labels.min() < 0:
        return agreement
    counts = metrics.confusion(labels, predicted, classes)
    accuracy = intervals.bootstrap(counts)["accuracy"]
    change = intervals.paired_bootstrap(labels, expected, predicted, classes)["accuracy"]
    return agreement._replace(
        accuracy=float(accuracy.value),
        accuracy_interval=(float(accuracy.low), float(accuracy.high)),
        accuracy_difference=100 * float(change.value),
        difference_interval=(100 * float(change.low), 100 * float(change.high)),
        confusion=counts.tolist(),
    )


def faults(found: Comparison, tolerance: Tolerance) -> list[str]:
    """Returns one phrase for each violation of a tolerance."""
    phrases = []
    if math.isnan(found.max_difference):
        return ["the logits are not finite"]
    if found.max_difference > tolerance.max_difference:
        phrases.append(f"probabilities differ by {found.max_difference:.2g} (maximum {tolerance.max_difference:g})")
    if found.agreement < tolerance.agreement:
        phrases.append(f"{found.agreement:.2%} of predictions agree (minimum {tolerance.agreement:.1%})")
    if tolerance.max_difference <= 1e-4 and found.flips:
        phrases.append(f"{found.flips} of {found.images} predictions changed without a tie")
    if found.accuracy_difference < -tolerance.accuracy_loss - 1e-9:
        low, high = found.difference_interval
        phrases.append(
            f"accuracy changes by {found.accuracy_difference:+.2f} points (95 % interval {low:+.2f} … {high:+.2f}; "
            f"minimum -{tolerance.accuracy_loss:g})"
        )
    return phrases
