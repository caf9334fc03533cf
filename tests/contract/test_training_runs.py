"""Training as a user starts it: several processes, kills, full disks, checkpoints to go on from, HED's edges, few labels."""

from __future__ import annotations

import itertools
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import here
from safetensors.torch import save_file

from edgecrack.errors import SpecError
from edgecrack.models import HED, build_model
from edgecrack.models.checkpoint import load_checkpoint, load_tensors
from edgecrack.models.external import load_hed, start_from_vgg, with_hed
from edgecrack.onnx_graph import read_onnx
from edgecrack.spec import ModelSpec
from edgecrack.training.recipes import Recipe
from edgecrack.training.states import stored_recipe

TINY = ["--width", "0.0625", "--rendered", "0", "--batch", "2", "--crop", "32", "--threads", "1", "--device", "cpu"]
# SGD: Adam's first steps go by the sign of gradients that may be nothing but rounding
FLOAT = ["--set", "precision=fp32", "--set", "warm_up=0", "--set", "optimiser=sgd", "--learning-rate", "0.05"]


def edgecrack(*arguments: object, code: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code] if code else [sys.executable, "-m", "edgecrack"]
    return subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True, timeout=300, check=False)


def trained(*arguments: object, alone: bool = True) -> Path:
    """What a run that went well printed: its best checkpoint."""
    done = (here if alone else edgecrack)("train", *arguments)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return Path(done.stdout.strip())


def net_of(folder: Path) -> dict[str, Any]:
    tensors, _ = load_tensors(folder / "last.safetensors")
    return {name: value for name, value in tensors.items() if name.startswith("net.")}


def record(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "log.jsonl").read_text().splitlines()[-1])
    return found


@pytest.mark.parametrize(
    ("model", "extra"),
    [
        ("scnet", []),
        ("aelf-unet", ["--set", "objective=dice", "--set", "cross_entropy=0", "--set", "warm_up_cross_entropy=0"]),
    ],
)
def test_two_processes_train_and_score_as_one(tmp_path: Path, roads: Path, model: str, extra: list[str]) -> None:
    """Losses by frame, and Dice, which is one number over the frames of both processes."""
    for devices in (1, 2):
        options = ["--data", roads, *TINY, *FLOAT, *extra, "--steps", "2", "--batch", "4", "--crop", "64"]
        trained("--model", model, *options, "--devices", devices, "-o", tmp_path / str(devices), alone=devices == 1)
    one, two = net_of(tmp_path / "1"), net_of(tmp_path / "2")
    torch.manual_seed(0)
    fresh = build_model(ModelSpec(model, 0.0625)).state_dict()
    assert one.keys() == two.keys() == {f"net.{name}" for name in fresh}
    moved = max((value - fresh[name.removeprefix("net.")]).abs().max().item() for name, value in one.items())
    apart = max((two[name] - value).abs().max().item() for name, value in one.items())
    assert moved > 1e-5
    assert apart < 0.02 * moved  # rounding, which a maximum that falls on another pixel can make more of
    assert record(tmp_path / "2")["loss"] == pytest.approx(record(tmp_path / "1")["loss"], rel=1e-4)
    assert record(tmp_path / "2")["best_f1_2px"] == pytest.approx(record(tmp_path / "1")["best_f1_2px"], abs=2e-3)


