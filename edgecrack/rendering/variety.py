"""Special features that real sets show too rarely: close views, coarse stone, hair and wide cracks, litter, night."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

STREAM = 3  # separate random stream of a seed, so that these draws leave roads without special features unchanged


@dataclass(frozen=True)
class Variety:
    """The special features of one road; none by default."""

    close: bool = False  # close view, over 8 to 50 cm of ground, if the view is "any"
    coarser: float = 1.0  # factor on the size of asphalt's stones
    grooves: bool = False  # cut into concrete
    paving: float = 0.0  # side of small slabs in metres, 0 for none
    cracks: str = "usual"  # or "hair" or "wide"
    litter: float = 0.0  # mean straws, twigs, cables and chalk marks per block
    wet: float = 0.0  # 0 is dry; at 1, water covers half of it
    drying: bool = False  # cracks and the road beside them are still wet
    night: bool = False


def drawn_variety(seed: int) -> Variety:
    """Draw the special features of the road of a seed; one road in five has none."""
    rng = np.random.default_rng((seed, STREAM))
    chance = rng.random(9)
    weather = chance[6]
    return Variety(
        close=bool(chance[0] < 0.25),
        coarser=rng.uniform(1.5, 3.0) if chance[1] < 0.2 else 1.0,
        grooves=bool(chance[2] < 0.12),
        paving=rng.uniform(0.08, 0.4) if chance[3] < 0.06 else 0.0,
        cracks="hair" if chance[4] < 0.13 else "wide" if chance[4] < 0.26 else "usual",
        litter=float(rng.choice([0.5, 1.5, 4.0])) if chance[5] < 0.3 else 0.0,
        wet=rng.uniform(0.2, 1.0) if weather < 0.12 else 0.0,
        drying=bool(0.12 < weather < 0.18),
        night=bool(chance[7] < 0.1),
    )
