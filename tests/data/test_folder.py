import io
import os
import sys
from pathlib import PurePosixPath

import numpy as np
import pytest
from PIL import Image

from ferjax.data import load
from ferjax.data.datasets import folder
from ferjax.data.prepare.pipeline import write as prepare_as
from ferjax.data.synthetic import rendering
from ferjax.errors import InputError
from tests.support.data_layouts import album, faces, jpeg, write, write_tar, write_zip


def test_a_folder_per_class_is_divided_into_three_splits(tmp_path, capsys):
    manifest = prepare_as("pets", folder.read(write(tmp_path / "album", album()), channels=3, size=32), tmp_path)
    data = load("pets", tmp_path, ("train", "validation", "test"))
    assert data.class_names == ("cat", "dog") and data.image_shape == (32, 32, 3)
    assert {s: list(c.values()) for s, c in manifest["counts"].items()} == {
        "train": [16, 16],
        "validation": [2, 2],
        "test": [2, 2],
    }
    for split in data.splits.values():
        for label, name in zip(split.labels, split.names, strict=True):
            assert name.startswith(data.class_names[label])
    assert "40 images resized to 32x32" in capsys.readouterr().err


def test_near_duplicates_stay_in_one_split(tmp_path):
    files = album()
    images, _ = faces("train", 20, size=60, channels=3)
    for i in range(20):  # every cat again, darker and mirrored
        files[f"cat/again_{i:03d}.jpg"] = jpeg((images[i][:, ::-1] * 0.8).astype(np.uint8))
    prepare_as("pets", folder.read(write(tmp_path / "album", files)), tmp_path)
    data = load("pets", tmp_path, ("train", "validation", "test"))
    where = {n: s for s, split in data.splits.items() for n in split.names}
    assert all(where[f"cat/{i:03d}.jpg"] == where[f"cat/again_{i:03d}.jpg"] for i in range(20))
    assert all(split.labels.size for split in data.splits.values())


def test_existing_splits_are_kept(tmp_path):
    files = {f"train/{p}": c for p, c in album(5).items()} | {f"val/{p}": c for p, c in album(2).items()}
    manifest = prepare_as("pets", folder.read(write(tmp_path / "album", files)), tmp_path)
    assert {s: list(c.values()) for s, c in manifest["counts"].items()} == {"train": [5, 5], "validation": [2, 2]}
    assert "test" in manifest["missing"]


def test_split_folders_ignore_case(tmp_path):
    files = {f"Train/{p}": c for p, c in album(5).items()} | {f"Test/{p}": c for p, c in album(2).items()}
    source = folder.read(write(tmp_path / "album", files))
    assert source.class_names == ("cat", "dog") and {e.split for e in source.examples} == {"train", "test"}


@pytest.mark.parametrize("table", [False, True])
def test_class_names_are_unicode_normalized(tmp_path, table):
    composed, decomposed = "d\u00e9go\u00fbt", "de\u0301gou\u0302t"
    files = {f"train/{p}": c for p, c in album(5, ("joie", decomposed)).items()}
    files |= {f"val/{p}": c for p, c in album(2, ("joie", composed)).items()}
    made = write(tmp_path / "album", files)
    if table:
        rows = [f"{path},{path.split('/')[1]},{path.split('/')[0]}" for path in files]
        (made / "table.csv").write_text("path,label,split\n" + "\n".join(rows))
    source = folder.read_table(made / "table.csv") if table else folder.read(made)
    assert source.class_names == (composed, "joie")
    assert {(e.split, e.label) for e in source.examples} == {(s, i) for s in ("train", "validation") for i in (0, 1)}


def test_split_folders_next_to_other_folders_are_refused(tmp_path):
    files = {f"{split}/{p}": c for split in ("train", "test", "notes") for p, c in album(1).items()}
    with pytest.raises(InputError, match=r"split folders test, train and other folders, notes:"):
        folder.read(write(tmp_path / "album", files))


def test_fractions_for_data_with_splits_are_refused(tmp_path):
    files = {f"{split}/{p}": c for split in ("train", "test") for p, c in album(1).items()}
    with pytest.raises(InputError, match="remove --fractions; --holdout"):
        folder.read(write(tmp_path / "album", files), fractions=(0.5, 0.3, 0.2))


