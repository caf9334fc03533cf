"""The training loop."""

from __future__ import annotations

import dataclasses
import json
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import edgecrack
from edgecrack.errors import FrameError, SourceError, SpecError, TrainingError
from edgecrack.fitting import Fit
from edgecrack.metrics import Counts, counts, f_score
from edgecrack.models import CrackNet, build_model, rgb_from_frames
from edgecrack.models.checkpoint import load_tensors, save_checkpoint, save_tensors
from edgecrack.spec import METADATA_KEY, FrameSpec, ModelSpec
from edgecrack.training.augment import SCALES
from edgecrack.training.data import Frames, batch
from edgecrack.training.losses import LOSSES, cross_entropy


@dataclass(frozen=True)
class Recipe:
    """How to train: AdamW with warm-up and cosine, bfloat16 autocast.

    Attributes:
        steps: of the whole run, which ends earlier when `minutes` of training are over; the cosine follows whichever is
            nearer its end.
        minutes: of training, over all resumes.
        batch: crops a step.
        crop: their side in pixels.
        learning_rate: at its peak.
        weight_decay: of AdamW.
        warm_up: steps until the learning rate is reached.
        warm_up_cross_entropy: share of the run with plain cross-entropy before the net's own loss takes over; it gets a net
            without normalisation off the ground.
        cross_entropy: weight of plain cross-entropy beside the net's own loss; it keeps the probabilities of a loss that
            saturates apart.
        seed: of the weights and of every crop.
    """

    steps: int = 2000
    minutes: float = math.inf
    batch: int = 8
    crop: int = 256
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4
    warm_up: int = 50
    warm_up_cross_entropy: float = 0.0
    cross_entropy: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        counts = self.steps >= 1 and self.batch >= 1 and self.crop >= 32 and self.warm_up >= 0 and self.seed >= 0
        if not (counts and self.minutes > 0 and 0 < self.learning_rate < math.inf):
            raise SpecError(
                "steps, batch, minutes and learning rate must be positive, crop at least 32, warm-up and seed not "
                f"negative; got {self}"
            )


CAUTION = 0.02  # of F1 that the shipped threshold may cost, for fewer false alarms

# What "fast" is for each net: found to train a compact one on a few CPU cores within an hour.
FAST: dict[str, dict[str, float]] = {
    "aelf-unet": {"learning_rate": 7e-4, "warm_up_cross_entropy": 0.1, "cross_entropy": 1.0},
    "cacpnet": {"cross_entropy": 20.0},
    "msfnet": {},
    "scnet": {},
}


