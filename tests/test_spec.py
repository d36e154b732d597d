import dataclasses
import json

import hypothesis
import hypothesis.strategies as st
import pytest

import ferjax
from ferjax.errors import InputError
from ferjax.spec import COLOR_ORDERS, ModelSpec

GRAY = ModelSpec(
    class_names=("angry", "happy"),
    input_size=(48, 40),
    color_order="gray",
    mean=(0.5,),
    std=(0.25,),
    architecture="resnet20",
    architecture_args={"stem": "small", "widths": [16, 32]},
    accuracy={"validation": 0.6},
)


@st.composite
def specs(draw):
    order = draw(st.sampled_from(list(COLOR_ORDERS)))
    channels = COLOR_ORDERS[order]
    unit = st.floats(0, 1)
    positive = st.floats(1e-6, 1e6)
    return ModelSpec(
        class_names=tuple(draw(st.lists(st.text(), min_size=2, max_size=8, unique=True))),
        input_size=draw(st.tuples(st.integers(1, 512), st.integers(1, 512))),
        color_order=order,
        mean=draw(st.tuples(*[unit] * channels)),
        std=draw(st.tuples(*[positive] * channels)),
        architecture=draw(st.text()),
        architecture_args=draw(st.dictionaries(st.text(), st.integers() | st.text() | st.booleans() | st.none())),
        temperature=draw(positive),
        abstention_threshold=draw(unit),
        split_sha256=draw(st.dictionaries(st.text(), st.text())),
        accuracy=draw(st.dictionaries(st.text(), unit)),
        parameters=draw(st.integers(0)),
    )


@hypothesis.settings(max_examples=50, deadline=None)
@hypothesis.given(specs())
def test_json_keeps_every_field(spec):
    assert ModelSpec.from_json(spec.to_json()) == spec


def test_json_holds_the_fields_in_order():
    assert list(json.loads(GRAY.to_json())) == [f.name for f in dataclasses.fields(ModelSpec)]
    assert json.loads(GRAY.to_json())["ferjax_version"] == ferjax.__version__


def test_shapes_follow_from_size_and_color_order():
    assert (GRAY.channels, GRAY.input_shape) == (1, (48, 40, 1))
    color = GRAY.replace(color_order="bgr", mean=(0.1, 0.2, 0.3), std=(1, 1, 1))
    assert (color.channels, color.input_shape) == (3, (48, 40, 3))


def test_lists_become_tuples_so_that_equal_specs_are_equal():
    spec = GRAY.replace(class_names=["angry", "happy"], input_size=[48, 40], mean=[0.5], std=[0.25])
    assert spec == GRAY and spec.class_names == ("angry", "happy")


def test_a_spec_cannot_be_changed_in_place():
    with pytest.raises(dataclasses.FrozenInstanceError):
        GRAY.temperature = 2.0
    assert GRAY.replace(temperature=2.0).temperature == 2.0 and GRAY.temperature == 1.0


@pytest.mark.parametrize(
    "change, message",
    [
        ({"class_names": ("happy",)}, "class_names must be two or more distinct names, got"),
        ({"class_names": ("happy", "happy")}, "two or more distinct names"),
        ({"input_size": (48,)}, r"input_size must be \(height, width\), .* got \(48,\)"),
        ({"input_size": (48, 0)}, "input_size must be"),
        ({"color_order": "grey"}, "color_order must be one of gray, rgb, bgr, got 'grey'"),
        ({"color_order": "rgb"}, "must have 3 values for color_order 'rgb', got 1 and 1"),
        ({"interpolation": "nearest"}, "interpolation must be antialiased bilinear, got 'nearest'"),
        ({"std": (0.1, 0.1)}, "must have 1 values for color_order 'gray', got 1 and 2"),
        ({"std": (0.0,)}, "std and temperature must be within"),
        ({"temperature": -1.0}, "std and temperature must be within"),
        ({"temperature": float("inf")}, "std and temperature must be within"),
        ({"temperature": 10**400}, "std and temperature must be within"),
        ({"temperature": 1e-320}, "std and temperature must be within"),
        ({"std": (float("inf"),)}, "std and temperature must be within"),
        ({"mean": (float("nan"),)}, "mean must be within"),
        ({"mean": (10**400,)}, "mean must be within"),
        ({"class_names": ("happy", "uncertain")}, "must not contain 'uncertain'"),
        ({"batch_size": -1}, r"batch_size must be 0 \(any number\) or more, got -1"),
        ({"batch_size": 1.5}, "batch_size must be an integer"),
        ({"abstention_threshold": 1.2}, r"abstention_threshold must be within 0..1, got 1.2"),
    ],
)
def test_an_invalid_spec_is_an_error(change, message):
    with pytest.raises(InputError, match=message):
        GRAY.replace(**change)


def test_keys_of_a_newer_ferjax_are_ignored():
    text = json.dumps({**json.loads(GRAY.to_json()), "invented_later": 1})
    assert ModelSpec.from_json(text) == GRAY


def test_fields_with_defaults_may_be_omitted():
    values = json.loads(GRAY.to_json())
    for name in ("interpolation", "temperature", "accuracy", "ferjax_version", "license"):
        del values[name]
    assert ModelSpec.from_json(json.dumps(values)) == GRAY.replace(accuracy={})


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "not valid JSON"),
        ('{"class_names": [', "not valid JSON"),
        ("[1, 2]", "must be a JSON object, got list"),
        ('{"mean": [0.5], "std": [1]}', "lacks architecture, class_names, color_order, input_size"),
        (GRAY.to_json().replace("[\n  48,\n  40\n ]", "48"), "a value of the wrong type: 'int' object is not iterable"),
        (GRAY.to_json().replace("0.25", '"wide"'), "std must be a list of float, got .'wide'"),
        (GRAY.to_json().replace("0.25", "NaN"), "std and temperature must be within"),
        (GRAY.to_json().replace('"temperature": 1.0', '"temperature": NaN'), "std and temperature must be within"),
        (GRAY.to_json().replace('"temperature": 1.0', '"temperature": "hot"'), "temperature must be a number"),
        (GRAY.to_json().replace("48", "48.5"), "input_size must be a list of int"),
        (json.dumps({**json.loads(GRAY.to_json()), "class_names": "ab"}), "class_names must be a list of str"),
        (json.dumps({**json.loads(GRAY.to_json()), "class_names": [1, 2]}), "class_names must be a list of str"),
        (GRAY.to_json().replace('"gray"', "[1]"), r"color_order must be a string, got \[1\]"),
        ("[" * 100_000, "not valid JSON"),
        (GRAY.to_json().replace("0.25", "9" * 5000), "not valid JSON"),
        *(
            (json.dumps({**json.loads(GRAY.to_json()), name: value}), f"{name} must {said}")
            for name, value, said in [
                ("accuracy", [1], "be an object"),
                ("accuracy", {"test": "high"}, "map split names to numbers"),
                ("parameters", "many", "be an integer"),
                ("dataset_args", [1], "be an object"),
                ("split_sha256", None, "be an object"),
                ("architecture", None, "be a string"),
            ]
        ),
    ],
)
def test_an_invalid_json_spec_is_an_error(text, message):
    with pytest.raises(InputError, match=message):
        ModelSpec.from_json(text)