def test_a_run_that_is_killed_goes_on_from_its_last_checkpoint_to_the_same_end(tmp_path: Path, roads: Path) -> None:
    options = ["--model", "msfnet", "--data", roads, *TINY, "--steps", "24", "--set", "validate_steps=4"]
    trained(*options, "-o", tmp_path / "whole")
    parts = tmp_path / "parts"
    command = [sys.executable, "-m", "edgecrack", "train", *map(str, options), "-o", str(parts)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
        deadline = time.monotonic() + 200
        while not (parts / "last.safetensors").exists() and run.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        run.send_signal(signal.SIGKILL)
        assert run.wait(60) == -signal.SIGKILL, "it was over before it could be killed"
    state = json.loads(load_tensors(parts / "last.safetensors")[1]["state"])
    assert state["step"] < 24
    trained(
        "--resume", "--data", roads, "--rendered", "0", "--threads", "1", "-o", parts
    )  # the rest is in the checkpoint
    whole, found = load_tensors(tmp_path / "whole" / "last.safetensors")[0], load_tensors(parts / "last.safetensors")[0]
    assert whole.keys() == found.keys()
    assert all(torch.equal(value, found[name]) for name, value in whole.items())
    steps = [json.loads(line)["step"] for line in (parts / "log.jsonl").read_text().splitlines()]
    assert steps == sorted(steps)


FULL = """
import resource, signal, sys
from edgecrack.cli import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
limit = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
main(sys.argv[2:])
"""


def test_a_disk_that_fills_leaves_the_last_good_checkpoint(tmp_path: Path, roads: Path) -> None:
    run, options = tmp_path / "run", ["--data", roads, *TINY, "--model", "msfnet"]
    best = trained(*options, "--steps", "2", "-o", run)
    before = {path: path.read_bytes() for path in run.glob("*.safetensors")}
    size = min(map(len, before.values()))
    started = ["train", "--from", best, "--data", roads, *TINY[2:], "--steps", "2", "-o", run / "next"]
    done = edgecrack(size // 2, *started, code=FULL)
    assert done.returncode == 1
    assert "cannot write" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not list((run / "next").glob("*.safetensors"))
    # the same folder: what was there stays, and can be loaded and gone on from
    edgecrack(size // 2, "train", "--resume", "--data", roads, "--rendered", "0", "-o", run, code=FULL)
    assert {path: path.read_bytes() for path in run.glob("*.safetensors")} == before
    assert not list(run.glob(".*"))
    load_checkpoint(best)


def test_a_checkpoint_is_gone_on_from_and_repeated(tmp_path: Path, roads: Path) -> None:
    told = ["--data", roads, "--rendered", "0", "--threads", "1"]
    switches = ["--set", "attention=false", "--set", "soft_iou_weight=0.5", "--set", "ema=0.9"]
    first = trained(
        "--model",
        "scnet",
        "--recipe",
        "paper",
        *TINY,
        *switches,
        "--set",
        "prior=none",
        "--steps",
        3,
        *told,
        "-o",
        tmp_path / "a",
    )
    recipe, (net, spec) = stored_recipe(first), load_checkpoint(first)
    assert isinstance(recipe, Recipe)
    assert (recipe.name, recipe.optimiser, recipe.loss, recipe.ema) == ("paper", "sgd", {"soft_iou_weight": 0.5}, 0.9)
    assert spec.options == {"prior": "none", "attention": False}
    assert net.encoder_attention[0].gate is None  # type: ignore[index,union-attr]
    again = trained("--from", first, "--repeat", *told, "-o", tmp_path / "b")
    assert all(torch.equal(value, net_of(tmp_path / "a")[name]) for name, value in net_of(tmp_path / "b").items())
    assert stored_recipe(again) == recipe
    further = trained("--from", first, "--steps", 1, "--learning-rate", "1e-9", *told, "-o", tmp_path / "c")
    start, moved = load_tensors(first)[0], net_of(tmp_path / "c")
    assert all(torch.allclose(value, moved[f"net.{name}"], atol=1e-4) for name, value in start.items())
    assert stored_recipe(further) != recipe


def test_a_run_that_was_killed_before_it_kept_anything_begins_with_resume(tmp_path: Path, roads: Path) -> None:
    small = ["--width", "0.125", "--steps", "2", "--batch", "2", "--crop", "64", "--rendered", "0", "--threads", "1"]
    done = here("train", "--model", "msfnet", "--data", roads, *small, "--resume", "-o", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert f"nothing to resume in {tmp_path / 'run'}: the run begins\n" in done.stderr
    assert (tmp_path / "run" / "best.safetensors").is_file()


@pytest.mark.parametrize(
    ("told", "said"),
    [
        (["--from", "BEST", "--model", "msfnet"], "holds scnet at width"),
        (["--from", "BEST", "--set", "levels=4"], "leave --set, or --repeat with fresh weights"),
        (["--resume", "-o", "RUN", "--set", "batch=1"], "its batch is 2, wanted 1"),
        ([], "name the net"),
        (["--model", "scnet", "--recipe", "paper"], "give --hed FILE with HED's weights"),
        (["--model", "scnet", "--recipe", "slow"], "recipe is one of fast, paper; got 'slow'"),
        (["--model", "scnet", "--device", "tpu"], "a device is auto, cpu or cuda"),
        (["--model", "scnet", "--labels", "2"], "at most 1, got 2.0"),
    ],
)
def test_what_cannot_be_trained_is_said_in_one_line(
    tmp_path: Path, roads: Path, run: Path, told: list[str], said: str
) -> None:
    places = {"BEST": str(run / "best.safetensors"), "RUN": str(run)}
    out = [] if "-o" in told else ["-o", tmp_path / "run"]
    done = here("train", "--data", roads, "--rendered", "0", *(places.get(word, word) for word in told), *out)
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("edgecrack: ")]
    assert said in line
    assert done.stderr.strip().endswith(line)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, roads: Path) -> Path:
    return trained(
        "--model", "scnet", "--data", roads, *TINY, "--steps", "1", "-o", tmp_path_factory.mktemp("run") / "r"
    ).parent


# Weights that users bring


@pytest.fixture(scope="module")
def hed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """HED with weights of no use, under the names of the public port."""
    torch.manual_seed(0)
    long = ("One", "Two", "Thr", "Fou", "Fiv")
    named = {}
    for name, value in HED().state_dict().items():
        part, level, *rest = name.split(".")
        if part == "blocks":
            name = f"moduleVgg{long[int(level)]}.{int(rest[0]) + (int(level) > 0)}.{rest[1]}"
        elif part == "sides":
            name = f"moduleScore{long[int(level)]}.{rest[0]}"
        else:
            name = f"moduleCombine.0.{level}"
        named[name] = value
    path = tmp_path_factory.mktemp("hed") / "hed.safetensors"
    save_file(named, path)
    return path


def test_hed_is_read_under_either_name(hed: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    wanted = HED().state_dict()
    found = load_hed(hed).state_dict()
    assert all(torch.equal(value, found[name]) for name, value in wanted.items())
    save_file(wanted, tmp_path / "ours.safetensors")
    assert all(torch.equal(v, found[k]) for k, v in load_hed(tmp_path / "ours.safetensors").state_dict().items())
    del wanted["fuse.bias"]
    save_file(wanted, tmp_path / "less.safetensors")
    with pytest.raises(SpecError, match=r"does not hold the weights of HED: fuse\.bias is missing"):
        load_hed(tmp_path / "less.safetensors")
    torch.save(wanted, tmp_path / "hed.pt")
    with pytest.raises(SpecError, match=r"docs/training\.md says how"):
        load_hed(tmp_path / "hed.pt")


@pytest.mark.parametrize("prior", ["none", "cheap", "hed"])
def test_scnet_is_trained_and_exported_with_each_prior(tmp_path: Path, roads: Path, hed: Path, prior: str) -> None:
    edges = ["--hed", hed] if prior == "hed" else []
    steps = ["--steps", "12", "--learning-rate", "0.01", "--set", f"prior={prior}"]
    best = trained("--model", "scnet", "--data", roads, *TINY, *steps, *edges, "-o", tmp_path / "run")
    told = ["--model", "scnet", "--weights", best, "--size", "64x64"]
    done = here("export", *told, *edges, "-o", tmp_path)
    assert done.returncode == 0, done.stderr
    model, spec = read_onnx(tmp_path / "scnet.onnx")
    assert spec.options["prior"] == prior
    assert ("hed" in spec.hashes) is (prior == "hed")
    inside = sum(node.op_type == "Conv" for node in model.graph.node)
    if prior == "hed":
        assert inside > 50  # HED's 13 and more are in the graph
        refused = here("export", *told, "-o", tmp_path)
        assert refused.returncode == 1
        assert "give --hed FILE" in refused.stderr
    _int8_has_only_convolutions_of_the_net(tmp_path)


def _int8_has_only_convolutions_of_the_net(folder: Path) -> None:
    """INT8 of the same graph: the edges stay float, the net answers alike."""
    from edgecrack.calibration.frames import CalibrationFrames
    from edgecrack.calibration.qdq import int8_from_onnx
    from edgecrack.calibration.ranges import measure_ranges
    from edgecrack.onnx_session import session
    from edgecrack.rendering import rendered_frame

    images = [rendered_frame(seed, 64, 64)[0] for seed in range(6)]
    _, spec = read_onnx(folder / "scnet.onnx")
    ranges = measure_ranges(folder / "scnet.onnx", CalibrationFrames.from_images(images, spec.frame))
    path = int8_from_onnx(folder / "scnet.onnx", ranges, folder / "scnet.int8.onnx")
    model, _ = read_onnx(path)
    quantised = [node.input[0] for node in model.graph.node if node.op_type == "DequantizeLinear"]
    weights = [name for name in quantised if name.endswith("weight.quantised")]
    assert len(weights) >= 20
    assert all(name.startswith("net.") and ".edge" not in name for name in weights)
    frames = np.stack(images[:1])
    (plain,) = session(folder / "scnet.onnx").run(None, {"frames": frames})
    (found,) = session(path).run(None, {"frames": frames})
    assert np.abs(plain.astype(int) - found.astype(int)).mean() < 24


def test_another_file_of_hed_than_the_one_trained_with_is_refused(hed: Path, tmp_path: Path) -> None:
    spec = ModelSpec("scnet", 0.05, {"prior": "hed"})
    known = with_hed(build_model(spec), spec, hed)
    other = tmp_path / "other.safetensors"
    save_file({name: value + 1 for name, value in load_hed(hed).state_dict().items()}, other)
    with pytest.raises(SpecError, match="another file of HED's weights"):
        with_hed(build_model(spec), known, other)
    with pytest.raises(SpecError, match="HED is for SCNet with prior=hed"):
        with_hed(build_model(ModelSpec("msfnet", 0.05)), ModelSpec("msfnet", 0.05), hed)


def test_vgg_starts_the_encoder_of_a_net_of_its_width(tmp_path: Path) -> None:
    sizes = [3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
    places = [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]
    vgg = {}
    for place, (i, o) in zip(places, itertools.pairwise(sizes), strict=True):
        vgg |= {
            f"features.{place}.weight": torch.full((o, i, 3, 3), float(place)),
            f"features.{place}.bias": torch.ones(o),
        }
    save_file(vgg, tmp_path / "vgg.safetensors")
    net = build_model(ModelSpec("cacpnet"))
    start_from_vgg(net, tmp_path / "vgg.safetensors")
    convolutions = [module for module in net.encoder.modules() if isinstance(module, torch.nn.Conv2d)]  # type: ignore[union-attr]
    assert [module.weight.mean().item() for module in convolutions] == pytest.approx(places)
    edged = build_model(ModelSpec("scnet", 1.0, {"prior": "cheap"}))
    start_from_vgg(edged, tmp_path / "vgg.safetensors")
    assert not edged.encoder[0][0][0].weight[:, 3].any()  # type: ignore[index,union-attr]
    with pytest.raises(SpecError, match="VGG-16 fits nets of width 1"):
        start_from_vgg(build_model(ModelSpec("cacpnet", 0.25)), tmp_path / "vgg.safetensors")
    with pytest.raises(SpecError, match="wanted 13 convolutions"):
        start_from_vgg(build_model(ModelSpec("msfnet", 0.25)), tmp_path / "vgg.safetensors")
    save_file({"features.conv0.weight": torch.ones(64, 3, 7, 7)}, tmp_path / "densenet.safetensors")
    with pytest.raises(SpecError, match="wanted 13 convolutions"):
        start_from_vgg(net, tmp_path / "densenet.safetensors")


# Few labels


def test_few_labels_and_a_teacher_are_told_on_the_command_line(tmp_path: Path, roads: Path) -> None:
    few = ["--labels", "0.5", "--set", "unlabelled_batch=2", "--set", "bank_least=1", "--set", "contrast_start=0"]
    teacher = trained(
        "--model",
        "msfnet",
        "--labelled",
        roads,
        "--unlabelled",
        roads,
        *few,
        *TINY,
        "--steps",
        "3",
        "-o",
        tmp_path / "a",
    )
    recipe = stored_recipe(teacher)
    assert recipe is not None
    assert recipe.contrast == {"unlabelled_batch": 2, "bank_least": 1, "contrast_start": 0.0}
    assert json.loads(load_tensors(teacher)[1]["data"]) == [["roads", 4], ["roads", 7]]  # not the one held back
    student = trained(
        "--model", "aelf-unet", "--data", roads, "--teacher", teacher, *TINY, "--steps", "2", "-o", tmp_path / "b"
    )
    assert load_checkpoint(student)[1].name == "aelf-unet"


def test_frames_are_learnt_from_without_masks_where_some_have_one(tmp_path: Path, roads: Path) -> None:
    partly = tmp_path / "partly"
    shutil.copytree(roads, partly)
    for index in range(5):
        (partly / "masks" / f"{index}.png").unlink()
    few = ["--set", "unlabelled_batch=2", "--set", "bank_least=1", "--steps", "1"]
    both = trained("--model", "msfnet", "--data", roads, "--unlabelled", partly, *few, *TINY, "-o", tmp_path / "run")
    assert json.loads(load_tensors(both)[1]["data"]) == [["roads", 7], ["partly", 8]]


def test_frames_held_back_are_not_learnt_from_by_another_path(tmp_path: Path, roads: Path) -> None:
    (roads / "train.txt").write_text("0\n1\n2\n3\n4\n")
    (roads / "test.txt").write_text("5\n6\n7\n")
    few = ["--set", "unlabelled_batch=2", "--set", "bank_least=1", "--steps", "1", "--rendered", "0"]
    both = trained(
        *("--model", "msfnet", "--data", roads, "--unlabelled", roads / "images", *few, *TINY, "-o", tmp_path / "run")
    )
    assert json.loads(load_tensors(both)[1]["data"]) == [["roads", 4], ["images", 4]]


def test_unlabelled_frames_of_which_none_can_be_read_are_one_line(tmp_path: Path, roads: Path) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").write_text("hello")
    command = ["train", "--model", "msfnet", "--data", roads, "--unlabelled", tmp_path / "bad", "--skip-bad", *TINY]
    done = here(*command, "--steps", "1", "-o", tmp_path / "run")
    assert done.returncode == 1
    assert "has no frame to learn from without labels" in done.stderr
