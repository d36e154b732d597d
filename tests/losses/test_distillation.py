"""Losses against a teacher: identities, limits, other libraries' figures, gradients."""

import functools
import math

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import jax.test_util
import numpy as np
import optax
import pytest
import scipy.special

from ferjax import losses
from ferjax.errors import InputError

CLASSES = 5
few = hypothesis.settings(max_examples=25, deadline=None)
alphas = st.floats(0, 1)
temperatures = st.floats(0.5, 20)
AGAINST_TEACHER = [losses.distillation, losses.hard_distillation, losses.decoupled_distillation]


def float_arrays(low, high, shape=(4, CLASSES)):
    return hnp.arrays(np.float32, shape, elements=st.floats(low, high, width=32))


@st.composite
def triples(draw):
    """Logits of the student, soft targets (some of them one-hot), logits of the teacher."""
    scores = draw(float_arrays(0, 1)) + np.float32(1e-3)
    targets = scores / scores.sum(-1, keepdims=True)
    labels = draw(hnp.arrays(np.int32, (2,), elements=st.integers(0, CLASSES - 1)))
    targets[:2] = np.eye(CLASSES, dtype=np.float32)[labels]
    return tuple(map(jnp.array, (draw(float_arrays(-15, 15)), targets, draw(float_arrays(-15, 15)))))


def example(dtype=jnp.float64, count=3):
    keys = jax.random.split(jax.random.key(0), 3)
    logits, scores, teacher = (2 * jax.random.normal(k, (count, CLASSES), dtype) for k in keys)
    return logits, jax.nn.softmax(scores), teacher


@few
@hypothesis.given(triples(), temperatures)
def test_losses_are_finite_and_not_negative(triple, temperature):
    for function in AGAINST_TEACHER:
        settings = {} if function is losses.hard_distillation else {"temperature": temperature}
        loss = function(*triple, **settings)
        assert loss.shape == (4,) and np.isfinite(loss).all()
        assert (loss >= -1e-5 * temperature**2).all()


@few
@hypothesis.given(triples(), temperatures)
def test_the_divergence_agrees_with_scipy_and_optax(triple, temperature):
    student, _, teacher = (np.asarray(a, np.float64) for a in triple)
    p, q = (scipy.special.softmax(z / temperature, axis=-1) for z in (teacher, student))
    found = losses.divergence(triple[0], triple[2], temperature=temperature)
    np.testing.assert_allclose(found, scipy.special.rel_entr(p, q).sum(-1), rtol=1e-4, atol=2e-5)
    other = optax.kl_divergence(jax.nn.log_softmax(triple[0] / temperature), jax.nn.softmax(triple[2] / temperature))
    np.testing.assert_allclose(found, other, rtol=1e-4, atol=2e-5)


@few
@hypothesis.given(triples(), temperatures)
def test_alpha_zero_is_cross_entropy_and_alpha_one_the_divergence(triple, temperature):
    logits, targets, teacher = triple
    plain = losses.cross_entropy(logits, targets, label_smoothing=0.1)
    for function in (functools.partial(losses.distillation, temperature=temperature), losses.hard_distillation):
        np.testing.assert_allclose(function(*triple, alpha=0.0, label_smoothing=0.1), plain, rtol=1e-6)
    soft = temperature**2 * losses.divergence(logits, teacher, temperature=temperature)
    np.testing.assert_allclose(losses.distillation(*triple, alpha=1.0, temperature=temperature), soft, rtol=1e-6)


@few
@hypothesis.given(triples(), alphas, temperatures)
def test_a_teacher_equal_to_the_student_adds_no_loss(triple, alpha, temperature):
    logits, targets, _ = triple
    plain = losses.cross_entropy(logits, targets)
    found = losses.distillation(logits, targets, logits, alpha=alpha, temperature=temperature)
    np.testing.assert_allclose(found, (1 - alpha) * plain, rtol=1e-5, atol=1e-5 * temperature**2)
    found = losses.decoupled_distillation(logits, targets, logits, temperature=temperature)
    np.testing.assert_allclose(found, plain, rtol=1e-5, atol=1e-4 * temperature**2)


@few
@hypothesis.given(triples(), st.floats(-20, 20), st.floats(-20, 20))
def test_adding_constants_to_the_logits_changes_nothing(triple, shift, teacher_shift):
    logits, targets, teacher = triple
    for function in AGAINST_TEACHER:
        if function is losses.hard_distillation:  # its decision between equal logits may turn with the rounding
            teacher = jnp.round(teacher) + jnp.arange(CLASSES, dtype=jnp.float32)[None] / 8
        moved = function(logits + shift, targets, teacher + teacher_shift)
        np.testing.assert_allclose(function(logits, targets, teacher), moved, rtol=1e-3, atol=5e-3)