def test_a_zip_with_one_top_folder_is_read(tmp_path):
    files = {f"my album/faces/{p}": c for p, c in album(3).items()}
    source = folder.read(write_zip(tmp_path / "a.zip", files))
    assert source.class_names == ("cat", "dog") and source.examples[0].name == "cat/000.jpg"


def test_all_image_formats_are_read(tmp_path, capsys):
    deep, exif = tmp_path / "album" / "a", Image.Exif()
    deep.mkdir(parents=True)
    exif[0x0112] = 6
    base = Image.fromarray(faces(size=50, channels=3)[0][0])
    base.save(deep / "rotated.jpg", exif=exif)
    base.convert("CMYK").save(deep / "print.jpg")
    base.quantize(16).save(deep / "palette.gif")
    base.save(deep / "moving.gif", save_all=True, append_images=[base.rotate(90)])
    Image.fromarray(np.asarray(base.convert("L")).astype(np.uint16) * 257).save(deep / "deep.png")
    base.resize((80, 40)).save(deep / "wide.webp")
    write(tmp_path / "album", album(6, ("b",)) | {"b/notes.txt": "no picture"})
    manifest = prepare_as("mixed", folder.read(tmp_path / "album"), tmp_path)
    assert sum(sum(c.values()) for c in manifest["counts"].values()) == 12 and manifest["skipped"] == []
    assert set(manifest["remarks"]) == {
        "12 images resized to 48x48",
        "1 image animated or of several pages, first one taken",
        "1 image of more than 8 bits, scaled to 8",
        "1 image rotated as the EXIF tag says",
    }
    said = capsys.readouterr().err
    assert "1 image rotated as the EXIF tag says" in said and "1 file ignored" in said


def test_missing_classes_are_refused(tmp_path):
    with pytest.raises(InputError, match="two or more classes, found cat"):
        folder.read(write(tmp_path / "one", album(2, ("cat",))))
    write(tmp_path / "empty", album(2))
    (tmp_path / "empty" / "cow").mkdir()
    with pytest.raises(InputError, match="the class cow has no images"):
        folder.read(tmp_path / "empty")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(InputError, match="two or more classes, found none"):
        folder.read(tmp_path / "nothing")


@pytest.mark.parametrize("fractions", [(0.5, 0.6, 0.1), (0, 0.5, 0.5), (1.2, -0.1, -0.1), (0.9, 0.1)])
def test_invalid_fractions_are_refused(tmp_path, fractions):
    with pytest.raises(InputError, match="must sum to 1"):
        folder.read(write(tmp_path / "a", album(2)), fractions=fractions)


@pytest.mark.parametrize("name", ["synthetic_faces", "../x", "", ".hidden", "a/b"])
def test_invalid_names_are_refused(tmp_path, name):
    with pytest.raises(InputError, match="invalid data set name"):
        prepare_as(name, folder.read(write(tmp_path / "a", album(2))), tmp_path)


def table(tmp_path, text):
    write(tmp_path, album(10))
    (tmp_path / "labels.csv").write_text(text)
    return tmp_path / "labels.csv"


def test_a_csv_without_splits(tmp_path):
    rows = "".join(f"{c}/{i:03d}.jpg,is a {c}\n" for c in ("cat", "dog") for i in range(10))
    manifest = prepare_as("pets", folder.read_table(table(tmp_path, f"path,label\n{rows}")), tmp_path / "data")
    assert manifest["class_names"] == ["is a cat", "is a dog"]
    assert {s: sum(c.values()) for s, c in manifest["counts"].items()} == {"train": 16, "validation": 2, "test": 2}


def test_a_csv_with_splits(tmp_path):
    rows = "".join(f"{c}/{i:03d}.jpg,{c},{'Train' if i < 7 else 'val'}\n" for c in ("cat", "dog") for i in range(10))
    manifest = prepare_as("pets", folder.read_table(table(tmp_path, f"path,label,split\n{rows}")), tmp_path / "data")
    assert {s: list(c.values()) for s, c in manifest["counts"].items()} == {"train": [7, 7], "validation": [3, 3]}


@pytest.mark.parametrize(
    "row, said",
    [
        ("cat/999.jpg,cat,train", r"row 2 \(line 3\): the image cat/999\.jpg is missing"),
        ("cat/001.jpg,,train", r"row 2 \(line 3\): path or label is empty"),
        (",cat,train", r"row 2 \(line 3\): path or label is empty"),
        ("cat/001.jpg,cat,tarin", r"unknown split in labels\.csv row 2 \(line 3\) 'tarin'\. Did you mean 'train'"),
    ],
)
def test_a_bad_row_is_named(tmp_path, row, said):
    source = table(tmp_path, f"path,label,split\ndog/001.jpg,dog,train\n{row}\ncat/002.jpg,cat,train\n")
    with pytest.raises(InputError, match=said):
        prepare_as("pets", folder.read_table(source), tmp_path / "data")


