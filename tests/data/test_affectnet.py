import numpy as np
import pytest

from ferjax.data import load
from ferjax.data.datasets import affectnet
from ferjax.data.prepare.pipeline import prepare
from ferjax.errors import InputError
from tests.support.data_layouts import affectnet_files, faces, jpeg, npy, write, write_zip

ORDER = ("neutral", "happy", "sad", "surprise", "fear", "disgust", "angry", "contempt")


def test_array_labels_map_to_class_names(tmp_path):
    files, truth = affectnet_files()
    prepare("affectnet", write_zip(tmp_path / "a.zip", files), tmp_path, size=32)
    data = load("affectnet", tmp_path)
    found = {n: data.class_names[i] for s in data.splits.values() for n, i in zip(s.names, s.labels, strict=True)}
    assert found == truth
    assert data.image_shape == (32, 32, 3) and len(data.class_names) == 8
    columns = data.splits["train"].columns
    np.testing.assert_allclose(columns["valence"], np.arange(8) / 10, rtol=1e-6)
    np.testing.assert_allclose(columns["arousal"], -np.arange(8) / 10, rtol=1e-6)


def test_a_missing_number_is_unknown(tmp_path):
    files, _ = affectnet_files()
    gone = next(name for name in files if name.endswith("_val.npy") and "train_set" in name)
    del files[gone]
    prepare("affectnet", write_zip(tmp_path / "a.zip", files), tmp_path, size=32)
    valence = load("affectnet", tmp_path).splits["train"].columns["valence"]
    assert (valence == -2).sum() == 1


def test_seven_classes_exclude_contempt(tmp_path, capsys):
    manifest = prepare("affectnet", write(tmp_path / "a", affectnet_files()[0]), tmp_path, classes=7, size=32)
    assert len(manifest["class_names"]) == 7 and "contempt" not in manifest["class_names"]
    assert "2 faces left out" in capsys.readouterr().err
    with pytest.raises(InputError, match=r"7 or 8 .*got 6"):
        affectnet.read(tmp_path / "a", classes=6)


def table(rows):
    head = "subDirectory_filePath,face_x,face_y,face_width,face_height,facial_landmarks,expression,valence,arousal\n"
    return head + "".join(f"{path},{box},1;2,{label},0.5,-0.25\n" for path, box, label in rows)


