"""The plan of the runs behind docs/results.md, as data: a row is one training and the test lists it is scored on."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Iterable
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

NETS = ("msfnet", "scnet", "aelf-unet", "cacpnet")
SETS = ("road_survey", "uav", "cfd")
COMPACT = {"msfnet": 0.5, "scnet": 0.25, "aelf-unet": 0.25, "cacpnet": 0.25}  # 16 channels at full resolution
WIDTHS = (0.125, 0.25, 0.5)
SIZES = {"road_survey": "1024x640", "uav": "448x448", "cfd": "480x320"}  # the frames' own
RENDERED = 400
SHARES = (0.035, 0.125, 1.0)  # of road_survey's labels
SEEDS = (0, 1, 2)

LONGER = ("msfnet", "scnet")  # the nets that are trained on cfd twice as long too

# what may carry over to a camera left out -> how a run differs that does without it
MOVED: dict[str, dict[str, Any]] = {
    "no-rendered": {"rendered": 0},
    "no-scales-and-light": {"settings": ("augmentation=scnet",)},
}

# ablation -> net, its variants: what each sets beside `ABLATED`; the first is the net as it is
VARIANTS: dict[str, tuple[str, dict[str, tuple[str, ...]]]] = {
    "aelf": (
        "aelf-unet",
        {
            "aelf": (),
            "exponential": ("gamma1=0", "gamma2=0"),
            "cross-entropy": ("objective=cross-entropy",),
            "dice": ("objective=dice",),
            "focal": ("objective=focal",),
            "shallow": ("objective=cross-entropy", "head=shallow"),
        },
    ),
    "scnet": (
        "scnet",
        {
            "full": (),
            "no-attention": ("attention=false",),
            "no-focal": ("pixel=cross-entropy",),
            "no-soft-iou": ("soft_iou_weight=0",),
            "cheap-prior": ("prior=cheap",),
        },
    ),
    "cacpnet": (
        "cacpnet",
        {
            "full": (),
            "no-pyramid": ("pyramid=none",),
            "neither": ("pyramid=none", "attention=false"),
        },
    ),
}
# AELF-UNet has no normalisation and takes off slowly: all its losses follow the same fifth of the run with cross-entropy,
# and none has it beside itself, as its recipe otherwise would.
ABLATED = {"aelf": ("warm_up_cross_entropy=0.2", "cross_entropy=0"), "scnet": (), "cacpnet": ()}


@dataclass(frozen=True)
class Command:
    """What a row runs; a file NAME.done in the row's folder says that it ended well."""

    name: str
    arguments: tuple[str, ...]

    def __str__(self) -> str:
        return shlex.join(["edgecrack", *self.arguments])


