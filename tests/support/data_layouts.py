"""Small files in the real layouts of the field's data sets, made of rendered faces."""

import io
import pathlib
import tarfile
import zipfile

import numpy as np
from PIL import Image

from ferjax.data import EXPRESSIONS
from ferjax.data.synthetic import rendering

CSV_NUMBERS = {"angry": 0, "disgust": 1, "fear": 2, "happy": 3, "sad": 4, "surprise": 5, "neutral": 6}
USAGES = {"train": "Training", "validation": "PublicTest", "test": "PrivateTest"}


def faces(split="train", count=7, *, size=48, channels=1, seed=0):
    """Images (N, size, size, channels) and labels that go round the classes."""
    labels = np.arange(count) % 7
    return rendering.render_faces(labels, seed=seed, split=split, size=size, channels=channels), labels


def jpeg(image, **options):
    """The bytes of a JPEG file."""
    buffer = io.BytesIO()
    picture = Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image)
    picture.save(buffer, "JPEG", **({"quality": 95} | options))
    return buffer.getvalue()


def write(folder, files):
    """Writes {path: bytes or text} below a folder."""
    for path, content in files.items():
        target = pathlib.Path(folder) / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content.encode() if isinstance(content, str) else content)
    return pathlib.Path(folder)


def write_zip(path, files):
    """Writes {path: bytes or text} into a zip file."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return pathlib.Path(path)


class _Named(zipfile.ZipInfo):
    encoding = "utf-8"

    def _encodeFilenameFlags(self):
        return self.filename.encode(self.encoding), self.flag_bits


def write_foreign_zip(path, files, encoding):
    """Writes {path: bytes} into a zip file whose names are in a code page and not marked, as by old programs."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            entry = _Named(name)
            entry.encoding = encoding
            archive.writestr(entry, content)
    return pathlib.Path(path)


def write_tar(path, files, mode="w:gz", encoding="utf-8"):
    """Writes {path: bytes or text} into a tar archive; the mode decides the compression."""
    with tarfile.open(path, mode, encoding=encoding, format=tarfile.GNU_FORMAT) as archive:
        for name, content in files.items():
            data = content.encode() if isinstance(content, str) else content
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return pathlib.Path(path)


def fer2013_files(splits=("train", "validation", "test"), count=7):
    """The Kaggle archive: {path: bytes}."""
    files = {}
    for split in splits:
        for i, (image, label) in enumerate(zip(*faces(split, count), strict=True)):
            folder = "train" if split == "train" else "test"
            files[f"{folder}/{EXPRESSIONS[label]}/{USAGES[split]}_{i:05d}.jpg"] = jpeg(image)
    return files


def fer2013_csv(splits=("train", "validation", "test"), count=7, *, header="emotion,pixels,Usage"):
    """The same images as `fer2013_files`, as CSV text; the header decides the order of the columns."""
    lines = [header]
    for split in splits:
        for image, label in zip(*faces(split, count), strict=True):
            pixels = " ".join(map(str, image.ravel()))
            row = {"emotion": str(CSV_NUMBERS[EXPRESSIONS[label]]), "pixels": pixels, "Usage": USAGES[split]}
            lines.append(",".join(row[c.strip()] for c in header.split(",")))
    return "\n".join(lines) + "\n"


def rafdb_files():
    """RAF-DB's folder basic/, two images of each class in train, one in test, and what each label number means."""
    order = ("surprise", "fear", "disgust", "happy", "sad", "angry", "neutral")
    files, lines, truth = {}, [], {}
    for split, count in (("train", 14), ("test", 7)):
        images, _ = faces(split, count, size=100, channels=3)
        for i, image in enumerate(images):
            name = f"{split}_{i + 1:05d}"
            lines.append(f"{name}.jpg {i % 7 + 1}")
            truth[f"{name}_aligned.jpg"] = order[i % 7]
            files[f"basic/Image/aligned/{name}_aligned.jpg"] = jpeg(image)
            landmarks = "".join(f"{40 + 5 * k}.5\t{50 + k}.25\n" for k in range(5))
            files[f"basic/Annotation/manual/{name}_manu_attri.txt"] = f"{landmarks}{i % 3}\n{(i + 1) % 3}\n{i % 5}\n"
    files["basic/EmoLabel/list_patition_label.txt"] = "\n".join(lines) + "\n"
    return files, truth


def album(count=20, classes=("cat", "dog"), size=60, channels=3):
    """Own pictures, {path: bytes}: different faces, one folder for each class."""
    files = {}
    for c, name in enumerate(classes):
        images, _ = faces("train", count, size=size, channels=channels, seed=c)
        files |= {f"{name}/{i:03d}.jpg": jpeg(image) for i, image in enumerate(images)}
    return files


