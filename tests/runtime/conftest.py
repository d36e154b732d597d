"""A small model and a video for the tests of the live loop."""

import cv2
import pytest

from ferjax.data.synthetic.clips import render_clip
from tests.support import small_files

SPEC = small_files.GRAY.replace(input_size=(48, 48), std=(12.0,))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return small_files.onnx_file(tmp_path_factory.mktemp("model") / "linear.onnx", SPEC)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "moving.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 30.0, (640, 480))
    for image, _ in render_clip("moving", seed=0, frames=30):
        writer.write(image)
    writer.release()
    return path