class Trainer:
    """One run in `folder`: `last.safetensors` to resume from, `best.safetensors` to use, `log.jsonl` to read.

    Args:
        spec: the net; its threshold is set by the run.
        train: the sets, sampled evenly.
        held_back: the sets that choose the best checkpoint and the threshold, by the mean of their 2-pixel F1.
        start: the weights to start from, of the net that `spec` describes; fresh ones by default.
        resume: continue what is in `folder`. Raises SpecError when that is another net, data or recipe.
    """

    def __init__(
        self,
        spec: ModelSpec,
        recipe: Recipe,
        train: Sequence[Frames],
        held_back: Sequence[Frames],
        folder: Path,
        *,
        start: CrackNet | None = None,
        resume: bool = False,
    ) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe, self.train_sets, self.held_back, self.folder = recipe, train, held_back, folder
        self.spec = dataclasses.replace(spec, trained_on=tuple(frames.name for frames in train), scales=SCALES)
        self.net = build_model(spec)
        if start:
            self.net.load_state_dict(start.state_dict())
        if recipe.crop % self.net.stride:
            raise SpecError(f"crop must be a multiple of {self.net.stride} for {spec.name}, got {recipe.crop}")
        decay, rate = recipe.weight_decay, recipe.learning_rate
        self.optimiser = torch.optim.AdamW(self.net.parameters(), rate, weight_decay=decay)
        self.step, self.seconds, self.best_score = 0, 0.0, -1.0
        if resume:
            self._load()
        elif (folder / "last.safetensors").exists():
            raise SpecError(f"{folder} holds a run already; continue it with --resume or choose another folder")

    def run(self, report: Callable[[str], None], validate_every: float = 300.0) -> Path:
        """Train to the end, or until KeyboardInterrupt, which saves and is passed on. Returns the best checkpoint's path.

        Args:
            report: takes a progress line, about every 20 seconds.
            validate_every: seconds between validations, up to ten times as many where they would take over a twentieth of
                the time; each may write the best checkpoint and writes the last.
        """
        losses: list[float] = []
        validating = 0.0
        began, reported, validated = time.monotonic() - self.seconds, time.monotonic(), time.monotonic()
        try:
            with ThreadPoolExecutor(1) as ahead:
                crops = ahead.submit(self._batch, self.step)
                while self.progress < 1:
                    frames, masks = crops.result()
                    crops = ahead.submit(self._batch, self.step + 1)
                    with _interrupted_after():
                        losses.append(self._step(frames, masks))
                        self.step += 1
                        self.seconds = time.monotonic() - began
                    if time.monotonic() - reported > 20:
                        report(self._line(losses[-100:]))
                        reported = time.monotonic()
                    pause = max(validate_every, min(20 * validating, 10 * validate_every))
                    if time.monotonic() - validated > pause:
                        validating = -time.monotonic()
                        report(self._validate(losses[-100:]))
                        validated = time.monotonic()
                        validating += validated
            report(self._validate(losses[-100:]))
        except (KeyboardInterrupt, SourceError, FrameError):  # also of a frame that cannot be read in hour three
            self._save()
            raise
        return self.folder / "best.safetensors"

    @property
    def progress(self) -> float:
        """0 at the start, 1 at the end."""
        return max(self.step / self.recipe.steps, self.seconds / 60 / self.recipe.minutes)

    def _batch(self, step: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        return batch(self.train_sets, self.recipe.batch, self.recipe.crop, self.recipe.seed, step)

    def _step(self, frames: NDArray[np.uint8], masks: NDArray[np.bool_]) -> float:
        self.net.train()
        # what dropout draws depends on seed and step alone, as the crops do
        torch.manual_seed(int(np.random.default_rng((self.recipe.seed, self.step)).integers(2**63)))
        for group in self.optimiser.param_groups:
            group["lr"] = self._learning_rate()
        self.optimiser.zero_grad()
        target = torch.from_numpy(masks)[:, None].float()
        logits = self._logits(torch.from_numpy(frames))
        warming = self.progress < self.recipe.warm_up_cross_entropy
        loss = cross_entropy(logits[0], target) if warming else self._loss(logits, target)
        if not torch.isfinite(loss):
            raise TrainingError(f"the loss is {loss.item()} at step {self.step}; lower the learning rate")
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        if not torch.isfinite(norm):  # a step along it would make every weight NaN, and so the next checkpoint
            raise TrainingError(f"the gradient is {norm.item()} at step {self.step}; lower the learning rate")
        self.optimiser.step()
        return loss.item()

    def _loss(self, logits: list[Tensor], target: Tensor) -> Tensor:
        loss = LOSSES[self.spec.name](logits, target)
        weight = self.recipe.cross_entropy
        return loss + weight * cross_entropy(logits[0], target) if weight else loss

    def _logits(self, frames: Tensor) -> list[Tensor]:
        x = self.net.prepare(rgb_from_frames(frames))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.net.stages(x)

    def _learning_rate(self) -> float:
        warm = min(1.0, (self.step + 1) / max(1, self.recipe.warm_up))
        return self.recipe.learning_rate * warm * (0.5 * (1 + math.cos(math.pi * min(1.0, self.progress))) + 1e-3)

    def _line(self, losses: Sequence[float]) -> str:
        share = max(self.progress, 1e-6)
        left = self.seconds * (1 - share) / share / 60
        return f"step {self.step}  {share:.0%}  loss {np.mean(losses):.4f}  {left:.0f} min left"

    def _validate(self, losses: Sequence[float]) -> str:
        scores = score(self.net, self.held_back)
        found, level = best_level(scores)
        by_set = {name: round(float(f_score(pooled)[level]), 4) for name, pooled in scores.items()}
        best = found > self.best_score
        if best:
            self._save_best(level / 255)
            self.best_score = found  # after saving: an interrupt between must not pass the best one over
        self._save()
        record: dict[str, object] = {
            "step": self.step,
            "seconds": round(self.seconds),
            "loss": float(np.mean(losses)) if losses else None,
        }
        record |= {"threshold": round(level / 255, 4), "held_back_f1_2px": by_set, "best_f1_2px": found, "best": best}
        _append(self.folder / "log.jsonl", json.dumps(record) + "\n")
        scored = ", ".join(f"{name} {value:.3f}" for name, value in by_set.items())
        return f"step {self.step}  held back, 2-pixel F1: {scored} at threshold {level / 255:.2f}"

    def _save_best(self, threshold: float) -> None:
        versions = {"edgecrack": edgecrack.__version__, "torch": torch.__version__}
        spec = dataclasses.replace(self.spec, threshold=threshold, versions=versions)
        save_checkpoint(self.folder / "best.safetensors", self.net, spec)

    def _save(self) -> None:
        tensors = {f"net.{key}": value.detach().contiguous() for key, value in self.net.state_dict().items()}
        for index, state in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{index}.{key}": value for key, value in state.items()}
        state = {"step": self.step, "seconds": self.seconds, "best_score": self.best_score}
        metadata = self._identity() | {"state": json.dumps(state)}
        save_tensors(self.folder / "last.safetensors", tensors, metadata)

    def _identity(self) -> dict[str, str]:
        """What a run must have in common with one that it continues."""
        sizes = [[frames.name, len(frames)] for frames in self.train_sets]
        recipe = json.dumps(dataclasses.asdict(self.recipe), sort_keys=True)
        return {METADATA_KEY: self.spec.to_json(), "recipe": recipe, "data": json.dumps(sizes)}

    def _load(self) -> None:
        path = self.folder / "last.safetensors"
        tensors, metadata = load_tensors(path)
        if any(metadata.get(key) != value for key, value in self._identity().items()):
            raise SpecError(f"{path} is a run of another net, data or recipe; give the same options or another folder")
        state = json.loads(metadata["state"])
        self.step, self.seconds, self.best_score = state["step"], state["seconds"], state["best_score"]
        self.net.load_state_dict({k.removeprefix("net."): v for k, v in tensors.items() if k.startswith("net.")})
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith("optimiser."):
                _, index, name = key.split(".")
                moments.setdefault(int(index), {})[name] = value
        groups = self.optimiser.state_dict()["param_groups"]
        self.optimiser.load_state_dict({"state": moments, "param_groups": groups})


@contextmanager
def _interrupted_after() -> Iterator[None]:
    """Ctrl-C waits for the end of the block, so that no step is saved half done. Only the main thread can hold it."""
    elsewhere = threading.current_thread() is not threading.main_thread()
    if elsewhere or signal.getsignal(signal.SIGINT) is None:  # None: the handler is not Python's and cannot be put back
        yield
        return
    pressed: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: pressed.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if pressed:
        signal.raise_signal(signal.SIGINT)


def score(net: CrackNet, sets: Sequence[Frames], tolerance: float = 2.0) -> dict[str, Counts]:
    """The pooled counts of each set, every frame at its own size, padded to the net's stride."""
    net.eval()
    pooled: dict[str, Counts] = {}
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        for frames in sets:
            for index in range(len(frames)):
                frame = frames[index]
                if frame.mask is None:
                    continue
                found = counts(probability(net, frame.image), frame.mask, tolerance)
                pooled[frames.name] = pooled[frames.name] + found if frames.name in pooled else found
    return pooled


def best_level(scores: Mapping[str, Counts]) -> tuple[float, int]:
    """The best mean F1 over the sets at one threshold, and the level (threshold x 255) to ship.

    That is the highest one within 0.02 of the best: every labelled frame holds a crack, so that their F1 says too little of
    what fires on the many frames of a drive that hold none.
    """
    mean = np.mean([f_score(pooled) for pooled in scores.values()], axis=0)[1:]
    return float(mean.max()), 1 + int(np.flatnonzero(mean >= mean.max() - CAUTION)[-1])


def probability(net: CrackNet, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """uint8 (H, W, 3) BGR -> uint8 (H, W), the net run at the frame's own size, padded to its stride."""
    height, width = (math.ceil(side / net.stride) * net.stride for side in image.shape[:2])
    fit = Fit(FrameSpec(height, width), *image.shape[:2], *image.shape[:2])
    x = net.prepare(rgb_from_frames(torch.from_numpy(np.ascontiguousarray(fit.apply(image)))[None]))
    answer = (torch.sigmoid(net(x).float())[0, 0] * 255 + 0.5).to(torch.uint8).numpy()
    return fit.undo(answer)


def _append(path: Path, line: str) -> None:
    try:
        with path.open("a") as file:
            file.write(line)
    except OSError as error:
        raise SourceError(f"cannot write {path}: {error.strerror or error}") from error
