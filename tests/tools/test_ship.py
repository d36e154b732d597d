"""What comes with the package, and the command that puts it there and refuses what it must not."""

import json
import pathlib
import shutil
import tomllib

import numpy as np
import pytest

import ferjax
from ferjax import data, export
from ferjax import spec as contract
from ferjax.data import EXPRESSIONS
from ferjax.data.datasets import ferplus
from ferjax.errors import InputError
from ferjax.runtime import load, shipped
from ferjax.train import start
from ferjax.weights import Trained, checkpoint, single_file
from tests.support.untrained_runs import DATA, write_run
from tools import ship

pytestmark = pytest.mark.slow


def test_what_is_shipped_is_consistent():
    assert ship.faults(shipped.FOLDER) == []
    assert load().spec == contract.read(shipped.find())
    for name in shipped.names():
        spec = load(name).spec
        classes = {"fer2013": EXPRESSIONS, "ferplus": ferplus.CLASSES}
        assert spec.class_names == classes[spec.dataset] and name in shipped.table()


def test_wheels_carry_what_is_shipped():
    root = pathlib.Path(ferjax.__file__).parent.parent
    settings = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    package = ".".join(shipped.FOLDER.relative_to(root).parts)
    carried = {path for pattern in settings[package] for path in shipped.FOLDER.glob(pattern)}
    assert carried == set(shipped.FOLDER.iterdir()) and len(carried) >= 4


def test_the_default_model_tells_drawn_smiles_from_drawn_surprise():
    model = load()
    faces = data.load("synthetic_faces", size=48, train=7, validation=70, test=7).splits["validation"]
    answers = model.logits(np.asarray(faces.images)).argmax(1)
    for name in ("happy", "surprise"):  # a caricature suffices where labels and pixels mean what the contract says
        chosen = faces.labels == EXPRESSIONS.index(name)
        assert (answers[chosen] == EXPRESSIONS.index(name)).mean() > 0.6


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run, its data, and its files as export.py leaves them."""
    folder = tmp_path_factory.mktemp("ship")
    faces = data.load("synthetic_faces", data_dir=folder / "data", **DATA)
    write_run(folder / "run", faces)
    wanted = {"wanted_formats": ["tflite"], "data_dir": folder / "data"}
    export.export(folder / "run", folder / "files", wanted_quantizations=["none", "weight-only"], **wanted)
    return folder


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "FOLDER", tmp_path / "models")
    return tmp_path / "models"


def put(made, *more, name="small", model="run", file="files/baseline_cnn5.tflite"):
    arguments = ["--name", name, "--model", made / model, "--file", made / file, "--data-dir", made / "data"]
    ship.main([str(a) for a in (*arguments, "--commands", "python train.py", "python export.py", *more)])


def test_a_model_is_put_into_the_package(made, folder, capsys):
    put(made)
    assert sorted(p.name for p in folder.iterdir()) == ["default", "small.md", "small.safetensors", "small.tflite"]
    assert ship.faults(folder) == [] and shipped.names() == ["small"]
    assert "small (default)  baseline_cnn5  none" in capsys.readouterr().out
    assert load().spec == contract.read(made / "files" / "baseline_cnn5.tflite")
    card = (folder / "small.md").read_text()
    assert "python train.py\npython export.py\n" in card and "- training: `3 epochs, seed 5`" in card
    assert "| low_light |" in card and "Not measured.\n\n## Speed" not in card
    assert 'load("small")' in card and "init.pretrained=small.safetensors" in card
    spec, variables = checkpoint.read(made / "run")[0]
    assert single_file.load(folder / "small.safetensors")[0] == spec
    (_, started), report = start.start(Trained(spec, variables), pretrained=folder / "small.safetensors")
    assert not report.missing
    np.testing.assert_array_equal(
        started["params"]["head"]["out"]["kernel"], variables["params"]["head"]["out"]["kernel"]
    )


def test_a_second_one_leaves_the_default_unless_asked_and_may_replace_itself(made, folder):
    put(made)
    put(made, name="light", file="files/baseline_cnn5_weight-only.tflite")
    assert shipped.names() == ["small", "light"]
    put(made, "--default", name="light")
    assert shipped.names() == ["light", "small"] and load().spec.quantization == "none"
    assert [p.name for p in folder.parent.iterdir()] == ["models"] and ship.faults(folder) == []


def test_what_is_too_large_is_refused(made, folder, monkeypatch, capsys):
    monkeypatch.setattr(ship, "WEIGHTS_BYTES", 100)
    put(made)
    assert "are not shipped" in capsys.readouterr().err and not list(folder.glob("*.safetensors"))
    assert "init.pretrained" not in (folder / "small.md").read_text()
    size = (made / "files" / "baseline_cnn5.tflite").stat().st_size
    monkeypatch.setattr(ship, "FILES_BYTES", 2 * size - 1)
    before = sorted(p.name for p in folder.iterdir())
    put(made)  # in the place of itself
    with pytest.raises(InputError, match=f"take {2 * size:,} bytes, more than {2 * size - 1:,}"):
        put(made, name="more")
    assert sorted(p.name for p in folder.iterdir()) == before


@pytest.fixture
def copy(made, tmp_path):
    """The export once more, to be spoiled."""
    shutil.copytree(made / "files", tmp_path / "files")
    return tmp_path / "files" / "baseline_cnn5.tflite"


def change_entry(file, **change):
    record = json.loads((file.parent / "export.json").read_text())
    for entry in record["files"]:
        entry.update(change)
    (file.parent / "export.json").write_text(json.dumps(record))


@pytest.mark.parametrize(
    "spoil, said",
    [
        (lambda file: (file.parent / "export.json").unlink(), "no record of its gate"),
        (lambda file: file.unlink(), "no record of its gate"),
        (lambda file: change_entry(file, faults=["agreement 0.5"]), "did not pass: agreement 0.5"),
        (lambda file: file.write_bytes(file.read_bytes() + b"\0"), "has changed since"),
        (lambda file: respec(file, temperature=2.0), "temperature is 2.0 in the file, 1.0 in the run"),
        (lambda file: respec(file, class_names=tuple("abcdefg")), "class_names is"),
        (lambda file: respec(file, params_sha256="0" * 64), "params_sha256 is"),
        (lambda file: respec(file, accuracy={}), "compared on some images only"),
        (lambda file: respec(file, accuracy={"validation": 0.99}), "its spec says 0.9900"),
    ],
)
def test_a_file_that_is_not_what_it_should_be_is_refused(made, folder, copy, spoil, said):
    spoil(copy)
    with pytest.raises(InputError, match=said):
        put(made, file=copy)
    assert not folder.exists()


def respec(file, **change):
    """Changes the contract and the record of the file's size with it."""
    contract.embed(file, contract.read(file).replace(**change))
    change_entry(file, bytes=file.stat().st_size)


