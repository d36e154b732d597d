"""Exports of networks whose training data is not prepared here."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest

from ferjax import data, errors, runtime
from ferjax.export import commands, faces, formats, tflite
from ferjax.weights import checkpoint, single_file
from tests.support.untrained_runs import DATA, write_run


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A file of weights of a network that learned from FER2013, and a folder where only other data is prepared."""
    folder = tmp_path_factory.mktemp("no_data")
    loaded = data.load("synthetic_faces", data_dir=folder / "data", **DATA)
    write_run(folder / "run", loaded, dataset="fer2013", dataset_args={})
    single_file.save(folder / "w.safetensors", checkpoint.read(folder / "run")[0])
    (prepared,) = (folder / "data").iterdir()
    prepared.rename(folder / "data" / "other")
    (folder / "empty").mkdir()
    return folder


def command(work, out, *arguments, home="empty"):
    given = ("--model", work / "w.safetensors", "--data-dir", work / home, "--out", out, *arguments)
    commands.main([str(a) for a in given])


def read(out):
    return json.loads((out / "export.json").read_text())


def test_one_line_says_what_may_be_done(work, tmp_path):
    with pytest.raises(errors.InputError) as error:
        command(work, tmp_path / "out", home="data")
    said = str(error.value)
    assert "fer2013, is not prepared" in said and str(work / "data") in said and "int8 needs images" in said
    assert "ferjax prepare fer2013 --source" in said
    assert "--data NAME" in said and "24x24 gray" in said and "(here: other)" in said
    assert "--quantization none float16 dynamic weight-only" in said
    assert list(tmp_path.iterdir()) == []


def test_the_given_quantizations_need_no_images(work, tmp_path):
    with pytest.raises(errors.InputError) as error:
        command(work, tmp_path / "a", "--quantization", "int8")
    names = str(error.value).split("--quantization ")[1].split(", which")[0]
    spec = checkpoint.read(work / "run")[0].spec
    rows = formats.choose(spec, None, names.split())
    assert len(rows) == 7 and not any(row.needs_calibration(spec) for row in rows)


def test_files_without_images_are_compared_on_rendered_faces(work, tmp_path, capsys):
    out = tmp_path / "out"
    command(work, out, "--quantization", "none", "weight-only")
    said = capsys.readouterr()
    assert "not measured" in said.out and "rendered faces" in said.err
    record = read(out)
    assert record["dataset"] == "rendered faces" and len(record["files"]) == 4
    for entry in record["files"]:
        assert entry["images"] >= 500 and entry["agreement"] > 0.97
        assert entry["accuracy"] is entry["accuracy_interval"] is entry["difference_interval"] is None
        path = out / entry["file"]
        assert runtime.load(path).spec.accuracy == {}
        card = path.with_name(f"{path.name}.md").read_text()
        assert "## Accuracy\n\nNot measured." in card and "compared on: rendered faces" in card
    assert not any((work / "empty").iterdir())


def test_a_wrong_file_is_removed_without_data_too(work, tmp_path, monkeypatch):
    def spoiled(source):
        params = {k: dict(v) for k, v in source.network.variables["params"].items()}
        kernel = -3 * np.array(params["conv2"]["conv"]["kernel"])
        params["conv2"]["conv"] = {**params["conv2"]["conv"], "kernel": kernel}
        wrong = source.network._replace(variables={**source.network.variables, "params": params})
        return tflite.float32(dataclasses.replace(source, network=wrong))

    rows = (formats.Format("tflite", "none", {formats.CONVOLUTIONAL: spoiled}, formats.EXACT),)
    monkeypatch.setattr(formats, "FORMATS", rows)
    with pytest.raises(errors.InputError, match=r"no file passes.*probabilities differ by"):
        command(work, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_another_prepared_set_calibrates_and_measures(work, tmp_path):
    out = tmp_path / "out"
    command(work, out, "--data", "other", "--format", "tflite", "--quantization", "int8", home="data")
    record = read(out)
    (entry,) = record["files"]
    assert record["dataset"] == "other" and 0 <= entry["accuracy"] <= 1 and entry["images"] == 70
    path = out / entry["file"]
    assert runtime.load(path).spec.accuracy == {}  # the spec has accuracies on the training data only
    assert "images of other, split validation" in pathlib.Path(f"{path}.md").read_text()


@pytest.mark.parametrize("name", ["fer2013", "othr"])
def test_a_named_set_must_be_prepared(work, tmp_path, name):
    with pytest.raises(errors.InputError, match=name):
        command(work, tmp_path / "out", "--data", name, "--quantization", "none", home="data")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("size", "order"), [((16, 16), "gray"), ((300, 300), "rgb")])
def test_rendered_faces_have_the_shape_of_the_network(work, size, order):
    spec = checkpoint.read(work / "run")[0].spec
    channels = 3 if order == "rgb" else 1
    spec = spec.replace(input_size=size, color_order=order, mean=(0.5,) * channels, std=(1,) * channels)
    made = faces.rendered(spec, count=8)
    assert made.images.shape == (8, *size, channels) and made.images.std() > 10 and (made.labels == -1).all()