def test_a_class_with_bad_rows_only_is_reported_by_row(tmp_path):
    made = write(tmp_path / "album", album(3, ("cat",)))
    (made / "table.csv").write_text("path,label\ncat/000.jpg,cat\ncat/001.jpg,cat\nx/none.jpg,dog\n")
    with pytest.raises(InputError, match=r"row 3 .*the image x/none\.jpg is missing"):
        prepare_as("pets", folder.read_table(made / "table.csv"), tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names themselves")
def test_class_folders_in_a_code_page_are_decoded_if_certain(tmp_path, capsys):
    made = write(tmp_path / "album", album(2))
    os.rename(os.fsencode(made / "cat"), os.fsencode(made) + "/fröhlich".encode("cp1252"))
    (made / "dog").rename(made / "müde")  # UTF-8
    assert folder.read(made).class_names == ("fröhlich", "müde")
    assert "names decoded as cp1252 (fröhlich)" in capsys.readouterr().err
    os.rename(os.fsencode(made) + "/fröhlich".encode("cp1252"), os.fsencode(made) + "/행복".encode("cp949"))
    with pytest.raises(InputError, match=r"album: .*encoding is uncertain.*--name-encoding"):
        folder.read(made)
    data = prepare_as("moods", folder.read(made, name_encoding="cp949"), tmp_path)
    assert data["class_names"] == ["müde", "행복"]


def test_tables_in_a_code_page_are_decoded_if_certain(tmp_path, capsys):
    made = write(tmp_path / "album", {"fröhlich/0.jpg": b"", "faces/0.jpg": b""})

    def read(text, encoding, **options):
        (made / "table.csv").write_bytes(text.encode(encoding))
        return folder.read_table(made / "table.csv", **options)

    german = "path;label\r\nfröhlich\\0.jpg;fröhlich\r\nfaces\\0.jpg;wütend\r\n"
    found = read(german, "cp1252")
    assert found.class_names == ("fröhlich", "wütend")
    assert [e.name for e in found.examples] == ["fröhlich/0.jpg", "faces/0.jpg"] and found.examples[0].read() == b""
    assert "table.csv: names decoded as cp1252" in capsys.readouterr().err
    french = "path,label\nfaces/0.jpg,colère\nfaces/0.jpg,joie\n"  # in cp1250: colčre
    with pytest.raises(InputError, match=r"table\.csv: .*encoding is uncertain.*--name-encoding"):
        read(french, "cp1252")
    assert read(french, "cp1252", name_encoding="cp1252").class_names == ("colère", "joie")
    with pytest.raises(InputError, match=r"--name-encoding ascii: the names in table\.csv cannot be decoded"):
        read(french, "cp1252", name_encoding="ascii")
    assert read(german, "utf-8", name_encoding="cp932").class_names == ("fröhlich", "wütend")


def test_a_source_without_one_table_is_refused(tmp_path):
    with pytest.raises(InputError, match="contains no table"):
        folder.read_table(write(tmp_path / "none", album(1)))
    with pytest.raises(InputError, match=r"several tables, a\.csv, b\.tsv"):
        folder.read_table(write(tmp_path / "two", {"a.csv": "path,label\n", "b.tsv": "path,label\n"}))
    with pytest.raises(InputError, match="no column path"):
        folder.read_table(table(tmp_path, "file,label\na,b\n"))


def test_a_table_is_no_folder(tmp_path):
    with pytest.raises(InputError, match=r"is a file: .*ferjax prepare csv"):
        folder.read(table(tmp_path, "path,label\n"))


@pytest.mark.parametrize("form", ["file", "zip", "tar"])
def test_a_table_written_on_windows(tmp_path, form, capsys):
    paths = {path: "D:\\my faces\\" + path.replace("/", "\\").upper() for path in album(10)}
    text = "path;label\n" + "".join(f"{listed};{path.split('/')[0]}\n" for path, listed in paths.items())
    files = {f"set/{path}": content for path, content in album(10).items()} | {"set/labels.csv": text.encode("utf-16")}
    made = {"file": write, "zip": write_zip, "tar": write_tar}[form](tmp_path / "made", files)
    prepare_as("pets", folder.read_table(made / "set" / "labels.csv" if form == "file" else made), tmp_path)
    train = load("pets", tmp_path).splits["train"]
    assert [name.split("/")[0].lower() for name in train.names] == [("cat", "dog")[i] for i in train.labels]
    assert "leading folders of all paths ignored: D:/my faces" in capsys.readouterr().err


@pytest.mark.parametrize("as_table", [False, True])
def test_numbered_classes_require_names(tmp_path, as_table):
    files = album(3, ("2", "10", "1"))
    made = write(tmp_path / "album", files)
    rows = "".join(f"{path},{path.split('/')[0]}\n" for path in files)
    source = write(tmp_path / "album", {"t.csv": f"path,label\n{rows}"}) / "t.csv" if as_table else made
    read = folder.read_table if as_table else folder.read
    with pytest.raises(InputError, match=r"the classes are numbers \(1, 2, 10\)\. Name them .*--class-names"):
        read(source)
    named = read(source, class_names=("one", "two", "ten"))
    assert named.class_names == ("one", "ten", "two")
    assert {e.name.split("/")[0]: named.class_names[e.label] for e in named.examples} == {
        "1": "one",
        "2": "two",
        "10": "ten",
    }
    for wrong in (("one", "two"), ("one", "two", "two"), ("one", "two", "")):
        with pytest.raises(InputError, match="must be 3 different names for 1, 2, 10"):
            read(source, class_names=wrong)


def test_names_of_classes_that_are_not_numbers_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"the classes have names \(cat, dog\): remove --class-names"):
        folder.read(write(tmp_path / "album", album(2)), class_names=("a", "b"))


