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

from ferjax import losses
from ferjax.errors import InputError

CLASSES = 5
few = hypothesis.settings(max_examples=40, deadline=None)
epsilons = st.floats(0, 0.99)


def float_arrays(low, high, shape=(4, CLASSES)):
    return hnp.arrays(np.float32, shape, elements=st.floats(low, high, width=32))


@st.composite
def batches(draw):
    """Logits and soft targets, some of them one-hot."""
    scores = draw(float_arrays(0, 1)) + np.float32(1e-3)
    targets = scores / scores.sum(-1, keepdims=True)
    labels = draw(hnp.arrays(np.int32, (2,), elements=st.integers(0, CLASSES - 1)))
    targets[:2] = np.eye(CLASSES, dtype=np.float32)[labels]
    return draw(float_arrays(-20, 20)), targets


def one_hot(labels, classes):
    return jax.nn.one_hot(jnp.array(labels), classes)


@few
@hypothesis.given(batches(), epsilons, float_arrays(0, 10, (CLASSES,)))
def test_losses_are_finite_and_not_negative(batch, epsilon, weights):
    loss = losses.cross_entropy(*map(jnp.array, batch), label_smoothing=epsilon, class_weights=jnp.array(weights))
    assert loss.shape == (4,)
    assert np.isfinite(loss).all()
    assert (loss >= -1e-5).all()


@few
@hypothesis.given(batches())
def test_plain_cross_entropy_agrees_with_optax(batch):
    logits, targets = map(jnp.array, batch)
    loss = losses.cross_entropy(logits, targets)
    np.testing.assert_array_equal(loss, optax.softmax_cross_entropy(logits, targets))
    by_label = optax.softmax_cross_entropy_with_integer_labels(logits[:2], targets[:2].argmax(-1))
    np.testing.assert_allclose(loss[:2], by_label, rtol=1e-5, atol=1e-5)


@few
@hypothesis.given(batches(), st.floats(-30, 30), epsilons)
def test_adding_a_constant_to_the_logits_changes_nothing(batch, shift, epsilon):
    logits, targets = map(jnp.array, batch)
    moved = losses.cross_entropy(logits + shift, targets, label_smoothing=epsilon)
    np.testing.assert_allclose(losses.cross_entropy(logits, targets, label_smoothing=epsilon), moved, atol=1e-4)


@few
@hypothesis.given(batches(), epsilons)
def test_smoothed_targets_are_probabilities_and_linear_in_the_targets(batch, epsilon):
    targets = jnp.array(batch[1])
    smoothed = losses.smooth_targets(targets, epsilon=epsilon)
    np.testing.assert_allclose(smoothed.sum(-1), 1, atol=1e-5)
    assert (smoothed >= 0).all()
    corners = losses.smooth_targets(jnp.eye(CLASSES), epsilon=epsilon)
    np.testing.assert_allclose(smoothed, targets @ corners, atol=1e-5)


@few
@hypothesis.given(batches(), epsilons)
def test_smoothing_agrees_with_optax_at_the_matching_epsilon(batch, epsilon):
    # optax gives alpha / C to every class, the true one included: eps / (C - 1) = alpha / C.
    targets = jnp.array(batch[1])
    alpha = epsilon * CLASSES / (CLASSES - 1)
    expected = optax.smooth_labels(targets, alpha)
    np.testing.assert_allclose(losses.smooth_targets(targets, epsilon=epsilon), expected, atol=1e-5)


def test_epsilon_zero_returns_the_targets_themselves():
    targets = one_hot([0, 2], 3)
    assert losses.smooth_targets(targets, epsilon=0.0) is targets


def test_golden_smoothed_target():
    # C = 7, eps = 0.1: 1 - 0.1 = 0.9 on the class, 0.1 / 6 = 0.016667 elsewhere (Paraschiv eq. 13).
    expected = [[0.1 / 6] * 3 + [0.9] + [0.1 / 6] * 3]
    np.testing.assert_allclose(losses.smooth_targets(one_hot([3], 7), epsilon=0.1), expected, rtol=1e-6)


@pytest.mark.parametrize("epsilon", [0.0, 0.1])
def test_uniform_logits_cost_log_c(epsilon):
    # Every log-probability is -log C and the targets sum to 1, whatever the smoothing.
    loss = losses.cross_entropy(jnp.full((3, 7), 1.5), one_hot([0, 3, 6], 7), label_smoothing=epsilon)
    np.testing.assert_allclose(loss, math.log(7), rtol=1e-6)


