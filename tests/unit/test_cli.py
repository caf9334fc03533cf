"""The command line: exit codes and one line for each bad input."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgecrack.cli.stopping import stoppable

NO_SPACE = 40_000  # bytes a file may have in the test of a full disk


def edgecrack(*arguments: str | Path, prefix: str = "") -> subprocess.CompletedProcess[str]:
    code = f"{prefix}\nfrom edgecrack.cli import main; main()"
    command = [sys.executable, "-W", "ignore", "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def failed(code: int, words: str, *arguments: str | Path) -> None:
    """The command ends with `code` and its last line on stderr holds `words`; no traceback, nothing on stdout."""
    done = edgecrack(*arguments)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert words in done.stderr.strip().splitlines()[-1]
    assert not done.stdout


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("frames")
    for index in range(3):
        image = np.random.default_rng(index).integers(60, 200, (64, 96, 3), np.uint8)
        cv2.imwrite(str(folder / f"{index}.png"), image)
    return folder


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    done = edgecrack("export", "--model", "msfnet", "--int8", "--target", "cpu", "--size", "96x64", "-o", folder)
    assert done.returncode == 0, done.stderr
    path = Path(done.stdout.strip())
    assert path == folder / "msfnet.int8-cpu.onnx"
    return path


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "road.mp4"
    done = edgecrack("sample-clip", path, "--seconds", "0.2", "--size", "320x192", "--seed", "13")
    assert done.returncode == 0, done.stderr
    return path


def test_export_run_evaluate_info(exported: Path, frames: Path, tmp_path: Path) -> None:
    done = edgecrack("run", exported, "--source", frames, "--out", tmp_path / "out", "--masks")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    assert [line["index"] for line in lines] == [0, 1, 2]
    assert len(list((tmp_path / "out" / "masks").iterdir())) == 3
    done = edgecrack("evaluate", exported, "--data", frames, "--json")
    assert done.returncode == 0, done.stderr
    (report,) = json.loads(done.stdout)
    assert 0 <= report["scores"]["fired_share"] <= 1
    done = edgecrack("info", exported)
    assert json.loads(done.stdout)["spec"]["precision"] == "int8"
    bare = edgecrack("info", exported, prefix=WITHOUT.format(module="onnx"))  # as on a device that only runs
    assert json.loads(bare.stdout)["spec"] == json.loads(done.stdout)["spec"]


WITHOUT = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {module!r} or name == {module!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Refuse())
"""


