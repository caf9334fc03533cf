"""Checkpoints: what goes in comes out, and nothing else gets in."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from edgecrack.errors import SourceError, SpecError
from edgecrack.models import MODELS, CrackNet, build_model
from edgecrack.models.checkpoint import load_checkpoint, load_tensors, save_checkpoint
from edgecrack.spec import METADATA_KEY, FrameSpec, ModelSpec

WIDTH = 0.05


@pytest.fixture(autouse=True)
def _one_thread_and_a_seed() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def spec_of(name: str, **options: Any) -> ModelSpec:
    return ModelSpec(
        name,
        WIDTH,
        options,
        FrameSpec(64, 96),
        threshold=0.37,
        trained_on=("road", "rendered"),
        scores={"road/test": {"f1": 0.5}},
        versions={"torch": "2"},
    )


def trained(spec: ModelSpec) -> CrackNet:
    """A net whose running statistics are no longer those of the start."""
    net = build_model(spec).train()
    with torch.no_grad():
        net.stages(torch.rand(2, 3, 64, 64))
    return net


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    spec = spec_of("msfnet")
    path = tmp_path / "msfnet.safetensors"
    save_checkpoint(path, trained(spec), spec)
    return path


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *((name, {}) for name in MODELS),
        ("scnet", {"levels": 4, "norm": "batch"}),
        ("cacpnet", {"pyramid": "catcat"}),
    ],
)
@pytest.mark.parametrize("kind", [torch.float32, torch.float16])
def test_a_net_comes_back_with_its_spec(tmp_path: Path, name: str, options: dict[str, Any], kind: torch.dtype) -> None:
    spec = spec_of(name, **options)
    net, path = trained(spec), tmp_path / "new" / "net.safetensors"
    save_checkpoint(path, net, spec, kind)
    found, read = load_checkpoint(path)
    assert read == spec
    assert type(found) is type(net)
    assert not found.training
    wanted = {key: value.to(kind).float() for key, value in net.state_dict().items() if "num_batches" not in key}
    for key, value in wanted.items():
        assert torch.equal(found.state_dict()[key], value), key
    assert {value.dtype for value in found.parameters()} == {torch.float32}
    if kind is torch.float32:
        x = torch.rand(1, 3, 64, 64)
        assert torch.equal(found(x), net.eval()(x))
    sizes = {torch.float32: 4, torch.float16: 2}
    assert path.stat().st_size < sum(value.numel() for value in wanted.values()) * sizes[kind] + 30_000


def test_saving_leaves_the_net_as_it_was(tmp_path: Path) -> None:
    net = trained(spec_of("msfnet"))
    before = {key: value.clone() for key, value in net.state_dict().items()}
    save_checkpoint(tmp_path / "net.safetensors", net, spec_of("msfnet"), torch.float16)
    assert net.training
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_the_spec_is_in_the_header_for_anyone_to_read(checkpoint: Path) -> None:
    data = checkpoint.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert ModelSpec.from_json(header["__metadata__"][METADATA_KEY]) == spec_of("msfnet")


def test_equal_nets_give_equal_files(checkpoint: Path, tmp_path: Path) -> None:
    net, spec = load_checkpoint(checkpoint)
    save_checkpoint(tmp_path / "again.safetensors", net, spec)
    assert (tmp_path / "again.safetensors").read_bytes() == checkpoint.read_bytes()


def refused(path: Path, said: str) -> None:
    with pytest.raises(SpecError, match=said) as caught:
        load_checkpoint(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.01, 0.1, 0.5, 0.999])
def test_a_truncated_file_is_refused(checkpoint: Path, share: float) -> None:
    data = checkpoint.read_bytes()
    checkpoint.write_bytes(data[: int(len(data) * share)])
    refused(checkpoint, "is not a safetensors file, or is truncated")


@pytest.mark.parametrize("data", [b"PK\x03\x04" * 99, b"\xff" * 64, b"{}", b"\x02\0\0\0\0\0\0\0{}" + b"x" * 9])
def test_junk_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "junk.safetensors"
    path.write_bytes(data)
    refused(path, "is not a safetensors file")


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    refused(tmp_path / "none.safetensors", "no weights")
    refused(tmp_path, "no weights")


def test_a_pickle_is_refused_unopened(tmp_path: Path) -> None:
    path, trace = tmp_path / "net.pt", tmp_path / "opened"
    path.write_bytes(pickle.dumps(Opens(trace)))
    pickle.loads(path.read_bytes())  # noqa: S301
    assert trace.exists()  # it does what it is for
    trace.unlink()
    refused(path, "is not a safetensors file")
    torch.save(build_model(spec_of("msfnet")).state_dict(), path)
    refused(path, "is not a safetensors file")
    assert not trace.exists()


class Opens:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_no_module_of_the_package_that_reads_weights_unpickles() -> None:
    folder = Path(sys.modules["edgecrack.models"].__file__ or "").parents[1]
    for path in [*(folder / "models").glob("*.py"), *(folder / "training").glob("*.py")]:
        text = path.read_text()
        assert "torch.load" not in text, path
        assert "import pickle" not in text, path


def test_weights_without_a_spec_are_refused(checkpoint: Path) -> None:
    tensors, _ = load_tensors(checkpoint)
    for metadata in (None, {"format": "pt"}):
        save_file(tensors, checkpoint, metadata)
        refused(checkpoint, "no edgecrack spec inside")


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (spec_of("scnet"), "does not hold the weights of scnet at width 0.05"),
        (ModelSpec("msfnet", 0.1), "does not hold the weights of msfnet at width 0.1"),
        (ModelSpec("unet"), "no model 'unet'"),
        (ModelSpec("msfnet", WIDTH, {"levels": 4}), "msfnet has no such switch"),
    ],
)
def test_weights_of_another_net_are_refused(checkpoint: Path, spec: ModelSpec, said: str) -> None:
    tensors, _ = load_tensors(checkpoint)
    save_file(tensors, checkpoint, {METADATA_KEY: spec.to_json()})
    with pytest.raises(SpecError, match=said) as caught:
        load_checkpoint(checkpoint)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("change", ["missing", "surplus", "shape"])
def test_a_tensor_too_few_too_many_or_of_another_shape_is_named(checkpoint: Path, change: str) -> None:
    tensors, metadata = load_tensors(checkpoint)
    key = "surplus.weight" if change == "surplus" else "fuse.weight"
    if change == "missing":
        del tensors[key]
    else:
        tensors[key] = torch.zeros(1, 6, 1, 1)
    save_file(tensors, checkpoint, metadata)
    refused(checkpoint, f"'{key}' differs")


def test_a_switch_that_changes_the_weights_is_not_passed_over(tmp_path: Path) -> None:
    path, spec = tmp_path / "net.safetensors", spec_of("scnet")
    save_checkpoint(path, build_model(spec_of("scnet", norm="batch")), spec)
    refused(path, "differs")


@pytest.mark.parametrize("text", ["", "{}", "not json", '{"name": "msfnet", "frame": {"height": 4}}'])
def test_a_spec_that_cannot_be_read_is_refused(checkpoint: Path, text: str) -> None:
    tensors, _ = load_tensors(checkpoint)
    save_file(tensors, checkpoint, {METADATA_KEY: text})
    with pytest.raises(SpecError, match="not a model spec"):
        load_checkpoint(checkpoint)


def test_a_full_disk_is_one_line_and_the_old_checkpoint_stays(checkpoint: Path) -> None:
    # The limit belongs to the process, hence a child.
    program = """
import resource, sys
from edgecrack.errors import SourceError
from edgecrack.models.checkpoint import load_checkpoint, save_checkpoint
net, spec = load_checkpoint(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
try:
    save_checkpoint(sys.argv[1], net, spec)
except SourceError as error:
    print(error)
"""
    before = checkpoint.read_bytes()
    command = [sys.executable, "-c", program, str(checkpoint)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"cannot write {checkpoint}")
    assert done.stdout.count("\n") == 1
    assert checkpoint.read_bytes() == before
    assert [path.name for path in checkpoint.parent.iterdir()] == [checkpoint.name]


def test_a_folder_in_the_way_is_one_line(tmp_path: Path) -> None:
    spec = spec_of("msfnet")
    (tmp_path / "net.safetensors" / "full").mkdir(parents=True)
    with pytest.raises(SourceError, match="cannot write"):
        save_checkpoint(tmp_path / "net.safetensors", build_model(spec), spec)
