import numpy as np
import pytest

from ferjax.data import load
from ferjax.data.datasets import ferplus
from ferjax.data.prepare.pipeline import prepare
from ferjax.errors import InputError
from tests.support.data_layouts import faces, ferplus_files, ferplus_pictures, write, write_tar, write_zip


def test_majority_labels_and_votes_follow_the_paper(tmp_path, capsys):
    prepare("ferplus", write_zip(tmp_path / "both.zip", ferplus_files()), tmp_path)
    data = load("ferplus", tmp_path, ("train", "validation", "test"))
    assert data.class_names == ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise", "contempt")
    validation = data.splits["validation"]
    names = [data.class_names[i] for i in validation.labels]
    assert names == ["neutral", "happy", "angry", "disgust", "contempt"]
    votes = validation.columns["votes"]
    assert votes.dtype == np.float32 and votes.shape == (5, 8)
    np.testing.assert_allclose(votes.sum(1), 1)
    np.testing.assert_array_equal(votes.argmax(1), validation.labels)
    # 1 neutral, 6 happiness, 3 surprise: the single vote is a slip, 6 and 3 remain.
    np.testing.assert_allclose(votes[1], [0, 0, 0, 2 / 3, 0, 0, 1 / 3, 0], rtol=1e-6)
    # 8 disgust, 2 unknown: unknown is no class.
    np.testing.assert_allclose(votes[3], [0, 1, 0, 0, 0, 0, 0, 0])
    # Rows 2 (no majority) and 5 (no face) of each split are left out, and their images with them.
    np.testing.assert_array_equal(validation.images, faces("validation")[0][[0, 1, 3, 4, 6]])
    assert validation.names[0] == "fer0000000.png"
    assert "6 faces left out" in capsys.readouterr().err


def test_the_tables_may_be_in_one_folder(tmp_path):
    write(tmp_path, ferplus_files())
    assert len(ferplus.read(tmp_path / "fer2013.csv").examples) == len(ferplus.read(tmp_path).examples) == 18


@pytest.mark.parametrize("lost", ["fer2013.csv", "fer2013new.csv"])
def test_a_missing_table_is_named(tmp_path, lost):
    files = ferplus_files()
    del files[lost]
    with pytest.raises(InputError, match=f"lacks {lost}"):
        ferplus.read(write(tmp_path, files))


def test_tables_in_different_order_are_refused(tmp_path):
    files = ferplus_files()
    lines = files["fer2013new.csv"].splitlines()
    files["fer2013new.csv"] = "\n".join([lines[0], *lines[:0:-1]])
    with pytest.raises(InputError, match=r"differ at fer2013\.csv row 1"):
        ferplus.read(write(tmp_path, files))


def test_a_table_that_ends_early_is_refused(tmp_path):
    files = ferplus_files()
    files["fer2013new.csv"] = files["fer2013new.csv"].rsplit("\n", 2)[0]
    with pytest.raises(InputError, match=r"differ at fer2013\.csv row 24"):
        ferplus.read(write(tmp_path, files))


def test_a_bad_vote_or_face_is_named_by_its_row(tmp_path):
    files = ferplus_files()
    files["fer2013new.csv"] = files["fer2013new.csv"].replace("10,0,0,0,0,0,0,0,0,0", "ten,0,0,0,0,0,0,0,0,0", 1)
    files["fer2013.csv"] = files["fer2013.csv"].replace(" ", "", 1)
    with pytest.raises(InputError, match=r"fer2013new\.csv row 1 \(line 2\): a vote is not an integer"):
        prepare("ferplus", write(tmp_path, files), tmp_path)


SPLITS = ("train", "validation", "test")


@pytest.mark.parametrize("labels", ["fer2013new.csv", "label.csv", "without box"])
def test_the_pictures_of_the_authors_script_equal_the_tables(tmp_path, labels, capsys):
    files = ferplus_pictures()
    if labels == "fer2013new.csv":  # which wins over label.csv
        files = {p: "x" if p.endswith("label.csv") else c for p, c in files.items()}
    else:
        del files["fer2013new.csv"]
    if labels == "without box":
        files = {p: c.replace(',"(0, 0, 48, 48)"', "") if p.endswith(".csv") else c for p, c in files.items()}
    prepare("ferplus", write_zip(tmp_path / "tables.zip", ferplus_files()), tmp_path / "tables")
    capsys.readouterr()
    prepare("ferplus", write_tar(tmp_path / "pictures.tar", files, "w:"), tmp_path / "pictures")
    one, other = (load("ferplus", tmp_path / form, SPLITS) for form in ("tables", "pictures"))
    assert one.manifest["sha256"] == other.manifest["sha256"]
    assert other.splits["test"].columns["votes"].shape == (5, 8)
    assert ("3 labeled faces left out: no image" in capsys.readouterr().err) == (labels == "fer2013new.csv")


def test_faces_without_a_picture_are_left_out_and_counted(tmp_path, capsys):
    files = ferplus_pictures(("FER2013Train", "FER2013Valid"))
    del files["data/FER2013Valid/fer0000000.png"]
    prepare("ferplus", write(tmp_path / "a", files), tmp_path)
    data = load("ferplus", tmp_path, ("train", "validation"))
    assert len(data.splits["validation"].labels) == 4 and data.splits["train"].labels.size == 8
    said = capsys.readouterr().err
    assert "10 labeled faces left out: no image" in said  # 2 named as no face, 1 deleted, 7 of test
    assert "has no test split; to get it, use a source that contains FER2013Test/" in said


def test_the_tables_may_be_in_archives_of_their_own(tmp_path):
    files = ferplus_files()
    write_tar(tmp_path / "fer2013.tar.gz", {"fer2013/fer2013.csv": files["fer2013.csv"]})
    write(tmp_path, {"fer2013new.csv": files["fer2013new.csv"]})
    assert len(ferplus.read(tmp_path).examples) == 18
