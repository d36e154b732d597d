"""The loss that a configuration asks for: one head or two, a teacher or none, and what makes no sense."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ferjax import data, losses, models
from ferjax.errors import InputError
from ferjax.train import objective
from ferjax.train.step import Outputs

LOGITS = np.array([[2.0, 0.0, -1.0], [0.5, 0.1, 0.0]], np.float32)
TAUGHT = np.array([[0.0, 3.0, 0.0], [1.0, -2.0, 0.0]], np.float32)
TARGETS = np.eye(3, dtype=np.float32)[:2]


def three_classes():
    return data.FaceData("x", ("a", "b", "c"), {}, (0.5,), (0.25,), "", {})


@pytest.mark.parametrize("method", ["soft", "hard"])
def test_with_two_heads_labels_and_teacher_have_one_each(method):
    """Touvron et al. 2021, eq. 2 (soft) and 3 (hard), on the heads of section 4."""
    heads = models.teacher_heads(models.create("deit_tiny_distilled"))
    assert heads and not models.teacher_heads(models.create("deit_tiny"))
    loss = objective.make_loss(
        faces=three_classes(), teachers=1, heads=heads, method=method, alpha=0.25, temperature=3.0
    )
    own, distilled = LOGITS, LOGITS[:, ::-1]
    student = Outputs((own + distilled) / 2, dict(zip(heads, (own, distilled), strict=True)))
    labels = -jax.nn.log_softmax(own)[[0, 1], [0, 1]]
    if method == "soft":
        p = jax.nn.softmax(TAUGHT / 3)
        teacher = 9 * (p * (jnp.log(p) - jax.nn.log_softmax(distilled / 3))).sum(-1)
    else:
        teacher = -jax.nn.log_softmax(distilled)[[0, 1], [1, 0]]
    expected = 0.75 * labels + 0.25 * teacher
    np.testing.assert_allclose(loss(student, TARGETS, Outputs(TAUGHT, {})), expected, rtol=1e-5)


@pytest.mark.parametrize("teachers", [0, 1])
def test_adjusted_logits_are_fair_to_a_rare_class(teachers):
    """Menon et al. 2021, eq. 10: the loss is that of logits + τ log π, so that the network need not learn π."""
    labels = np.array([0] * 6 + [1] * 3 + [2])
    train = data.Split(np.zeros((10, 1, 1, 1), np.uint8), labels, [""] * 10, {})
    faces = dataclasses.replace(three_classes(), splits={"train": train})
    plain, adjusted = (
        objective.make_loss(faces=faces, teachers=teachers, logit_adjustment=strength) for strength in (0.0, 0.5)
    )
    known = LOGITS + 0.5 * np.log(np.array([0.6, 0.3, 0.1], np.float32))
    if teachers:
        taught = Outputs(TAUGHT, {})
        np.testing.assert_allclose(
            adjusted(Outputs(LOGITS, {}), TARGETS, taught), plain(Outputs(known, {}), TARGETS, taught), rtol=1e-5
        )
    else:
        np.testing.assert_allclose(adjusted(LOGITS, TARGETS), plain(known, TARGETS), rtol=1e-5)
    with pytest.raises(InputError, match="logit_adjustment"):
        objective.make_loss(faces=faces, teachers=teachers, logit_adjustment=-1.0)


@pytest.mark.parametrize("method", ["soft", "hard"])
def test_two_heads_without_a_share_for_the_teacher_learn_the_labels_by_what_they_answer_together(method):
    heads = models.teacher_heads(models.create("deit_tiny_distilled"))
    settings = {"faces": three_classes(), "label_smoothing": 0.1}
    loss = objective.make_loss(**settings, teachers=1, heads=heads, method=method, alpha=0.0)
    student = Outputs(LOGITS, dict.fromkeys(heads, np.full_like(LOGITS, np.nan)))
    plain = objective.make_loss(**settings)(LOGITS, TARGETS)
    np.testing.assert_array_equal(loss(student, TARGETS, Outputs(TAUGHT, {})), plain)


@pytest.mark.parametrize(
    ("method", "function", "alpha"),
    [
        ("soft", losses.distillation, 0.7),
        ("hard", losses.hard_distillation, 0.5),
        ("decoupled", losses.decoupled_distillation, 1.0),
    ],
)
def test_each_method_has_its_papers_share(method, function, alpha):
    loss = objective.make_loss(faces=three_classes(), teachers=1, method=method)
    found = loss(Outputs(LOGITS, {}), TARGETS, Outputs(TAUGHT, {}))
    np.testing.assert_allclose(found, function(LOGITS, TARGETS, TAUGHT, alpha=alpha), rtol=1e-6)


@pytest.mark.parametrize("alpha", [0.0, 1.5])
def test_the_decoupled_loss_is_the_one_of_its_name(alpha):
    loss = objective.make_loss(faces=three_classes(), teachers=1, method="decoupled", alpha=alpha, beta=2.0)
    expected = losses.decoupled_distillation(LOGITS, TARGETS, TAUGHT, alpha=alpha, beta=2.0)
    np.testing.assert_allclose(loss(Outputs(LOGITS, {}), TARGETS, Outputs(TAUGHT, {})), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"alpha": 1.5}, r"alpha must be in \[0, 1\], got 1\.5"),
        ({"alpha": -0.1}, r"alpha must be in \[0, 1\], got -0\.1"),
        ({"temperature": 0.0}, "temperature must be greater than 0, got 0"),
        ({"method": "decoupled", "temperature": -1.0}, "temperature must be greater than 0"),
        ({"method": "sft"}, "Did you mean 'soft'"),
        ({"method": "decoupled", "heads": ("class_logits", "distillation_logits")}, r"loss\.method=decoupled"),
        ({"alpha": 1.0, "heads": ("class_logits", "distillation_logits")}, r"loss\.alpha=1"),
        ({"focal_gamma": 2.0}, r"loss\.focal_gamma .*2\.0"),
        ({"features": ["stage1"], "feature_weight": 1.0}, "STUDENT:TEACHER"),
        ({"features": ["stage1:stage1"]}, r"\['stage1:stage1'\] and 0\.0"),
        ({"teachers": 0, "alpha": 0.5}, "ferjax distill"),
    ],
)
def test_a_loss_that_makes_no_sense_is_named(values, message):
    with pytest.raises(InputError, match=message):
        objective.make_loss(faces=three_classes(), **{"teachers": 1, **values})
