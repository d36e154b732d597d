"""Computes the rows of a run's history, the validation scores, and early stopping."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from ferjax import prune
from ferjax.evaluate import metrics
from ferjax.spec import ModelSpec
from ferjax.train.optim import Optimizer
from ferjax.train.stages import Stage
from ferjax.train.state import Arrays, Sums, TrainState


def make_row(epoch: int, state: TrainState, sums: Sums, optimizer: Optimizer, stage: Stage) -> dict[str, Any]:
    """Returns the training columns of an epoch's row, from its sums and the state at its end; counts epochs from 0."""
    total = jax.device_get(sums)
    step = int(state.step)
    pruned = prune.prunes(state.opt_state)
    return {
        "epoch": epoch + 1,
        "step": step,
        "learning_rate": stage.learning_rate * float(optimizer.schedule(step - 1)),
        "train_loss": float(total.loss) / int(total.examples),
        "train_accuracy": int(total.correct) / int(total.examples),
        "grad_norm": float(total.grad_norm) / int(total.steps),
        "update_norm": float(total.update_norm) / int(total.steps),
        "param_norm": _norm(state.params),
        **({"sparsity": prune.masked_share(prune.find_masks(state.opt_state))} if pruned else {}),
        **({} if isinstance(total.agreed, tuple) else {"teacher_agreement": int(total.agreed) / int(total.examples)}),
    }


def _norm(tree: Any) -> float:
    """Returns the Euclidean norm of all arrays; by NumPy, because JAX would compile programs for each shape."""
    return math.sqrt(sum(float(np.square(leaf, dtype=np.float64).sum()) for leaf in jax.tree.leaves(tree)))


def validate(predict: Callable[..., np.ndarray], variables: Any, data: Arrays, spec: ModelSpec) -> dict[str, float]:
    """Returns loss, accuracy and macro-F1 on the validation split.

    `predict` is (variables, images) -> logits float32 (N, classes); `data` is {"images": …, "labels": int32 (N,)}.
    """
    logits = predict(variables, data["images"]).astype(np.float64)
    labels = np.asarray(data["labels"])
    shifted = logits - logits.max(1, keepdims=True)
    loss = np.log(np.exp(shifted).sum(1)) - np.take_along_axis(shifted, labels[:, None], 1)[:, 0]
    counts = metrics.confusion(labels, logits.argmax(1), len(spec.class_names))
    return {
        "validation_loss": float(loss.mean()),
        "validation_accuracy": metrics.accuracy(counts),
        "validation_macro_f1": metrics.macro_f1(counts),
    }


def exhausted(history: Sequence[dict[str, Any]], patience: int, stages: Sequence[Stage]) -> bool:
    """Returns whether the last stage has run `patience` epochs without a new best; never for a patience of 0."""
    if not (patience and history):
        return False
    return len(history) - max(metrics.best_row(history)["epoch"], stages[-1].first_epoch) >= patience


def describe(row: Mapping[str, Any], epochs: int, speed: float) -> str:
    """Formats an epoch's row as one line; speed in images per second."""
    return (
        f"epoch {row['epoch']:3d}/{epochs}  loss {row['train_loss']:.4f}  accuracy {row['train_accuracy']:.4f}  "
        f"validation loss {row['validation_loss']:.4f}  accuracy {row['validation_accuracy']:.4f}  "
        f"({speed:.0f} images/s)"
    )