def test_files_beside_the_single_folder_are_ignored(tmp_path):
    files = {"README.md": "", "LICENSE": "", "top/notes.txt": ""} | {f"top/faces/{p}": c for p, c in album(3).items()}
    source = folder.read(write_zip(tmp_path / "a.zip", files))
    assert source.class_names == ("cat", "dog") and source.examples[0].name == "cat/000.jpg"
    assert "3 files ignored" in source.notes[0]


def test_an_archive_inside_is_read_but_not_beside_images(tmp_path):
    inner = write_zip(tmp_path / "inner.zip", album(2)).read_bytes()
    source = folder.read(write_zip(tmp_path / "outer.zip", {"README": "", "faces.zip": inner}))
    assert source.class_names == ("cat", "dog")
    beside = folder.read(write(tmp_path / "beside", album(1) | {"cat/faces.zip": inner}))
    assert len(beside.examples) == 2


def test_a_yolo_export_is_refused_by_name(tmp_path):
    files = {f"images/{i}.jpg": c for i, c in enumerate(album(3).values())} | {"labels/0.txt": "4 0.5 0.5 1 1\n"}
    with pytest.raises(InputError, match="YOLO export"):
        folder.read(write(tmp_path / "a", files))


@pytest.mark.parametrize(
    "count, splits",
    [
        (1, ["train"]),
        (2, ["train", "validation"]),
        (3, ["train", "validation", "test"]),
        (5, ["train", "validation", "test"]),
    ],
)
def test_few_images_are_divided_as_far_as_they_reach(tmp_path, count, splits, capsys):
    manifest = prepare_as("few", folder.read(write(tmp_path / "album", album(count))), tmp_path)
    assert list(manifest["counts"]) == splits and all(min(c.values()) > 0 for c in manifest["counts"].values())
    said = capsys.readouterr().err
    assert "near duplicates" not in said
    assert said.count(f"split is empty: no class has more than {count} image") == 3 - len(splits)
    if "test" not in splits:
        with pytest.raises(InputError, match=r"without a test split .*to get it, add images: a class needs 3 or more"):
            load("few", tmp_path, ("test",))


def test_the_largest_face_is_cropped_and_images_without_a_face_are_named(tmp_path):
    pytest.importorskip("cv2")
    files = {}
    for seed in range(4):
        scene, boxes, _ = rendering.render_scene(seed=seed, faces=1, size=(240, 320))
        files[f"{'ab'[seed % 2]}/{seed}.jpg"] = jpeg(scene)
        assert len(boxes) == 1
    files["a/nobody.jpg"] = jpeg(np.full((200, 200, 3), 90, np.uint8))
    source = folder.read(write(tmp_path / "album", files), find_faces=True)
    with pytest.raises(InputError, match=r"a/nobody\.jpg: no face found"):
        prepare_as("scenes", source, tmp_path)


