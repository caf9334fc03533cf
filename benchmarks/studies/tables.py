"""docs/results.md: what stands between its markers is written anew from the finished rows, the rest is left as it is."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgecrack.files import write_atomic
from studies.costs import training_hours
from studies.found import NOT_RUN, Found, spread, table
from studies.papers import CLAIMS, CROSS, PRINTED, Claim
from studies.plan import COMPACT, LONGER, NETS, SEEDS, SETS, SHARES, VARIANTS, WIDTHS, Row

TITLES = {
    "left-out": "Cameras left out",
    "moved": "What helps on a camera left out",
    "papers": "cfd, compared with the papers",
    "cross": "Trained on one set, tested on another",
    "ablation": "What each idea is worth",
    "few": "Few labels",
    "width": "Speed against accuracy",
    "runs": "The runs",
}
OWN, BEST, STRICT = "f1_2px", "best_f1_2px", "best_f1"
Cells = list[list[str]]


def written(text: str, found: Found) -> str:
    """`text`, or a new page where it is empty, with every section as `found` has it now."""
    text = text or "# Results\n"
    for name, title in TITLES.items():
        begin, end = f"<!-- {name}: written by benchmarks/experiments.py -->", f"<!-- end of {name} -->"
        body = f"{begin}\n{SECTIONS[name](found)}\n{end}"
        before, marked, rest = text.partition(begin)
        if not marked:
            text = f"{text.rstrip()}\n\n## {title}\n\n{body}\n"
            continue
        _, closed, after = rest.partition(end)
        if not closed:
            raise ValueError(f"the section {name} begins with a marker and has no {end}; put it back")
        text = before + body + after
    return text


def _left_out(found: Found) -> str:
    lines: Cells = []
    for net in NETS:
        names = {out: f"left-out-{out}-{net}" for out in SETS}
        for out, name in names.items():
            home = [f"{each} {found.cell(name, each, OWN)}" for each in SETS if each != out]
            cells = (found.cell(name, out, metric, interval=metric == OWN) for metric in (OWN, BEST, STRICT))
            lines.append([f"`{net}`", out, *cells, ", ".join(home)])
        means = [_mean(found, names, metric) for metric in (OWN, BEST, STRICT)]
        lines.append([f"`{net}`", "**mean of those left out**", *means, ""])
    head = ["net", "left out", "2-pixel F1, own threshold", "2-pixel best F1", "strict best F1"]
    told = "Trained on the other two sets and rendered roads, tested on the test list of the set left out (rows `left-out-*`)."
    return f"{told}\n\n{table([*head, 'sets trained on: 2-pixel F1, own threshold'], lines)}"


def _mean(found: Found, names: Mapping[str, str], metric: str) -> str:
    values = [found.several([name], out, metric)[0] for out, name in names.items()]
    known = [value for value in values if value is not None]
    return f"{statistics.mean(known):.3f}" if len(known) == len(values) else NOT_RUN


def _moved(found: Found) -> str:
    variants = {"full training": "left-out-{}-msfnet", "no rendered roads": "moved-no-rendered-{}"}
    variants["no changes of scale, shear, light, blur and noise"] = "moved-no-scales-and-light-{}"
    outs = ("uav", "cfd")
    lines = []
    for told, name in variants.items():
        cells = [found.cell(name.format(out), out, metric, interval=True) for out in outs for metric in (OWN, BEST)]
        lines.append([told, *cells])
    head = [f"{out} left out: 2-pixel F1, {which}" for out in outs for which in ("own threshold", "best")]
    told = (
        "MSF-Net as above, and without what is meant to make it generalise (rows `moved-*`): same steps and seed, tested on the "
        "downward-looking sets left out. In the last row crops keep the frame's scale and light, and are rotated and flipped."
    )
    return f"{told}\n\n{table(['', *head], lines)}"


def _papers(found: Found) -> str:
    metrics = {
        "best_f1": "strict best F1 (ODS)",
        "f1": "strict F1 at the threshold chosen for 2 pixels",
        "ois": "OIS",
        "average_precision": "AP",
        "iou": "crack IoU",
        OWN: "2-pixel F1, own threshold",
        BEST: "2-pixel best F1",
        "best_f1_2px_frame_mean": "2-pixel best F1, mean of frames",
        "best_f1_5px": "5-pixel best F1",
        "patch_f1": "patch F1",
    }
    names = {f"`{net}`": f"papers-{net}" for net in NETS}
    names |= {f"`{net}`, twice the steps": f"papers-longer-{net}" for net in LONGER}
    ours = [[net, *(found.cell(name, "cfd", metric) for metric in metrics)] for net, name in names.items()]
    printed = [[name, *(_printed(values, metric) for metric in metrics)] for name, values in PRINTED.items()]
    told = (
        "Trained on cfd's 72 training frames alone (rows `papers-*`), scored on its 46 test frames. The papers' F1 stands in the "
        "column that fits best: SCNet's under strict, since its numbers on another set are strict; CACPNet's under the 2-pixel "
        "mean of frames, since an F1 of 0.949 and an IoU of 0.721 cannot both be strict. SCNet holds out a fifth of 323 samples "
        "of CrackForest, which are crops; it does not print whether crops of one photograph are on both sides. MSF-Net's source "
        "prints no number, AELF's none on a public crack set. Own thresholds were chosen on 3 frames held back."
    )
    return f"{told}\n\n{table(['net', *metrics.values()], [*ours, *printed])}"


def _printed(values: Mapping[str, float], metric: str) -> str:
    name = "best_f1_frame_mean" if metric == "best_f1_2px_frame_mean" else metric
    return f"{values[name]:.3f}" if name in values else ""


def _cross(found: Found) -> str:
    names = {"road_survey": "cross-road_survey", "uav": "cross-uav", "cfd": "papers-scnet"}
    lines = []
    for trained, name in names.items():
        cells = [f"{found.cell(name, test, STRICT)} / {found.cell(name, test, BEST)}" for test in SETS]
        lines.append([trained, *cells])
    theirs = [[trained, *(f"{value:.3f}" for value in tested.values())] for trained, tested in CROSS.items()]
    return (
        "Compact SCNet; rows are the training sets, columns the test sets; strict best F1 / 2-pixel best F1.\n\n"
        f"{table(['trained on', *SETS], lines)}\n\n"
        "SCNet's Table V: F1 of its full net on its sets, of which we have CrackForest alone:\n\n"
        f"{table(['trained on', *CROSS], theirs)}"
    )


def _ablation(found: Found) -> str:
    metrics = {STRICT: "strict best F1", BEST: "2-pixel best F1", "f0.3_frame_mean": "F (beta² 0.3) at 0.5"}
    lines = [
        [f"`{net}`", f"{family}-{variant}", *(spread(_seeds(found, family, variant, metric)) for metric in metrics)]
        for family, (net, variants) in VARIANTS.items()
        for variant in variants
    ]
    head = ["claim", "the paper prints", "the paper's metric", "difference", "2-pixel best F1", "sign"]
    claims = table(head, [_claimed(found, claim) for claim in CLAIMS])
    told = (
        f"All variants use the same {len(SEEDS)} seeds: 300 steps of 8 crops of 192 on cfd (rows `ablation-*`), mean ± standard "
        "deviation over the seeds. Differences are taken seed by seed. *Holds* means that the mean and every seed have the "
        "sign of the claim, *opposite* that all have the other, *undecided* anything else, as where nothing is marked at 0.5. "
        f"Three coins agree one time in four, so {len(CLAIMS) // 4} of the {len(CLAIMS)} claims would be settled by chance: a "
        "difference smaller than its spread is no evidence. A run this short favours what learns fast. All losses of AELF-UNet "
        "follow a warm-up with cross-entropy, the same fifth of the run; its gammas are the defaults, whereas the paper searches "
        "them for each set."
    )
    return f"{told}\n\n{claims}\n\n{table(['net', 'variant', *metrics.values()], lines)}"


def _seeds(found: Found, family: str, variant: str, metric: str) -> list[float | None]:
    return found.several([f"ablation-{family}-{variant}-{seed}" for seed in SEEDS], "cfd", metric)


def _claimed(found: Found, claim: Claim) -> list[str]:
    apart = _apart(found, claim, claim.metric)
    return [claim.text, claim.printed, claim.metric, signed(apart), signed(_apart(found, claim, BEST)), verdict(apart)]


def _apart(found: Found, claim: Claim, metric: str) -> list[float]:
    """By seed, where both are there."""
    pairs = zip(*(_seeds(found, claim.family, variant, metric) for variant in (claim.better, claim.worse)), strict=True)
    return [better - worse for better, worse in pairs if better is not None and worse is not None]


def signed(apart: Sequence[float]) -> str:
    """A difference as tables have it: mean ± standard deviation."""
    if not apart:
        return NOT_RUN
    deviation = f" ± {statistics.stdev(apart):.3f}" if len(apart) > 1 else ""
    return f"{statistics.mean(apart):+.3f}{deviation}"


def verdict(apart: Sequence[float], seeds: int = len(SEEDS)) -> str:
    """Whether the sign of a claim holds over its seeds."""
    if len(apart) < seeds:
        return NOT_RUN if not apart else f"{len(apart)} of {seeds} seeds run"
    if all(value > 0 for value in apart):
        return "holds"
    return "opposite" if all(value < 0 for value in apart) else "undecided"


def _few(found: Found) -> str:
    lines = []
    for share in SHARES:
        kinds = {
            kind: found.several([f"few-{100 * share:g}-{kind}-{seed}" for seed in (0, 1)], "road_survey", BEST)
            for kind in ("supervised", "contrast")
        }
        pairs = zip(kinds["contrast"], kinds["supervised"], strict=True)
        apart = [more - less for more, less in pairs if more is not None and less is not None]
        lines.append([f"{100 * share:g} %", *map(spread, kinds.values()), signed(apart), verdict(apart, 2)])
    told = (
        "Compact MSF-Net on road_survey, trained on the labels of a share of its training frames, with and without the others as "
        "unlabelled frames: 600 steps of 4 labelled crops of 192 for both, two seeds, 2-pixel best F1 on the test list (rows "
        "`few-*`). The contrast adds 4 unlabelled frames per step, so a step takes three times as long."
    )
    return f"{told}\n\n{table(['labels', 'supervised only', 'with contrast', 'difference', 'better in both seeds'], lines)}"


def width_names() -> dict[tuple[str, float], str]:
    """(net, width) -> the row that has left cfd out at that width."""
    return {
        (net, width): f"left-out-cfd-{net}" if width == COMPACT[net] else f"width-{width:g}-{net}"
        for net in NETS
        for width in WIDTHS
    }


def _width(found: Found) -> str:
    timed = found.frontier or {"rows": {}, "machine": "", "roof": ""}
    lines = []
    for (net, width), name in width_names().items():
        speed = timed["rows"].get(found.by_name[name].key if name in found.by_name else "", {})
        cells = [f"{speed[key]:.{places}f}" if speed else NOT_RUN for key, places in _SPEED.items()]
        scores = (found.cell(name, "cfd", metric, "int8") for metric in (OWN, BEST))
        lines.append([f"`{net}`", f"{width:g}", *scores, found.cell(name, "cfd", BEST), *cells])
    told = (
        "Trained on road_survey, uav and rendered roads for 800 steps at every width, tested on cfd, a camera left out (rows "
        "`left-out-cfd-*` and `width-*`), at its 480x320. Milliseconds are the median at one frame at a time, in INT8 on "
        f"OpenVINO, measured on {timed['machine'] or 'nothing yet'}. The roof is on paper: "
        f"{timed['roof'] or 'not computed yet'}; no engine reaches it, and none was run on such a board. `python "
        "benchmarks/frontier.py` measures and plots."
    )
    head = ["net", "width", "2-pixel F1 in INT8, own threshold", "2-pixel best F1 in INT8", "in fp32"]
    return f"{told}\n\n{table([*head, 'ms, CPU', 'GMACs', 'ms, roof of an Orin Nano'], lines)}"


_SPEED = {"milliseconds": 1, "gmacs": 2, "roof_milliseconds": 2}


def _runs(found: Found) -> str:
    hours = sum(map(training_hours, found.rows))
    ended = sum(found.outcomes.get(row.key, {}).get("finished", False) for row in found.rows)
    told = (
        f"{ended} of {len(found.rows)} rows are finished; the plan estimates {hours:.1f} hours of one core for all. `python "
        "benchmarks/experiments.py --plan` prints it, `--rows 'left-out-*'` runs part of it. Minutes are training time on a "
        "machine that may have done other work. DATA is the folder of the sets, OUT that of the runs."
    )
    lines = [[f"`{row.name}`", str(row.seed), *_history(found, row)] for row in found.rows]
    trained = "\n".join(str(row.told[0]) for row in found.rows)
    scored = "\n".join(map(str, found.rows[0].told[1:]))
    head = ["row", "seed", "steps", "data", "minutes", "machine", "code"]
    return (
        f"{told}\n\n{table(head, lines)}\n\n<details><summary>The commands</summary>\n\n```sh\n{trained}\n```\n\n"
        f"and for each test list, here for the first row:\n\n```sh\n{scored}\n```\n\n</details>"
    )


def _history(found: Found, row: Row) -> list[str]:
    data = ", ".join([*row.train, *(["rendered"] if row.rendered else [])])
    if row.labels < 1:
        data += f", {100 * row.labels:g} % of the labels"
    if row.name not in found.by_name:
        return [str(row.steps), data, NOT_RUN, "", ""]
    told = found.outcomes[row.key]
    runs = told["runs"]
    machines = dict.fromkeys(_machine(run) for run in runs)
    code = dict.fromkeys(run["revision"] or run["versions"]["edgecrack"] for run in runs)
    return [str(row.steps), data, f"{told['minutes']:.0f}", "; ".join(machines), ", ".join(code)]


def _machine(run: Mapping[str, Any]) -> str:
    about = run["machine"]
    cpu = f"{about['cpu']}, {run['threads']} of {about['cores']} cores"
    return cpu if run["device"] == "cpu" else f"{run['device']}, {cpu}"


SECTIONS: dict[str, Callable[[Found], str]] = {
    "left-out": _left_out,
    "moved": _moved,
    "papers": _papers,
    "cross": _cross,
    "ablation": _ablation,
    "few": _few,
    "width": _width,
    "runs": _runs,
}


def write_page(path: Path, found: Found) -> None:
    """Write the page, or what stands between its markers."""
    write_atomic(path, written(path.read_text() if path.is_file() else "", found))
