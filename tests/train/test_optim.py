"""Optimisers against the papers' formulas written out, schedules at their corners, rules over paths."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ferjax import trees
from ferjax.errors import InputError
from ferjax.train import optim

PARAMS = {"conv": {"kernel": jnp.array([1.0, -2.0]), "bias": jnp.array([0.5])}}
GRADS = {"conv": {"kernel": jnp.array([0.3, 0.1]), "bias": jnp.array([-0.2])}}


def create(name, **more):
    settings = {"learning_rate": 0.1, "steps_per_epoch": 10, "epochs": 10, "schedule": "constant", **more}
    return optim.create(name, **settings)


def run(optimizer, steps=3):
    params, state = PARAMS, optimizer.tx.init(PARAMS)
    for _ in range(steps):
        updates, state = optimizer.tx.update(GRADS, state, params)
        params = optax.apply_updates(params, updates)
    return np.concatenate([params["conv"]["kernel"], params["conv"]["bias"]])


def written_out(kind, decay=0.0, steps=3, rate=0.1):
    """Adam (Kingma & Ba 2015), AdamW (Loshchilov & Hutter 2019) and torch's Nesterov SGD, in float64."""
    p, g = np.array([1.0, -2.0, 0.5]), np.array([0.3, 0.1, -0.2])
    m, v = np.zeros(3), np.zeros(3)
    for t in range(1, steps + 1):
        gradient = g + (decay * p if kind in ("adam", "sgd") else 0)
        if kind == "sgd":
            m = 0.9 * m + gradient
            p = p - rate * (gradient + 0.9 * m)
            continue
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        step = (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        p = p - rate * (step + (decay * p if kind == "adamw" else 0))
    return p


@pytest.mark.parametrize("kind", optim.OPTIMIZERS)
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_each_optimiser_is_its_formula(kind, decay):
    np.testing.assert_allclose(run(create(kind, weight_decay=decay)), written_out(kind, decay), rtol=1e-5)


def test_coupled_and_decoupled_decay_differ():
    assert not np.allclose(run(create("adam", weight_decay=0.1)), run(create("adamw", weight_decay=0.1)))


def test_decay_only_where_the_rule_says():
    free = run(create("sgd"))
    ruled = run(create("sgd", weight_decay=0.1, decay_only=("kernel$",)))
    assert ruled[2] == free[2] and not np.allclose(ruled[:2], free[:2])


def test_clipping_bounds_the_gradient_before_decay():
    # The gradient's norm is sqrt(0.09 + 0.01 + 0.04) = 0.3742; clipped to 0.1, one plain step moves 0.1 * 1.9 * 0.1.
    moved = run(create("sgd", clip_norm=0.1), steps=1) - np.array([1.0, -2.0, 0.5])
    np.testing.assert_allclose(np.linalg.norm(moved), 0.1 * 1.9 * 0.1, rtol=1e-5)


@pytest.mark.parametrize(
    ("schedule", "step", "expected"),
    [
        ("constant", 99, 0.1),
        ("cosine", 0, 0.1),
        ("cosine", 50, (0.1 + 0.01) / 2),
        ("cosine", 100, 0.01),
        ("step", 29, 0.1),
        ("step", 30, 0.05),
        ("step", 60, 0.025),
        ("polynomial", 50, 0.01 + 0.09 * 0.5**2),
    ],
)
def test_schedules_at_their_corners(schedule, step, expected):
    more = {"decay_epochs": 3, "power": 2.0} | ({} if schedule == "step" else {"final_learning_rate": 0.01})
    rate = create("sgd", schedule=schedule, **more).schedule
    np.testing.assert_allclose(float(rate(step)), expected, rtol=1e-5)


def test_warm_up_rises_to_the_peak_and_takes_its_steps_from_the_whole():
    rate = create("sgd", schedule="cosine", warmup_epochs=2).schedule
    np.testing.assert_allclose([float(rate(s)) for s in (0, 10, 20, 100)], [0.0, 0.05, 0.1, 0.0], atol=1e-7)


def test_path_mask_and_its_errors():
    mask = trees.path_mask(["kernel$"], PARAMS)
    assert mask == {"conv": {"kernel": True, "bias": False}}
    with pytest.raises(InputError, match=r"kernal.*conv/kernel"):
        trees.path_mask(["bias", "kernal"], PARAMS)
    with pytest.raises(InputError, match="not a valid regular expression"):
        trees.path_mask(["("], PARAMS)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"name": "adamm"}, "Did you mean 'adam'"),
        ({"schedule": "cosin"}, "Did you mean 'cosine'"),
        ({"learning_rate": 0}, "learning_rate must be positive and finite"),
        ({"weight_decay": -1}, "weight_decay must be 0 or more"),
        ({"warmup_epochs": 10}, "warmup_epochs takes 100 of 100"),
        ({"learning_rate": float("inf")}, r"optim\.learning_rate must be positive and finite, got inf"),
        ({"momentum": 1.5}, r"optim\.momentum must be in \[0, 1\), got 1\.5"),
        ({"b1": -0.1}, r"optim\.b1 must be in \[0, 1\), got -0\.1"),
        ({"b2": 1.0}, r"optim\.b2 must be in \[0, 1\), got 1\.0"),
        ({"decay_rate": -1}, r"optim\.decay_rate must be in \(0, 1\], got -1"),
        ({"decay_rate": 5}, r"optim\.decay_rate must be in \(0, 1\], got 5"),
        ({"decay_epochs": -3}, r"optim\.decay_epochs must be positive and finite, got -3"),
        ({"power": -2}, r"optim\.power must be positive and finite, got -2"),
        ({"final_learning_rate": -1}, r"optim\.final_learning_rate must be 0 or more and finite, got -1"),
    ],
)
def test_wrong_settings_are_named(bad, message):
    with pytest.raises(InputError, match=message):
        create(**{"name": "adam", **bad})
