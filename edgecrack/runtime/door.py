"""Access control for the live page: open on the machine itself, by token from elsewhere."""

from __future__ import annotations

import re
import secrets
import socket
from contextlib import suppress
from hashlib import sha256
from ipaddress import ip_address
from urllib.parse import parse_qs, urlsplit

from edgecrack.errors import SourceError, SpecError
from edgecrack.runtime.closing import Closing

_SHORTEST = 8  # minimum length of a token chosen by the user


class Door(Closing):
    """A listening socket and the access rules for requests to it.

    Attributes:
        socket: listens from the start, so that an address already in use is noticed before the run begins.
        url: URL of the page for a browser; includes the token if it was generated here.
        token: what a visitor must provide; None on the loopback address, where none is required.
    """

    def __init__(self, address: str, token: str | None = None) -> None:
        """`address` is HOST:PORT, or a port on 127.0.0.1; port 0 means any free one.

        On an address other than loopback a token is generated if none is given; a given token is always required.
        Raises SpecError for an invalid address or token, SourceError when the address cannot be listened on.
        """
        host, port = _parsed(address)
        if token is not None and len(token) < _SHORTEST:
            raise SpecError(f"a token for the page has at least {_SHORTEST} characters, got {len(token)}")
        if token is not None and not token.isprintable():
            raise SpecError("a token for the page is text that can be typed: no control characters, and UTF-8")
        self.socket = _listening(host, port, address)
        bound, port = self.socket.getsockname()[:2]
        made_up = token is None and not ip_address(bound).is_loopback
        self.token = secrets.token_urlsafe(16) if made_up else token
        self._host = host.lower()
        self._cookie = f"edgecrack-{port}"  # browsers share cookies between all ports of a host
        shown = _reachable(bound) if ip_address(bound).is_unspecified else host
        place = f"[{shown}]" if ":" in shown else shown
        self.url = f"http://{place}:{port}/" + (f"?token={self.token}" if made_up else "")

    def refusal(self, method: str, headers: dict[str, str], query: str) -> tuple[int, str] | None:
        """The HTTP status and message for a request to reject; None for one to accept.

        `method` is the HTTP method, or "WEBSOCKET" to open one; the names in `headers` are in lower case.
        """
        host, origin = headers.get("host", ""), headers.get("origin")
        if self.token is None and not self._is_own(host):
            # DNS rebinding: another site may point its name at this machine, to read the page through a browser.
            return 403, "this page is for the machine itself: open it as http://127.0.0.1"
        if method != "GET" and origin is not None and origin.lower().partition("://")[2] != (host.lower() or None):
            return 403, "asked for by the page of another site"
        if self.token is not None and not self._knows(headers, query):
            return 401, "a token is needed"
        return None

    def cookie(self, query: str) -> str | None:
        """The cookie that replaces the token in later requests; None unless `query` has the right token."""
        if self.token is None or not self._is_token(_token_of(query)):
            return None
        # Lax, not Strict: the link with the token may be opened in a chat, and the redirect after it needs the cookie.
        return f"{self._cookie}={_digest(self.token).hex()}; Path=/; HttpOnly; SameSite=Lax"

    def close(self) -> None:
        """Stop listening; a second call does nothing."""
        self.socket.close()

    def _is_own(self, host: str) -> bool:
        with suppress(ValueError):
            name = (urlsplit(f"//{host}").hostname or "").lower()
            return name in ("localhost", self._host) or ip_address(name).is_loopback
        return False

    def _knows(self, headers: dict[str, str], query: str) -> bool:
        bearer = headers.get("authorization", "").removeprefix("Bearer ")
        # Not http.cookies, which stops parsing at the first malformed cookie, as another page may have set.
        pairs = (pair.strip().partition("=") for pair in headers.get("cookie", "").split(";"))
        known = {name: value for name, _, value in pairs}.get(self._cookie, "")
        same = secrets.compare_digest(known.encode(), _digest(self.token or "").hex().encode())
        return self._is_token(bearer) or self._is_token(_token_of(query)) or same

    def _is_token(self, given: str) -> bool:
        """Compare digests in constant time: timing reveals neither the content nor the length of the token."""
        return secrets.compare_digest(_digest(given), _digest(self.token or ""))


def _parsed(address: str) -> tuple[str, int]:
    found = re.fullmatch(r"(?:(?:\[([^\[\]]+)\]|([^:\[\]]+)):)?(\d{1,5})", address, re.ASCII)
    if not found or int(found[3]) > 65535:
        raise SpecError(f"the page is at PORT or HOST:PORT, such as 8080 or 0.0.0.0:8080, got {address!r}")
    return found[1] or found[2] or "127.0.0.1", int(found[3])


def _listening(host: str, port: int, address: str) -> socket.socket:
    try:
        family, _, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server((str(place[0]), port), family=family)
    except (OSError, UnicodeError) as error:  # the latter for a host such as a..b
        reason = (getattr(error, "strerror", None) or str(error)).partition(" (while")[0]
        raise SourceError(f"the page cannot be at {address}: {reason}; give --live another address or port") from error


def _reachable(bound: str) -> str:
    """An address at which other machines can reach a server bound to all interfaces."""
    family, elsewhere = (socket.AF_INET, "192.0.2.1") if "." in bound else (socket.AF_INET6, "2001:db8::1")
    with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((elsewhere, 9))  # an address reserved for documentation: nothing is sent, but a route is chosen
        return str(probe.getsockname()[0])
    return socket.gethostname()


def _token_of(query: str) -> str:
    return parse_qs(query).get("token", [""])[0]


def _digest(text: str) -> bytes:
    return sha256(text.encode()).digest()