@dataclass(frozen=True)
class Row:
    """One training and what it is scored on.

    Attributes:
        name: of the row, unique in the plan.
        study: the part of docs/results.md that it is for.
        net: a key of `edgecrack.models.MODELS`.
        width: its channel multiplier.
        train: the labelled sets.
        tests: the sets whose test lists it is scored on.
        steps: of training.
        seed: of the weights and of every crop.
        batch: crops a step.
        crop: side of a crop.
        rendered: how many rendered roads join the sets.
        settings: NAME=VALUE, what differs from the "fast" recipe.
        labels: share of the labels that are used.
        unlabelled: sets that are learnt from without their labels.
        int8: test sets on which it is scored in INT8 for CPUs too.
    """

    name: str
    study: str
    net: str
    width: float
    train: tuple[str, ...]
    tests: tuple[str, ...]
    steps: int
    seed: int = 0
    batch: int = 8
    crop: int = 256
    rendered: int = 0
    settings: tuple[str, ...] = ()
    labels: float = 1.0
    unlabelled: tuple[str, ...] = ()
    int8: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """The name and a few letters of what is trained: a changed row gets a folder of its own."""
        trained = " ".join(self.training(Path("DATA"), Path("OUT")).arguments)
        return f"{self.name}-{hashlib.sha256(trained.encode()).hexdigest()[:6]}"

    def training(self, data: Path, folder: Path, *more: str) -> Command:
        """The command that trains; `more` are options of the machine, such as --threads."""
        told = {
            "model": self.net,
            "data": _folders(data, self.train),
            "unlabelled": _folders(data, self.unlabelled),
            "labels": f"{self.labels:g}" if self.labels < 1 else "",
            "rendered": str(self.rendered),
            "width": f"{self.width:g}",
            "steps": str(self.steps),
            "batch": str(self.batch),
            "crop": str(self.crop),
            "seed": str(self.seed),
        }
        options = [part for name, value in told.items() if value for part in (f"--{name}", value)]
        settings = [part for setting in self.settings for part in ("--set", setting)]
        return Command("train", ("train", *options, *settings, *more, "-o", str(folder)))

    def scoring(self, data: Path, folder: Path, sizes: dict[str, str] = SIZES) -> list[Command]:
        """The commands that export the trained net at the size of each test list's frames, and score it there."""
        found, last = [], []  # what INT8 may fail at costs no other score
        for name in self.tests:
            here = folder / name
            weights = str(folder / "best.safetensors")
            exported = ("export", "--model", self.net, "--weights", weights, "--size", sizes[name], "-o", str(here))
            scored = ("--data", str(data / name), "--backend", "openvino", "--out")
            fp32, int8 = (here / f"{self.net}{kind}.onnx" for kind in ("", ".int8-cpu"))
            found.append(Command(f"export-{name}", exported))
            found.append(Command(f"evaluate-{name}", ("evaluate", str(fp32), *scored, str(here / "fp32"))))
            if name in self.int8:
                more = ("--int8", "--target", "cpu", "--calib", str(data / self.train[0]))
                last.append(Command(f"export-{name}-int8", (*exported, *more)))
                last.append(Command(f"evaluate-{name}-int8", ("evaluate", str(int8), *scored, str(here / "int8"))))
        return [*found, *last]

    @property
    def told(self) -> list[Command]:
        """Its commands as they are printed: of data in DATA, written to OUT."""
        folder = Path("OUT") / self.key
        return [self.training(Path("DATA"), folder), *self.scoring(Path("DATA"), folder)]


def _folders(data: Path, names: Iterable[str]) -> str:
    return ",".join(str(data / name) for name in names)


def plan() -> list[Row]:
    """Every row, the most important first."""
    return [*_left_out(), *_papers(), *_few_labels(), *_ablations(), *_cross(), *_widths(), *_moved()]


def chosen(rows: Iterable[Row], patterns: str) -> list[Row]:
    """The rows whose names match one of `patterns`, globs with commas between. Raises ValueError for one that fits none."""
    rows = list(rows)
    wanted = [pattern.strip() for pattern in patterns.split(",") if pattern.strip()]
    for pattern in wanted:
        if not any(fnmatch(row.name, pattern) for row in rows):
            raise ValueError(f"no row is called {pattern}; --plan prints the names")
    return [row for row in rows if any(fnmatch(row.name, pattern) for pattern in wanted)]


def _left_out() -> list[Row]:
    """Each set left out in turn. Only those without cfd in training may become weights that are shipped."""
    return [
        _without(out, net, COMPACT[net], f"left-out-{out}-{net}")
        for out in ("cfd", "uav", "road_survey")
        for net in NETS
    ]


def _without(out: str, net: str, width: float, name: str) -> Row:
    """The net at that width, trained on all sets but `out` and on rendered roads."""
    others = tuple(each for each in SETS if each != out)
    scored = SETS if width == COMPACT[net] else (out,)
    return Row(
        name,
        study="left-out" if width == COMPACT[net] else "width",
        net=net,
        width=width,
        train=others,
        tests=(out, *(each for each in scored if each != out)),
        steps=800,
        rendered=RENDERED,
        settings=("validate_steps=200",),
        int8=("cfd",) if out == "cfd" else (),
    )


