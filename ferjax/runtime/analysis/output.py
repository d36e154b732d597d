"""Writes the folder of `ferjax analyze`: annotated copies, tables, timelines and one page.

index.html            everything on one page, with the timelines and small copies of the photos inside
faces.csv, .jsonl     one row per face of a photo, and per face and frame of a film
people.csv            one row per person of a film: the seconds with each label
annotated/            copies with boxes and probabilities
timelines/            a picture per film
"""

import contextlib
import csv
import json
import pathlib
from collections.abc import Sequence
from typing import Any, Self

import cv2

from ferjax.cli import counted
from ferjax.runtime.analysis.chart import clock, draw_timeline
from ferjax.runtime.analysis.timeline import OTHERS, Person, Summary, Timeline
from ferjax.runtime.faces.boxes import resized
from ferjax.runtime.result import Result
from ferjax.runtime.show import page
from ferjax.runtime.show.drawing import Painter
from ferjax.runtime.show.log import columns, face_entry, flat
from ferjax.spec import UNCERTAIN, ModelSpec

PAGE, _ANNOTATED, _TIMELINES = "index.html", "annotated", "timelines"
RECORDS = {PAGE, "faces.csv", "faces.jsonl", "people.csv"}
_MOST_PREVIEWS = 200  # photos on the page, which each take about 50 KB
_PREVIEW = 480  # longer side in pixels


