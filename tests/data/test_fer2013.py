import numpy as np
import pytest

from ferjax.data import EXPRESSIONS, load
from ferjax.data.datasets import fer2013
from ferjax.data.prepare.pipeline import prepare
from ferjax.errors import InputError
from tests.support.data_layouts import CSV_NUMBERS, faces, fer2013_csv, fer2013_files, write, write_tar, write_zip


def labels_by_name(source):
    parsed = fer2013.read(source)
    return {e.name: parsed.class_names[e.label] for e in parsed.examples}


def test_zip_folder_and_nested_folder_are_equal(tmp_path):
    files = fer2013_files()
    sources = {
        "zip": write_zip(tmp_path / "fer2013.zip", files),
        "folder": write(tmp_path / "folder", files),
        "wrapped": write(tmp_path / "wrapped", {f"archive/{p}": c for p, c in files.items()}),
    }
    hashes = {kind: prepare("fer2013", path, tmp_path / kind)["sha256"] for kind, path in sources.items()}
    assert len(set(hashes.values())) == 1
    data = load("fer2013", tmp_path / "zip", ("train", "validation", "test"))
    for name, split in data.splits.items():
        images, labels = faces(name)
        np.testing.assert_array_equal(split.labels, labels)
        assert np.abs(split.images.astype(int) - images).max() < 40  # JPEG
        assert np.abs(split.images.astype(int) - images).mean() < 2.5
    assert data.splits["validation"].names[0] == "test/angry/PublicTest_00000.jpg"


def test_the_csv_equals_the_folder_up_to_jpeg_loss(tmp_path):
    (tmp_path / "fer2013.csv").write_text(fer2013_csv())
    prepare("fer2013", tmp_path / "fer2013.csv", tmp_path / "from_csv")
    prepare("fer2013", write(tmp_path / "folder", fer2013_files()), tmp_path / "from_folder")
    splits = ("train", "validation", "test")
    table, folder = (load("fer2013", tmp_path / f"from_{form}", splits) for form in ("csv", "folder"))
    assert table.class_names == folder.class_names == EXPRESSIONS
    for name in splits:
        a, b = table.splits[name], folder.splits[name]
        np.testing.assert_array_equal(a.images, faces(name)[0])
        np.testing.assert_array_equal(a.labels, b.labels)
        assert np.abs(a.images.astype(int) - b.images).mean() < 2.5
    assert table.manifest["counts"] == folder.manifest["counts"]


@pytest.mark.parametrize("name", ["fer2013.csv", "icml_face_data.csv"])
@pytest.mark.parametrize("form", ["file", "folder", "zip"])
def test_csv_labels_map_to_class_names(tmp_path, name, form):
    text = fer2013_csv(
        ("train",), header="emotion, Usage, pixels" if name.startswith("icml") else "emotion,pixels,Usage"
    )
    if form == "zip":
        source = write_zip(tmp_path / "a.zip", {f"deep/{name}": text})
    else:
        source = write(tmp_path / "a", {name: text})
        source = source / name if form == "file" else source
    assert list(labels_by_name(source).values()) == [EXPRESSIONS[i] for i in faces()[1]]
    assert CSV_NUMBERS["neutral"] == 6 and EXPRESSIONS.index("neutral") == 4  # the two orders do differ


def csv_with(tmp_path, **changes):
    lines = fer2013_csv(("train",)).splitlines()
    emotion, pixels, usage = lines[3].split(",")
    row = {"emotion": emotion, "pixels": pixels, "usage": usage} | changes
    lines[3] = ",".join(row.values())
    (tmp_path / "fer2013.csv").write_text("\n".join(lines))
    return tmp_path / "fer2013.csv"


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"pixels": "1 2 3"}, "2,304 pixel values expected, found 3"),
        ({"pixels": " ".join(["256"] * 2304)}, r"not an integer in 0\.\.255"),
        ({"pixels": " ".join(["1.5"] * 2304)}, r"not an integer in 0\.\.255"),
        ({"emotion": "7"}, r"emotion '7' is not in 0\.\.6"),
        ({"emotion": "-1"}, r"emotion '-1' is not in 0\.\.6"),
        ({"emotion": "happy"}, r"emotion 'happy' is not in 0\.\.6"),
        ({"usage": "Trainig"}, "Usage 'Trainig' is not one of Training, PublicTest, PrivateTest"),
    ],
)
def test_a_bad_row_is_named_by_its_number_and_can_be_skipped(tmp_path, changes, said):
    source = csv_with(tmp_path, **changes)
    with pytest.raises(InputError, match=rf"1 unusable image: fer2013\.csv row 3 \(line 4\): .*{said}"):
        prepare("fer2013", source, tmp_path)
    (tmp_path / "fer2013.csv").write_text(source.read_text() + "\n" + fer2013_csv(("train",)).split("\n", 1)[1])
    manifest = prepare("fer2013", source, tmp_path, skip_bad=True)
    assert sum(manifest["counts"]["train"].values()) == 13 and len(manifest["skipped"]) == 1


def test_a_missing_column_is_named(tmp_path):
    (tmp_path / "fer2013.csv").write_text("pixels,Usage\n1 2,Training\n")
    with pytest.raises(InputError, match="no column emotion"):
        fer2013.read(tmp_path / "fer2013.csv")


