"""What a run runs on: CPU threads, a GPU, several of them, several machines. Lightning Fabric knows how each is driven."""

from __future__ import annotations

import ctypes
import logging
import math
import os
import platform

import torch
from lightning_fabric.fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import Tensor, nn

from edgecrack.errors import SpecError, TrainingError
from edgecrack.training.recipes import Recipe

_FORMS = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


def open_fabric(device: str = "cpu", devices: int = 1, nodes: int = 1, precision: str = "auto") -> Fabric:
    """The processes of a run, started if there are to be several.

    Args:
        device: "cpu", "cuda", or "auto" for CUDA where there is one.
        devices: processes on this machine, each with a GPU of its own or a share of the CPU.
        nodes: machines; each runs the same command, under torchrun.
        precision: as in `Recipe`.

    Raises SpecError where there is no such device.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise SpecError(f"a device is auto, cpu or cuda; got {device!r}")
    chosen = "cuda" if device == "auto" and torch.cuda.is_available() else "cpu" if device == "auto" else device
    if chosen == "cuda" and torch.cuda.device_count() < devices:
        raise SpecError(f"wanted {devices} CUDA devices, there are {torch.cuda.device_count()}; give --device cpu")
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # what it does is ours to say
    if chosen == "cpu":
        keep_memory()
    several = devices * nodes > 1
    fabric = Fabric(
        accelerator=chosen,
        devices=devices,
        num_nodes=nodes,
        strategy=DDPStrategy(process_group_backend="nccl" if chosen == "cuda" else "gloo") if several else "auto",
        precision=_FORMS[precision_on(chosen, precision)],  # type: ignore[arg-type]
    )
    if chosen == "cuda":
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True
    fabric.launch()
    return fabric


def keep_memory() -> None:
    """Have the C library keep what tensors free, for the rest of the process; glibc only.

    Each step asks anew for the same hundreds of megabytes, and without this the system clears every page of them again,
    which is up to a third of a step.
    """
    trim_threshold, mmap_max = -1, -4  # mallopt's names for them, see its man page
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(mmap_max, 0)
        libc.mallopt(trim_threshold, -1)


def lowered(device: str, precision: str) -> torch.autocast:
    """The context in which convolutions on "cpu" or "cuda" are computed in a recipe's precision."""
    found = precision_on(device, precision)
    kind = torch.float16 if found == "fp16" else torch.bfloat16
    return torch.autocast(device, dtype=kind, enabled=found != "fp32")


def precision_on(device: str, asked: str) -> str:
    """A recipe's precision, "auto" decided. Raises SpecError for one that the device has not."""
    if asked == "fp16" and device == "cpu":
        raise SpecError("a CPU trains in fp32 or bf16, not in fp16")
    if asked != "auto":
        return asked
    return "bf16" if device == "cpu" or torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"


def drawing_threads(device: str, devices: int) -> int:
    """How many threads draw crops ahead: a GPU is fast enough to wait for one."""
    return 1 if device == "cpu" else max(1, min(12, (os.cpu_count() or 2) // devices - 1))


class Stepper:
    """A module and its optimiser on the devices of `fabric`, and one step of them.

    Args:
        module: moved to the device, channels last where that is faster; on GPUs its batch norms count over all of them.
        compiled: whether torch compiles it.
    """

    ALLOWED_OVERFLOWS = 50  # one after the other, in half precision, which loss scaling lowers itself out of

    def __init__(
        self, fabric: Fabric, module: nn.Module, optimiser: torch.optim.Optimizer, compiled: bool = False
    ) -> None:
        self.fabric, self._overflows = fabric, 0
        if fabric.device.type == "cuda" and fabric.world_size > 1:
            module = nn.SyncBatchNorm.convert_sync_batchnorm(module)  # type: ignore[no-untyped-call]
        if fabric.device.type == "cuda" or not any(isinstance(part, nn.InstanceNorm2d) for part in module.modules()):
            # A step on a CPU takes 0.6 (MSF-Net) to 0.85 (CACPNet) of the time, but 1.5 where instance norm makes copies.
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if compiled:
            module.compile()
        self.module, self.optimiser = fabric.setup(module, optimiser)

    def step(self, loss: Tensor, recipe: Recipe, number: int) -> tuple[float, float]:
        """Backward, clip and step; the loss over all processes and the gradient's norm before it was clipped.

        Raises TrainingError, before a weight is touched, when either is not finite.
        """
        self.optimiser.zero_grad()
        self.fabric.backward(loss)
        norm = self.fabric.clip_gradients(
            self.module, self.optimiser, max_norm=recipe.gradient_norm or math.inf, error_if_nonfinite=False
        )
        value, size = self.mean(loss.detach()), float(norm) if norm is not None else 0.0
        if not math.isfinite(value):
            raise TrainingError(f"the loss is {value} at step {number}; lower the learning rate")
        if not math.isfinite(size):  # a step along it would make every weight NaN, and so the next checkpoint
            self._overflows += 1
            if not self._scaled or self._overflows > self.ALLOWED_OVERFLOWS:
                raise TrainingError(f"the gradient is {size} at step {number}; lower the learning rate")
        else:
            self._overflows = 0
        self.optimiser.step()
        return value, size

    @property
    def _scaled(self) -> bool:
        return getattr(self.fabric._precision, "scaler", None) is not None

    def mean(self, value: Tensor) -> float:
        """A number's mean over all processes."""
        return float(value) if self.fabric.world_size == 1 else float(self.sum(value.float())) / self.fabric.world_size

    def sum(self, value: Tensor) -> Tensor:
        """A tensor added up over all processes."""
        return torch.as_tensor(self.fabric.all_reduce(value.to(self.fabric.device), reduce_op="sum"))

    def agreed(self, value: float) -> float:
        """The number that the first process has: clocks differ, and what they decide must not."""
        if self.fabric.world_size == 1:
            return value
        return float(self.sum(torch.tensor(value if self.fabric.is_global_zero else 0.0, dtype=torch.float64)))