class Output:
    """Writes results as they come; `close` writes the page.

    Attributes:
      photos: number of photos so far.
      faces: number of faces in them.
      films: number of films so far.
      complete: number of films among them that were analyzed to their end.
    """

    def __init__(self, folder: pathlib.Path, spec: ModelSpec):
        """Creates the tables in an empty folder, for results of a model with this spec."""
        self.photos = self.faces = self.films = self.complete = 0
        self._folder, self._spec, self._names = folder, spec, spec.class_names
        self._open = contextlib.ExitStack()
        self._json = self._file("faces.jsonl")
        self._csv, self._people = csv.writer(self._file("faces.csv")), csv.writer(self._file("people.csv"))
        self._csv.writerow(["file", *columns(self._names)])
        seconds = [f"seconds_{label}" for label in (*self._names, UNCERTAIN)]
        self._people.writerow(["file", "track", "first", "last", "visible", *seconds])
        self._films: list[page.Block] = []
        self._previews: list[page.Block] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def _file(self, name: str) -> Any:
        # backslashreplace: file names of any encoding
        path = self._folder / name
        return self._open.enter_context(open(path, "w", newline="", encoding="utf-8", errors="backslashreplace"))

    def write_faces(self, file: str, result: Result) -> None:
        """Adds the faces of a photo or a frame to the tables."""
        for face in result.faces:
            entry = face_entry(result.time, result.frame.index, face)
            self._csv.writerow([file, *flat(entry)])
            self._json.write(json.dumps({"file": file, **entry}) + "\n")

    def add_photo(self, file: str, result: Result) -> None:
        """Adds a photo, and draws on it."""
        self.write_faces(file, result)
        Painter(self._names).draw_faces(result)
        copy = f"{_ANNOTATED}/{file}.png"
        self._parent(copy).write_bytes(cv2.imencode(".png", result.frame.image)[1].tobytes())
        self.photos, self.faces = self.photos + 1, self.faces + len(result.faces)
        if self.photos <= _MOST_PREVIEWS:
            image = result.frame.image
            small = resized(image, min(1.0, _PREVIEW / max(image.shape[:2])))
            labels = ", ".join(f"{face.label} {face.confidence:.0%}" for face in result.faces) or "no face"
            jpeg = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()
            self._previews.append(page.Preview(jpeg, f"{file}: {labels}", copy))

    def annotated_film(self, file: str) -> pathlib.Path:
        """Returns the path for the annotated copy of a film, which may be left out."""
        return self._parent(f"{_ANNOTATED}/{file}.mp4")

    def add_film(self, file: str, timeline: Timeline, *, complete: bool) -> None:
        """Adds a film, whose timeline is closed, to the page and the table of people."""
        self.films, self.complete = self.films + 1, self.complete + complete
        summary = timeline.summary()
        for person in summary.people:
            track = "others" if person.track == OTHERS else person.track
            times = (person.first, person.last, person.visible, *person.seconds.values())
            self._people.writerow([file, track, *(round(value, 4) for value in times)])
        length = f"{clock(summary.duration)} ({counted(summary.frames, 'frame')})"
        self._films += [
            page.Heading(2, file),
            page.Text(f"Duration {length}." if complete else f"Interrupted after {length}: the rest is not analyzed."),
        ]
        if not summary.people:
            self._films.append(page.Text("No face was found."))
        else:
            picture = self._parent(f"{_TIMELINES}/{file}.png")
            draw_timeline(timeline).save(picture)
            self._films += [
                page.Figure(picture, "Share of each label over time. Hatched: uncertain; blank: not visible."),
                _people(summary, timeline.labels),
            ]
        if self.annotated_film(file).exists():
            self._films.append(page.Link("Annotated copy of the film", f"{_ANNOTATED}/{file}.mp4"))

    def close(self, command: str, remark: str = "") -> None:
        """Writes the page: a remark at its beginning, and the command at its end."""
        photos: list[page.Block] = [page.Heading(2, "Photos")] if self.photos else []
        more = self.photos - len(self._previews)
        rest = [page.Text(f"{counted(more, 'more photo')} in {_ANNOTATED} and faces.csv.")] if more else []
        blocks = [
            page.Heading(1, f"Expressions in {self.count()}"),
            *[page.Text(remark)] * bool(remark),
            page.Text(self._method()),
            *self._films,
            *photos,
            *self._previews,
            *rest,
            page.Heading(2, "Command"),
            page.Code(command),
            page.Text(page.NOTICE),
        ]
        (self._folder / PAGE).write_text(page.page_html(blocks), encoding="utf-8", errors="replace")

    def _method(self) -> str:
        model = (
            f"{self._spec.architecture} ({self._spec.quantization}), trained on {self._spec.dataset or 'unknown data'}"
        )
        if not self.films:
            return f"Model: {model}."
        return (
            f"Model: {model}. A person is a face that is tracked without a break of more than 1.5 seconds: "
            "a face that returns later has a new number."
        )

    def count(self) -> str:
        """Returns the numbers of photos and films, such as "2 photos with 3 faces and 1 film"."""
        photos = f"{counted(self.photos, 'photo')} with {counted(self.faces, 'face')}"
        parts = [photos] * bool(self.photos) + [counted(self.films, "film")] * bool(self.films)
        return " and ".join(parts)

    def _parent(self, name: str) -> pathlib.Path:
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


def foreign(folder: pathlib.Path) -> list[str]:
    """Returns the names in a folder that do not belong to an analysis."""
    return sorted({path.name for path in folder.iterdir()} - {*RECORDS, _ANNOTATED, _TIMELINES})


def _people(summary: Summary, labels: Sequence[str]) -> page.Table:
    """Returns the table of the time per person and label."""
    rows = [
        [_name(person), f"{clock(person.first)} – {clock(person.last)}", *_times(person)] for person in summary.people
    ]
    if len(rows) > 1:
        sums = {label: sum(person.seconds[label] for person in summary.people) for label in labels}
        rows.append(["all", "", *_times(Person(OTHERS, 0, 0, sums))])
    return page.Table(["person", "from – to", "visible, s", *(f"{label}, s" for label in labels)], rows)


def _name(person: Person) -> str:
    return "others" if person.track == OTHERS else f"Person {person.track}"


def _times(person: Person) -> list[str]:
    visible = person.visible or 1.0
    shares = (f"{value:.1f} ({value / visible:.0%})" if value else "0" for value in person.seconds.values())
    return [f"{person.visible:.1f}", *shares]