@pytest.mark.parametrize(
    ("module", "extras", "arguments"),
    [
        ("cv2", "'edgecrack[cpu]'", ["run", "MODEL", "--source", "FRAMES", "--out", "out"]),
        ("cv2", "'edgecrack[cpu]'", ["evaluate", "MODEL", "--data", "FRAMES"]),
        ("matplotlib", "edgecrack[evaluate]", ["evaluate", "MODEL", "--data", "CLIP", "--out", "out"]),
        ("cv2", "'edgecrack[cpu]'", ["sample-clip", "road.mp4"]),
        ("torch", "'edgecrack[export]' or 'edgecrack[train]'", ["export", "--model", "scnet"]),
        ("safetensors", "'edgecrack[export]' or 'edgecrack[train]'", ["export", "--model", "scnet"]),
        ("torch", "'edgecrack[export]' or 'edgecrack[train]'", ["train", "--model", "scnet"]),
        ("onnx", "'edgecrack[export]' or 'edgecrack[tensorrt]'", ["build", "MODEL", "--for", "sm86"]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_a_missing_library_is_one_line(
    module: str, extras: str, arguments: list[str], exported: Path, frames: Path, clip: Path, tmp_path: Path
) -> None:
    if arguments[0] == "build":
        pytest.importorskip("tensorrt_rtx")
    places = {
        "MODEL": exported,
        "FRAMES": frames,
        "CLIP": clip,
        "out": tmp_path / "out",
        "road.mp4": tmp_path / "a.mp4",
    }
    done = edgecrack(*(places.get(word, word) for word in arguments), prefix=WITHOUT.format(module=module))
    assert done.returncode == 1, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith(("weights: ", "builder: "))]
    assert line.startswith("edgecrack: ")
    assert module in line
    assert extras in line


BROKEN = """
import sys
class Break:
    def find_spec(self, name, path=None, target=None):
        if name == "cv2":
            raise ImportError("libGL.so.1: cannot open shared object file", name=name, path="/somewhere/cv2.abi3.so")
sys.meta_path.insert(0, Break())
"""


def test_a_library_that_cannot_be_loaded_is_one_line(exported: Path, frames: Path, tmp_path: Path) -> None:
    done = edgecrack("run", exported, "--source", frames, "--out", tmp_path / "out", prefix=BROKEN)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(
        "edgecrack: cv2.abi3.so cannot be loaded: libGL.so.1: cannot open shared object file; apt install libgl1 libglib2.0-0"
    )
    assert "OpenCV                no: libGL.so.1: cannot open" in edgecrack("checks", prefix=BROKEN).stdout


def test_a_full_disk_where_the_results_go_is_one_line(exported: Path) -> None:
    with open("/dev/full", "w") as full:  # noqa: PTH123 (a device)
        done = subprocess.run(
            [sys.executable, "-m", "edgecrack", "info", exported],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
    assert (done.returncode, done.stderr) == (1, "edgecrack: No space left on device\n")


def test_a_module_that_no_extra_brings_is_a_bug(exported: Path) -> None:
    done = edgecrack("info", exported, prefix=WITHOUT.format(module="edgecrack.runtime"))
    assert done.returncode == 1
    assert "Traceback" in done.stderr


INTERRUPTED = """
import os, signal, time
import {module} as module
def interrupted(*_, **__):
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(10)
module.{name} = interrupted
"""


@pytest.mark.parametrize(
    ("place", "arguments"),
    [
        ("edgecrack.runtime.detector CrackDetector.run", ["evaluate", "MODEL", "--data", "FRAMES", "--out", "OUT"]),
        ("edgecrack.runtime.detector CrackDetector._submit", ["run", "MODEL", "--source", "FRAMES", "--out", "OUT"]),
        ("edgecrack.runtime.video VideoWriter.write", ["sample-clip", "CLIP"]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_ctrl_c_is_one_line(place: str, arguments: list[str], exported: Path, frames: Path, tmp_path: Path) -> None:
    module, name = place.split()
    places = {"MODEL": exported, "FRAMES": frames, "OUT": tmp_path / "out", "CLIP": tmp_path / "road.mp4"}
    words = [places.get(word, word) for word in arguments]
    done = edgecrack(*words, prefix=INTERRUPTED.format(module=module, name=name))
    account = "1 frames came: 0 processed, 0 dropped, 1 failed\n" if arguments[0] == "run" else ""
    assert (done.returncode, done.stdout, done.stderr) == (130, account, "edgecrack: interrupted\n")
    assert {path.name for path in tmp_path.rglob("*")} <= {"out", "log.jsonl", "overlay", "run.json"}


def test_checks_names_what_is_here() -> None:
    done = edgecrack("checks")
    assert done.returncode == 0
    for word in ("edgecrack", "numpy", "VNNI", "openvino", "GStreamer"):
        assert word in done.stdout
    assert "cracks on the CPU     yes" in done.stdout
    if not Path("/etc/nv_tegra_release").exists():
        assert "CSI camera            no: it lacks a Jetson" in done.stdout
    done = edgecrack("checks", prefix=WITHOUT.format(module="cv2"))
    assert "cracks on the CPU     no: it lacks OpenCV" in done.stdout


def test_a_sample_clip_has_a_frame_at_least(tmp_path: Path) -> None:
    done = edgecrack("sample-clip", tmp_path / "a.mp4", "--seconds", "0.1", "--rate", "1", "--size", "64x64")
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (tmp_path / "a.masks").iterdir()] == ["000000.png"]


def test_sample_clip_is_scored(exported: Path, clip: Path, tmp_path: Path) -> None:
    masks = clip.with_suffix(".masks")
    assert len(list(masks.iterdir())) == 6
    (tmp_path / "made").mkdir()
    assert masks.stat().st_mode == (tmp_path / "made").stat().st_mode  # what the umask gives
    done = edgecrack("evaluate", exported, "--data", clip, "--out", tmp_path / "scores")
    assert done.returncode == 0, done.stderr
    assert "best F1" in done.stdout
    assert json.loads((tmp_path / "scores" / "scores.json").read_text())[0]["frames"] == 6
    assert cv2.imread(str(tmp_path / "scores" / "precision_recall.png")) is not None


def test_a_clip_without_masks_is_not_called_a_folder_that_is_missing(
    exported: Path, clip: Path, tmp_path: Path
) -> None:
    alone = tmp_path / "alone.mp4"
    alone.write_bytes(clip.read_bytes())
    failed(
        1,
        f"alone.mp4 has no masks beside it, in the folder {tmp_path / 'alone.masks'}",
        "evaluate",
        exported,
        "--data",
        alone,
    )


def test_sample_clip_makes_its_folder_and_says_what_it_replaces(tmp_path: Path) -> None:
    clip, small = tmp_path / "new" / "road.mp4", ("--seconds", "0.1", "--size", "64x48")
    done = edgecrack("sample-clip", clip, *small)
    assert (done.returncode, done.stderr) == (0, "")
    done = edgecrack("sample-clip", clip, *small)
    assert done.stderr == f"{clip} and its masks were there and are replaced\n"
    assert {path.name for path in clip.parent.iterdir()} == {"road.mp4", "road.masks"}
    mine = clip.with_suffix(".masks") / "mine.png"
    mine.touch()
    failed(1, "holds other things than masks of a rendered clip; give another name", "sample-clip", clip, *small)
    assert mine.exists()
    own = tmp_path / "own.mp4"
    own.write_bytes(b"a drive")
    failed(1, "without masks it is no rendered clip; give another name", "sample-clip", own, *small)
    assert own.read_bytes() == b"a drive"
    failed(1, "wanted a name that ends in .mp4, got 'a.avi'", "sample-clip", tmp_path / "a.avi", *small)
    (tmp_path / "file").touch()
    failed(1, "cannot write", "sample-clip", tmp_path / "file" / "road.mp4", *small)


@pytest.mark.parametrize(
    ("code", "words", "arguments"),
    [
        (1, "no model 'unet'", ["export", "--model", "unet"]),
        (1, "no weights", ["export", "--model", "scnet", "--weights", "nowhere.safetensors"]),
        (1, "the nearest is 512x512", ["export", "--model", "scnet", "--size", "500x500"]),
        (1, "a size is WIDTHxHEIGHT", ["export", "--model", "scnet", "--size", "big"]),
        (2, "half precision", ["export", "--model", "scnet", "--int8", "--target", "cpu", "--fp16"]),
        (2, "Missing option", ["export"]),
        (2, "names no folder and no clip", ["evaluate", "net.onnx", "--data", ","]),
        (2, "No such command", ["exprot"]),
        (1, "no file", ["info", "nowhere.onnx"]),
        (1, "nothing to train on", ["train", "--model", "scnet", "--rendered", "0"]),
        (1, "no data set folder", ["train", "--model", "scnet", "--data", "nowhere"]),
        (1, "a size is WIDTHxHEIGHT", ["sample-clip", "road.mp4", "--size", "0"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_arguments(code: int, words: str, arguments: list[str]) -> None:
    if code == 2:
        done = edgecrack(*arguments)
        assert (done.returncode, words in done.stderr) == (2, True), done.stderr
    else:
        failed(code, words, *arguments)


def test_bad_files(exported: Path, frames: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    junk, cut = tmp_path / "junk.onnx", tmp_path / "cut.onnx"
    junk.write_bytes(b"hello world")
    cut.write_bytes(exported.read_bytes()[:20_000])
    for model in (junk, cut, tmp_path / "nowhere.onnx"):
        failed(1, model.name, "run", model, "--source", frames, "--out", out)
    failed(1, "nowhere", "run", exported, "--source", tmp_path / "nowhere.mp4", "--out", out)
    empty = tmp_path / "empty"
    empty.mkdir()
    failed(1, "no image", "run", exported, "--source", empty, "--out", out)
    export = ("export", "--model", "msfnet", "--size", "96x64", "--int8", "-o", out)
    failed(1, "nothing to calibrate on", *export, "--calib", empty)
    (tmp_path / "ranges.json").write_text("{")
    failed(1, "ranges.json", *export, "--ranges", tmp_path / "ranges.json")
    checkpoint = tmp_path / "cut.safetensors"
    checkpoint.write_bytes(b"\x10")
    failed(1, "truncated", "export", "--model", "msfnet", "--weights", checkpoint)


def test_info_tells_the_kinds_of_json_apart(tmp_path: Path) -> None:
    from edgecrack.weights import weights_path

    card = weights_path("msfnet").with_name("msfnet.card.json")
    failed(1, "neither calibration ranges nor the record of an engine", "info", card)
    record = tmp_path / "net.engine.json"
    record.write_text("{}")
    failed(4, "cannot read", "info", record)


def test_a_video_that_cannot_be_written_leaves_the_log_of_before(exported: Path, clip: Path, tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text("{}\n")
    prefix = WITHOUT.format(module="av")
    done = edgecrack("run", exported, "--source", clip, "--out", tmp_path, prefix=prefix)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("edgecrack: ")
    assert (tmp_path / "log.jsonl").read_text() == "{}\n"


def test_weights_of_another_net() -> None:
    from edgecrack.weights import weights_path

    failed(1, "holds msfnet, not scnet", "export", "--model", "scnet", "--weights", weights_path("msfnet"))


def test_a_file_in_the_place_of_the_output_folder(exported: Path, frames: Path, tmp_path: Path) -> None:
    place = tmp_path / "out"
    place.write_text("a file")
    failed(1, "out", "run", exported, "--source", frames, "--out", place)
    failed(1, "out", "export", "--model", "msfnet", "--size", "96x64", "-o", place)
    assert place.read_text() == "a file"


def test_a_full_disk_leaves_what_was_written_readable(exported: Path, tmp_path: Path) -> None:
    clip = tmp_path / "road.mp4"
    assert edgecrack("sample-clip", clip, "--seconds", "2", "--size", "640x360", "--seed", "13").returncode == 0
    limit = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({NO_SPACE}, {NO_SPACE}))"
    )
    done = edgecrack("run", exported, "--source", clip, "--out", tmp_path / "out", prefix=limit)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    entries = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    indices = [entry["index"] for entry in entries if "event" not in entry]
    assert indices == list(range(len(indices)))
    assert indices
    assert [entry["event"] for entry in entries if "event" in entry] == ["left out"]
    video = cv2.VideoCapture(str(tmp_path / "out" / "overlay.mp4"))
    assert video.read()[0]


@pytest.mark.parametrize(
    ("number", "code", "words"),
    [(signal.SIGINT, 130, "edgecrack: interrupted"), (signal.SIGTERM, 143, "edgecrack: terminated")],
)
def test_interrupted_export_leaves_no_half_written_file(tmp_path: Path, number: int, code: int, words: str) -> None:
    program = "from edgecrack.cli import main; main()"
    command = [sys.executable, "-c", program, "export", "--model", "scnet", "--int8", "-o", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    process.stderr.readline()  # the weights are being read: it is under way
    time.sleep(1)
    os.kill(process.pid, number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    assert errors.splitlines()[-1] == words
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_step_that_does_not_end_is_broken_off_each_second() -> None:
    """One alarm may be used up on a frame, and then a camera that is silent be waited for."""
    broken = []
    with pytest.raises(KeyboardInterrupt), stoppable(lambda: None):
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(2):
            begun = time.monotonic()
            try:
                time.sleep(10)
            except KeyboardInterrupt:
                broken.append(time.monotonic() - begun)
    assert len(broken) == 2
    assert max(broken) < 3
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