def test_golden_weighted_smoothed_loss():
    # z = (log 2, 0, 0): p = (1/2, 1/4, 1/4). y = 0, eps = 0.2: q = (0.8, 0.1, 0.1) and
    # -sum q log p = 0.8 log 2 + 0.2 log 4 = 1.2 log 2. With w_0 = 3 (Paraschiv eq. 15): 3.6 log 2 = 2.495330.
    # y = 1: q = (0.1, 0.8, 0.1), 0.1 log 2 + 0.9 log 4 = 1.9 log 2; w_1 = 0.5: 0.95 log 2 = 0.658490.
    logits = jnp.array([[math.log(2), 0.0, 0.0]] * 2)
    weights = jnp.array([3.0, 0.5, 100.0])
    loss = losses.cross_entropy(logits, one_hot([0, 1], 3), label_smoothing=0.2, class_weights=weights)
    np.testing.assert_allclose(loss, [2.495330, 0.658490], rtol=1e-5)


def test_soft_targets_mix_the_class_weights():
    # Half class 0 (w = 3), half class 1 (w = 1): w_y = 2, from the targets before smoothing.
    logits, targets = jnp.array([[0.3, -0.2, 0.9]]), jnp.array([[0.5, 0.5, 0.0]])
    weighted = losses.cross_entropy(logits, targets, label_smoothing=0.1, class_weights=jnp.array([3.0, 1.0, 100.0]))
    np.testing.assert_allclose(weighted, 2 * losses.cross_entropy(logits, targets, label_smoothing=0.1), rtol=1e-6)


@few
@hypothesis.given(batches(), epsilons)
def test_gradient_is_weight_times_softmax_minus_target(batch, epsilon):
    # d/dz of -sum q log softmax(z) is softmax(z) - q for targets that sum to 1.
    logits, targets = map(jnp.array, batch)
    weights = jnp.arange(1.0, CLASSES + 1)

    def total(z):
        return losses.cross_entropy(z, targets, label_smoothing=epsilon, class_weights=weights).sum()

    expected = (targets @ weights)[:, None] * (jax.nn.softmax(logits) - losses.smooth_targets(targets, epsilon=epsilon))
    np.testing.assert_allclose(jax.grad(total)(logits), expected, atol=2e-5)


def test_gradient_agrees_with_finite_differences():
    logits = jax.random.normal(jax.random.key(0), (3, CLASSES))
    targets = jax.nn.softmax(jax.random.normal(jax.random.key(1), (3, CLASSES)))
    weights = jnp.arange(1.0, CLASSES + 1)
    jax.test_util.check_grads(
        lambda z: losses.cross_entropy(z, targets, label_smoothing=0.1, class_weights=weights),
        (logits,),
        order=2,
        atol=2e-2,
        rtol=2e-2,
    )


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
def test_every_float_type_works_under_jit_and_strict_promotion(dtype):
    def loss(logits, targets, weights):
        return losses.cross_entropy(logits, targets, label_smoothing=0.1, class_weights=weights)

    with jax.enable_x64(dtype == "float64"), jax.numpy_dtype_promotion("strict"):
        logits = jnp.array([[2.0, -1.0, 0.5], [0.0, 4.0, 0.25]], dtype)  # exact in every type
        targets, weights = one_hot([0, 2], 3), jnp.array([1.0, 2.0, 3.0], jnp.float32)
        result = jax.jit(loss)(logits, targets, weights)
    assert result.dtype == ("float64" if dtype == "float64" else "float32")
    expected = loss(jnp.array([[2.0, -1.0, 0.5], [0.0, 4.0, 0.25]]), one_hot([0, 2], 3), jnp.array([1.0, 2.0, 3.0]))
    np.testing.assert_allclose(result, expected, rtol=1e-6)


def test_integer_one_hot_targets_and_numpy_weights_are_accepted():
    logits = jnp.array([[1.0, 2.0, 3.0]])
    given = losses.cross_entropy(logits, jnp.array([[0, 0, 1]]), class_weights=np.array([1.0, 1.0, 2.0]))
    np.testing.assert_allclose(given, 2 * losses.cross_entropy(logits, one_hot([2], 3)), rtol=1e-6)


