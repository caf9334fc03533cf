"""The command line without a process of its own; found through `pythonpath`."""

from __future__ import annotations

import contextlib
import io
import subprocess
from typing import Any

from edgecrack.cli import main


def here(*arguments: object) -> subprocess.CompletedProcess[str]:
    """`edgecrack` with these arguments, in this process, which has its libraries loaded."""
    out, err = io.StringIO(), io.StringIO()
    code: Any = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as ended:
            code = ended.code
    return subprocess.CompletedProcess([], code or 0, out.getvalue(), err.getvalue())