def table_files():
    image = np.zeros((40, 60, 3), np.uint8)
    image[10:30, 20:40] = 200
    rows = [(f"{i}/face{i}.jpg", "20,10,20,20", i) for i in range(8)]
    rows += [(f"{i}/face{i}.jpg", "20,10,20,20", i) for i in (8, 9, 10)]  # none, uncertain, no face: no image either
    # A trace of each label's own, so that the faces differ.
    pictures = {f"Manually_Annotated_Images/{i}/face{i}.jpg": jpeg(image - image // (20 + i)) for i in range(8)}
    return pictures | {"training.csv": table(rows), "validation.csv": table(rows[:8])}


def test_the_csv_form_crops_the_face_box_and_drops_other_labels(tmp_path, capsys):
    source = write(tmp_path / "a", table_files())
    prepare("affectnet", source, tmp_path, size=20)
    data = load("affectnet", tmp_path)
    assert [data.class_names[i] for i in data.splits["train"].labels] == list(ORDER)
    assert data.splits["train"].images.min() > 150  # no black margin is left
    np.testing.assert_array_equal(data.splits["train"].columns["valence"], np.full(8, 0.5, np.float32))
    assert "3 faces left out" in capsys.readouterr().err


def test_a_missing_image_is_named_in_both_forms(tmp_path):
    files = table_files()
    del files["Manually_Annotated_Images/3/face3.jpg"]
    with pytest.raises(InputError, match=r"training\.csv row 4 \(line 5\): the image 3/face3\.jpg is missing"):
        prepare("affectnet", write(tmp_path / "a", files), tmp_path)
    files, _ = affectnet_files()
    del files["val_set/images/3.jpg"]
    with pytest.raises(InputError, match=r"val_set/images/3\.jpg is annotated, but missing"):
        prepare("affectnet", write(tmp_path / "b", files), tmp_path)


@pytest.mark.parametrize("content", [npy(np.array("11")), npy(np.array([1, 2])), b"no array", b""])
def test_an_invalid_annotation_is_named(tmp_path, content):
    files, _ = affectnet_files()
    files["train_set/annotations/3_exp.npy"] = content
    with pytest.raises(InputError, match=r"train_set/annotations/3_exp\.npy .* 0\.\.10"):
        prepare("affectnet", write(tmp_path / "a", files), tmp_path)


def test_an_annotation_is_never_unpickled(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    files, _ = affectnet_files()
    files["train_set/annotations/3_exp.npy"] = npy(np.array(Trap(), dtype=object))
    with pytest.raises(InputError, match="3_exp"):
        prepare("affectnet", write(tmp_path / "a", files), tmp_path)
    assert not (tmp_path / "sprung").exists()


def test_a_bad_number_in_the_table_is_named_by_its_row(tmp_path):
    files = table_files()
    files["training.csv"] = files["training.csv"].replace("1;2,4,", "1;2,fear,")
    with pytest.raises(InputError, match=r"training\.csv row 5 \(line 6\): expression 'fear' is not in 0\.\.10"):
        prepare("affectnet", write(tmp_path / "a", files), tmp_path)


def test_a_box_outside_the_image_is_named(tmp_path):
    files = table_files()
    files["training.csv"] = files["training.csv"].replace("20,10,20,20,1;2,4,", "400,400,20,20,1;2,4,")
    with pytest.raises(InputError, match=r"face4\.jpg: the face box .* 60x40"):
        prepare("affectnet", write(tmp_path / "a", files), tmp_path)


def test_a_source_without_the_data_set_is_refused(tmp_path):
    write(tmp_path, {"a.jpg": jpeg(faces()[0][0])})
    with pytest.raises(
        InputError, match=r"neither train_set/annotations/\*_exp\.npy nor training\.csv nor .*; ask its authors"
    ):
        affectnet.read(tmp_path)


def test_tables_without_header_are_read(tmp_path):
    files = table_files()
    files["validation.csv"] = files["validation.csv"].split("\n", 1)[1]
    files["training.csv"] = files["training.csv"].split("\n", 1)[1].replace("/", "\\").upper()
    source = affectnet.read(write(tmp_path, files))
    assert [source.class_names[e.label] for e in source.examples if e.split == "train"] == list(ORDER)
    assert [source.class_names[e.label] for e in source.examples if e.split == "validation"] == list(ORDER)
    assert source.examples[0].box == (20, 10, 40, 30) and source.examples[0].columns["valence"] == 0.5
    prepare("affectnet", tmp_path, tmp_path / "data", size=20)  # all images are found


@pytest.mark.parametrize("train, val", [("train", "val"), ("Train_Class", "VAL_CLASS"), ("train_set", "val_set")])
def test_class_folders_with_the_numbers_of_affectnet_are_read_with_a_note(tmp_path, train, val, capsys):
    images, _ = faces("train", 9, size=64, channels=3)
    files = {f"set/{s}/{i}/{s}_{i}.jpg": jpeg(images[i]) for s in (train, val) for i in range(9)}
    prepare("affectnet", write_zip(tmp_path / "a.zip", files), tmp_path, size=32)
    data = load("affectnet", tmp_path)
    for split in data.splits.values():
        assert [data.class_names[i] for i in split.labels] == list(ORDER)
    said = capsys.readouterr().err
    assert "0 neutral, 1 happy, 2 sad, 3 surprise, 4 fear, 5 disgust, 6 angry, 7 contempt" in said
    assert "--class-names" in said and "2 faces left out: no expression" in said


def test_a_yolo_export_is_refused_by_name(tmp_path):
    files = {f"train/images/{i}.jpg": jpeg(image) for i, image in enumerate(faces()[0])}
    files |= {f"train/labels/{i}.txt": "4 0.5 0.5 1 1\n" for i in range(7)}
    with pytest.raises(InputError, match="YOLO export"):
        affectnet.read(write(tmp_path, files))


def test_class_folders_without_contempt_need_seven_classes(tmp_path):
    images, _ = faces("train", 7, size=32, channels=3)
    files = {f"{split}/{i}/{i}.jpg": jpeg(image) for split in ("train", "val") for i, image in enumerate(images)}
    write(tmp_path / "a", files)
    with pytest.raises(InputError, match="no image of contempt: use --classes 7"):
        affectnet.read(tmp_path / "a")
    assert len(affectnet.read(tmp_path / "a", classes=7).examples) == 14


def test_class_folders_with_names_are_for_prepare_folder(tmp_path):
    with pytest.raises(InputError, match="use ferjax prepare folder"):
        affectnet.read(write(tmp_path / "a", {"train_class/happy/1.jpg": "x", "val_class/happy/2.jpg": "x"}))
