"""Parses source strings, and redacts them so that passwords are never shown."""

from __future__ import annotations

import re

from edgecrack.errors import SpecError

# Up to the last @, not the first: cameras ship with passwords that contain @ and /, and users do not escape them.
_USER = re.compile(r"(?<=://)[^\n]*@")
_SECRET = re.compile(
    r"(?i)((?:\b[up]|\bsid|pas\w*|pwd?|psk|user?(?:-?id|-?name|-?pw)?|login|usr|token|bearer|jwt|secret|key|auth\w*|ticket|"
    r"\w*session\w*|credential\w*|cookies?|extra-headers|sig(?:nature)?|streamid)\s*=\s*)"
    r"(\"(?:\\.|[^\"\\])*\"|'[^']*'|[^\s&]+)"
)
_PAIR = re.compile(r"(?<=[/?&])[^/?&=\s:]+:[^/?&=\s]+(?=[/?&]|$)")  # user:password as a path segment or query field
# Query fields follow a host; what looks like one before an @ may be part of a password.
_HOST_FIRST = re.compile(r"\w+://(?:[^\s/?#]*@)?(?:[\w.-]+|\[[\w:.%]+\])(?::\d{1,5})?[/?]")


def redacted(source: str) -> str:
    """Return `source` without user names, passwords and tokens, safe for a log.

    Hides everything before an @ in a URL, and the values of fields such as `password=`, `token=` and `user-pw=`. Errs
    on the side of hiding too much.
    """
    if scheme_of(source) == "gst":
        fields = 0
    elif host := _HOST_FIRST.match(source):
        fields = host.end()
        source = source[:fields] + _PAIR.sub("***", source[fields - 1 :])[1:]
    else:
        fields = len(source)
    source = source[:fields] + _SECRET.sub(r"\1***", source[fields:])  # first: their values may contain an @
    return _SECRET.sub(r"\1***", _USER.sub("***@", source))


def redacted_path(path: str) -> str:
    """Return `path`, which may be a URL, also a mistyped one, safe for a message: text before an @ after a : is hidden."""
    return redacted(path if scheme_of(path) else re.sub(r"(?s)^.*:.*@", "***@", path))


def check_url(url: str) -> None:
    """Raise SpecError, without showing the URL, for a network address that is invalid and so never worth retrying.

    The form is SCHEME://[USER:PASSWORD@]HOST[:PORT][/PATH]; udp:// and srt://, which may listen, may omit the host but
    not the port.
    """
    scheme, _, rest = url.partition("://")
    listens = scheme.lower() in ("udp", "srt")
    place = re.split(r"[/?#]", rest, maxsplit=1)[0].rpartition("@")[2]  # split as FFmpeg does
    match = re.fullmatch(r"(\[[0-9A-Fa-f:.%\w]+\]|[^:\[\]\s]*)(?::(\d{1,5}))?", place)
    port = match and match[2]
    if not match or (port and not 0 < int(port) < 65536):
        raise SpecError(f"wanted {scheme}://HOST:PORT..., got one whose host or port (1 to 65535) cannot be")
    if listens and not port:
        raise SpecError(f"wanted {scheme}://HOST:PORT, got no port")
    if not listens and not match[1]:
        raise SpecError(f"wanted {scheme}://HOST..., got no host")


def trimmed(source: str) -> str:
    """Strip whitespace around an address; around a path it is kept, as it may belong to the name."""
    return source.strip() if scheme_of(source.strip()) else source


def scheme_of(source: str) -> str:
    """The scheme of `source`: "rtsp", "gst", "raw", "v4l2" ..., or "" for a path or pattern."""
    if re.fullmatch(r"\d{1,2}|/dev/(?:video\d+|v4l/\S+)", source):
        return "v4l2"
    match = re.match(r"([a-z0-9+.-]{2,})://", source, re.IGNORECASE) or re.match(r"(gst|raw):", source)
    return match[1].lower() if match else ""
