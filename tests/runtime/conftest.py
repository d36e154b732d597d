"""A small model, a video and a page for the tests of the live loop."""

import threading

import cv2
import pytest

from ferjax.data.synthetic.clips import render_clip
from ferjax.runtime.serve.server import View
from tests.support import small_files
from tests.support.live_parts import NAMES, result
from tests.support.watching import keep_publishing, picture

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


@pytest.fixture
def view():
    with View("0", NAMES, stills=False) as view:
        view.start()
        yield view


@pytest.fixture
def busy(view):
    """A view that gets frames all the time."""
    until = threading.Event()
    view.publish(result(of=picture()))
    thread = keep_publishing(view, until)
    yield view
    until.set()
    thread.join()
