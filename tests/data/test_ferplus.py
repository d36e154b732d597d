import numpy as np
import pytest

from ferjax.data import load
from ferjax.data.datasets import ferplus
from ferjax.data.prepare.pipeline import prepare
from ferjax.errors import InputError
from tests.support.data_layouts import faces, ferplus_files, write, write_zip


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
