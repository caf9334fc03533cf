"""`benchmarks/experiments.py` from the first step to the page: stopped, killed and gone on with; the roof of a real net."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the nets are trained")
pytest.importorskip("lightning_fabric", reason="the nets are trained")

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
STEPS = 40
NAME = "papers-msfnet"
PATIENCE = 300.0  # seconds; how long anything may take on a busy machine


@pytest.fixture
def start(tmp_path):
    """Start the rehearsal of one row; what still runs at the end is ended."""
    started = []

    def call(*arguments):
        command = [
            sys.executable,
            str(BENCHMARKS / "experiments.py"),
            "--smoke",
            str(STEPS),
            "--out",
            str(tmp_path / "out"),
        ]
        with (tmp_path / f"said-{len(started)}").open("w") as said:
            started.append(subprocess.Popen([*command, *arguments], stdout=said, stderr=said, cwd=tmp_path))
        return started[-1]

    yield call
    for process in started:
        if process.poll() is None:
            process.terminate()
            process.wait(PATIENCE)


def until(condition, process):
    """Wait for it, as long as the process lives and no longer than `PATIENCE`."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None, "it ended before that"
        assert time.monotonic() < end
        time.sleep(0.05)


def steps_done(folder):
    path = folder / "steps.csv"
    if not path.is_file():
        return [0]
    with path.open(newline="") as file:
        return [int(row["step"]) for row in csv.DictReader(file) if row["step"]] or [0]


def children_of(out):
    """Commands that write below `out`, by /proc."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            told = path.read_bytes().decode(errors="replace")
        except OSError:  # it has ended
            continue
        if f"{out}/{NAME}" in told and "\0train\0" in told:
            found.append(told)
    return found


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="Linux says what runs")
def test_a_row_is_stopped_killed_and_finished(start, tmp_path):
    out = tmp_path / "out"

    def folder():
        return next(out.glob(f"{NAME}-*"), out / "none")

    process = start("--rows", NAME)
    until(lambda: (folder() / "last.safetensors").is_file(), process)
    (out / "stop").touch()
    assert process.wait(PATIENCE) == 1
    assert "without that file it goes on" in (tmp_path / "said-0").read_text()
    assert not list(folder().glob("*.done"))
    stopped = steps_done(folder())[-1]
    assert start("--rows", NAME).wait(PATIENCE) == 1, "the stop file is still there"
    (out / "stop").unlink()

    process = start("--rows", NAME)
    until(lambda: steps_done(folder())[-1] > stopped, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    end = time.monotonic() + PATIENCE
    while children_of(out):  # the training hears of it, saves and ends
        assert time.monotonic() < end
        time.sleep(0.2)

    assert start("--rows", NAME, "--table").wait(PATIENCE) == 0
    log = (folder() / "log.txt").read_text()
    assert log.count("$ edgecrack train") == 3 == log.count("--resume") + 1
    steps = steps_done(folder())
    assert steps == sorted(set(steps))
    assert steps[-1] == STEPS
    assert {path.name for path in folder().glob("*.done")} == {"train.done", "export-cfd.done", "evaluate-cfd.done"}
    page = (out / "results.md").read_text()
    (line,) = [line for line in page.splitlines() if line.startswith(f"| `{NAME}` |")]
    assert "not run" not in line
    section = page.partition("<!-- papers:")[2].partition("<!-- end of papers")[0]
    (scored,) = [line for line in section.splitlines() if line.startswith("| `msfnet` |")]
    assert all(0 <= float(cell) <= 1 for cell in scored.strip("| ").split(" | ")[1:])

    times = {path: path.stat().st_mtime_ns for path in folder().rglob("*") if path.is_file()}
    assert start("--rows", NAME).wait(PATIENCE) == 0
    assert times == {path: path.stat().st_mtime_ns for path in folder().rglob("*") if path.is_file()}


def test_a_row_that_fails_says_why_and_the_others_are_run(tmp_path, monkeypatch, capfd):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from studies.plan import Command, Row
    from studies.runs import Runner, failed, finished

    class Short(Row):
        """A row of one quick command."""

        def training(self, data, folder, *more):
            return Command("train", ("--version",) if self.net == "good" else ("train", "--model", self.net))

        def scoring(self, data, folder, sizes=None):
            return []

    rows = [Short(net, "few", net, 1.0, ("a",), ("a",), 1) for net in ("bad", "good")]
    runner = Runner(tmp_path / "out", tmp_path)
    assert runner.run(rows) == ["bad"]
    assert [finished(runner.out, row) for row in rows] == [False, True]
    assert [failed(runner.out, row) for row in rows] == [True, False]
    said = capfd.readouterr().err
    assert "train failed with 1; the end of" in said
    assert "bad" in said.partition("log.txt:")[2]
    assert runner.run(rows) == ["bad"]
    assert "[2/2]" not in capfd.readouterr().err


def test_two_runners_do_not_share_a_folder(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from studies.runs import Stopped, _alone

    with (
        _alone(tmp_path),
        pytest.raises(Stopped, match="another process is running rows"),
        _alone(tmp_path, patience=0.1),
    ):
        pass
    with _alone(tmp_path):
        pass


def test_a_command_sleeps_while_the_pause_file_is_there(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from threading import Thread

    from studies.runs import Runner

    pause = tmp_path / "pause"
    pause.touch()
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1)"])
    waiting = Thread(target=Runner(tmp_path / "out", tmp_path, pause=pause)._wait, args=(child,))
    waiting.start()
    until(lambda: Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T", child)
    pause.unlink()
    waiting.join(PATIENCE)
    assert child.returncode == 0


def test_the_roof_of_a_net_has_the_multiply_adds_that_it_is_known_for(tmp_path, monkeypatch):
    """28.64 and 15.89 billion at 512x512; in INT8 only what is left in float is at half precision."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from studies import roofline

    from edgecrack.export.graph import onnx_from_model
    from edgecrack.models import build_model
    from edgecrack.spec import FrameSpec, ModelSpec

    for net, width, billions in (("msfnet", 1.0, 28.64), ("aelf-unet", 0.25, 15.89)):
        spec = ModelSpec(net, width, frame=FrameSpec(128, 128))
        path = onnx_from_model(build_model(spec), spec, tmp_path / f"{net}.onnx")
        assert roofline.multiply_adds(path) / 1e9 == pytest.approx(billions / 16, rel=0.01)
        assert not any(layer.int8 for layer in roofline.layers(path))


def test_without_data_it_says_where_they_are_sought(tmp_path):
    asked = [sys.executable, str(BENCHMARKS / "experiments.py"), "--rows", "papers-*", "--out", str(tmp_path / "out")]
    environment = {**os.environ, "EDGECRACK_DATA": str(tmp_path / "nowhere")}
    done = subprocess.run(asked, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 1
    assert "set EDGECRACK_DATA to a folder with road_survey, uav and cfd" in done.stderr
    assert not (tmp_path / "out").exists()
    done = subprocess.run([*asked[:2], "--rows", "nothing"], capture_output=True, text=True, check=False)
    assert "no row is called nothing" in done.stderr
