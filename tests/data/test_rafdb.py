import numpy as np
import pytest

from ferjax.data import load
from ferjax.data.datasets import rafdb
from ferjax.data.prepare.pipeline import prepare
from ferjax.errors import InputError
from tests.support.data_layouts import rafdb_class_folders, rafdb_files, write, write_tar, write_zip

LIST = "basic/EmoLabel/list_patition_label.txt"


def test_labels_map_to_class_names(tmp_path):
    files, truth = rafdb_files()
    manifest = prepare("rafdb", write_zip(tmp_path / "basic.zip", files), tmp_path)
    data = load("rafdb", tmp_path, ("train", "test"))
    found = {n: data.class_names[i] for s in data.splits.values() for n, i in zip(s.names, s.labels, strict=True)}
    assert found == truth
    assert data.image_shape == (100, 100, 3) and manifest["remarks"] == []


def test_gender_race_and_age_are_kept(tmp_path):
    files, _ = rafdb_files()
    del files["basic/Annotation/manual/train_00002_manu_attri.txt"]
    files["basic/Annotation/manual/train_00003_manu_attri.txt"] = "1 2\n" * 5 + "1\n7\n"
    prepare("rafdb", write(tmp_path / "raf", files), tmp_path)
    columns = load("rafdb", tmp_path, ("train",)).splits["train"].columns
    # Image i (from 0) was written with gender i % 3, race (i + 1) % 3, age i % 5.
    np.testing.assert_array_equal(columns["gender"][:5], [0, -1, 1, 0, 1])
    np.testing.assert_array_equal(columns["race"][:5], [1, -1, -1, 1, 2])
    np.testing.assert_array_equal(columns["age"][:5], [0, -1, -1, 3, 4])
    assert len(rafdb.GROUPS["age"]) == 5


def test_missing_attributes_are_reported(tmp_path, capsys):
    files = {p: c for p, c in rafdb_files()[0].items() if "manual" not in p}
    manifest = prepare("rafdb", write(tmp_path / "raf", files), tmp_path)
    assert manifest["columns"] == ["twin_in_train"]
    assert "no gender, race and age" in capsys.readouterr().err


def test_holdout_creates_the_validation_split(tmp_path, capsys):
    source = write(tmp_path / "raf", rafdb_files()[0])
    prepare("rafdb", source, tmp_path)
    assert "the source has no validation split; to get it, prepare again with --holdout" in capsys.readouterr().err
    with pytest.raises(InputError, match=r"without a validation split .it has train, test.; .*--holdout 0.1"):
        load("rafdb", tmp_path)
    manifest = prepare("rafdb", source, tmp_path, holdout=0.5)
    assert {s: sum(c.values()) for s, c in manifest["counts"].items()} == {"train": 7, "validation": 7, "test": 7}


def test_a_missing_listed_image_is_named(tmp_path):
    files, _ = rafdb_files()
    del files["basic/Image/aligned/train_00003_aligned.jpg"]
    source = write(tmp_path / "raf", files)
    with pytest.raises(InputError, match=r"train_00003_aligned\.jpg is listed in line 3, but missing"):
        prepare("rafdb", source, tmp_path)
    assert prepare("rafdb", source, tmp_path, skip_bad=True)["skipped"] == [
        "train_00003_aligned.jpg is listed in line 3, but missing"
    ]


@pytest.mark.parametrize("line", ["train_00001.jpg 8", "train_00001.jpg 0", "train_00001.jpg", "val_1.jpg 3", "x y z"])
def test_a_bad_line_of_the_list_is_named(tmp_path, line):
    files, _ = rafdb_files()
    files[LIST] = files[LIST].replace("train_00002.jpg 2", line)
    with pytest.raises(InputError, match=r"list_patition_label\.txt line 2: '.*' must be 'train_NAME\.jpg N'"):
        rafdb.read(write(tmp_path, files))


def test_missing_list_or_images_are_named(tmp_path):
    files, _ = rafdb_files()
    with pytest.raises(InputError, match=r"contain \*_aligned\.jpg; unpack aligned\.zip"):
        rafdb.read(write(tmp_path / "a", {LIST: files[LIST]}))
    with pytest.raises(InputError, match=r"neither list_patition_label\.txt nor .*; ask its authors"):
        rafdb.read(write(tmp_path / "b", {"x.txt": "x"}))


@pytest.mark.parametrize("form", ["tables", "windows", "flat", "folders", "capitals"])
def test_copies_with_class_folders_map_to_class_names(tmp_path, form):
    files, truth = rafdb_class_folders()
    if form == "windows":
        for table in ("train_labels.csv", "test_labels.csv"):
            folder = table.split("_")[0]
            files[table] = files[table].replace(f"{folder}_0", f"DATASET\\{folder}\\{folder}_0").upper()
    elif form == "flat":
        files = {p.replace(p.split("/")[2] + "/", "") if "/" in p else p: c for p, c in files.items()}
    elif form in ("folders", "capitals"):
        files = {p: c for p, c in files.items() if not p.endswith(".csv")}
    if form == "capitals":
        files = {p.replace("train/", "TRAIN/").replace("test/", "Test/"): c for p, c in files.items()}
    prepare("rafdb", write_tar(tmp_path / "raf.tgz", files), tmp_path)
    data = load("rafdb", tmp_path, ("train", "test"))
    found = {n: data.class_names[i] for s in data.splits.values() for n, i in zip(s.names, s.labels, strict=True)}
    assert {name.lower(): label for name, label in found.items()} == truth


def test_a_bad_row_of_the_tables_is_named(tmp_path):
    files, _ = rafdb_class_folders()
    files["train_labels.csv"] = files["train_labels.csv"].replace(
        "train_00001_aligned.jpg,2", "train_00001_aligned.jpg,8"
    )
    files["test_labels.csv"] = files["test_labels.csv"].replace("test_00000", "test_99999")
    with pytest.raises(
        InputError, match=r"row 2 \(line 3\): label '8' is not in 1\.\.7; .*test_99999_aligned.jpg is missing"
    ):
        prepare("rafdb", write(tmp_path, files), tmp_path)


def test_aligned_images_may_have_another_ending(tmp_path):
    files = {p.replace("_aligned.jpg", "_aligned.JPG"): c for p, c in rafdb_files()[0].items()}
    assert {e.split for e in rafdb.read(write(tmp_path, files)).examples} == {"train", "test"}
    prepare("rafdb", tmp_path, tmp_path / "data")  # all are found


def test_a_validation_folder_is_read_and_others_are_counted(tmp_path):
    files = {p: c for p, c in rafdb_class_folders()[0].items() if not p.endswith(".csv")}
    tests = [p for p in files if "/test/" in p]
    more = {p.replace("/test/", f"/{folder}/"): files[p] for p in tests for folder in ("val", "rest")}
    source = rafdb.read(write(tmp_path / "raf", files | more))
    found = [e.split for e in source.examples]
    assert found.count("validation") == found.count("test") == len(tests) == 7
    assert any("7 images ignored" in note for note in source.notes)


def test_classes_from_0_are_refused(tmp_path):
    images = [c for p, c in rafdb_class_folders()[0].items() if p.endswith(".jpg")]
    files = {f"train/{i % 7}/{i}.jpg": image for i, image in enumerate(images)}
    with pytest.raises(InputError, match="1 to 7; for 0 to 6"):
        rafdb.read(write(tmp_path / "raf", files))