def test_golden_distillation():
    # T = 2: the teacher's (2 log 3, 0) / 2 gives p = (3/4, 1/4), the student's zeros give q = (1/2, 1/2);
    # KL = 3/4 log(3/2) + 1/4 log(1/2) = 0.130812. CE at T = 1 is log 2.
    # MicroExpNet eq. 1 with alpha = 0.7: 0.7 * 4 * 0.130812 + 0.3 * 0.693147 = 0.574218.
    triple = jnp.zeros((1, 2)), jnp.array([[1.0, 0.0]]), jnp.array([[2 * math.log(3), 0.0]])
    np.testing.assert_allclose(losses.divergence(triple[0], triple[2], temperature=2.0), [0.130812], rtol=1e-5)
    np.testing.assert_allclose(losses.distillation(*triple, alpha=0.7, temperature=2.0), [0.574218], rtol=1e-5)


def test_cross_entropy_stays_at_temperature_one():
    logits, targets, _ = example(jnp.float32)
    for temperature in (1.0, 4.0):
        found = losses.distillation(logits, targets, logits, alpha=0.5, temperature=temperature)
        np.testing.assert_allclose(found, 0.5 * losses.cross_entropy(logits, targets), rtol=1e-5, atol=1e-5)


def test_at_a_high_temperature_it_is_half_the_mean_squared_difference_of_centered_logits():
    # Hinton et al. 2015, section 2.1: the softmax is linear there.
    with jax.enable_x64(True):
        logits, _, teacher = example()
        centered = [z - z.mean(-1, keepdims=True) for z in (logits, teacher)]
        limit = jnp.square(centered[0] - centered[1]).mean(-1) / 2
        found = [t**2 * losses.divergence(logits, teacher, temperature=t) for t in (1e2, 1e3, 1e4)]
    errors = [float(np.abs(np.asarray(f) / np.asarray(limit) - 1).max()) for f in found]
    assert errors[0] > 5 * errors[1] > 25 * errors[2] and errors[2] < 1e-3


@few
@hypothesis.given(triples(), temperatures)
def test_the_decoupled_parts_sum_to_the_divergence(triple, temperature):
    # Zhao et al. 2022, eq. 5: KL = TCKD + (1 - p_t) NCKD for a plain label t.
    logits, _, teacher = triple
    labels = jnp.array([0, 2, 4, 1])
    targets = jax.nn.one_hot(labels, CLASSES)
    part = functools.partial(losses.decoupled_divergence, logits, targets, teacher, temperature=temperature)
    p = np.take_along_axis(np.asarray(jax.nn.softmax(teacher / temperature)), np.asarray(labels)[:, None], 1)[:, 0]
    whole = part(alpha=1.0, beta=0.0) + (1 - p) * part(alpha=0.0, beta=1.0)
    expected = losses.divergence(logits, teacher, temperature=temperature)
    np.testing.assert_allclose(whole, expected, rtol=1e-3, atol=1e-4)
    both = part(alpha=2.0, beta=3.0)
    np.testing.assert_allclose(
        both, 2 * part(alpha=1.0, beta=0.0) + 3 * part(alpha=0.0, beta=1.0), rtol=1e-4, atol=1e-5
    )


def test_golden_decoupled_parts():
    # Target class 0. Teacher p = (1/2, 3/8, 1/8), student q = (1/4, 3/8, 3/8).
    # TCKD: KL of (1/2, 1/2) from (1/4, 3/4) = 1/2 log 2 + 1/2 log(2/3) = 0.143841.
    # NCKD: shares (3/4, 1/4) from (1/2, 1/2) = 3/4 log(3/2) + 1/4 log(1/2) = 0.130812.
    teacher, student = (jnp.log(jnp.array([p])) for p in ((1 / 2, 3 / 8, 1 / 8), (1 / 4, 3 / 8, 3 / 8)))
    target = jnp.array([[1.0, 0.0, 0.0]])
    found = losses.decoupled_divergence(student, target, teacher, alpha=1.0, beta=8.0, temperature=1.0)
    np.testing.assert_allclose(found, [0.143841 + 8 * 0.130812], rtol=1e-5)


