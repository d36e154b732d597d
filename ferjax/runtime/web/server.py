"""Serves the browser page on this computer only."""

import http.server
import pathlib
from http import HTTPStatus
from typing import Any

from ferjax.errors import InputError

HOST = "127.0.0.1"
_NAMES = ("localhost", HOST)  # accepted in the Host header: other names may be rebound to this computer (DNS rebinding)
_HEADERS = {
    "Cache-Control": "no-cache",
    # The policy of the page is in index.html; this one also holds for the service worker.
    "Content-Security-Policy": "connect-src 'self'; frame-ancestors 'none'",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
# The system's table may have other types, with which browsers refuse the files.
_TYPES = {
    "": "application/octet-stream",
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
    ".wasm": "application/wasm",
}


def create(folder: pathlib.Path, port: int) -> http.server.ThreadingHTTPServer:
    """Returns a server of a folder on the loopback interface; port 0 takes a free one.

    Raises:
      InputError: if the port is used.
    """

    def handler(*arguments: Any) -> _Handler:
        return _Handler(*arguments, directory=str(folder))

    try:
        return http.server.ThreadingHTTPServer((HOST, port), handler)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"port {port} cannot be used ({reason}): choose another --port, or 0 for a free one"
        ) from error


class _Handler(http.server.SimpleHTTPRequestHandler):
    """Answers GET and HEAD for the files of a folder."""

    timeout = 30  # seconds for a request
    extensions_map = _TYPES

    def send_head(self) -> Any:
        if self.headers.get("Host", "").partition(":")[0] not in _NAMES:
            self.send_error(HTTPStatus.MISDIRECTED_REQUEST, "Open the page as http://localhost")
            return None
        return super().send_head()

    def list_directory(self, path: Any) -> None:
        self.send_error(HTTPStatus.NOT_FOUND)

    def end_headers(self) -> None:
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, format: str, *arguments: Any) -> None:
        """Logs nothing."""
