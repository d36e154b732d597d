"""Measures the accuracy of a model on corrupted images."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from ferjax import cli, data
from ferjax.data import subsets
from ferjax.evaluate import corruptions

SUBSET = 1000


def measure(
    logits: Callable[[data.Images], np.ndarray],
    faces: data.Split,
    *,
    trained: Collection[str] = (),
    full: bool = False,
    seed: int = 0,
) -> dict[str, Any]:
    """Measures accuracy on corrupted copies of a split.

    Args:
      logits: uint8 images (N, H, W, C) -> logits (N, classes).
      faces: the split.
      trained: kinds that training images had; their mean and that of the others are reported apart.
      full: whether to use all images, or a fixed subset of 1,000, stratified by class.
      seed: seed of the corruptions; the subset does not depend on it.

    Returns:
      `n`; `clean`, the accuracy without corruption; `qin`, with Qin's perturbation; `accuracy`, by kind a list by
      severity; `mean`, over kinds and severities; with `trained`, the kinds, `trained_mean` and `untrained_mean`.
    """
    chosen = np.arange(len(faces.labels)) if full else subsets.stratified(faces.labels, SUBSET)
    images, labels, numbers = faces.images[chosen], faces.labels[chosen], chosen.tolist()

    def accuracy(pictures: np.ndarray) -> float:
        return float((logits(pictures).argmax(1) == labels).mean())

    by_kind = {
        kind: [
            accuracy(corruptions.corrupt(images, kind, severity, seed=seed, indices=numbers))
            for severity in corruptions.SEVERITIES
        ]
        for kind in cli.progress(corruptions.KINDS, what="corruptions")
    }
    return {
        "n": len(chosen),
        "seed": seed,
        "clean": accuracy(images),
        "qin": accuracy(corruptions.qin(images, seed=seed, indices=numbers)),
        "accuracy": by_kind,
        "mean": float(np.mean(list(by_kind.values()))),
        **_apart(by_kind, trained),
    }


def _apart(by_kind: Mapping[str, list[float]], trained: Collection[str]) -> dict[str, Any]:
    """Returns the means over the kinds that were trained on and over the others; {} if there are none of one sort."""
    seen = [kind for kind in by_kind if kind in trained]
    unseen = [kind for kind in by_kind if kind not in trained]
    if not seen or not unseen:
        return {}
    means = {n: float(np.mean([by_kind[k] for k in kinds])) for n, kinds in (("trained", seen), ("untrained", unseen))}
    return {"trained": seen, **{f"{name}_mean": mean for name, mean in means.items()}}


def table(result: Mapping[str, Any]) -> str:
    """Returns a result as text: one line per kind, one column per severity."""
    lines = [f"robustness on {result['n']} images: clean {result['clean']:.3f}, Qin's perturbation {result['qin']:.3f}"]
    lines.append(f"{'corruption':<12}" + "".join(f"{s:>8}" for s in corruptions.SEVERITIES) + f"{'mean':>8}")
    for kind, values in result["accuracy"].items():
        name = f"{kind}*" if kind in result.get("trained", ()) else kind
        lines.append(f"{name:<12}" + "".join(f"{v:8.3f}" for v in (*values, np.mean(values))))
    lines.append(f"{'all':<12}{'':40}{result['mean']:8.3f}")
    if "trained" in result:
        lines.append(f"{'trained on*':<12}{'':40}{result['trained_mean']:8.3f}")
        lines.append(f"{'the others':<12}{'':40}{result['untrained_mean']:8.3f}")
    if "mean_corruption_error" in result:
        error = result["mean_corruption_error"]
        lines.append(f"mean corruption error {error:.3f} relative to {result['relative_to']}")
    return "\n".join(lines)
