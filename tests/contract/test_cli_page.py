"""The page as `edgecrack run --live` opens it: a full disk, a port in use, a token, and Ctrl-C while somebody watches."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from urllib.parse import urlsplit

import numpy as np
import pytest

from edgecrack.cli.watching import Places, open_watchers
from edgecrack.runtime import CrackDetector, Frame, JsonLines, Sinks, open_source

pytest.importorskip("starlette", reason="the page needs edgecrack[live]")
from visitor import ask, picture, state
from waiting import wait_until
from websockets.sync.client import connect

from edgecrack.runtime.door import Door


def marks(out):
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().split("\n")[:-1]]
    return [line for line in lines if line.get("event") == "marked"]


def test_a_full_disk_is_told_and_a_place_is_not_called_marked(model, tmp_path):
    source = open_source([np.zeros((48, 64, 3), np.uint8)])
    with ExitStack() as stack:
        detector = stack.enter_context(CrackDetector(model))
        written, door = Sinks(), Door("0")
        written.add(tmp_path / "log.jsonl", stack.enter_context(JsonLines("/dev/full")))
        places = Places(door, None)
        watchers = open_watchers(stack, places, detector, source, tmp_path, written, headless=True)
        frame = Frame(np.zeros((48, 64, 3), np.uint8), 0, 0.0, source.name)
        watchers.sinks.write(frame, detector.run(frame.image))
        for _ in range(2):
            code, _, words = ask(door.url + "mark", "POST")
            assert (code, words) == (507, "cannot write /dev/full: No space left on device")
        with connect(door.url.replace("http", "ws") + "watch") as viewer:
            assert state(viewer)["troubles"] == ["cannot write /dev/full: No space left on device"]


def test_a_port_in_use_is_one_line_before_anything_is_touched(model, tmp_path):
    with Door("0") as door:
        port = str(urlsplit(door.url).port)
        command = [
            sys.executable,
            "-m",
            "edgecrack",
            "run",
            tmp_path / "no-model",
            "--source",
            "0",
            "--out",
            tmp_path / "out",
        ]
        done = subprocess.run([*command, "--live", port], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == (
        f"edgecrack: the page cannot be at {port}: Address already in use; give --live another address or port\n"
    )
    assert not (tmp_path / "out").exists()


def test_a_token_is_printed_once_and_kept_out_of_the_results(start_page, camera, tmp_path):
    process, address = start_page("--source", camera.url, live="0.0.0.0:0")
    token = urlsplit(address).query.removeprefix("token=")
    url = f"http://127.0.0.1:{urlsplit(address).port}/"
    assert ask(url)[0] == 401
    status = wait_until(lambda: ask(url + "mark", "POST", Authorization=f"Bearer {token}")[0] == 200)
    assert status
    process.send_signal(signal.SIGINT)
    stdout, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert len(marks(tmp_path / "out")) == 1
    stderr = (tmp_path / "stderr").read_text()
    assert stderr.count(token) == 1
    assert "secret" not in stderr
    assert token not in stdout + (tmp_path / "out" / "log.jsonl").read_text()


def test_ctrl_c_ends_it_though_somebody_watches(start_page, camera):
    process, url = start_page("--source", camera.url)
    with connect(f"ws://127.0.0.1:{urlsplit(url).port}/watch") as viewer:
        picture(viewer)
        process.send_signal(signal.SIGINT)
        begun = time.monotonic()
        process.communicate(timeout=60)
        assert time.monotonic() - begun < 10
    assert process.returncode == 130