def rafdb_class_folders():
    """RAF-DB in train/1 to test/7 with two tables, as it is passed on, and the class of each image."""
    order = ("surprise", "fear", "disgust", "happy", "sad", "angry", "neutral")
    files, truth = {}, {}
    for split, count in (("train", 14), ("test", 7)):
        lines = ["image,label"]
        for i, image in enumerate(faces(split, count, size=100, channels=3)[0]):
            name = f"{split}_{i:05d}_aligned.jpg"
            files[f"DATASET/{split}/{i % 7 + 1}/{name}"] = jpeg(image)
            lines.append(f"{name},{i % 7 + 1}")
            truth[name] = order[i % 7]
        files[f"{split}_labels.csv"] = "\n".join(lines) + "\n"
    return files, truth


def npy(value):
    """The bytes of a .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, value)
    return buffer.getvalue()


def affectnet_files():
    """AffectNet's train_set and val_set, every number once in each, and the class of each image."""
    order = ("neutral", "happy", "sad", "surprise", "fear", "disgust", "angry", "contempt")
    files, truth = {}, {}
    for folder, split in (("train_set", "train"), ("val_set", "validation")):
        images, _ = faces(split, 8, size=64, channels=3)
        for i, image in enumerate(images):
            files[f"{folder}/images/{i}.jpg"] = jpeg(image)
            files[f"{folder}/annotations/{i}_exp.npy"] = npy(np.array(str(i)))
            files[f"{folder}/annotations/{i}_val.npy"] = npy(np.array(str(i / 10)))
            files[f"{folder}/annotations/{i}_aro.npy"] = npy(np.array(str(-i / 10)))
            truth[f"{folder}/images/{i}.jpg"] = order[i]
    return files, truth


def ferplus_files():
    """fer2013.csv and fer2013new.csv: seven faces a split, one of which people could not tell."""
    header = "Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF"
    votes = [
        "10,0,0,0,0,0,0,0,0,0",  # neutral
        "1,6,3,0,0,0,0,0,0,0",  # happy 2/3, surprise 1/3 once the single vote is gone
        "0,0,0,5,5,0,0,0,0,0",  # no majority
        "0,0,0,0,7,3,0,0,0,0",  # angry
        "0,0,0,0,0,8,0,0,2,0",  # disgust, unknown does not enter the distribution
        "0,0,0,0,0,0,0,0,0,10",  # no face
        "0,0,0,0,0,0,0,9,1,0",  # contempt
    ]
    lines = [header]
    for usage in USAGES.values():
        lines += [f"{usage},{'' if v.endswith('10') else f'fer{i:07d}.png'},{v}" for i, v in enumerate(votes)]
    # Every class must be there in training: the rest of them, unanimous.
    extra = ["0,0,0,10,0,0,0,0,0,0", "0,0,10,0,0,0,0,0,0,0", "0,0,0,0,0,0,10,0,0,0"]
    lines[8:8] = [f"Training,fer{i:07d}.png,{v}" for i, v in enumerate(extra, 7)]
    faces_csv = fer2013_csv(("train",), 10) + fer2013_csv(("validation", "test")).split("\n", 1)[1]
    return {"fer2013.csv": faces_csv, "fer2013new.csv": "\n".join(lines) + "\n"}


def ferplus_pictures(folders=("FER2013Train", "FER2013Valid", "FER2013Test")):
    """What the script of FER+ writes from `ferplus_files`: PNG files and a label.csv without header in each folder."""
    tables = ferplus_files()
    labels = [line.split(",") for line in tables["fer2013new.csv"].splitlines()[1:]]
    rows = [line.split(",") for line in tables["fer2013.csv"].splitlines()[1:]]
    folder_of = dict(zip(USAGES.values(), ("FER2013Train", "FER2013Valid", "FER2013Test"), strict=True))
    files = {}
    for (usage, name, *votes), (_, pixels, _) in zip(labels, rows, strict=True):
        folder = folder_of[usage]
        if name and folder in folders:
            buffer = io.BytesIO()
            face = np.array(pixels.split(), np.uint8).reshape(48, 48)
            Image.fromarray(face).save(buffer, "PNG")
            files[f"data/{folder}/{name}"] = buffer.getvalue()
            table = f"data/{folder}/label.csv"
            files[table] = files.get(table, "") + ",".join([name, '"(0, 0, 48, 48)"', *votes]) + "\n"
    return files | {"fer2013new.csv": tables["fer2013new.csv"]}
