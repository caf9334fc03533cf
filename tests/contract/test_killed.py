"""Runs that are killed at any moment, and gone on with until they are whole."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
from resumed import frames_in, lines_of, masks_of, overlays_of, pictures_of, write_folder, write_video

KILLS = 50

# Loads the libraries once and runs each command line in a child: a process of its own, with nothing shared, soon started.
FORKER = """
import json, os, sys
import av, cv2, onnxruntime, rich.console, typer
import edgecrack.runtime
from edgecrack import cli
from edgecrack.runtime import evidence, log, recording, sinks

while line := sys.stdin.readline():
    child = os.fork()
    if child == 0:
        for number in (1, 2):
            os.dup2(os.open(os.environ["TOLD"], os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
        try:
            cli.main(json.loads(line))
        except SystemExit as end:
            os._exit(end.code or 0)
        except BaseException:
            import traceback
            traceback.print_exc()
        os._exit(99)
    print(child, flush=True)
    sys.stdin.readline()
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture
def video(tmp_path):
    return write_video(tmp_path)


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path)


@pytest.fixture
def started(tmp_path):
    """`started(*arguments)` starts `edgecrack run ...`; its `kill(after)` or `wait()` give how it ended."""
    environment = {**os.environ, "TOLD": str(tmp_path / "told.txt")}
    command = [sys.executable, "-c", FORKER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as forker:

        class Run:
            def __init__(self, *arguments):
                forker.stdin.write(json.dumps(["run", *map(str, arguments)]) + "\n")
                forker.stdin.flush()
                self.number = int(forker.stdout.readline())

            def kill(self, after):
                time.sleep(after)
                os.kill(self.number, signal.SIGKILL)  # one that has ended is there until it is waited for
                return self.wait()

            def wait(self):
                forker.stdin.write("wait\n")
                forker.stdin.flush()
                return int(forker.stdout.readline())

        yield Run
        forker.stdin.close()


def test_a_run_that_is_killed_fifty_times_ends_as_one_that_was_not(started, model, video, folder, tmp_path):
    rng = random.Random(7)
    other = tmp_path / "other.mp4"
    common = [model, "--backend", "onnxruntime", "--masks", "--segment", 5]
    sources = {
        "video": ["--source", video],
        "every third": ["--source", video, "--every", 3, "--start", 1],
        "pattern": ["--source", folder / "**" / "*.png"],
        "two": ["--source", video, "--source", other, "--every", 2],
        "three": ["--source", video, "--source", other, "--source", folder, "--every", 4],
        "finds": ["--source", video, "--save-when", "cracks"],
    }
    other.write_bytes(video.read_bytes())
    undisturbed = {}
    longest = 0.0
    for name, source in sources.items():
        begun = time.monotonic()
        assert started(*common, *source, "--out", tmp_path / name).wait() == 0, (tmp_path / "told.txt").read_text()
        longest = max(longest, time.monotonic() - begun)
        undisturbed[name] = lines_of(tmp_path / name), masks_of(tmp_path / name)
        assert len(undisturbed[name][0]) >= 45
    kills = chains = midway = 0
    reach = longest / 4
    while kills < KILLS or chains < len(sources):
        name = list(sources)[chains % len(sources)]
        out = tmp_path / f"{name} {chains}"
        command = [*common, *sources[name], "--out", out, "--resume"]
        of_chain, ended = 0, None
        while kills < KILLS and ended != 0:
            before = len(lines_of(out))
            ended = started(*command).kill(rng.uniform(0, reach))
            assert ended in (-signal.SIGKILL, 0), (tmp_path / "told.txt").read_text()
            kills, of_chain = kills + bool(ended), of_chain + bool(ended)
            lines = lines_of(out)
            # However fast the machine is by now, most kills are to hit neither the start nor what has ended.
            reach = min(longest, reach * 1.2) if len(lines) == before else reach / 1.2
            assert lines == undisturbed[name][0][: len(lines)]
            midway += 0 < len(lines) < len(undisturbed[name][0])
            overlays_of(out)  # fails where one cannot be read
            assert all(frames_in(path) for path in out.glob("evidence/*.mp4") if path.stat().st_size)
        assert started(*command).wait() == 0, (tmp_path / "told.txt").read_text()
        lines, masks = undisturbed[name]
        assert lines_of(out) == lines
        assert masks_of(out) == masks
        assert not list(out.rglob(".*"))
        assert pictures_of(out) == pictures_of(tmp_path / name)
        # A kill may lose the one frame that the encoder has, or have the frame at hand come again.
        assert abs(sum(overlays_of(out)) - sum(overlays_of(tmp_path / name))) <= of_chain
        chains += 1
    assert midway >= KILLS // 5  # the others hit a process that began or ended
    assert "Traceback" not in (tmp_path / "told.txt").read_text()
