"""The training loop."""

from __future__ import annotations

import dataclasses
import itertools
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from lightning_fabric.fabric import Fabric
from torch import Tensor

import edgecrack
from edgecrack.errors import FrameError, SourceError, SpecError
from edgecrack.metrics import Counts, f_score
from edgecrack.models import CrackNet, build_model
from edgecrack.models.checkpoint import save_checkpoint
from edgecrack.spec import ModelSpec
from edgecrack.training.averages import Average
from edgecrack.training.contrast import Contrast
from edgecrack.training.crops import Arrays, Crops, Views, scales_shown
from edgecrack.training.data import Frames
from edgecrack.training.logs import Log
from edgecrack.training.losses import LOSSES
from edgecrack.training.machine import Stepper, open_fabric
from edgecrack.training.objectives import Distilled, Learner, Objective, Supervised
from edgecrack.training.rates import Plateau, learning_rate, optimiser_for
from edgecrack.training.recipes import Recipe
from edgecrack.training.samples import save_samples
from edgecrack.training.semi_supervised import FewLabels
from edgecrack.training.states import LAST, fingerprint, identity, load_state, save_state
from edgecrack.training.validation import ailment, best_level, held_back_loss, pooled_over, score

BEST = "best.safetensors"
SAVE_EVERY = 300.0  # seconds of training that a kill may cost
REPORT_EVERY = 20.0
Report = Callable[[str], None]
Tick = Callable[[float, str], None]  # fraction of the run done, 0 to 1, and a status line


@dataclass
class Progress:
    """Progress of a run: `seconds` of training over all resumes, and how many of them it `waited` for crops."""

    step: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    score: float = -1.0  # of the last validation
    best_score: float = -1.0
    worse: int = 0  # validations since the best
    validated: int = 0  # the step of the last validation
    plateau: Plateau = field(default_factory=Plateau)
    scaler: dict[str, float] = field(default_factory=dict)  # of the loss in fp16


