"""What a source string says, and how it may be shown: a password in it is never."""

from __future__ import annotations

import re

from edgecrack.errors import SpecError

# Up to the last @, not the first: cameras are sold with passwords that hold @ and /, and people do not escape them.
_USER = re.compile(r"(?<=://)\S*@")
_SECRET = re.compile(
    r"(?i)((?:pass\w*|pwd?|user(?:-?id|-?name)?|token|secret|key|auth|sig(?:nature)?)\s*=\s*)(\"[^\"]*\"|[^\s&!;]+)"
)


def redacted(source: str) -> str:
    """`source` without user names, passwords and tokens, fit for a log.

    Hidden are what stands before an @ in a URL, and the values of fields such as `password=`, `token=` and `user-pw=`.
    """
    return _SECRET.sub(r"\1***", _USER.sub("***@", source))


def check_url(url: str) -> None:
    """Raise SpecError, which does not show it, for an address on the network that no wait makes right.

    Wanted is SCHEME://[USER:PASSWORD@]HOST[:PORT][/PATH]; who listens, with udp:// or srt://, may leave out the host but not
    the port.
    """
    scheme, _, rest = url.partition("://")
    listens = scheme.lower() in ("udp", "srt")
    place = re.split(r"[/?#]", rest, maxsplit=1)[0].rpartition("@")[2]  # as FFmpeg cuts it
    match = re.fullmatch(r"(\[[0-9A-Fa-f:.%\w]+\]|[^:\[\]\s]*)(?::(\d{1,5}))?", place)
    port = match and match[2]
    if not match or (port and not 0 < int(port) < 65536):
        raise SpecError(f"wanted {scheme}://HOST:PORT..., got one whose host or port (1 to 65535) cannot be")
    if listens and not port:
        raise SpecError(f"wanted {scheme}://HOST:PORT, got no port")
    if not listens and not match[1]:
        raise SpecError(f"wanted {scheme}://HOST..., got no host")


def scheme_of(source: str) -> str:
    """The kind of source that `source` names: "rtsp", "gst", "raw", "v4l2" ..., or "" for a path or pattern."""
    if re.fullmatch(r"\d{1,2}|/dev/video\d+", source):
        return "v4l2"
    match = re.match(r"([a-z0-9+.-]{2,})://", source, re.IGNORECASE) or re.match(r"(gst|raw):", source)
    return match[1].lower() if match else ""
