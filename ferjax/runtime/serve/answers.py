"""Answers the requests of browsers: the page and its files, the picture, the events, a snapshot, the health."""

import asyncio
import importlib.resources
import json
import time
import urllib.parse
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

from ferjax.runtime.result import Result
from ferjax.runtime.serve.hub import Hub
from ferjax.runtime.show.drawing import colors
from ferjax.runtime.show.log import entry
from ferjax.runtime.show.snapshots import snapshot_file

if TYPE_CHECKING:
    from tornado.web import RequestHandler

MAX_VIEWERS = 16  # open streams; a page has two
SEND_SECONDS = 30.0  # time for a client to take a response, or one frame of a stream
_FILES = {
    "": ("index.html", "text/html"),
    "page.js": ("page.js", "text/javascript"),
    "page.css": ("page.css", "text/css"),
    "icon.svg": ("icon.svg", "image/svg+xml"),
}
_STATUS_SECONDS = 1.0
_BOUNDARY = b"--frame\r\n"
Answer = Callable[["RequestHandler"], Awaitable[None]]


def answers(hub: Hub, class_names: Sequence[str], *, stills: bool) -> dict[str, Answer]:
    """Returns path -> answer. The files of the page are read here, so that no path of a request reaches the disk."""
    folder = importlib.resources.files("ferjax.runtime.serve") / "page"
    model = {
        "classes": [{"name": n, "color": "#{2:02x}{1:02x}{0:02x}".format(*c)} for n, c in colors(class_names).items()],
        "stills": stills,
    }
    return {
        **{path: _file((folder / name).read_bytes(), kind) for path, (name, kind) in _FILES.items()},
        "picture.mjpeg": lambda handler: _picture(handler, hub),
        "events": lambda handler: _events(handler, hub, model),
        "snapshot.png": lambda handler: _snapshot(handler, hub),
        "health": lambda handler: _health(handler, hub),
    }


def _file(content: bytes, kind: str) -> Answer:
    async def answer(handler: "RequestHandler") -> None:
        await _finish(handler, content, f"{kind}; charset=utf-8")

    return answer


async def _finish(handler: "RequestHandler", content: bytes, kind: str) -> None:
    handler.set_header("Content-Type", kind)
    await asyncio.wait_for(handler.finish(content), SEND_SECONDS)


async def _send(handler: "RequestHandler", content: bytes) -> None:
    """Sends a part of a stream; returns when the client has taken it, so that a slow client gets fewer frames."""
    handler.write(content)
    await asyncio.wait_for(handler.flush(), SEND_SECONDS)


async def _picture(handler: "RequestHandler", hub: Hub) -> None:
    """Streams the drawn frames as motion JPEG."""
    if not _streams(handler, hub, f"multipart/x-mixed-replace; boundary={_BOUNDARY[2:-2].decode()}"):
        return
    with hub.viewing():
        await _send(handler, _BOUNDARY)
        sent, part = 0, b""
        async for result in hub.results():
            if result is not None and result.number > sent:
                shown, jpeg = await hub.encoded(".jpg", result)
                head = b"Content-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(jpeg)
                sent, part = shown.number, head + jpeg + b"\r\n" + _BOUNDARY  # shown when the next part begins
            await _send(handler, part)  # raises an error if the viewer left, also without a new part


async def _events(handler: "RequestHandler", hub: Hub, model: dict[str, Any]) -> None:
    """Streams server-sent events.

    A message is a log entry; the event `frame` ends a frame, `status` is the health once a second, `model` comes first
    and `end` last.
    """
    if not _streams(handler, hub, "text/event-stream"):
        return
    with hub.viewing():
        await _send(handler, _event("model", model))
        told = time.monotonic()
        async for shown in hub.results():
            parts = [] if shown is None else _frame_events(shown.result)
            if time.monotonic() - told >= _STATUS_SECONDS:
                told = time.monotonic()
                parts.append(_event("status", hub.health()))
            if parts:
                await _send(handler, b"".join(parts))
        await _send(handler, _event("end", {}))


def _frame_events(result: Result) -> list[bytes]:
    frame = {"frame": result.frame.index, "time": round(result.time, 4), "tracks": [f.track for f in result.faces]}
    return [*(_event("", entry(result, face)) for face in result.faces), _event("frame", frame)]


def _event(name: str, data: dict[str, Any]) -> bytes:
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(data)}\n\n".encode()


async def _snapshot(handler: "RequestHandler", hub: Hub) -> None:
    """Sends the newest drawn frame as PNG."""
    if hub.newest is None:
        handler.send_error(503, reason="No frame yet")
        return
    shown, png = await hub.encoded(".png", hub.newest)
    name = urllib.parse.quote(snapshot_file(shown.result.frame), errors="surrogateescape")
    handler.set_header("Content-Disposition", f"inline; filename*=UTF-8''{name}")
    await _finish(handler, png, "image/png")


async def _health(handler: "RequestHandler", hub: Hub) -> None:
    """Sends the state of the loop as JSON, with status 503 if frames are missing."""
    health = hub.health()
    handler.set_status(200 if health["status"] == "ok" else 503)
    await _finish(handler, json.dumps(health).encode() + b"\n", "application/json")


def _streams(handler: "RequestHandler", hub: Hub, kind: str) -> bool:
    """Sets the type of a stream; returns whether to send it: not for HEAD, and not if there are too many viewers."""
    if hub.viewers >= MAX_VIEWERS:
        handler.send_error(503, reason="Too many viewers")
        return False
    handler.set_header("Content-Type", kind)
    return handler.request.method != "HEAD"
