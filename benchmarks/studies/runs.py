"""Running rows of the plan one at a time, so that a kill at any moment costs minutes and no finished row is run twice."""

from __future__ import annotations

import ctypes
import fcntl
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any

from edgecrack.files import write_atomic
from edgecrack.speed.measure import machine
from studies.plan import SIZES, Command, Row

LIBRARIES = ("edgecrack", "torch", "numpy", "opencv-python", "openvino", "onnxruntime")
LAST = "last.safetensors"  # what a training resumes from
SAVING = 120.0  # seconds that an interrupted command may take to save
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG


class Stopped(Exception):
    """The stop file is there."""


@dataclass(frozen=True)
class Runner:
    """Where rows are run.

    Attributes:
        out: a folder KEY a row; while a file `stop` is in it nothing is run.
        data: the labelled sets.
        threads: of a training.
        device: of a training: cpu, or cuda where there is a GPU, on which the same seed gives other weights.
        pause: while this file exists the running command sleeps.
        sizes: test set -> WIDTHxHEIGHT at which nets are exported for it.
    """

    out: Path
    data: Path
    threads: int = 1
    device: str = "cpu"
    pause: Path | None = None
    sizes: dict[str, str] | None = None

    def commands(self, row: Row) -> list[Command]:
        """What the row runs here."""
        folder = self.out / row.key
        options = ("--threads", str(self.threads), "--device", self.device)
        return [row.training(self.data, folder, *options), *row.scoring(self.data, folder, self.sizes or SIZES)]

    def run(self, rows: Sequence[Row]) -> list[str]:
        """Run those that are not finished, in their order; the names of those that failed, which are passed over.

        Raises Stopped when there is a stop file, and passes KeyboardInterrupt on; both save what is being trained.
        """
        failed = []
        with _alone(self.out) as lock:
            for place, row in enumerate(rows, 1):
                if finished(self.out, row):
                    continue
                _say(f"[{place}/{len(rows)}] {row.name}")
                if not self._run(row, lock):
                    failed.append(row.name)
        return failed

    def _run(self, row: Row, lock: IO[str]) -> bool:
        folder = self.out / row.key
        if not (folder / LAST).is_file() and not _mark(folder, row.training(self.data, folder)).is_file():
            shutil.rmtree(folder, ignore_errors=True)  # killed before the first checkpoint: its logs are of nothing
        folder.mkdir(parents=True, exist_ok=True)
        self._note(row, folder)
        for command in self.commands(row):
            if _mark(folder, command).is_file():
                continue
            start, failed = time.monotonic(), folder / f"{command.name}.failed"
            code = self._call(command, folder, lock)
            if code:
                _say(
                    f"  {command.name} failed with {code}; the end of {folder / 'log.txt'}:\n{_end(folder / 'log.txt')}"
                )
                write_atomic(failed, f"{code}\n")
                return False
            failed.unlink(missing_ok=True)
            _say(f"  {command.name}: {time.monotonic() - start:.0f} s")
            write_atomic(_mark(folder, command), f"{time.monotonic() - start:.1f}\n")
        return True

    def _call(self, command: Command, folder: Path, lock: IO[str]) -> int:
        """Its exit code. What it says goes to log.txt."""
        self._check_stop()
        resumed = ("--resume",) if command.name == "train" and (folder / LAST).is_file() else ()
        arguments = [sys.executable, "-m", "edgecrack", *command.arguments, *resumed]
        with (folder / "log.txt").open("a") as log:
            log.write(f"$ {command} {' '.join(resumed)}\n")
            log.flush()
            child = subprocess.Popen(
                arguments,
                stdout=log,
                stderr=log,
                pass_fds=(lock.fileno(),),  # a child that outlives a killed runner keeps the next one waiting
                start_new_session=True,  # so that Ctrl-C reaches it once, through us
                preexec_fn=_end_with_parent,
            )
            try:
                return self._wait(child)
            except BaseException:
                _interrupt(child)
                raise

    def _wait(self, child: subprocess.Popen[bytes]) -> int:
        sleeping = False
        while (code := child.poll()) is None:
            self._check_stop()
            if self.pause and self.pause.exists() != sleeping:
                sleeping = not sleeping
                child.send_signal(signal.SIGSTOP if sleeping else signal.SIGCONT)
            time.sleep(0.2)
        return code

    def _check_stop(self) -> None:
        if (self.out / "stop").exists():
            raise Stopped(f"{self.out / 'stop'} is there; what was trained is saved, and without that file it goes on")

    def _note(self, row: Row, folder: Path) -> None:
        """Write row.json: what is run, where, and by which code; a run that went on elsewhere has both."""
        here = {
            "machine": machine(),
            "threads": self.threads,
            "device": self.device,
            "versions": {name: _version(name) for name in LIBRARIES},
            "revision": revision(),
            "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        }
        path = folder / "row.json"
        earlier: list[dict[str, Any]] = json.loads(path.read_text())["runs"] if path.is_file() else []
        commands = [str(command) for command in row.told]
        write_atomic(
            path, json.dumps({"row": asdict(row), "commands": commands, "runs": [*earlier, here]}, indent=1) + "\n"
        )


def finished(out: Path, row: Row) -> bool:
    """Whether every command of the row has ended well."""
    return all(ended(out, row, command.name) for command in row.told)


def ended(out: Path, row: Row, name: str) -> bool:
    """Whether the command of that name has ended well."""
    return (out / row.key / f"{name}.done").is_file()


def failed(out: Path, row: Row) -> bool:
    """Whether a command of the row has failed, and none has ended well in its place since."""
    return any((out / row.key).glob("*.failed"))


def revision() -> str:
    """Of the code, with "+" where it was changed since; empty where that is not known."""
    folder = Path(__file__).parent
    try:
        asked = ["git", "-C", str(folder), "describe", "--always", "--dirty=+", "--exclude=*"]
        return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return ""


@contextmanager
def _alone(out: Path, patience: float = SAVING) -> Iterator[IO[str]]:
    """Hold the lock of `out`, which commands inherit: of a runner that was killed the last one may still be saving."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / "lock").open("w") as lock:
        until = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise Stopped(f"another process is running rows in {out}; end it, or give another --out") from None
                time.sleep(0.5)
        yield lock


def _end_with_parent() -> None:
    """Ask Linux for a Ctrl-C when the runner is gone, so that a killed one leaves nothing running."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGINT)


def _interrupt(child: subprocess.Popen[bytes]) -> None:
    """Ctrl-C, time to save, and then the end."""
    if child.poll() is None:
        child.send_signal(signal.SIGCONT)
        child.send_signal(signal.SIGINT)
        try:
            child.wait(SAVING)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _mark(folder: Path, command: Command) -> Path:
    return folder / f"{command.name}.done"


def _end(log: Path, lines: int = 8) -> str:
    return "\n".join(f"    {line}" for line in log.read_text(errors="replace").splitlines()[-lines:])


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
