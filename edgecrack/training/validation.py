"""Validation during training: scores on the held-back frames, and signs that the training has failed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgecrack.fitting import Fit
from edgecrack.metrics import LEVELS, Counts, counts, f_score
from edgecrack.models import CrackNet
from edgecrack.spec import FrameSpec
from edgecrack.training.data import Frames
from edgecrack.training.machine import lowered
from edgecrack.training.objectives import prepared
from edgecrack.training.recipes import Recipe
from edgecrack.training.views import plain_view

CAUTION = 0.02  # F1 that the shipped threshold may cost, for fewer false alarms


def score(
    net: CrackNet,
    sets: Sequence[Frames],
    tolerance: float = 2.0,
    *,
    frame: FrameSpec | None = None,
    part: tuple[int, int] = (0, 1),
    precision: str = "auto",
) -> dict[str, Counts]:
    """Score `net`: pooled counts per set, every frame at its own size, padded to the net's stride.

    Args:
        frame: size to fit frames to instead, as the runtime does; the result is scaled back.
        part: (i, n) for the i-th of n processes, which share the frames; `pooled_over` adds up their counts.
        precision: as in `Recipe`.
    """
    net.eval()
    device = next(net.parameters()).device.type
    pooled: dict[str, Counts] = {}
    with torch.inference_mode(), lowered(device, precision):
        for frames in sets:
            for index in range(part[0], len(frames), part[1]):
                labelled = frames[index]
                if labelled.mask is None:
                    continue
                found = counts(probability(net, labelled.image, frame), labelled.mask, tolerance)
                pooled[frames.name] = pooled[frames.name] + found if frames.name in pooled else found
    return pooled


def pooled_over(
    scores: Mapping[str, Counts], names: Sequence[str], add: Callable[[Tensor], Tensor], tolerance: float = 2.0
) -> dict[str, Counts]:
    """The counts of all processes, added up by `add`; `names` are those of the sets, the same in every process."""
    found: dict[str, Counts] = {}
    for name in names:
        own = scores.get(name)
        parts = [np.zeros(3 * LEVELS + 2, np.int64)] if own is None else [own.predicted, own.predicted_hit]
        if own is not None:
            parts += [own.truth_found, np.array([own.truth, own.pixels])]
        total = add(torch.from_numpy(np.concatenate(parts).astype(np.int64))).cpu().numpy()
        predicted, hit, truth_found = total[: 3 * LEVELS].reshape(3, LEVELS)
        if total[-1]:
            found[name] = Counts(predicted, hit, int(total[-2]), truth_found, int(total[-1]), tolerance)
    return found


def best_level(scores: Mapping[str, Counts]) -> tuple[float, int]:
    """The best mean F1 over the sets at one threshold, and the level (threshold x 255) to ship.

    That level is the highest within 0.02 of the best F1: all labelled frames have cracks, so that their F1 says too
    little about false alarms on the many frames of a drive without any. Sets without cracks are left out.
    """
    cracked = [pooled for pooled in scores.values() if pooled.truth]
    if not cracked:
        return 0.0, LEVELS // 2
    mean = np.mean([f_score(pooled) for pooled in cracked], axis=0)[1:]
    return float(mean.max()), 1 + int(np.flatnonzero(mean >= mean.max() - CAUTION)[-1])


def probability(net: CrackNet, image: NDArray[np.uint8], frame: FrameSpec | None = None) -> NDArray[np.uint8]:
    """uint8 (H, W, 3) BGR -> crack probability uint8 (H, W); the net runs at `frame`, or at the padded frame's size."""
    if frame is None:
        height, width = (math.ceil(side / net.stride) * net.stride for side in image.shape[:2])
        fit = Fit(FrameSpec(height, width), *image.shape[:2], *image.shape[:2])
    else:
        fit = Fit.of(image.shape[0], image.shape[1], frame)
    frames = torch.from_numpy(np.ascontiguousarray(fit.apply(image)))[None].to(next(net.parameters()).device)
    answer = (torch.sigmoid(net(prepared(net, frames)).float())[0, 0] * 255 + 0.5).to(torch.uint8).cpu().numpy()
    return fit.undo(answer)


def held_back_loss(
    net: CrackNet, sets: Sequence[Frames], recipe: Recipe, loss: Callable[[Sequence[Tensor], Tensor], Tensor]
) -> float:
    """The mean loss over the labelled frames of `sets`, each whole frame resized to the recipe's crop size."""
    net.eval()
    device = next(net.parameters()).device
    found = []
    with torch.inference_mode(), lowered(device.type, recipe.precision):
        for frame in (frames[index] for frames in sets for index in range(len(frames))):
            if frame.mask is None:
                continue
            image, mask = plain_view(frame.image, frame.mask, recipe.crop)
            logits = net.stages(prepared(net, torch.from_numpy(image)[None].to(device)))
            found.append(float(loss(logits, torch.from_numpy(mask)[None, None].float().to(device))))
    return float(np.mean(found))


def ailment(scores: Mapping[str, Counts]) -> str | None:
    """A sentence on what is plainly wrong with these predictions; None if nothing is."""
    predicted = np.sum([pooled.predicted for pooled in scores.values()], axis=0)
    pixels = sum(int(pooled.pixels) for pooled in scores.values())
    most = int(np.flatnonzero(predicted)[-1])
    if not ((predicted > 0) & (predicted < pixels)).any():
        return (
            f"dead head: the net answers {most / 255:.2f} at every pixel of the frames held back, whatever it sees; "
            "start again with another --seed or a lower --learning-rate"
        )
    if most < LEVELS // 2:
        return (
            f"all background: no pixel of the frames held back reaches a crack probability of 0.5, the most is "
            f"{most / 255:.2f}; early in a run that is usual, later the masks or the learning rate are wrong"
        )
    if predicted[LEVELS // 2] == pixels:
        return "all crack: every pixel of the frames held back is above 0.5; look at the masks, they may be inverted"
    return None