def test_soft_targets_mix_the_decoupled_values_of_each_class():
    logits, targets, teacher = example(jnp.float32, count=1)
    corners = losses.decoupled_divergence(
        jnp.tile(logits, (CLASSES, 1)), jnp.eye(CLASSES), jnp.tile(teacher, (CLASSES, 1))
    )
    mixed = losses.decoupled_divergence(logits, targets, teacher)
    np.testing.assert_allclose(mixed, targets @ corners, rtol=1e-5)


def test_a_certain_teacher_keeps_precision():
    # p_t rounds to 1 in float32; the shares of the others are those of their logits all the same.
    teacher = jnp.array([[60.0, 1.0, 0.0]])
    student, target = jnp.zeros((1, 3)), jnp.array([[1.0, 0.0, 0.0]])
    found = losses.decoupled_divergence(student, target, teacher, alpha=0.0, beta=1.0, temperature=1.0)
    share = np.exp([1.0, 0.0]) / (np.e + 1)
    np.testing.assert_allclose(found, [(share * np.log(2 * share)).sum()], rtol=1e-5)


def test_hard_distillation_takes_the_teachers_class_as_a_label():
    logits, targets, teacher = example(jnp.float32)
    decision = jax.nn.one_hot(teacher.argmax(-1), CLASSES)
    expected = 0.25 * losses.cross_entropy(logits, targets) + 0.75 * losses.cross_entropy(logits, decision)
    np.testing.assert_allclose(losses.hard_distillation(logits, targets, teacher, alpha=0.75), expected, rtol=1e-6)
    alone = losses.hard_distillation(
        logits, targets, teacher, alpha=1.0, label_smoothing=0.1
    )  # section 4: not smoothed
    np.testing.assert_allclose(alone, losses.cross_entropy(logits, decision), rtol=1e-6)


