import json
import os
import subprocess
import sys

import numpy as np
import pytest

from ferjax.data import EXPRESSIONS, load, store
from ferjax.data.prepare.pipeline import divide, prepare
from ferjax.data.store import SPLITS
from ferjax.errors import InputError
from tests.support.data_layouts import faces, fer2013_files, jpeg, rafdb_files, write, write_zip


@pytest.fixture
def archive(tmp_path):
    return write_zip(tmp_path / "fer2013.zip", fer2013_files())


def test_the_manifest_describes_the_data(archive, tmp_path):
    manifest = prepare("fer2013", archive, tmp_path)
    assert json.loads((tmp_path / "fer2013" / "manifest.json").read_text()) == manifest
    assert manifest["counts"]["train"] == dict.fromkeys(manifest["class_names"], 1)
    assert manifest["class_weights"] == dict.fromkeys(manifest["class_names"], 1.0)
    assert manifest["image_shape"] == [48, 48, 1] and manifest["missing"] == {}
    pixels = load("fer2013", tmp_path).splits["train"].images / 255
    np.testing.assert_allclose(manifest["mean"], [pixels.mean()], rtol=1e-12)
    np.testing.assert_allclose(manifest["std"], [pixels.std()], rtol=1e-9)


def test_the_hash_depends_on_the_data(archive, tmp_path):
    first = prepare("fer2013", archive, tmp_path)["sha256"]
    assert prepare("fer2013", archive, tmp_path / "again")["sha256"] == first
    files = fer2013_files()
    files["train/happy/Training_00000.jpg"] = files.pop("train/angry/Training_00000.jpg")
    files["train/angry/Training_00003.jpg"] = files.pop("train/happy/Training_00003.jpg")
    assert prepare("fer2013", write_zip(tmp_path / "b.zip", files), tmp_path / "b")["sha256"] != first


def test_a_missing_split_is_reported_and_not_replaced(tmp_path, capsys):
    archive = write_zip(tmp_path / "a.zip", fer2013_files(("train", "validation")))
    prepare("fer2013", archive, tmp_path)
    assert "the source has no test split; to get it, prepare from" in capsys.readouterr().err
    assert list(load("fer2013", tmp_path).splits) == ["train", "validation"]
    for split in ("test", "test_all"):
        with pytest.raises(
            InputError, match=r"without a test split \(it has train, validation\); to get it, .*Private"
        ):
            load("fer2013", tmp_path, ("train", split))


@pytest.mark.parametrize("content", [b"", b"not a picture", jpeg(faces()[0][0])[:300]], ids=["empty", "text", "cut"])
def test_images_that_do_not_decode_are_named_or_skipped(tmp_path, capsys, content):
    files = fer2013_files(count=14)
    files["train/sad/Training_00005.jpg"] = content
    archive = write_zip(tmp_path / "a.zip", files)
    with pytest.raises(
        InputError, match=r"1 unusable image: train/sad/Training_00005\.jpg cannot be decoded: .*; .*--skip-bad"
    ):
        prepare("fer2013", archive, tmp_path)
    assert not (tmp_path / "fer2013").exists() and not list(tmp_path.glob(".fer2013*"))
    manifest = prepare("fer2013", archive, tmp_path, skip_bad=True)
    assert manifest["counts"]["train"]["sad"] == 1
    (skipped,) = manifest["skipped"]
    assert skipped.startswith("train/sad/Training_00005.jpg cannot be decoded: ")
    assert "left out: 1 unusable image: train/sad/Training_00005.jpg" in capsys.readouterr().err


def test_a_damaged_member_of_the_zip_is_named(archive, tmp_path):
    data = bytearray(archive.read_bytes())
    place = data.find(b"train/fear/Training_00002.jpg") + 200
    data[place : place + 50] = bytes(50)
    archive.write_bytes(data)
    with pytest.raises(InputError, match=r"train/fear/Training_00002\.jpg cannot be decoded"):
        prepare("fer2013", archive, tmp_path)


def test_many_bad_images_are_counted_not_listed(tmp_path):
    files = dict.fromkeys(fer2013_files(), b"")
    with pytest.raises(InputError, match=r"21 unusable images: .*; and 16 more; "):
        prepare("fer2013", write_zip(tmp_path / "a.zip", files), tmp_path)


def test_prepared_data_survive_a_failure(archive, tmp_path):
    before = prepare("fer2013", archive, tmp_path)
    archive.write_bytes(archive.read_bytes()[:-30])
    bad = write_zip(tmp_path / "bad.zip", fer2013_files() | {"train/sad/Training_9.jpg": b"?"})
    for source in (archive, bad):
        with pytest.raises(InputError):
            prepare("fer2013", source, tmp_path)
    assert load("fer2013", tmp_path).manifest == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.zip", "fer2013", "fer2013.zip"]


def test_a_full_disk_leaves_no_files(archive, tmp_path, monkeypatch):
    before = prepare("fer2013", archive, tmp_path)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store.SplitWriter, "add", full)
    with pytest.raises(OSError, match="No space left"):
        prepare("fer2013", archive, tmp_path)
    assert load("fer2013", tmp_path).manifest == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["fer2013", "fer2013.zip"]


def test_conversions_are_reported(tmp_path, capsys):
    files = fer2013_files()
    files["train/sad/Training_00005.jpg"] = jpeg(faces(size=96)[0][5])
    files["test/sad/PublicTest_00005.jpg"] = jpeg(faces(size=96, channels=3)[0][5])
    manifest = prepare("fer2013", write_zip(tmp_path / "a.zip", files), tmp_path)
    assert manifest["remarks"] == ["2 images resized to 48x48"]
    assert "2 images resized to 48x48" in capsys.readouterr().err


