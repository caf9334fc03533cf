"""Subsets of labelled frames, for experiments with few labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgecrack.errors import SpecError
from edgecrack.training.data import Frames, Selected

LEAST = 4  # frames
STRATA = 4  # groups of frames with about the same share of crack pixels


def labelled_part(sets: Sequence[Frames], share: float, seed: int) -> list[Selected]:
    """A fraction `share` of the frames of each set, at least 4, stratified by the amount of crack pixels.

    Drawn frame by frame and nested: with the same seed, a smaller share is part of a larger one. Reads every mask once.
    Raises SpecError unless `share` is above 0 and at most 1.
    """
    if not 0 < share <= 1:
        raise SpecError(f"the share of labelled frames is above 0 and at most 1, got {share}")
    return [
        Selected(frames, tuple(_stratified(frames, seed)[: max(LEAST, round(share * len(frames)))])) for frames in sets
    ]


def _stratified(frames: Frames, seed: int) -> list[int]:
    """All frames in an order of which every prefix has about equally many of each stratum."""
    rng = np.random.default_rng(seed)
    masks = (frames[index].mask for index in range(len(frames)))
    by_cracks = np.argsort([0.0 if mask is None else mask.mean() for mask in masks], kind="stable")
    strata = [rng.permutation(part) for part in np.array_split(by_cracks, min(STRATA, len(by_cracks)))]
    places = [(place / len(part), index) for part in strata for place, index in enumerate(part)]
    return [int(index) for _, index in sorted(places, key=lambda pair: pair[0])]
