"""Measures recall, false boxes and time of each face detector and scale on rendered rooms.

    python -m benchmarks.speed.detectors --detector haar yunet

The scenes hold 0 to 4 faces of about 25 to 160 pixels in 640x480; a face counts as
found if a box overlaps it by 0.4 or more (intersection over union). Rendered faces are frontal: the figures compare
detectors with each other, not with those of Valverde's or Tormalm's photographs.
"""

import importlib.metadata
import time
from collections.abc import Iterator

import cv2
import numpy as np

from ferjax import cli
from ferjax.data.synthetic.rendering import render_scene
from ferjax.runtime.faces.boxes import Box
from ferjax.runtime.faces.detector import Detector, create_detector
from ferjax.runtime.faces.tracking import iou
from tools import tables

COLUMNS = [
    ("detector", "{detector}"),
    ("scale", "{scale:.2g}"),
    ("smallest face, pixels", "{smallest:.0f}"),
    ("recall %", "{recall:.1f}"),
    ("false boxes a frame", "{false:.3f}"),
    ("CPU ms a frame, median", "{milliseconds:.1f}"),
    ("mean overlap", "{overlap:.2f}"),
]
SCALES = (1.0, 0.75, 0.5, 0.375, 0.25)
_HIT = 0.4


def main() -> None:
    parser = tables.arguments(__doc__)
    parser.add_argument("--detector", nargs="+", default=["haar"], help="haar, yunet, dlib; default haar")
    parser.add_argument("--detector-model", help="file of the yunet model, if it has not been fetched")
    parser.add_argument("--scenes", type=int, default=500, help="how many rooms (default 500)")
    options = parser.parse_args()
    cv2.setNumThreads(1)  # the time of one core, whatever else the machine does
    detectors = [
        create_detector(name, scale=scale, model=options.detector_model if name == "yunet" else None)
        for name in options.detector
        for scale in SCALES
    ]
    rows = measure(detectors, options.scenes)
    command = tables.command("benchmarks.speed.detectors", without=["--detector-model"])
    present = {d.metadata["Name"] for d in importlib.metadata.distributions()}
    packages = sorted(present & {"opencv-python", "opencv-python-headless", "dlib", "dlib-bin"})
    table = tables.save("detectors", COLUMNS, rows, command=command, packages=packages, results=options.results)
    print(tables.render(table))


def measure(detectors: list[Detector], scenes: int) -> list[dict]:
    """Returns one row for each detector; each scene goes through all of them in turn."""
    hits = np.zeros(len(detectors))
    overlaps: list[list[float]] = [[] for _ in detectors]
    false, times, people = np.zeros(len(detectors)), np.zeros((len(detectors), scenes)), 0
    for index, (frame, boxes) in enumerate(rooms(scenes)):
        people += len(boxes)
        for which, detector in enumerate(detectors):
            start = time.process_time()
            found = [face.box for face in detector(frame)]
            times[which, index] = time.process_time() - start
            best = [max((iou(box, f) for f in found), default=0.0) for box in boxes]
            overlaps[which] += [o for o in best if o >= _HIT]
            hits[which] += sum(o >= _HIT for o in best)
            false[which] += sum(all(iou(box, f) < _HIT for box in boxes) for f in found)
    return [
        {
            "name": f"{detector.name} {detector.scale}",
            "detector": detector.name,
            "scale": detector.scale,
            "smallest": detector.smallest_face((480, 640)),
            "recall": 100 * hits[which] / max(people, 1),
            "false": false[which] / scenes,
            "milliseconds": 1e3 * float(np.median(times[which])),
            "overlap": float(np.mean(overlaps[which])) if overlaps[which] else None,
            "faces": people,
            "scenes": scenes,
        }
        for which, detector in enumerate(detectors)
    ]


def rooms(count: int) -> Iterator[tuple[np.ndarray, list[Box]]]:
    """Yields frames and the boxes of the faces in them; of three rooms one is seen from afar and one from farther."""
    height, width = 480, 640
    for seed in range(count):
        picture, boxes, _ = render_scene(seed=seed, faces=seed % 5, size=(height, width))
        frame, away = np.ascontiguousarray(picture[..., ::-1]), 1 + seed % 3
        if away > 1:
            small = cv2.resize(frame, (width // away, height // away), interpolation=cv2.INTER_AREA)
            top, left = (height - small.shape[0]) // 2, (width - small.shape[1]) // 2
            bottom, right = height - small.shape[0] - top, width - small.shape[1] - left
            frame = cv2.copyMakeBorder(small, top, bottom, left, right, cv2.BORDER_REPLICATE)
            boxes = boxes / away + (left, top, 0, 0)
        yield frame, [tuple(box) for box in boxes.tolist()]


if __name__ == "__main__":
    cli.run(main)