@pytest.mark.parametrize("epsilon", [-0.1, 1.0, 1.5, math.nan])
def test_epsilon_out_of_range_is_refused(epsilon):
    with pytest.raises(InputError, match=r"label smoothing must be in \[0, 1\), got"):
        losses.cross_entropy(jnp.zeros((1, 3)), one_hot([0], 3), label_smoothing=epsilon)


def test_mismatched_shapes_are_refused():
    with pytest.raises(InputError, match=r"\(2, 3\) and \(2,\); convert integer labels"):
        losses.cross_entropy(jnp.zeros((2, 3)), jnp.zeros((2,), jnp.int32))
    with pytest.raises(InputError, match=r"class_weights must have shape \(3,\), got \(7,\)"):
        losses.cross_entropy(jnp.zeros((2, 3)), one_hot([0, 1], 3), class_weights=jnp.ones(7))
    with pytest.raises(InputError, match="two or more classes"):
        losses.smooth_targets(jnp.ones((2, 1)), epsilon=0.1)


@few
@hypothesis.given(batches(), epsilons, float_arrays(0, 10, (CLASSES,)), st.floats(0, 5))
def test_focal_loss_is_between_zero_and_cross_entropy_which_it_is_at_gamma_zero(batch, epsilon, weights, gamma):
    logits, targets = map(jnp.array, batch)
    settings = {"label_smoothing": epsilon, "class_weights": jnp.array(weights)}
    plain = losses.cross_entropy(logits, targets, **settings)
    np.testing.assert_allclose(losses.focal(logits, targets, gamma=0.0, **settings), plain, rtol=1e-5, atol=1e-4)
    loss = losses.focal(logits, targets, gamma=gamma, **settings)
    assert (loss >= 0).all() and (loss <= plain * (1 + 1e-5) + 1e-4).all()


@few
@hypothesis.given(hnp.arrays(np.float32, (6,), elements=st.floats(-15, 15, width=32)), st.floats(0, 5))
def test_focal_loss_of_two_classes_is_the_sigmoid_one_of_optax(scores, gamma):
    labels = jnp.array([0, 1, 0, 1, 0, 1])
    logits = jnp.stack([jnp.zeros(6), jnp.array(scores)], axis=-1)
    expected = optax.sigmoid_focal_loss(jnp.array(scores), labels.astype(jnp.float32), gamma=gamma)
    np.testing.assert_allclose(losses.focal(logits, one_hot(labels, 2), gamma=gamma), expected, rtol=2e-3, atol=1e-5)


def test_golden_focal_loss():
    # p = (1/2, 1/4, 1/4): class 0 with gamma = 2 costs (1/2)^2 log 2 = 0.173287; class 1 (3/4)^2 log 4 = 0.779790.
    logits = jnp.array([[math.log(2), 0.0, 0.0]] * 2)
    np.testing.assert_allclose(losses.focal(logits, one_hot([0, 1], 3), gamma=2.0), [0.173287, 0.779790], rtol=1e-5)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_gradients(gamma):
    with jax.enable_x64(True):
        logits = jax.random.normal(jax.random.key(0), (3, CLASSES), jnp.float64)
        targets = jax.nn.softmax(jax.random.normal(jax.random.key(1), (3, CLASSES), jnp.float64))
        at = jax.jit(lambda z: losses.focal(z, targets, gamma=gamma))
        jax.test_util.check_grads(at, (logits,), order=1, modes=["rev"])
    # Certain and right, certain and wrong: the power below 1 has no infinite slope.
    sure = jnp.array([[100.0, 0.0, 0.0]] * 2)
    gradient = jax.grad(lambda z: losses.focal(z, one_hot([0, 1], 3), gamma=gamma).sum())(sure)
    assert np.isfinite(gradient).all()


def test_focal_loss_under_strict_promotion(strict_dtypes):
    logits = jnp.array([[2.0, -1.0, 0.5]], jnp.bfloat16)
    loss = jax.jit(losses.focal)(logits, jnp.array([[0, 0, 1]]))
    assert loss.dtype == jnp.float32 and np.isfinite(loss).all()


@pytest.mark.parametrize("gamma", [-0.5, math.nan, math.inf])
def test_gamma_out_of_range_is_refused(gamma):
    with pytest.raises(InputError, match="gamma must be 0 or more, got"):
        losses.focal(jnp.zeros((1, 3)), one_hot([0], 3), gamma=gamma)