def test_an_empty_class_or_no_training_split_is_refused(tmp_path):
    files = {p: c for p, c in fer2013_files().items() if "train/disgust" not in p}
    with pytest.raises(InputError, match="no training image of class disgust"):
        prepare("fer2013", write_zip(tmp_path / "a.zip", files), tmp_path)
    with pytest.raises(InputError, match="no training images; found splits: test"):
        prepare("fer2013", write_zip(tmp_path / "b.zip", fer2013_files(("test",))), tmp_path)


def test_a_folder_that_is_not_a_data_set_is_kept(archive, tmp_path):
    (tmp_path / "fer2013").mkdir()
    (tmp_path / "fer2013" / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match="fer2013 exists and is not a prepared data set"):
        prepare("fer2013", archive, tmp_path)
    assert (tmp_path / "fer2013" / "thesis.tex").read_text() == "years of work"


def test_an_encrypted_archive_is_refused(archive, tmp_path):
    data = bytearray(archive.read_bytes())
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # of each member, and in the list at the end
        place = -1
        while (place := data.find(signature, place + 1)) >= 0:
            data[place + flags] |= 1
    archive.write_bytes(data)
    with pytest.raises(InputError, match="is encrypted: unpack it with its password first"):
        prepare("fer2013", archive, tmp_path)


def test_names_and_fractions_are_checked(archive, tmp_path):
    with pytest.raises(InputError, match=r"unknown data set 'fer2014'\. Did you mean 'fer2013'"):
        prepare("fer2014", archive, tmp_path)
    with pytest.raises(InputError, match=r"holdout must be in 0\.\.0\.5"):
        prepare("fer2013", archive, tmp_path, holdout=0.7)
    with pytest.raises(InputError, match="already has a validation split"):
        prepare("fer2013", archive, tmp_path, holdout=0.1)


def test_duplicates_in_train_are_marked_and_dropped_from_training_only(tmp_path, capsys):
    files = fer2013_files(count=14)
    files["test/happy/PublicTest_99999.jpg"] = files["train/happy/Training_00003.jpg"]  # exact
    shifted = np.roll(faces("train", 14)[0][8], 2, 1)
    files["test/happy/PrivateTest_99999.jpg"] = jpeg(shifted)  # near
    archive = write_zip(tmp_path / "a.zip", files)
    splits = ("train", "validation", "test")
    manifest = prepare("fer2013", archive, tmp_path)
    kept = load("fer2013", tmp_path, splits).splits
    assert manifest["exact_duplicates"]["across_splits"] == 1
    marks = kept["validation"].columns["twin_in_train"]
    assert marks.dtype == bool and np.flatnonzero(marks).tolist() == [14]
    assert not kept["train"].columns["twin_in_train"].any() and not kept["test"].columns["twin_in_train"].any()

    dropped = prepare("fer2013", archive, tmp_path, drop_leaks=True)
    clean = load("fer2013", tmp_path, splits).splits
    assert not clean["validation"].columns["twin_in_train"].any()
    removed = set(kept["train"].names) - set(clean["train"].names)
    assert {"train/happy/Training_00003.jpg", "train/disgust/Training_00008.jpg"} <= removed
    assert dropped["dropped_leaks"] == len(removed) < 6
    assert len(clean["validation"].names) == 15 and len(clean["test"].names) == 15
    assert f"{len(removed)} training images removed: near duplicates" in capsys.readouterr().err


def test_data_of_duplicates_only_are_neither_divided_nor_emptied(tmp_path, capsys):
    image = jpeg(faces("train", 7)[0][0])
    names = [("train", "Training"), ("test", "PublicTest"), ("test", "PrivateTest")]
    files = {f"{s}/{c}/{name}_{i:05d}.jpg": image for s, name in names for i, c in enumerate(EXPRESSIONS)}
    with pytest.raises(InputError, match=r"--drop-leaks would remove all 7 training images"):
        prepare("fer2013", write_zip(tmp_path / "a.zip", files), tmp_path, drop_leaks=True)
    alike = {path: image if path.endswith(".jpg") else content for path, content in rafdb_files()[0].items()}
    prepare("rafdb", write(tmp_path / "raf", alike), tmp_path, holdout=0.5)
    assert "the validation split is empty: 14 of 14 images" in capsys.readouterr().err


def test_division_keeps_fractions_classes_and_groups():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 300)
    groups = [list(map(int, g)) for g in rng.permutation(300)[:60].reshape(12, 5)]
    parts = divide(labels, groups, (0.8, 0.1, 0.1))
    assert all(len(set(parts[g])) == 1 for g in groups)
    for label in range(3):
        share = np.bincount(parts[labels == label], minlength=3) / (labels == label).sum()
        np.testing.assert_allclose(share, (0.8, 0.1, 0.1), atol=0.03)
    np.testing.assert_array_equal(parts, divide(labels, groups, (0.8, 0.1, 0.1)))


def test_a_small_class_fills_training_first():
    parts = divide(np.array([0, 1, 1]), [], (0.8, 0.1, 0.1))
    assert parts[0] == 0 and SPLITS[parts[1:].min()] == "train"


def test_preparing_and_loading_do_not_import_tensorflow_or_jax(archive, tmp_path):
    code = (
        "import sys\n"
        "for name in ('tensorflow', 'tensorflow_datasets', 'ml_collections', 'jax', 'flax', 'cv2', 'matplotlib'):\n"
        "    sys.modules[name] = None\n"
        "from ferjax.data.commands import prepare\n"
        f"prepare(['fer2013', '--source', {str(archive)!r}, '--data-dir', {str(tmp_path)!r}])\n"
        "from ferjax.data import load\n"
        f"assert load('fer2013', {str(tmp_path)!r}).splits['train'].images.shape == (7, 48, 48, 1)\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