class Trainer:
    """A training run in `folder`: last.safetensors to resume, best.safetensors to use, log.jsonl, steps.csv, samples/.

    Args:
        spec: the net; its threshold is set by the run.
        train: labelled training sets.
        held_back: validation sets, which choose the best checkpoint and the threshold by their mean 2-pixel F1.
        start: the net that `spec` describes, to continue training; newly initialised by default.
        resume: continue the run in `folder`. Raises SpecError when its net, data or recipe differ.
        unlabelled: sets to learn from without their labels.
        teacher: a trained net to distil from, in addition to the labels.
        fabric: the devices; the CPU by default.
        workers: threads that prepare crops ahead of time.
        compiled: whether to use torch.compile.
        tensorboard: whether to write a TensorBoard log too.
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
        unlabelled: Sequence[Frames] = (),
        teacher: CrackNet | None = None,
        fabric: Fabric | None = None,
        workers: int = 1,
        compiled: bool = False,
        tensorboard: bool = False,
    ) -> None:
        torch.manual_seed(recipe.seed)
        self.fabric = fabric or open_fabric(precision=recipe.precision)
        self.frames = sum(len(frames) for frames in train)
        self.recipe = recipe.for_frames(self.frames)
        self.train_sets, self.unlabelled, self.held_back = train, unlabelled, held_back
        self.folder, self.workers = folder, workers
        self.spec = dataclasses.replace(spec, trained_on=tuple(frames.name for frames in train))
        self.spec = dataclasses.replace(self.spec, scales=scales_shown(self.recipe, train))
        self.net = self._built(start, teacher)
        self.learner = Learner(self.net, Contrast(**recipe.contrast).embed_from if unlabelled else 0)
        self.objective = self._objective(teacher)
        self.taught_by = fingerprint(teacher) if teacher else ""
        self.optimiser = optimiser_for(self.recipe, self.learner.parameters())
        self.stepper = Stepper(self.fabric, self.learner, self.optimiser, compiled)
        self.average = Average(self.net, self.recipe.ema)
        self.made = Progress()
        self.log = Log(folder, written=self.fabric.is_global_zero, tensorboard=tensorboard)
        if resume:
            self._load()
        elif (folder / LAST).exists():
            raise SpecError(f"{folder} holds a run already; continue it with --resume or choose another folder")
        else:
            self.log.cut(0)  # of a run that ended before it had saved anything

    def run(self, report: Report, validate_every: float = 300.0, tick: Tick | None = None) -> Path:
        """Train to the end or to KeyboardInterrupt, which saves and is re-raised; returns the best checkpoint's path.

        Args:
            report: called with a line for each validation, each warning and, without `tick`, the progress.
            validate_every: seconds between validations if the recipe has no `validate_steps`, up to ten times as many
                if they would take over a twentieth of the time; each writes the last checkpoint and maybe the best.
            tick: called with the progress after every step.
        """
        report = report if self.fabric.is_global_zero else _silent
        losses: deque[float] = deque(maxlen=100)
        began = time.monotonic() - self.made.seconds
        reported = saved = validated = self.made.seconds
        pause = validate_every
        try:
            if self._due(late=False) and self.made.validated < self.made.step:  # it was interrupted before this
                self._validate(losses, report)
            with self._ahead() as following:
                while not self.over:
                    crops = following()
                    with _interrupted_after():
                        losses.append(self._step(crops))
                        self.made.seconds = self.stepper.agreed(time.monotonic() - began)
                    if tick:
                        tick(self.progress, self._line(losses))
                    elif self.made.seconds - reported > REPORT_EVERY:
                        report(self._line(losses))
                        reported = self.made.seconds
                    if self._due(late=self.made.seconds - validated > pause):
                        start = time.monotonic()
                        self._validate(losses, report)
                        took = self.stepper.agreed(time.monotonic() - start)
                        pause = max(validate_every, min(20 * took, 10 * validate_every))
                        saved = validated = self.made.seconds + took
                    elif self.made.seconds - saved > SAVE_EVERY:
                        self._save()
                        saved = self.made.seconds
            if self.made.validated < self.made.step:
                self._validate(losses, report)
        except (KeyboardInterrupt, SourceError, FrameError):  # a frame may prove unreadable after hours
            self._save()
            raise
        finally:
            self.log.close()
        return self.folder / BEST

    @property
    def progress(self) -> float:
        """Fraction of the run that is done: 0 at the start, 1 at the end."""
        return max(self.made.step / self.recipe.steps, self.made.seconds / 60 / self.recipe.minutes)

    @property
    def kept_score(self) -> float:
        """2-pixel F1 of the kept weights on the held-back frames."""
        return self.made.score if self.recipe.select == "last" else self.made.best_score

    @property
    def over(self) -> bool:
        """Whether the run is complete or has stopped improving."""
        stale = 0 < self.recipe.patience <= self.made.worse
        return self.progress >= 1 or stale or self.made.plateau.over(self.recipe)

    def _built(self, start: CrackNet | None, teacher: CrackNet | None) -> CrackNet:
        net = build_model(self.spec) if start is None else start
        crop, processes = self.recipe.crop, self.fabric.world_size
        for whose, one in ((self.spec.name, net), ("its teacher", teacher)):
            if one and (crop.height % one.stride or crop.width % one.stride):
                raise SpecError(f"crop must be a multiple of {one.stride} for {whose}, got {crop}")
        if self.recipe.batch % processes:
            raise SpecError(f"batch must be a multiple of the {processes} processes, got {self.recipe.batch}")
        return net

    def _objective(self, teacher: CrackNet | None) -> Objective:
        crops = Crops(self.train_sets, self.recipe)
        if self.unlabelled:
            if teacher:
                raise SpecError("a run learns from a teacher or from unlabelled frames, not from both")
            return FewLabels(self.spec.name, self.recipe, crops, Views(self.unlabelled, self.recipe), self.learner)
        if teacher:
            return Distilled(self.spec.name, self.recipe, crops, teacher)
        return Supervised(self.spec.name, self.recipe, crops)

    def _draw(self, step: int) -> Arrays:
        """This process's share of the crops of a step."""
        count = self.recipe.batch // self.fabric.world_size
        first = step * self.recipe.batch + self.fabric.global_rank * count
        return self.objective.draw(range(first, first + count))

    @contextmanager
    def _ahead(self) -> Iterator[Callable[[], Arrays]]:
        """A function that returns the crops of the next step, prepared ahead by threads."""
        with ThreadPoolExecutor(self.workers) as pool:
            steps = itertools.count(self.made.step)
            drawn = deque(pool.submit(self._draw, step) for step in itertools.islice(steps, self.workers + 1))

            def following() -> Arrays:
                asked = time.monotonic()
                arrays = drawn.popleft().result()
                drawn.append(pool.submit(self._draw, next(steps)))
                self.made.waited += time.monotonic() - asked
                return arrays

            try:
                yield following
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _step(self, crops: Arrays) -> float:
        step, recipe = self.made.step, self.recipe
        self.stepper.module.train()
        # dropout depends on the seed, the step and the process alone, as the crops do
        rank = [self.fabric.global_rank] if self.fabric.global_rank else []
        torch.manual_seed(int(np.random.default_rng((recipe.seed, step, *rank)).integers(2**63)))
        epoch = step / recipe.epoch_steps(self.frames)
        rate = learning_rate(recipe, step, self.progress, epoch, self.made.plateau.factor)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        batch = {name: torch.from_numpy(part).to(self.fabric.device) for name, part in crops.items()}
        loss = self.objective.loss(self.stepper.module, batch, self.progress)
        value, norm = self.stepper.step(loss, recipe, step)
        self.average.follow()
        self.made.step = step + 1
        share = self.made.waited / max(self.made.seconds, 1e-9)
        row = {"step": step + 1, "seconds": self.made.seconds, "loss": value, "learning_rate": rate}
        self.log.step(row | {"gradient_norm": norm, "waiting": min(1.0, share)})
        return value

    def _due(self, *, late: bool) -> bool:
        every = self.recipe.validate_steps
        if self.recipe.schedule == "plateau" and not every:
            every = self.recipe.epoch_steps(self.frames)  # its patience counts epochs
        return self.made.step % every == 0 if every else late

    def _line(self, losses: Sequence[float]) -> str:
        share = max(self.progress, 1e-6)
        left = self.made.seconds * (1 - share) / share / 60
        return f"step {self.made.step}  {share:.0%}  loss {np.mean(losses):.4f}  {left:.0f} min left"

    def _validate(self, losses: Sequence[float], report: Report) -> None:
        with self.average.used():
            scores = self._scores()
            found, level = best_level(scores)
            by_set = {name: round(float(f_score(pooled)[level]), 4) for name, pooled in scores.items()}
            best = found > self.made.best_score or self.recipe.select == "last"
            loss = self.stepper.agreed(self._held_back_loss()) if self.recipe.schedule == "plateau" else None
            if self.fabric.is_global_zero:
                if best:
                    self._save_best(level / 255)
                save_samples(
                    self.folder / "samples" / f"{self.made.step:06}.jpg", self.net, self.held_back, level / 255
                )
        with _interrupted_after():  # after saving: an interrupt in between must not lose the best one
            self.made.score = found
            self.made.worse = 0 if found > self.made.best_score else self.made.worse + 1
            self.made.best_score = max(found, self.made.best_score)
            self.made.validated = self.made.step
            if loss is not None:
                self.made.plateau.take(loss, self.recipe)
        self._save()
        wrong = ailment(scores)
        self.log.validation(
            {
                "step": self.made.step,
                "seconds": round(self.made.seconds),
                "loss": float(np.mean(losses)) if losses else None,
                "waiting": round(self.made.waited / max(self.made.seconds, 1e-9), 4),
                "threshold": round(level / 255, 4),
                "held_back_f1_2px": by_set,
                "best_f1_2px": found,
                **({} if loss is None else {"held_back_loss": loss}),
                "best": best,
                "warning": wrong,
            }
        )
        scored = ", ".join(f"{name} {value:.3f}" for name, value in by_set.items())
        report(f"step {self.made.step}  held back, 2-pixel F1: {scored} at threshold {level / 255:.2f}")
        if wrong:
            report(f"warning: {wrong}")

    def _scores(self) -> dict[str, Counts]:
        part = self.fabric.global_rank, self.fabric.world_size
        scores = score(self.net, self.held_back, part=part, precision=self.recipe.precision)
        if self.fabric.world_size == 1:
            return scores
        return pooled_over(scores, [frames.name for frames in self.held_back], self.stepper.sum)

    def _held_back_loss(self) -> float:
        loss = partial(LOSSES[self.spec.name], **self.recipe.loss)
        return held_back_loss(self.net, self.held_back, self.recipe, loss)

    def _save_best(self, threshold: float) -> None:
        versions = {"edgecrack": edgecrack.__version__, "torch": torch.__version__}
        spec = dataclasses.replace(self.spec, threshold=threshold, versions=versions)
        save_checkpoint(self.folder / BEST, self.net, spec, about=self._identity())

    def _save(self) -> None:
        if not self.fabric.is_global_zero:
            return
        moments = {
            f"{index}.{key}": value
            for index, state in self.optimiser.state_dict()["state"].items()
            for key, value in state.items()
            if value is not None
        }
        self.made.scaler = self.stepper.scaler.state_dict() if self.stepper.scaler else {}
        parts = {"net": self.net.state_dict(), "optimiser": moments, "average": self.average.tensors}
        parts["objective"] = self.objective.tensors()
        if self.learner.added is not None:
            parts["projection"] = self.learner.added.state_dict()
        save_state(self.folder / LAST, parts, asdict(self.made), self._identity())

    def _identity(self) -> dict[str, str]:
        """What must match for this run to resume a saved one."""
        sets = [*self.train_sets, *self.unlabelled]
        return identity(self.spec, self.recipe, [[frames.name, len(frames)] for frames in sets], self.taught_by)

    def _load(self) -> None:
        parts, made = load_state(self.folder / LAST, self._identity())
        self.made = Progress(**{**made, "plateau": Plateau(**made["plateau"])})
        self.net.load_state_dict(parts["net"])
        if self.learner.added is not None:
            self.learner.added.load_state_dict(parts["projection"])
        self.average.load(parts.get("average", {}), self.made.step)
        self.objective.load(parts.get("objective", {}))
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in parts.get("optimiser", {}).items():
            index, _, name = key.partition(".")
            moments.setdefault(int(index), {})[name] = value
        groups = self.optimiser.state_dict()["param_groups"]
        self.optimiser.load_state_dict({"state": moments, "param_groups": groups})
        if self.stepper.scaler and self.made.scaler:
            self.stepper.scaler.load_state_dict(self.made.scaler)
        self.log.cut(self.made.step)


def _silent(_: str) -> None:
    """Discard a line: the `report` of all processes but the first."""


@contextmanager
def _interrupted_after() -> Iterator[None]:
    """Defer Ctrl-C to the end of the block, so that no step is saved half done; SIGTERM too, if the program catches it.

    Works in the main thread only.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    caught: list[int] = []
    with ExitStack() as restored:
        for number in (signal.SIGINT, signal.SIGTERM):
            handler = signal.getsignal(number)
            if callable(handler):  # one that is not Python's would end the process, and none can be restored
                restored.callback(signal.signal, number, handler)
                signal.signal(number, lambda got, _: caught.append(got))
        yield
    if caught:
        signal.raise_signal(caught[0])
