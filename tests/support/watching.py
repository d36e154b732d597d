"""A client of the live loop's page: what it asks and what it reads."""

import contextlib
import http.client
import json
import threading
import urllib.parse

import numpy as np

from ferjax.runtime.sources.frame import Frame
from tests.support.live_parts import face, result

NOISE = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)  # does not compress


def connect(view):
    return http.client.HTTPConnection("127.0.0.1", urllib.parse.urlsplit(view.url).port, timeout=20)


def ask(view, path, **headers):
    """Returns status, headers and content of a response."""
    with contextlib.closing(connect(view)) as connection:
        connection.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()


@contextlib.contextmanager
def streaming(view, path):
    """Yields the response of a stream."""
    with contextlib.closing(connect(view)) as connection:
        connection.request("GET", path)
        with connection.getresponse() as answer:
            yield answer


def picture(index=0, image=NOISE):
    return Frame(image, index / 30, index, 0)


def next_jpeg(stream):
    while not (line := stream.readline()).startswith(b"Content-Length"):
        assert line
    stream.readline()
    return stream.read(int(line.split()[1]))


def next_event(stream):
    """Returns the name and the data of the next event; the name of a log entry is empty."""
    name, line = "", stream.readline().decode()
    if line.startswith("event: "):
        name, line = line[7:-1], stream.readline().decode()
    assert line.startswith("data: ") and stream.readline() == b"\n"
    return name, json.loads(line[6:])


def keep_publishing(view, until):
    """Publishes noise at 100 frames a second in a thread until the event."""

    def run():
        index = 0
        while not until.wait(0.01):
            view.publish(result(face(), of=picture(index)))
            index += 1

    thread = threading.Thread(target=run)
    thread.start()
    return thread