def test_another_run_another_kind_and_another_name_are_refused(made, folder, tmp_path):
    faces = data.load("synthetic_faces", data_dir=made / "data", **DATA)
    write_run(tmp_path / "other", faces, class_names=tuple("abcdefg"))
    with pytest.raises(InputError, match="no export of"):
        put(made, model=tmp_path / "other")
    with pytest.raises(InputError, match="give the run before it"):
        put(made, "--weights", tmp_path / "other")
    with pytest.raises(InputError, match=r"is no .tflite file"):
        put(made, file="files/export.json")
    for name in ("Small", "a.b", "default", ""):
        with pytest.raises(InputError, match="--name takes"):
            put(made, name=name)
    assert not list(folder.glob("*"))


def test_a_folder_that_is_not_consistent_is_found_out(made, folder):
    put(made)
    (folder / "small.md").write_text("no law")
    (folder / "stray.md").write_text("")
    (folder / "default").write_text("gone")
    respec_in_place = contract.read(folder / "small.tflite").replace(class_names=EXPRESSIONS[::-1], accuracy={})
    contract.embed(folder / "small.tflite", respec_in_place)
    found = "\n".join(ship.faults(folder))
    for said in (
        "card does not say 'Regulation (EU) 2024/1689'",
        "card does not say 'The epoch was selected",
        "stray.md belongs to no model",
        "default 'gone' is not there",
        "its labels are surprise, sad",
        "no accuracy on validation",
        "its weights are of",
    ):
        assert said in found
    (folder / "small.tflite").write_bytes(b"\0" * 4_000_001)
    (folder / "default").unlink()
    found = "\n".join(ship.faults(folder))
    assert "take 4,000,001 bytes" in found and "small.tflite is not a TFLite model" in found and "no default" in found
