"""What a source string says, and how it may be shown: a password in it is never."""

from __future__ import annotations

import re

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


def scheme_of(source: str) -> str:
    """The kind of source that `source` names: "rtsp", "gst", "raw", "v4l2" ..., or "" for a path or pattern."""
    if re.fullmatch(r"\d{1,2}|/dev/video\d+", source):
        return "v4l2"
    match = re.match(r"([a-z0-9+.-]{2,})://", source, re.IGNORECASE) or re.match(r"(gst|raw):", source)
    return match[1].lower() if match else ""
