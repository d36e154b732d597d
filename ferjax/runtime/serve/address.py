"""Parses [HOST:]PORT, opens its sockets, and decides which requests to answer."""

import contextlib
import ipaddress
import re
import secrets
import socket
from collections.abc import Mapping

from ferjax.errors import InputError

_FORM = re.compile(r"(?:(\[[^\[\]]+\]|[^\[\]:/@\s]+):)?([0-9]{1,5})")
_SEND_BUFFER = 256 << 10  # bytes; Linux would buffer megabytes, which a slow viewer sees as seconds of delay


def parse(text: str) -> tuple[str, int]:
    """Returns the host, without the brackets of IPv6, and the port; the host is localhost if none is given.

    Raises:
      InputError: if the text has another form.
    """
    match = _FORM.fullmatch(text)
    if match is None or int(match[2]) > 65535:
        raise InputError(f"--serve must be [HOST:]PORT, such as 8000, 0.0.0.0:8000 or [::1]:8000, got {text!r}")
    return (match[1] or "localhost").strip("[]"), int(match[2])


def listen(host: str, port: int) -> list[socket.socket]:
    """Returns one listening socket for each address of the host; port 0 is any free port.

    Raises:
      InputError: if the host is not an address of this machine, or the port is taken or not permitted.
    """
    from tornado.netutil import bind_sockets

    try:
        sockets = bind_sockets(port, host)
    except (OSError, UnicodeError) as error:  # UnicodeError: not a host name
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"--serve cannot listen at {_joined(host, port)}: {reason}; choose another address") from error
    for each in sockets:  # accepted sockets inherit the options
        each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # each event at once
    return sockets


class Guard:
    """Decides which requests to answer.

    Attributes:
      token: first part of every path, if the sockets can be reached from other machines; else empty.
      url: address of the page.
    """

    def __init__(self, host: str, sockets: list[socket.socket]):
        addresses = [ipaddress.ip_address(each.getsockname()[0]) for each in sockets]
        self._loopback = all(address.is_loopback for address in addresses)
        self._names = {"localhost", host.lower()}
        if not self._loopback:
            self._names |= {socket.gethostname().lower(), f"{socket.gethostname().lower()}.local"}
        self.token = "" if self._loopback else secrets.token_urlsafe(16)
        shown = _outgoing_address(addresses[0].version) if addresses[0].is_unspecified else host
        port = sockets[0].getsockname()[1]
        self.url = f"http://{_joined(shown, port)}/{self.token}{'/' if self.token else ''}"

    def refusal(self, host: str, headers: Mapping[str, str]) -> str:
        """Returns why a request is refused because of the site that makes it, or "" if it is not.

        A page of another site must not read the faces: neither directly (Origin, Sec-Fetch-Site) nor after it has
        pointed its own name at this machine (Host, DNS rebinding). An IP address cannot be pointed elsewhere.

        Args:
          host: the host name in the request, in lower case, without port.
          headers: headers of the request.
        """
        host = host.removesuffix(".")  # a complete name in the DNS
        if host not in self._names and not self._accepts_address(host):
            return "the address has an unknown host name"
        origin = headers.get("Origin")
        if origin is not None and origin.partition("://")[2] != headers.get("Host"):
            return "requests of other sites are refused"
        link = (headers.get("Sec-Fetch-Mode"), headers.get("Sec-Fetch-Dest")) == ("navigate", "document")
        if headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin") and not link:
            return "requests of other sites are refused"
        return ""

    def path(self, path: str) -> str | None:
        """Returns the path without the token, or None if the token is missing or wrong."""
        if not self.token:
            return path.removeprefix("/")
        given, _, rest = path.removeprefix("/").partition("/")
        return rest if secrets.compare_digest(given.encode(), self.token.encode()) else None

    def _accepts_address(self, host: str) -> bool:
        with contextlib.suppress(ValueError):
            return ipaddress.ip_address(host.strip("[]")).is_loopback or not self._loopback
        return False


def _joined(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _outgoing_address(version: int) -> str:
    """Returns this machine's address in its network, or its name if it has no network; sends nothing."""
    family, documentation = (socket.AF_INET, "192.0.2.1") if version == 4 else (socket.AF_INET6, "2001:db8::1")
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((documentation, 9))
        return probe.getsockname()[0]
    return socket.gethostname()
