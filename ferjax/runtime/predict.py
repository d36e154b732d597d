"""Classifies a folder of cropped faces: `ferjax predict MODEL FOLDER --out results.csv`."""

import collections
import csv
import pathlib
from collections.abc import Iterable, Iterator, Sequence

from ferjax import cli, errors, folders
from ferjax.runtime import Model, Prediction, load, shipped
from ferjax.runtime.sources import pictures


def predict_folder(model: Model, folder: pathlib.Path) -> Iterator[tuple[str, Prediction | str]]:
    """Classifies all images in a folder and its subfolders, in natural order.

    Args:
      model: a loaded model.
      folder: the folder; hidden files and folders are skipped.

    Yields:
      The path relative to the folder, with forward slashes, and the prediction, or why the image cannot be read.

    Raises:
      InputError: if the folder does not exist or has no image.
    """
    if not folder.is_dir():
        raise errors.InputError(f"{str(folder)!r} is not a folder: give a folder of cropped faces")
    for path in pictures.listed(folder, folder.rglob("*")):
        try:
            answer: Prediction | str = model.predict(pictures.read_bgr(path))
        except pictures.UnreadableImage as error:
            answer = str(error)
        yield path.relative_to(folder).as_posix(), answer


def write_csv(path: pathlib.Path, class_names: Sequence[str], rows: Iterable[tuple[str, Prediction]]) -> None:
    """Writes one row per image, atomically: file, label, confidence, probability of each class."""
    with (
        folders.atomic_file(path) as part,
        open(part, "w", newline="", encoding="utf-8", errors="backslashreplace") as file,  # file names of any bytes
    ):
        writer = csv.writer(file)
        writer.writerow(["file", "label", "confidence", *class_names])
        for name, prediction in rows:
            values = [prediction.confidence, *prediction.probabilities.values()]
            writer.writerow([name, prediction.label, *(f"{value:.6f}" for value in values)])


def main(argv: Sequence[str]) -> None:
    """Runs `ferjax predict`: writes the predictions for a folder to a CSV file and counts the labels."""
    parser = cli.parser(
        "predict",
        "Classifies each image of a folder. Each image must be a cropped face; faces are not detected.",
    )
    parser.add_argument("model", metavar="MODEL", help=shipped.accepted())
    parser.add_argument("folder", metavar="FOLDER", type=pathlib.Path, help="folder of images, with subfolders")
    cli.add_out(parser, "CSV file")
    parser.add_argument("--threads", type=int, default=2, help="threads of the classifier (default: 2)")
    cli.add_provider(parser)
    options = parser.parse_args(argv)
    valid_path = options.out.absolute().parent.is_dir() and not options.out.is_dir()
    if not valid_path or options.out.suffix.lower() != ".csv":  # the suffix protects the model and the images
        raise errors.InputError(f"--out must be a .csv file in an existing folder, got {options.out}")
    model = load(options.model, threads=options.threads, provider=options.provider)
    predictions: list[tuple[str, Prediction]] = []
    unreadable = 0
    for name, prediction in predict_folder(model, options.folder):
        if isinstance(prediction, str):
            unreadable += 1
            cli.note(f"{name} cannot be read as an image ({prediction}): skipped")
        else:
            predictions.append((name, prediction))
    if not predictions:
        raise errors.InputError(f"no image in {options.folder} can be read: {unreadable} skipped")
    write_csv(options.out, model.spec.class_names, predictions)
    counts = collections.Counter(prediction.label for _, prediction in predictions)
    print(f"saved {options.out}: {cli.counted(len(predictions), 'image')}, {unreadable} unreadable")
    print(", ".join(f"{label} {count}" for label, count in counts.most_common()))
