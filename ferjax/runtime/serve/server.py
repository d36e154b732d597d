"""Serves the page of the live loop to browsers, in a thread of its own."""

import asyncio
import contextlib
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ferjax.cli import note
from ferjax.errors import InputError
from ferjax.runtime.result import Result
from ferjax.runtime.serve import address
from ferjax.runtime.serve.answers import Answer, answers
from ferjax.runtime.serve.hub import Hub

if TYPE_CHECKING:
    from tornado.httpserver import HTTPServer

MAX_CONNECTIONS = 64
_MAX_HEADERS = 16 << 10  # bytes
_IDLE_SECONDS = 10.0  # time for a client to send the headers of a request
_FAREWELL_SECONDS = 0.4  # time at the end for the streams to send their last part
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",  # the address may contain the token
    "Server": "ferjax",
    "X-Content-Type-Options": "nosniff",
}


class View:
    """A page that shows the live loop in browsers. The loop only stores its newest result here."""

    def __init__(self, text: str, class_names: Sequence[str], *, stills: bool):
        """Opens the address.

        Args:
          text: [HOST:]PORT.
          class_names: names of the model's classes.
          stills: whether the frames are unrelated images.

        Raises:
          InputError: if the package for it is not installed, or the address is invalid or taken.
        """
        try:
            import tornado  # noqa: F401
        except ImportError as error:
            raise InputError("--serve needs tornado, which is not installed: pip install 'ferjax[serve]'") from error
        host, port = address.parse(text)
        self._sockets = address.listen(host, port)
        self._guard = address.Guard(host, self._sockets)
        self._loop = asyncio.new_event_loop()
        self._hub = Hub(self._loop, stills=stills)
        self._answers = answers(self._hub, class_names, stills=stills)
        self._thread = threading.Thread(target=self._run, name="ferjax server", daemon=True)

    @property
    def url(self) -> str:
        """Address of the page, with the token if one is required."""
        return self._guard.url

    def start(self) -> None:
        """Starts the server and prints the address of the page."""
        self._thread.start()
        note(f"showing at {self.url}")

    def publish(self, result: Result) -> None:
        """Shows a drawn result, whose image must not change afterwards."""
        self._hub.publish(result)

    def close(self) -> None:
        """Tells the viewers that the stream has ended, and stops the server within a second."""
        if self._thread.ident is None:  # not started
            for each in self._sockets:
                each.close()
            self._loop.close()
        elif not self._loop.is_closed():
            self._hub.close()
            self._thread.join(2 * _FAREWELL_SECONDS + 0.1)

    def __enter__(self) -> "View":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        server = _server(self._guard, self._answers)
        server.add_sockets(self._sockets)
        await self._hub.ended.wait()
        server.stop()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_FAREWELL_SECONDS):
                while self._hub.viewers:
                    await asyncio.sleep(0.01)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(server.close_all_connections(), _FAREWELL_SECONDS)


def _server(guard: address.Guard, answers: Mapping[str, Answer]) -> "HTTPServer":
    from tornado.httpserver import HTTPServer
    from tornado.iostream import IOStream, StreamClosedError
    from tornado.web import Application, RequestHandler

    class Handler(RequestHandler):
        def set_default_headers(self) -> None:
            for name, value in _HEADERS.items():
                self.set_header(name, value)

        async def head(self) -> None:
            await self.get()  # tornado sends the headers only

        async def get(self) -> None:
            path = guard.path(self.request.path)
            if refusal := guard.refusal(self.request.host_name, self.request.headers):
                self.send_error(403, reason=refusal)
            elif path is None:
                self.send_error(403, reason="the address must contain the token that ferjax printed")
            elif guard.token and self.request.path == f"/{guard.token}":
                self.redirect(f"/{guard.token}/")
            elif path not in answers:
                self.send_error(404)
            else:
                try:
                    await answers[path](self)
                # The client left or reads nothing, or the server ends meanwhile.
                except (StreamClosedError, TimeoutError, asyncio.CancelledError):
                    self.detach().close()

        def write_error(self, status_code: int, **_: Any) -> None:
            self.set_header("Content-Type", "text/plain; charset=utf-8")
            self.finish(f"{status_code} {self._reason}\n")

    class Server(HTTPServer):
        def handle_stream(self, stream: IOStream, address: tuple) -> None:
            if len(self._connections) < MAX_CONNECTIONS:
                super().handle_stream(stream, address)
            else:
                stream.close()

    application = Application([(".*", Handler)], log_function=lambda _: None)
    return Server(application, max_header_size=_MAX_HEADERS, max_body_size=0, idle_connection_timeout=_IDLE_SECONDS)
