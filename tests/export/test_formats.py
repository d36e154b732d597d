import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ferjax import export, models
from ferjax.data import Split, subsets
from ferjax.errors import InputError
from ferjax.export import formats, tflite
from ferjax.export.conversion import Conversion, calibration_images, typical
from ferjax.spec import ModelSpec
from ferjax.weights import Trained
from tests.support import quick


def spec(architecture="resnet20", **args):
    return ModelSpec(
        class_names=("a", "b", "c"),
        input_size=(6, 5),
        color_order="gray",
        mean=(0.5,),
        std=(0.25,),
        architecture=architecture,
        architecture_args=args,
    )


def names(rows):
    return [row.suffix for row in rows]


def test_the_table_names_every_row_once():
    keys = [(row.format, row.quantization) for row in export.FORMATS]
    assert len(keys) == len(set(keys)) and ("onnx", "int8") in keys
    assert {row.runtime for row in export.FORMATS} == {"LiteRT", "ONNX Runtime"}


@pytest.mark.parametrize("name", models.list_models())
def test_every_network_has_a_float_and_an_integer_file_in_both_formats(name):
    rows = export.choose(spec(name))
    for kind in export.list_formats():
        assert {"none", "float16", "weight-only"} <= {r.quantization for r in rows if r.format == kind}
    assert all(formats.family(spec(name)) in row.convert for row in rows)


def test_a_mobile_network_with_relu6_is_quantised_as_any_convolutional_one():
    assert formats.family(spec("microexpnet")) == formats.SWISH
    assert formats.family(spec("microexpnet", act="relu6")) == formats.CONVOLUTIONAL
    assert "_int8.onnx" not in names(export.choose(spec("microexpnet")))
    assert "_int8.onnx" in names(export.choose(spec("microexpnet", act="relu6")))


@pytest.mark.parametrize(("name", "kind"), [("deit_tiny", "transformer"), ("microexpnet", "hard-swish")])
def test_no_two_files_are_made_the_same_way(name, kind, capsys):
    assert "_int8.tflite" not in names(export.choose(spec(name)))  # its dynamic file is that
    assert names(export.choose(spec(name), ["tflite"], ["int8"])) == ["_int8.tflite"]
    assert not capsys.readouterr().err
    export.choose(spec(name), ["tflite"], ["dynamic", "int8"])
    assert f"tflite int8 is left out: for {kind} networks it is dynamic" in capsys.readouterr().err


def test_what_was_asked_for_is_what_is_made():
    assert names(export.choose(spec(), ["onnx"], ["int8", "none"])) == [".onnx", "_int8.onnx"]


@pytest.mark.parametrize(
    ("kinds", "quantizations", "said"),
    [
        (None, ["int9"], r"unknown quantization 'int9'\. Did you mean 'int8'"),
        (["tflight"], None, r"unknown format 'tflight'\. Did you mean 'tflite'"),
        (["onnx"], ["dynamic"], "nothing of what was asked for suits resnet20; these do: tflite none"),
    ],
)
def test_what_cannot_be_made_is_said(kinds, quantizations, said):
    with pytest.raises(InputError, match=said):
        export.choose(spec(), kinds, quantizations)


def test_examples_are_balanced_as_far_as_the_classes_go():
    labels = np.array([0] * 50 + [1] * 3 + [2] * 20)
    places = subsets.balanced(labels, 23, seed=1)
    assert len(set(places)) == 23 and (np.diff(places) > 0).all()
    assert np.bincount(labels[places]).tolist() == [10, 3, 10]
    assert (places == subsets.balanced(labels, 23, seed=1)).all() and (
        places != subsets.balanced(labels, 23, seed=2)
    ).any()
    assert len(subsets.balanced(labels, 500, seed=1)) == 73


def test_calibration_images_are_normalised_and_of_the_right_size():
    images = np.full((4, 6, 5, 1), 255, np.uint8)
    found = calibration_images(spec(), Split(images, np.arange(4) % 3, [], {}), count=3)
    assert found.shape == (3, 6, 5, 1) and found.dtype == np.float32
    np.testing.assert_allclose(found, (1 - 0.5) / 0.25)
    with pytest.raises(InputError, match=r"calibration images are of shape \(7, 5, 1\), the network takes \(6, 5, 1\)"):
        calibration_images(spec(), Split(np.zeros((4, 7, 5, 1), np.uint8), np.arange(4) % 3, [], {}))


def test_images_at_which_a_network_runs_away_show_no_ranges():
    """Three of a hundred reach 50 times the others' maximum, in one of two named places; a wide spread is no flight."""
    images = np.random.default_rng(0).uniform(0.5, 2.5, (100, 3, 3, 1)).astype(np.float32)
    images[[7, 40, 99]] *= 50

    def apply(x, mutable):
        assert mutable == ["intermediates"]
        named = {"stage0": (jnp.tanh(x),), "features": (-x,), "se": {"fc": (x**9,)}}
        return x.sum((1, 2)), {"intermediates": named}

    np.testing.assert_array_equal(typical(apply, images), np.delete(images, [7, 40, 99], 0))
    calm = np.delete(images, [7, 40, 99], 0)
    np.testing.assert_array_equal(typical(apply, calm), calm)
    images[:20] *= np.arange(1, 21)[:, None, None, None]  # whatever the network does, 95 % show theirs
    assert len(typical(apply, images)) == 95


def test_a_runaway_image_does_not_spoil_an_integer_file():
    """The rest are answered by the int8 file as without it."""
    module = models.create("baseline_cnn3", num_classes=3, widths=[8, 8])
    small = spec().replace(architecture="baseline_cnn3", architecture_args={"widths": [8, 8]}, input_size=(16, 16))
    rng = np.random.default_rng(0)
    images = rng.normal(size=(40, 16, 16, 1)).astype(np.float32)
    variables = quick.jit(functools.partial(module.init, train=False))(jax.random.key(0), images)
    variables["params"]["head"]["out"]["kernel"] = rng.normal(size=variables["params"]["head"]["out"]["kernel"].shape)
    wild = np.concatenate([images, 1000 * images[:1]])
    sources = [Conversion(Trained(small, jax.tree.map(np.float32, variables)), examples) for examples in (images, wild)]
    assert [len(source.calibration) for source in sources] == [40, 40]
    assert tflite.static_int8(sources[0]) == tflite.static_int8(sources[1])