@pytest.mark.parametrize("form", ["file", "folder"])
def test_without_the_column_usage_all_images_are_in_train(tmp_path, form, capsys):
    rows = [line.rsplit(",", 1)[0] for line in fer2013_csv(("train",), 14).splitlines()]
    write(tmp_path / "set", {"train.csv": "\n".join(rows), "test.csv": "pixels\n" + rows[1].split(",")[1]})
    source = tmp_path / "set" / "train.csv" if form == "file" else tmp_path / "set"
    manifest = prepare("fer2013", source, tmp_path)
    assert {s: sum(c.values()) for s, c in manifest["counts"].items()} == {"train": 14}
    assert set(manifest["missing"]) == {"validation", "test"}
    assert "train.csv has no column Usage: all images are in train; --holdout" in capsys.readouterr().err
    assert set(prepare("fer2013", source, tmp_path, holdout=0.5)["counts"]) == {"train", "validation"}


@pytest.mark.parametrize("text", [fer2013_csv().replace(",", ";"), fer2013_csv().replace(",", "\t")])
def test_other_separators_and_encodings_change_nothing(tmp_path, text):
    plain = labels_by_name(write(tmp_path / "a", {"fer2013.csv": fer2013_csv()}))
    assert labels_by_name(write(tmp_path / "b", {"fer2013.csv": text.encode("utf-16")})) == plain


def test_the_archives_of_the_challenge_are_read(tmp_path):
    table = {"fer2013/README": "", "fer2013/fer2013.csv": fer2013_csv()}
    archive = write_tar(tmp_path / "fer2013.tar.gz", table)
    outer = {"fer2013.tar.gz": archive.read_bytes(), "example_submission.csv": "id,emotion\n1,0\n"}
    plain = labels_by_name(write(tmp_path / "a", table))
    assert labels_by_name(archive) == labels_by_name(write_zip(tmp_path / "challenge.zip", outer)) == plain


def test_other_names_of_folders_and_classes_change_nothing(tmp_path):
    files = fer2013_files()
    other = {"train": "TRAIN", "test": "Test", "disgust": "disgusted", "fear": "Fearful", "happy": "happiness"}
    other |= {"surprise": "surprised", "sad": "Sadness", "angry": "ANGER", "neutral": "Neutral"}
    renamed = {"/".join(other.get(part, part) for part in path.split("/")): c for path, c in files.items()}
    first, second = (fer2013.read(write(tmp_path / n, f)) for n, f in (("a", files), ("b", renamed)))
    assert [(e.split, e.label, e.read()) for e in first.examples] == [
        (e.split, e.label, e.read()) for e in second.examples
    ]


def test_a_test_folder_without_usage_is_the_test_split(tmp_path, capsys):
    files = {}
    for i, (path, content) in enumerate(fer2013_files().items()):
        files[f"{path.rsplit('/', 1)[0]}/im{i}.png"] = content
    manifest = prepare("fer2013", write(tmp_path / "a", files), tmp_path)
    assert {s: sum(c.values()) for s, c in manifest["counts"].items()} == {"train": 7, "test": 14}
    assert "no file in test/ is named PublicTest_* or PrivateTest_*" in capsys.readouterr().err


def test_a_validation_folder_is_the_validation_split(tmp_path):
    files = {p.replace("test/", "validation/"): c for p, c in fer2013_files(("train", "validation")).items()}
    assert {e.split for e in fer2013.read(write(tmp_path / "a", files)).examples} == {"train", "validation"}
    files["validation/happy/PrivateTest_7.jpg"] = b""
    with pytest.raises(InputError, match="PrivateTest image in validation/ is a leak"):
        fer2013.read(write(tmp_path / "a", files))


def test_an_unknown_class_folder_is_named_with_the_nearest(tmp_path):
    source = write_zip(tmp_path / "a.zip", fer2013_files() | {"train/hapy/Training_1.jpg": b""})
    with pytest.raises(InputError, match=r"unknown class folder 'train/hapy'\. Did you mean .*'happy'"):
        fer2013.read(source)


def test_an_empty_unknown_class_folder_is_named(tmp_path):
    (write(tmp_path / "a", fer2013_files()) / "train" / "contempt").mkdir()
    with pytest.raises(InputError, match="unknown class folder 'train/contempt'"):
        fer2013.read(tmp_path / "a")


def test_a_test_image_in_the_training_folder_is_a_leak(tmp_path):
    source = write(tmp_path, fer2013_files() | {"train/happy/PrivateTest_7.jpg": b""})
    with pytest.raises(InputError, match=r"train/happy/PrivateTest_7\.jpg.*leak"):
        fer2013.read(source)


def test_a_test_image_without_a_usage_prefix_is_refused(tmp_path):
    source = write(tmp_path, fer2013_files() | {"test/happy/im0.jpg": b""})
    with pytest.raises(InputError, match=r"test/happy/im0\.jpg.*PublicTest_"):
        fer2013.read(source)


def test_a_source_without_the_data_set_is_refused(tmp_path):
    write(tmp_path, {"readme.txt": "hello"})
    with pytest.raises(InputError, match="kaggle"):
        fer2013.read(tmp_path)
