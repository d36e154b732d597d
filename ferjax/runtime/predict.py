"""Classifies a folder of face images, without jax: `ferjax predict MODEL FOLDER --out results.csv`.

Each image is taken as one cropped face, whole.
"""

import collections
import csv
import pathlib
from collections.abc import Iterable, Iterator, Sequence

from ferjax import cli, errors, folders
from ferjax.runtime import Model, Prediction, load, shipped


def predict_folder(model: Model, folder: pathlib.Path) -> Iterator[tuple[str, Prediction | None]]:
    """Answers for every image below a folder, in the order of their names.

    Args:
      model: a loaded model.
      folder: is searched with its subfolders; hidden files, hidden folders and other kinds of file are left out.

    Yields:
      The path within the folder, with forward slashes, and the answer; None where the image cannot be read.

    Raises:
      InputError: if the folder is missing or holds no image.
    """
    from ferjax.runtime.sources import files as pictures  # needs OpenCV

    if not folder.is_dir():
        raise errors.InputError(f"{str(folder)!r} is no folder: give one that holds images of cropped faces")
    found = (p for p in folder.rglob("*") if p.suffix.lower() in pictures.PICTURES and p.is_file())
    files = sorted(p for p in found if not any(part.startswith(".") for part in p.relative_to(folder).parts))
    if not files:
        raise errors.InputError(f"{folder} holds no image; these kinds are read: {', '.join(pictures.PICTURES)}")
    for path in files:
        face = pictures.read_picture(path)
        yield path.relative_to(folder).as_posix(), None if face is None else model.predict(face)


def write_csv(path: pathlib.Path, class_names: Sequence[str], rows: Iterable[tuple[str, Prediction]]) -> None:
    """Writes one row an image: file, label, confidence, then the probability of each class; all or nothing."""
    with (
        folders.replaced(path) as part,
        open(part, "w", newline="", encoding="utf-8", errors="surrogateescape") as file,  # names in any encoding
    ):
        writer = csv.writer(file)
        writer.writerow(["file", "label", "confidence", *class_names])
        for name, answer in rows:
            values = [answer.confidence, *answer.probabilities.values()]
            writer.writerow([name, answer.label, *(f"{value:.6f}" for value in values)])


def main(argv: Sequence[str]) -> None:
    """Writes the answers for a folder to a CSV file and counts them."""
    parser = cli.parser(
        "predict",
        "Classifies each image of a folder. The images must be cropped faces: no face is searched in them, the whole\n"
        "image is taken as one.",
    )
    parser.add_argument(
        "model", metavar="MODEL", help=f"a .tflite or .onnx file, or a shipped model: {shipped.choices()}"
    )
    parser.add_argument("folder", metavar="FOLDER", type=pathlib.Path, help="images, in subfolders too")
    cli.add_out(parser, "the CSV file")
    parser.add_argument("--threads", type=int, default=2, help="of the classifier (default: 2)")
    options = parser.parse_args(argv)
    folder_there = options.out.absolute().parent.is_dir() and not options.out.is_dir()
    if not folder_there or options.out.suffix.lower() != ".csv":  # so that it is neither the model nor a picture
        raise errors.InputError(f"--out must be a .csv file in an existing folder, got {options.out}")
    model = load(options.model, threads=options.threads)
    answers: list[tuple[str, Prediction]] = []
    unreadable = 0
    for name, answer in predict_folder(model, options.folder):
        if answer is None:
            unreadable += 1
            cli.note(f"{name} cannot be read as an image and has no row")
        else:
            answers.append((name, answer))
    if not answers:
        raise errors.InputError(f"none of the {unreadable} images in {options.folder} can be read")
    write_csv(options.out, model.spec.class_names, answers)
    counts = collections.Counter(answer.label for _, answer in answers)
    print(f"saved {options.out}: {len(answers)} images, {unreadable} unreadable")
    print(", ".join(f"{label} {count}" for label, count in counts.most_common()))
