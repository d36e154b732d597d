"""How a run trains: the group `fit` of a configuration."""

import dataclasses

from ferjax import errors


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitOptions:
    """Length, batches, evaluation and checkpoints of a run.

    Attributes:
      epochs: passes over the training set; an incomplete last batch is left out, other examples each epoch.
      batch_size: examples per step.
      ema_decay: of the average of the variables, with which evaluation then runs; see `make_train_step`.
      patience: stop after so many epochs of the last stage without a better validation accuracy; 0 never stops early.
      seed: of shuffling, augmentation and dropout.
      sampling: "shuffled" takes each example once an epoch, "balanced" each class equally often, see `balanced_order`.
      targets: the column of probabilities (N, classes) to learn in the place of the labels, such as "votes" of FER+.
      eval_batch_size: images per forward pass.
      accumulate: micro-batches into which each batch is cut, to fit a small device, see `ferjax.train.step`.
      steps_per_dispatch: 0 chooses 1 on CPU and 32 elsewhere.
      checkpoint_minutes: how often the state is saved inside an epoch; it is saved after each epoch anyway.
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
        """Checks the values.

        Raises:
          InputError: for one outside its range.
        """
        least = {"epochs": 1, "batch_size": 1, "eval_batch_size": 1, "steps_per_dispatch": 0, "patience": 0}
        for key, lowest in least.items():
            if not (value := getattr(self, key)) >= lowest:
                raise errors.InputError(f"fit.{key} must be {lowest} or more, got {value}")
        if not 0 <= self.ema_decay < 1:
            raise errors.InputError(f"fit.ema_decay must be in [0, 1), got {self.ema_decay}")
