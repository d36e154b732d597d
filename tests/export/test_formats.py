import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ferjax import export, models
from ferjax.data import Split, subsets
from ferjax.errors import InputError
from ferjax.export import formats, tflite
from ferjax.export.conversion import Conversion, calibration_images, without_outliers
from ferjax.spec import ModelSpec
from ferjax.weights import Trained
from tests.support import tiny_networks


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


def test_a_mobile_network_with_relu6_is_quantized_as_other_convolutional_networks():
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
    assert f"skipped tflite int8: same as dynamic for {kind} networks" in capsys.readouterr().err


def test_what_was_asked_for_is_what_is_made():
    assert names(export.choose(spec(), ["onnx"], ["int8", "none"])) == [".onnx", "_int8.onnx"]


@pytest.mark.parametrize(
    ("kinds", "quantizations", "said"),
    [
        (None, ["int9"], "'int9'.*'int8'"),
        (["tflight"], None, "'tflight'.*'tflite'"),
        (["onnx"], ["dynamic"], "resnet20 supports only: tflite none"),
    ],
)
def test_unsupported_rows_are_rejected(kinds, quantizations, said):
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


def test_calibration_images_are_normalized():
    images = np.full((4, 6, 5, 1), 255, np.uint8)
    found = calibration_images(spec(), Split(images, np.arange(4) % 3, [], {}), count=3)
    assert found.shape == (3, 6, 5, 1) and found.dtype == np.float32
    np.testing.assert_allclose(found, (1 - 0.5) / 0.25)


def test_activation_outliers_are_removed():
    """Three of 100 images reach 50 times the maximum of the others; a wide spread alone is not an outlier."""
    images = np.random.default_rng(0).uniform(0.5, 2.5, (100, 3, 3, 1)).astype(np.float32)
    images[[7, 40, 99]] *= 50

    def apply(x, mutable):
        assert mutable == ["intermediates"]
        named = {"stage0": (jnp.tanh(x),), "features": (-x,), "se": {"fc": (x**9,)}}
        return x.sum((1, 2)), {"intermediates": named}

    np.testing.assert_array_equal(without_outliers(apply, images), np.delete(images, [7, 40, 99], 0))
    calm = np.delete(images, [7, 40, 99], 0)
    np.testing.assert_array_equal(without_outliers(apply, calm), calm)
    images[:20] *= np.arange(1, 21)[:, None, None, None]  # 95 % are always kept
    assert len(without_outliers(apply, images)) == 95


def test_an_outlier_does_not_change_the_int8_file():
    module = models.create("baseline_cnn3", num_classes=3, widths=[8, 8])
    small = spec().replace(architecture="baseline_cnn3", architecture_args={"widths": [8, 8]}, input_size=(16, 16))
    rng = np.random.default_rng(0)
    images = rng.normal(size=(40, 16, 16, 1)).astype(np.float32)
    variables = tiny_networks.variables(module, images.shape[1:])
    variables["params"]["head"]["out"]["kernel"] = rng.normal(size=variables["params"]["head"]["out"]["kernel"].shape)
    wild = np.concatenate([images, 1000 * images[:1]])
    sources = [Conversion(Trained(small, jax.tree.map(np.float32, variables)), examples) for examples in (images, wild)]
    assert [len(source.calibration) for source in sources] == [40, 40]
    assert tflite.static_int8(sources[0]) == tflite.static_int8(sources[1])
