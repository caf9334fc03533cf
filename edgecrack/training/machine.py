"""Hardware of a run: CPU threads, one or several GPUs, several machines, all through Lightning Fabric."""

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
    """Open the Fabric of a run, launching its processes if there are several.

    Args:
        device: "cpu", "cuda", or "auto" for CUDA if available.
        devices: processes on this machine, each with its own GPU or a share of the CPU.
        nodes: number of machines; each runs the same command, under torchrun.
        precision: as in `Recipe`.

    Raises SpecError if there is no such device.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise SpecError(f"a device is auto, cpu or cuda; got {device!r}")
    chosen = "cuda" if device == "auto" and torch.cuda.is_available() else "cpu" if device == "auto" else device
    if chosen == "cuda" and torch.cuda.device_count() < devices:
        raise SpecError(f"wanted {devices} CUDA devices, there are {torch.cuda.device_count()}; give --device cpu")
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # edgecrack reports that itself
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
    """Make the C library keep memory that tensors free, for the rest of the process; glibc only.

    Each step allocates the same hundreds of megabytes again, and without this the system clears every page anew, which
    takes up to a third of a step.
    """
    trim_threshold, mmap_max = -1, -4  # M_TRIM_THRESHOLD, M_MMAP_MAX of mallopt(3)
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(mmap_max, 0)
        libc.mallopt(trim_threshold, -1)


def lowered(device: str, precision: str) -> torch.autocast:
    """The autocast context for a recipe's precision on "cpu" or "cuda"."""
    found = precision_on(device, precision)
    kind = torch.float16 if found == "fp16" else torch.bfloat16
    return torch.autocast(device, dtype=kind, enabled=found != "fp32")


def precision_on(device: str, asked: str) -> str:
    """A recipe's precision with "auto" resolved. Raises SpecError if the device does not support it."""
    if asked == "fp16" and device == "cpu":
        raise SpecError("a CPU trains in fp32 or bf16, not in fp16")
    if asked != "auto":
        return asked
    return "bf16" if device == "cpu" or torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"


def drawing_threads(device: str, devices: int) -> int:
    """Number of threads that prepare crops ahead; a single one would keep a GPU waiting."""
    return 1 if device == "cpu" else max(1, min(12, (os.cpu_count() or 2) // devices - 1))


class Stepper:
    """A module and its optimiser on the devices of `fabric`, and their training step.

    Args:
        module: moved to the device, channels last where faster; with several GPUs, its batch norms are synchronised.
        compiled: whether to use torch.compile.
    """

    ALLOWED_OVERFLOWS = 50  # in a row, in fp16; loss scaling recovers from these by itself

    def __init__(
        self, fabric: Fabric, module: nn.Module, optimiser: torch.optim.Optimizer, compiled: bool = False
    ) -> None:
        self.fabric, self._overflows = fabric, 0
        if fabric.device.type == "cuda" and fabric.world_size > 1:
            module = nn.SyncBatchNorm.convert_sync_batchnorm(module)  # type: ignore[no-untyped-call]
        if fabric.device.type == "cuda" or not any(isinstance(part, nn.InstanceNorm2d) for part in module.modules()):
            # On a CPU, a step takes 0.6 (MSF-Net) to 0.85 (CACPNet) of the time, but 1.5 if instance norm makes copies.
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if compiled:
            module.compile()
        self.module, self.optimiser = fabric.setup(module, optimiser)

    def step(self, loss: Tensor, recipe: Recipe, number: int) -> tuple[float, float]:
        """Backward, clip and step; returns the mean loss over all processes and the gradient norm before clipping.

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
        if not math.isfinite(size):  # a step would make all weights NaN, and the next checkpoint
            self._overflows += 1
            if self.scaler is None or self._overflows > self.ALLOWED_OVERFLOWS:
                raise TrainingError(f"the gradient is {size} at step {number}; lower the learning rate")
        else:
            self._overflows = 0
        self.optimiser.step()
        return value, size

    @property
    def scaler(self) -> torch.amp.GradScaler | None:
        """The scaler of the loss, in fp16 only; a resumed run goes on with its state."""
        return getattr(self.fabric._precision, "scaler", None)

    def mean(self, value: Tensor) -> float:
        """The mean of a number over all processes."""
        return float(value) if self.fabric.world_size == 1 else float(self.sum(value.float())) / self.fabric.world_size

    def sum(self, value: Tensor) -> Tensor:
        """The sum of a tensor over all processes."""
        return torch.as_tensor(self.fabric.all_reduce(value.to(self.fabric.device), reduce_op="sum"))

    def agreed(self, value: float) -> float:
        """The first process's value in all processes: clocks differ, but decisions based on them must not."""
        if self.fabric.world_size == 1:
            return value
        return float(self.sum(torch.tensor(value if self.fabric.is_global_zero else 0.0, dtype=torch.float64)))
