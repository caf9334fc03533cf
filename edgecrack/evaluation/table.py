"""Evaluations as text tables: for each data set, metrics in rows and models side by side."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from edgecrack.evaluation.bootstrap import CONFIDENCE
from edgecrack.evaluation.false_alarms import KINDS
from edgecrack.evaluation.protocols import BLOCKS, LABELS
from edgecrack.evaluation.scores import Evaluation

HEADLINES = ("best_f1", "best_f1_2px", "f1_2px", "average_precision")  # scores by which models are compared
Row = tuple[str, list[str]]  # a label, and the cell of each model


def by_dataset(evaluations: Iterable[Evaluation]) -> dict[str, list[Evaluation]]:
    """Data set -> its evaluations, in the order given."""
    found: dict[str, list[Evaluation]] = {}
    for evaluation in evaluations:
        found.setdefault(evaluation.dataset, []).append(evaluation)
    return found


def table(evaluations: Sequence[Evaluation]) -> str:
    """The table of all results of models on one data set."""
    first = evaluations[0]
    title = f"{', '.join(evaluation.model for evaluation in evaluations)} on {first.dataset}: {about(first)}"
    blocks = [about_models(evaluations), *_scores(evaluations), *_compared(evaluations), _false_alarms(evaluations)]
    if len(evaluations) > 1:
        blocks.insert(0, [("", [evaluation.model for evaluation in evaluations])])
    lines = [title, *_laid_out([block for block in blocks if block])]
    if first.intervals:
        lines.append(f"  in brackets: {CONFIDENCE:.0%} of {first.draws} draws of as many frames with replacement")
    return "\n".join(lines)


def about(evaluation: Evaluation) -> str:
    """The data that was scored: numbers of frames and pixels, and the share of crack pixels."""
    crack = f", {evaluation.crack_share:.2%} of them crack" if evaluation.labelled else ", without masks"
    frames = f"{len(evaluation.frames)} frame{'s' * (len(evaluation.frames) != 1)}"
    return f"{frames}, {evaluation.pixels / 1e6:.1f} million pixels{crack}"


def written(evaluation: Evaluation, name: str) -> str:
    """A score formatted for tables, with its interval if there is one."""
    places = 3 if name.endswith("threshold") else 4
    if name == "fired_share":
        text, ends = f"{evaluation.scores[name]:.4%}", tuple(f"{end:.3%}" for end in evaluation.intervals.get(name, ()))
    else:
        text = f"{evaluation.scores[name]:.{places}f}"
        ends = tuple(f"{end:.3f}" for end in evaluation.intervals.get(name, ()))
    return f"{text} [{', '.join(ends)}]" if ends else text


def compared(evaluation: Evaluation, first: Evaluation, name: str) -> str:
    """The difference of a score from the first model's on the same frames, formatted for tables."""
    apart, ends = evaluation.difference(first, name)
    form = "+.4%" if name == "fired_share" else "+.4f"
    return f"{apart:{form}}" + (f" [{ends[0]:{form}}, {ends[1]:{form}}]" if ends else "")


def about_models(evaluations: Sequence[Evaluation]) -> list[Row]:
    """Rows describing each model; the last is how long it took."""
    return [
        ("net, precision", [f"{each.spec.name}, {each.spec.precision}" for each in evaluations]),
        ("size it takes", [str(each.spec.input_frame) for each in evaluations]),
        ("threshold", [f"{each.threshold:.3f}" for each in evaluations]),
        ("trained on", [", ".join(each.spec.trained_on) or "unknown" for each in evaluations]),
        ("seconds of net / metrics", [_seconds(each) for each in evaluations]),
    ]


def _seconds(evaluation: Evaluation) -> str:
    _ = evaluation.samples  # the intervals are metrics too
    net = evaluation.seconds.get("net", 0.0)
    return f"{net:.1f} / {evaluation.seconds.get('metrics', 0.0) + evaluation.seconds.get('intervals', 0.0):.1f}"


def _scores(evaluations: Sequence[Evaluation]) -> list[list[Row]]:
    known = evaluations[0].scores
    return [
        [(LABELS[name], [written(each, name) for each in evaluations]) for name in block if name in known]
        for block in BLOCKS.values()
    ]


def _compared(evaluations: Sequence[Evaluation]) -> list[list[Row]]:
    first, *others = evaluations
    names = [name for name in HEADLINES if name in first.scores]
    if not others or not names:
        return []
    rows = [(LABELS[name], ["", *(compared(each, first, name) for each in others)]) for name in names]
    return [[(f"above {first.model} on the same frames", [""] * len(evaluations)), *rows]]


def _false_alarms(evaluations: Sequence[Evaluation]) -> list[Row]:
    return [
        ("false alarms at the model's threshold", ["pieces, share of pixels"] * len(evaluations)),
        *((f"  {label}", [_false(each, kind) for each in evaluations]) for kind, label in KINDS.items()),
    ]


def _false(evaluation: Evaluation, kind: str) -> str:
    alarms = evaluation.false_alarms[kind]
    return f"{alarms['pieces']:.0f}, {alarms['share']:.4%}"


def _laid_out(blocks: Sequence[Sequence[Row]]) -> list[str]:
    rows = [row for block in blocks for row in block]
    wide = max(len(label) for label, _ in rows)
    columns = [max(len(cell) for cell in column) for column in zip(*(cells for _, cells in rows), strict=True)]
    lines = []
    for block in blocks:
        for label, cells in block:
            text = "  ".join(f"{cell:<{width}}" for cell, width in zip(cells, columns, strict=True))
            lines.append(f"  {label:<{wide}}  {text}".rstrip())
        lines.append("")
    return lines