def test_one_split_folder_next_to_another_folder_is_refused(tmp_path):
    files = {f"train/{name}": data for name, data in album(4).items()} | {"unlabeled/a.jpg": album(1)["cat/000.jpg"]}
    with pytest.raises(InputError, match="train and other folders, unlabeled:"):
        folder.read(write(tmp_path / "album", files))
    files = {f"test/{i}.jpg": data for i, data in enumerate(album(4).values())} | {"dog/a.jpg": album(1)["dog/000.jpg"]}
    assert folder.read(write(tmp_path / "named", files)).class_names == ("dog", "test")  # a class of that name


def test_an_empty_split_of_near_duplicates_is_reported(tmp_path, capsys):
    picture = np.array(Image.open(io.BytesIO(album(1)["cat/000.jpg"])))
    shades = [np.clip(picture + i, 0, 255).astype(np.uint8) for i in range(3)]
    alike = {f"{name}/{i}.jpg": jpeg(shades[i % 3]) for i in range(9) for name in "ab"}
    prepare_as("film", folder.read(write(tmp_path / "album", alike)), tmp_path)
    said = capsys.readouterr().err
    assert "the validation split is empty: 18 of 18 images" in said


@pytest.mark.parametrize("other", ["Cat", "cat "])
def test_classes_in_other_letters_are_one_class_and_said(tmp_path, capsys, other):
    files = album(5) | {f"{other}/more_{PurePosixPath(p).name}": c for p, c in album(3, ("cow",)).items()}
    manifest = prepare_as("pets", folder.read(write_zip(tmp_path / "album.zip", files)), tmp_path)
    assert load("pets", tmp_path).class_names == ("cat", "dog")
    assert sum(counts["cat"] for counts in manifest["counts"].values()) == 8
    assert f"one class: {', '.join(map(repr, sorted(('cat', other))))}" in capsys.readouterr().err


TABLES = {
    "letters": ("path,label\n{},cat\n{},Cat\n{},dog\n{},dog\n", ("cat", "dog"), None),
    "numbers of pandas": ("path,label\n{},0.0\n{},0.0\n{},1.0\n{},1\n", ("cat", "dog"), ("cat", "dog")),
    "Excel": ("sep=;\npath;label\n{};cat\n{};cat\n{};dog\n{};dog\n", ("cat", "dog"), None),
    "blank lines": ("\n\npath,label\n{},cat\n,\n{},cat\n{},dog\n{},dog\n,\n \n", ("cat", "dog"), None),
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_as_programs_write_them(tmp_path, name):
    text, classes, class_names = TABLES[name]
    files = album(2)
    table = write(tmp_path / "album", files | {"table.csv": text.format(*files)}) / "table.csv"
    source = folder.read_table(table, class_names=class_names)
    assert source.class_names == classes
    assert [(e.name, e.label) for e in source.examples] == [(p, int(p.startswith("dog"))) for p in sorted(files)]


def test_a_quotation_mark_that_is_not_closed_is_named(tmp_path):
    files = album(2)
    text = 'path,label\n{},cat\n{},"cat\n{},dog\n{},dog\n'.format(*files)
    table = write(tmp_path / "album", files | {"table.csv": text}) / "table.csv"
    with pytest.raises(InputError, match=r"row 2 \(line 5\): path or label contains a line break"):
        folder.read_table(table)


def test_an_archive_without_images_says_what_was_looked_for(tmp_path):
    middle = write_zip(tmp_path / "middle.zip", {"inner.zip": write_zip(tmp_path / "inner.zip", album(2)).read_bytes()})
    for files in ({}, {"middle.zip": middle.read_bytes()}):
        with pytest.raises(InputError, match=r"found none.*own folder.*unpack archives in archives first"):
            folder.read(write_zip(tmp_path / "a.zip", files))


def test_a_broken_link_is_named(tmp_path):
    album_folder = write(tmp_path / "album", album(4))
    (album_folder / "dog" / "lost.jpg").symlink_to(tmp_path / "nowhere.jpg")
    with pytest.raises(InputError, match=r"dog/lost\.jpg is a link to a missing file; .*--skip-bad"):
        prepare_as("pets", folder.read(album_folder), tmp_path)
