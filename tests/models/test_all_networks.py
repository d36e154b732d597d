"""Tests every network: a train step on embedded faces, named intermediates, both precisions, arguments."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ferjax import models
from ferjax.data.synthetic.rendering import render_faces
from ferjax.errors import InputError
from ferjax.train.state import init_state
from ferjax.train.step import make_train_step
from tests.support import quick, tiny

LARGE = {"resnet18_imagenet", "resnet50", "resnet50_caffe", "deit_tiny_distilled", "resemotenet"}
# The same code at a depth or width that compiles quickly; `full` runs take the networks as they are.
QUICK = {
    "resnet18": {"depths": [1, 1, 1, 1], "widths": [8, 16, 16, 32]},
    "resnet20": {"depths": [1, 1, 1]},
    "deit_tiny": {"depth": 2},
    "mobilenetv3_small": {"width": 0.5, "depthwise": "conv"},
    "efficientnet_lite0": {
        "widths": [16, [16] + [48] * 15, [16, *[24] * 4, *[40] * 6, *[48] * 4, 64], 96],
        "depthwise": "conv",
    },
    "microexpnet": {"width": 0.5, "depthwise": "conv"},
}
DEEP = ("mobilenetv3_small", "efficientnet_lite0")  # long to trace at any width
NETWORKS = [
    *(
        pytest.param(name, QUICK.get(name, {}), id=f"{name}-quick", marks=[pytest.mark.slow] * (name in DEEP))
        for name in models.list_models()
        if name not in LARGE
    ),
    *(
        pytest.param(name, {}, id=name, marks=pytest.mark.slow)
        for name in models.list_models()
        if name in LARGE or name in QUICK
    ),
]


def faces(count, channels):
    labels = np.arange(count, dtype=np.int32) % 7
    return {"images": render_faces(labels, seed=0, channels=channels), "labels": labels}


def prepare(name, kwargs):
    """The module, variables drawn by numpy (no compilation), and a batch of faces."""
    return _prepare(name, json.dumps(kwargs))


@functools.cache  # three tests take each network
def _prepare(name, kwargs):
    module = models.create(name, **json.loads(kwargs))
    batch = faces(8, models.default_input_shape(name)[2])
    shapes = jax.eval_shape(functools.partial(module.init, train=False), jax.random.key(0), images(batch))
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        kind = path[-1].key
        spread = (1.6 / np.prod(leaf.shape[:-1])) ** 0.5 if kind == "kernel" else 0.1
        centre = 1.0 if kind in ("scale", "var") else 0.0
        return (centre + spread * rng.standard_normal(leaf.shape)).astype(np.float32)

    return module, jax.tree_util.tree_map_with_path(draw, shapes), batch


def images(batch):
    return jax.ShapeDtypeStruct(batch["images"].shape, jnp.float32)


@pytest.mark.parametrize(("name", "kwargs"), NETWORKS)
def test_steps_on_embedded_faces_move_every_parameter(name, kwargs):
    module, variables, batch = prepare(name, kwargs)
    channels = batch["images"].shape[-1]
    tx = optax.adam(1e-3)
    spec = tiny.SPEC.replace(
        class_names=tuple("abcdefg"),
        color_order="rgb" if channels == 3 else "gray",
        mean=(0.5,) * channels,
        std=(0.25,) * channels,
    )
    step = quick.jit(make_train_step(tiny.task(apply=module.apply, spec=spec), tx))
    state, seen = init_state(variables, tx), []
    for _ in range(2):
        state, sums = step(state, batch)
        seen.append(sums)
        assert int(sums.bad) == 0 and float(sums.grad_norm) > 0
    still = [
        jax.tree_util.keystr(path)
        for (path, old), new in zip(
            jax.tree_util.tree_flatten_with_path(variables["params"])[0], jax.tree.leaves(state.params), strict=True
        )
        if not np.any(np.asarray(old) != np.asarray(new))
    ]
    assert not still
    for old, new in zip(
        jax.tree.leaves({k: v for k, v in variables.items() if k != "params"}),
        jax.tree.leaves(state.collections),
        strict=True,
    ):
        assert np.any(np.asarray(old) != np.asarray(new))


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("resnet20", {"widths": (16, 32)}, r"the same length, got \(3, 3, 3\) and \(16, 32\)"),
        ("resnet20", {"widths": 5}, r"widths of resnet20 must be whole numbers of 1 or more such as \(16, .*, got 5"),
        ("resnet20", {"widths": [16, 0, 32]}, r"whole numbers of 1 or more .*, got \(16, 0, 32\)"),
        ("resnet20", {"depths": [1, 1.5, 1]}, r"depths of resnet20 must be whole numbers .*, got \(1, 1\.5, 1\)"),
        ("resnet20", {"hidden": [16] * 9}, "hidden of resnet20 must be tuples of whole numbers of 1 or more, got"),
        ("resnet20", {"stem_width": "wide"}, "stem_width of resnet20 must be a whole number of 1 or more, got 'wide'"),
        ("resnet18", {"head_dropout": 0.5}, r"head_dropout of resnet18 must be numbers, got 0\.5"),
        ("resnet18", {"bottleneck": "yes"}, "bottleneck of resnet18 must be True or False, got 'yes'"),
        ("mini_xception", {"widths": 16}, "widths of mini_xception must be whole numbers"),
        ("mini_xception", {"stem_widths": (8, -8)}, r"stem_widths of mini_xception .*such as \(8, 8\), got \(8, -8\)"),
        ("resemotenet", {"stem_widths": 64}, "stem_widths of resemotenet must be whole numbers"),
        ("baseline_cnn3", {"widths": "wide"}, "widths of baseline_cnn3 must be whole numbers"),
        ("baseline_cnn5", {"head_dropout": (0.5,)}, r"head_dropout of baseline_cnn5 must be a number, got \(0\.5,\)"),
        ("deit_tiny", {"grid": (6,)}, r"grid of deit_tiny must be 2 whole numbers .*such as \(14, 14\), got \(6,\)"),
        ("deit_attention_free", {"grid": 6}, "grid of deit_attention_free must be 2 whole numbers"),
        ("deit_tiny", {"hidden": 768}, "hidden of deit_tiny must be whole numbers of 1 or more, got 768"),
        ("deit_tiny", {"depth": 2.5}, r"depth of deit_tiny must be a whole number of 1 or more, got 2\.5"),
        ("deit_tiny", {"heads": 5}, "heads must divide the token width 192, got 5"),
        ("deit_tiny", {"act": 1}, "act of deit_tiny must be a string, got 1"),
        ("mobilenetv3_small", {"widths": [16, 1, 1, 1, 96]}, r"widths must be \[stem, 11 expanded, "),
        ("mobilenetv3_small", {"widths": [16, [0] * 11, [8] * 11, [0] * 11, 96]}, r"widths must be \[stem, 11 "),
        (
            "efficientnet_lite0",
            {"widths": [32, [32], [16], 1280]},
            r"widths must be \[stem, 16 expanded, 16 output, last",
        ),
        ("efficientnet_lite0", {"widths": [32, [32] * 16, [0] * 16, 1280]}, r"widths must be \[stem, 16 expanded"),
        ("baseline_cnn3", {"head_dropout": 1.5}, r"head_dropout of baseline_cnn3 must be in \[0, 1\), got 1.5"),
        ("microexpnet", {"head_dropout": (0.0, -0.1)}, r"head_dropout of microexpnet must be in \[0, 1\)"),
        ("microexpnet", {"widths": 16}, "widths of microexpnet must be a tuple, got 16"),
        ("microexpnet", {"attention": -1}, "attention of microexpnet must be a whole number of 0 or more, got -1"),
    ],
)
def test_invalid_arguments_raise(name, arguments, message):
    x = jax.ShapeDtypeStruct((1, 48, 48, 1), jnp.float32)
    with pytest.raises(InputError, match=message):
        jax.eval_shape(functools.partial(models.create(name, **arguments).init, train=False), jax.random.key(0), x)


@pytest.mark.parametrize(("name", "kwargs"), NETWORKS)
def test_named_intermediates_are_returned_on_request_only(name, kwargs):
    module, variables, batch = prepare(name, kwargs)
    x = images(batch)
    apply = functools.partial(module.apply, train=False)
    logits = jax.eval_shape(apply, variables, x)
    assert logits.shape == (8, 7) and logits.dtype == jnp.float32

    def named(variables, x):
        logits, found = apply(variables, x, mutable=["intermediates"])
        taps = found["intermediates"]
        return logits, taps, models.feature_map(module, taps["features"][0], x.shape[1:])

    again, taps, features = jax.eval_shape(named, variables, x)
    assert again.shape == logits.shape
    assert {"features", "embedding"} <= taps.keys()
    assert taps["embedding"][0].shape[0] == 8 and taps["embedding"][0].ndim == 2
    assert features.ndim == 4 and features.shape[0] == 8


@pytest.mark.parametrize(("name", "kwargs"), NETWORKS)
def test_bfloat16_computes_near_float32_from_the_same_parameters(name, kwargs):
    module, variables, batch = prepare(name, kwargs)
    half = models.create(name, **kwargs, dtype=jnp.bfloat16)
    x = jnp.array(batch["images"], jnp.float32) / 255 - 0.5
    exact, rough = (
        np.asarray(quick.jit(functools.partial(m.apply, train=False))(variables, x)) for m in (module, half)
    )
    assert rough.dtype == np.float32 and np.isfinite(rough).all()
    assert np.abs(exact - rough).max() <= 0.05 * max(1.0, np.abs(exact).max())
    assert jax.tree.all(jax.tree.map(lambda v: v.dtype == jnp.float32, variables))


@pytest.mark.usefixtures("strict_dtypes")
@pytest.mark.parametrize(("name", "kwargs"), NETWORKS)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_no_dtype_is_promoted_silently(name, kwargs, dtype):
    module = models.create(name, **kwargs, dtype=dtype)
    x = jax.ShapeDtypeStruct((2, 48, 48, models.default_input_shape(name)[2]), jnp.float32)
    variables = jax.eval_shape(functools.partial(module.init, train=False), jax.random.key(0), x)

    def loss(params, x):
        rngs = {"dropout": jax.random.key(1)}
        logits, _ = module.apply({**variables_of(params), "params": params}, x, True, mutable=True, rngs=rngs)
        return logits.sum()

    def variables_of(params):
        return jax.tree.map(
            lambda s: jnp.zeros(s.shape, s.dtype), {k: v for k, v in variables.items() if k != "params"}
        )

    gradients = jax.eval_shape(jax.grad(loss), variables["params"], x)
    assert jax.tree.all(
        jax.tree.map(lambda g, p: (g.shape, g.dtype) == (p.shape, p.dtype), gradients, variables["params"])
    )


def test_messages_suggest_similar_names():
    with pytest.raises(InputError, match="resnet20"):
        models.create("resnet21")
    with pytest.raises(InputError, match="width"):
        models.create("microexpnet", widht=2)


def test_networks_with_shifts_use_the_older_code_generator():
    named = [name for name in models.list_models() if models.compiler_options(models.create(name))]
    assert named == ["mobilenetv3_small", "efficientnet_lite0", "microexpnet", "mini_xception"]
    module = models.create("mini_xception")
    options = models.compiler_options(module)
    assert models.compiler_options(models.for_export(module)) == {}
    for slower in ([module.clone(folded=True)], [module, models.create("resnet20")]):
        fewer_passes = models.compiler_options(*slower)
        assert fewer_passes and fewer_passes.items() < options.items()  # all but the generator
    assert models.compiler_options(module, module) == options
    jax.jit(jnp.sin, compiler_options=options).lower(1.0).compile()  # XLA knows them
    with pytest.raises(InputError, match="Did you mean 'shifts'"):
        models.compiler_options(models.create("mini_xception", depthwise="shift"))
