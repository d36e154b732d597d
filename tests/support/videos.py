"""Small videos, damaged ones, and fake captures of OpenCV."""

import os
import time

import cv2
import numpy as np

from tests.support.live_parts import frame, patches

# FFmpeg asks once, when the process first opens or writes a video: here that is a test's own writer.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")


def picture(value, size=(48, 64)):
    return np.full((*size, 3), value, np.uint8)


def write_video(path, frames=30, fps=10.0, fourcc="MJPG"):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*fourcc), fps, (64, 48))
    for i in range(frames):
        writer.write(picture(8 * i % 256))
    writer.release()
    return path


def damage(path, *numbers):
    """Overwrites the compressed frames of these numbers in a video, in place."""
    capture = cv2.VideoCapture(str(path))
    capture.set(cv2.CAP_PROP_FORMAT, -1)  # read() then returns compressed frames
    data, end = path.read_bytes(), 0
    for number in range(max(numbers) + 1):
        frame = capture.read()[1].tobytes()
        start = data.index(frame, end)
        end = start + len(frame)
        if number in numbers:
            data = data[:start] + bytes(len(frame)) + data[end:]
    capture.release()
    path.write_bytes(data)


class Camera:
    """Fake cv2.VideoCapture: `script` has one entry per read."""

    def __init__(self, script, fps=0.0, opens=True):
        self.script, self.fps, self.opens, self.released = list(script), fps, opens, False

    def isOpened(self):
        return self.opens

    def get(self, _):
        return self.fps

    def set(self, *_):
        return True

    def read(self):
        time.sleep(0.002)
        entry = self.script.pop(0) if self.script else None
        if callable(entry):
            entry = entry()
        return entry is not None, entry

    def release(self):
        self.released = True


class Film(Camera):
    """Fake cv2.VideoCapture of a file: `script` has a time in seconds and an image for each frame.

    The clock of its container starts at `start` seconds; None if its frames have no times of their own.
    """

    def __init__(self, script, fps=10.0, count=0.0, start=0.0):
        super().__init__([image for _, image in script], fps)
        self.stamps, self.count, self.stamp, self.start = [stamp for stamp, _ in script], count, 0.0, start

    def get(self, what):
        return {
            cv2.CAP_PROP_FPS: self.fps,
            cv2.CAP_PROP_FRAME_COUNT: self.count,
            cv2.CAP_PROP_POS_MSEC: self.stamp,
            cv2.CAP_PROP_PTS: -(2.0**63) if self.start is None else (self.start + self.stamp / 1e3) * self.fps,
        }[what]

    def read(self):
        self.stamp = 1e3 * self.stamps.pop(0) if self.stamps else 0.0
        entry = self.script.pop(0) if self.script else None
        image = entry() if callable(entry) else entry
        return image is not None, image


TONES = {"angry": 0, "happy": 90, "sad": 210}  # of `patches`, for `brightness_model`


def write_film(path, tones, *, fps=10.0):
    """Writes a lossless film of faces in a row, from the label, or None, of each in each frame."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"FFV1"), fps, (320, 240))
    for index, labels in enumerate(tones):
        image = frame(index, size=(240, 320)).image
        for place, label in enumerate(labels):
            if label:
                image[40:80, 20 + 80 * place :][:, :40] = patches(0, {TONES[label]: (0, 0)}).image[:40, :40]
        writer.write(image)
    writer.release()
    return path
