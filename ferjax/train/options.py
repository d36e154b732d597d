"""Defines the group `fit` of a configuration."""

import dataclasses

from ferjax import errors


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitOptions:
    """Length, batches, evaluation and checkpoints of a run.

    Attributes:
      epochs: passes over the training set; each drops an incomplete last batch.
      batch_size: examples per step, over all devices.
      ema_decay: decay of the variables' moving average, which evaluation uses; 0 for none; see `make_train_step`.
      patience: epochs of the last stage without a better validation accuracy until training stops; 0 never stops early.
      seed: seed of initialization, shuffling, augmentation and dropout.
      sampling: "shuffled" takes each example once per epoch, "balanced" each class equally often, see `balanced_order`.
      targets: column of probabilities (N, classes) that replaces the labels, such as "votes" of FER+.
      eval_batch_size: images per forward pass in validation.
      accumulate: micro-batches per batch, see `ferjax.train.step`.
      steps_per_dispatch: training steps per compiled call; 0 chooses 1 on CPU and 32 elsewhere.
      checkpoint_minutes: minutes between checkpoints within an epoch; every epoch ends with one.
    """

    epochs: int
    batch_size: int
    ema_decay: float = 0.0
    patience: int = 0
    seed: int = 0
    sampling: str = "shuffled"
    targets: str = ""
    eval_batch_size: int = 256
    accumulate: int = 1
    steps_per_dispatch: int = 0
    checkpoint_minutes: float = 5.0

    def __post_init__(self) -> None:
        """Raises InputError for a value outside its range."""
        least = {"epochs": 1, "batch_size": 1, "eval_batch_size": 1, "steps_per_dispatch": 0, "patience": 0}
        for key, lowest in least.items():
            if not (value := getattr(self, key)) >= lowest:
                raise errors.InputError(f"fit.{key} must be {lowest} or more, got {value}")
        if not 0 <= self.ema_decay < 1:
            raise errors.InputError(f"fit.ema_decay must be in [0, 1), got {self.ema_decay}")