@pytest.mark.parametrize("function", AGAINST_TEACHER)
def test_class_weights_weigh_the_labels_term(function):
    triple = example(jnp.float32)
    weights = jnp.arange(1.0, CLASSES + 1)
    more = function(*triple, class_weights=weights) - function(*triple)
    share = {losses.distillation: 0.3, losses.hard_distillation: 0.5, losses.decoupled_distillation: 1.0}[function]
    label = losses.cross_entropy(*triple[:2], class_weights=weights) - losses.cross_entropy(*triple[:2])
    if function is losses.hard_distillation:
        decision = jax.nn.one_hot(triple[2].argmax(-1), CLASSES)
        label = label + losses.cross_entropy(triple[0], decision, class_weights=weights)
        label = label - losses.cross_entropy(triple[0], decision)
    np.testing.assert_allclose(more, share * label, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("function", AGAINST_TEACHER)
def test_gradients_agree_with_finite_differences_and_none_reaches_the_teacher(function):
    with jax.enable_x64(True):
        logits, targets, teacher = example()
        at = jax.jit(lambda z, t: function(z, targets, t))
        jax.test_util.check_grads(lambda z: at(z, teacher), (logits,), order=1, modes=["rev"])
        gradient = jax.grad(lambda t: at(logits, t).sum())(teacher)
    np.testing.assert_array_equal(gradient, 0)


@few
@hypothesis.given(triples(), temperatures)
def test_the_gradient_of_the_divergence_is_the_difference_of_the_softmaxes(triple, temperature):
    # d/dz of KL(p ‖ softmax(z / T)) is (softmax(z / T) - p) / T.
    logits, _, teacher = triple
    gradient = jax.grad(lambda z: losses.divergence(z, teacher, temperature=temperature).sum())(logits)
    expected = (jax.nn.softmax(logits / temperature) - jax.nn.softmax(teacher / temperature)) / temperature
    np.testing.assert_allclose(gradient, expected, atol=2e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
@pytest.mark.parametrize("function", AGAINST_TEACHER)
def test_every_float_type_works_under_jit_and_strict_promotion(function, dtype):
    logits, targets = [[2.0, -1.0, 0.5], [0.0, 4.0, 0.25]], [[1, 0, 0], [0, 0, 1]]
    with jax.enable_x64(dtype == "float64"), jax.numpy_dtype_promotion("strict"):
        given = jnp.array(logits, dtype), jnp.array(targets), jnp.array(logits[::-1], jnp.float32)
        result = jax.jit(function)(*given)
    assert result.dtype == ("float64" if dtype == "float64" else "float32")
    expected = function(jnp.array(logits), jnp.array(targets), jnp.array(logits[::-1]))
    np.testing.assert_allclose(result, expected, rtol=1e-5)


def maps(*shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


def test_attention_of_the_same_map_in_other_channels_and_scales_is_the_same():
    student = maps(3, 4, 4, 2)
    wider = jnp.tile(7.0 * student, (1, 1, 1, 5))
    np.testing.assert_allclose(losses.attention_transfer(student, wider), 0, atol=1e-6)


def test_golden_attention_transfer():
    # Means of squares: student (4, 0, 0, 3) over 2x2, norm 5; teacher (0, 1, 0, 0). Squared difference of the unit
    # vectors: 0.64 + 1 + 0.36 = 2, and 2 (1 - cos) with cos = 0.
    student = jnp.sqrt(jnp.array([4.0, 0.0, 0.0, 3.0])).reshape(1, 2, 2, 1)
    teacher = jnp.array([0.0, 1.0, 0.0, 0.0]).reshape(1, 2, 2, 1)
    np.testing.assert_allclose(losses.attention_transfer(student, teacher), [2.0], rtol=1e-6)
    # With tokens it is the same, and agreeing halves count: teacher (1, 0, 0, 0): 2 (1 - 0.8) = 0.4.
    teacher = jnp.array([1.0, 0.0, 0.0, 0.0]).reshape(1, 4, 1)
    np.testing.assert_allclose(losses.attention_transfer(student.reshape(1, 4, 1), teacher), [0.4], rtol=1e-6)


def test_attention_of_another_size_is_resized():
    student = jnp.kron(maps(2, 3, 3, 1), jnp.ones((1, 2, 2, 1)))  # each teacher's position is four of the student's
    coarse = student[:, ::2, ::2]
    near = losses.attention_transfer(coarse, jnp.tile(student, (1, 1, 1, 4)))
    assert (near < 0.1).all()  # antialiasing blurs over the neighbors
    assert (losses.attention_transfer(coarse, maps(2, 6, 6, 4, seed=1)) > near).all()


def test_attention_has_finite_gradients_also_where_all_is_zero(strict_dtypes):
    teacher = maps(2, 8, 8, 3, seed=1)
    with jax.numpy_dtype_promotion("standard"), jax.enable_x64(True):
        exact = jax.random.normal(jax.random.key(0), (2, 4, 4, 3), jnp.float64)
        transfer = jax.jit(lambda x: losses.attention_transfer(x, teacher))
        jax.test_util.check_grads(transfer, (exact,), order=1, modes=["rev"], atol=1e-5, rtol=1e-5)
    for student in (jnp.zeros((2, 4, 4, 3)), maps(2, 4, 4, 3), maps(2, 4, 4, 3).astype(jnp.bfloat16)):
        loss, gradient = jax.value_and_grad(lambda x: losses.attention_transfer(x, teacher).sum())(student)
        assert loss.dtype == jnp.float32 and np.isfinite(loss)
        assert np.isfinite(np.asarray(gradient, np.float32)).all()
    gradient = jax.grad(lambda t: losses.attention_transfer(maps(2, 4, 4, 3), t).sum())(teacher)
    np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("shape", [(2, 9, 3), (3, 4, 4, 3), (2, 16, 3)])
def test_mismatched_intermediates_are_refused(shape):
    student = maps(2, 4, 4, 3) if len(shape) == 4 or shape[1] == 16 else maps(2, 10, 3)
    with pytest.raises(InputError, match="choose other intermediates"):
        losses.attention_transfer(student, maps(*shape))


@pytest.mark.parametrize("alpha", [-0.01, 1.01, math.nan])
@pytest.mark.parametrize("function", [losses.distillation, losses.hard_distillation])
def test_alpha_out_of_range_is_refused(function, alpha):
    with pytest.raises(InputError, match=r"alpha must be in \[0, 1\], got"):
        function(*example(jnp.float32), alpha=alpha)


@pytest.mark.parametrize("temperature", [0.0, -4.0, math.nan, math.inf])
@pytest.mark.parametrize("function", [losses.distillation, losses.decoupled_distillation])
def test_a_temperature_that_is_not_positive_is_refused(function, temperature):
    with pytest.raises(InputError, match="temperature must be greater than 0, got"):
        function(*example(jnp.float32), temperature=temperature)


def test_wrong_weights_and_shapes_are_refused():
    with pytest.raises(InputError, match="beta of 0 or more, got -1"):
        losses.decoupled_distillation(*example(jnp.float32), beta=-1.0)
    with pytest.raises(InputError, match="two or more classes"):
        losses.decoupled_divergence(jnp.zeros((2, 1)), jnp.ones((2, 1)), jnp.zeros((2, 1)))
    with pytest.raises(InputError, match=r"divergence requires .* got \(2, 3\) and \(2, 4\)"):
        losses.divergence(jnp.zeros((2, 3)), jnp.zeros((2, 4)))
