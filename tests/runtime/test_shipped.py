import cv2
import numpy as np
import pytest

from ferjax.data.synthetic.rendering import render_scene
from ferjax.errors import InputError
from ferjax.runtime import live, load, predict, shipped
from tests.support import small_files

SPEC = small_files.GRAY.replace(quantization="int8", dataset="fer2013", accuracy={"validation": 0.6391})


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An installation without models."""
    monkeypatch.setattr(shipped, "FOLDER", tmp_path / "models")
    return tmp_path / "models"


@pytest.fixture
def filled(folder):
    folder.mkdir()
    for name, spec in (("alpha", SPEC.replace(class_names=("x", "y", "z"))), ("beta", SPEC)):
        small_files.tflite_file(folder / f"{name}.tflite", spec)
        (folder / f"{name}.md").write_text("card")
    (folder / "default").write_text("beta\n")
    return folder


def test_the_default_model_is_listed_first_and_loaded(filled):
    assert shipped.names() == ["beta", "alpha"] and shipped.choices() == "beta (default), alpha"
    assert shipped.find() == filled / "beta.tflite" and load().spec == SPEC
    assert load("alpha").spec.class_names == ("x", "y", "z")


def test_a_path_is_returned_unchanged(filled, tmp_path, monkeypatch):
    for given in ("alpha.tflite", "runs/alpha", tmp_path / "no.onnx"):
        assert str(shipped.find(given)) == str(given)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "alpha").mkdir()  # an existing path takes precedence over a name
    assert str(shipped.find("alpha")) == "alpha"


def test_an_unknown_name_lists_the_models(filled):
    with pytest.raises(
        InputError, match=r"'betta'. Did you mean 'beta'\? Accepted: beta, alpha, or a .tflite or .onnx"
    ):
        load("betta")
    (filled / "default").write_text("gone")
    with pytest.raises(InputError, match="unknown model 'gone'"):
        shipped.find()


@pytest.mark.parametrize("model, said", [(None, "has no models"), ("beta", "'beta' is unknown")])
def test_a_package_without_models_is_an_error(folder, model, said):
    with pytest.raises(InputError, match=said) as caught:
        load(model)
    assert "ferjax export" in str(caught.value) and "\n" not in str(caught.value)
    assert shipped.choices() == "none installed"


def test_the_command_lists_what_is_shipped(filled, capsys):
    shipped.main([])
    head, first, second, note = capsys.readouterr().out.splitlines()
    assert head.split()[:4] == ["name", "network", "kind", "bytes"]
    assert first.startswith("beta (default)") and str(filled / "beta.tflite") in first
    assert f"{(filled / 'beta.tflite').stat().st_size:,}" in first and " int8 " in first and " 93 " in first
    assert "63.9% on validation  fer2013" in first and second.startswith("alpha ")
    assert "not a test result" in note


def test_live_takes_the_default_and_a_name(filled, tmp_path, capsys):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    image, _, _ = render_scene(seed=3, faces=1, size=(240, 320))
    cv2.imwrite(str(pictures / "scene.png"), image[..., ::-1])
    for extra, label in (((), "angry"), (("--model", "alpha"), '"x"')):
        live.main(["--source", str(pictures), "--no-display", "--log", "-", "--detect-scale", "1", *extra])
        said = capsys.readouterr().out
        assert said and all(label in line for line in said.splitlines())
    with pytest.raises(SystemExit):
        live.main(["--help"])
    assert "model of the package: beta (default), alpha" in " ".join(capsys.readouterr().out.split())


def test_predict_takes_a_name(filled, tmp_path, capsys):
    pictures = tmp_path / "faces"
    pictures.mkdir()
    cv2.imwrite(str(pictures / "one.png"), np.full((48, 48), 90, np.uint8))
    predict.main(["alpha", str(pictures), "--out", str(tmp_path / "out.csv")])
    assert (tmp_path / "out.csv").read_text().startswith("file,label,confidence,x,y,z\none.png,")