def _moved() -> list[Row]:
    """MSF-Net without what is to help it on a camera left out, on the two that look down; the third it does not reach."""
    rows = []
    for variant, less in MOVED.items():
        for out in ("cfd", "uav"):
            row = _without(out, "msfnet", COMPACT["msfnet"], f"moved-{variant}-{out}")
            settings = (*row.settings, *less.get("settings", ()))
            rendered = less.get("rendered", row.rendered)
            rows.append(replace(row, study="moved", tests=(out,), rendered=rendered, settings=settings, int8=()))
    return rows


def _papers() -> list[Row]:
    """cfd alone; SCNet on the other sets too, for the row of the cross-set table."""
    rows = [_alone("cfd", net, SETS if net == "scnet" else ("cfd",), f"papers-{net}") for net in NETS]
    longer = [_alone("cfd", net, ("cfd",), f"papers-longer-{net}") for net in LONGER]
    return [*rows, *(replace(row, steps=2 * row.steps) for row in longer)]


def _cross() -> list[Row]:
    return [_alone(name, "scnet", SETS, f"cross-{name}") for name in SETS if name != "cfd"]


def _alone(name: str, net: str, tests: tuple[str, ...], row: str) -> Row:
    settings = ("select=last", "validate_steps=300")
    study = row.partition("-")[0]
    return Row(row, study, net, COMPACT[net], train=(name,), tests=tests, steps=1200, settings=settings)


def _few_labels() -> list[Row]:
    """MSF-Net with a share of road_survey's labels, with and without its other frames."""
    rows = []
    for seed, share in ((seed, share) for seed in (0, 1) for share in SHARES):
        for kind, unlabelled in (("supervised", ()), ("contrast", ("road_survey",))):
            row = Row(
                f"few-{100 * share:g}-{kind}-{seed}",
                study="few",
                net="msfnet",
                width=COMPACT["msfnet"],
                train=("road_survey",),
                tests=("road_survey",),
                steps=600,
                seed=seed,
                batch=4,
                crop=192,
                settings=("select=last", "validate_steps=300"),
                labels=share,
                unlabelled=unlabelled,
            )
            rows.append(row)
    return rows


def _ablations() -> list[Row]:
    """The same small run on cfd for all; every variant of one seed before the next seed."""
    rows = []
    for seed in SEEDS:
        for family, (net, variants) in VARIANTS.items():
            for variant, settings in variants.items():
                every = ("select=last", "validate_steps=300", *ABLATED[family])
                row = Row(
                    f"ablation-{family}-{variant}-{seed}",
                    study="ablation",
                    net=net,
                    width=COMPACT[net],
                    train=("cfd",),
                    tests=("cfd",),
                    steps=300,
                    seed=seed,
                    crop=192,
                    settings=(*every, *settings),
                )
                rows.append(row)
    return rows


def _widths() -> list[Row]:
    """The widths that the compact nets of `_left_out` are not."""
    widths = [(width, net) for width in WIDTHS for net in NETS if width != COMPACT[net]]
    return [_without("cfd", net, width, f"width-{width:g}-{net}") for width, net in widths]


def small(row: Row, steps: int) -> Row:
    """The row as a rehearsal: the same path in `steps` tiny steps, a checkpoint after every second."""
    settings = [setting for setting in row.settings if not setting.startswith("validate_steps")]
    return replace(
        row,
        width=row.width / 4,
        steps=steps,
        batch=2,
        crop=64,
        rendered=min(2, row.rendered),
        settings=("validate_steps=2", *settings),
        int8=row.int8 if row.net == "msfnet" else (),  # of the others untrained, INT8 is rightly refused
    )


def rehearsed(rows: Iterable[Row], steps: int) -> list[Row]:
    """The first row of each kind, small."""
    first: dict[tuple[str, str, bool], Row] = {}
    for row in rows:
        first.setdefault((row.study, row.net, bool(row.unlabelled)), row)
    return [small(row, steps) for row in first.values()]
