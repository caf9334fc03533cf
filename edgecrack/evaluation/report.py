"""The report of evaluations as one self-contained HTML file: no network, no scripts, embedded pictures."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from functools import partial
from html import escape
from importlib.resources import files

from edgecrack.evaluation.bootstrap import CONFIDENCE
from edgecrack.evaluation.curves import curves_png, heat_png, thresholds_png
from edgecrack.evaluation.false_alarms import EXPLAINED, KINDS
from edgecrack.evaluation.gallery import FALSE, FOUND, MISSED, Gallery, Picture
from edgecrack.evaluation.protocols import BLOCKS, LABELS
from edgecrack.evaluation.scores import Evaluation
from edgecrack.evaluation.table import HEADLINES, about, about_models, compared, written

Seen = tuple[Evaluation, Gallery]  # an evaluation, and the pictures kept during it

SUMMARY = (*HEADLINES, "fired_share")
_LOWER = ("fired_share",)  # scores where lower is better

_NOTES = {
    "Best and shipped": "<em>Best</em> is at the single threshold that is best for the whole list, which is known only "
    "afterwards; <em>at the model's threshold</em> is what a user gets.",
    "Exact": "A predicted pixel counts when that very pixel is labelled. Used by SCNet (best F1, average precision, patch "
    "F1), by AELF-UNet (F with beta² 0.3 at 0.5, each frame first, then the mean) and for every IoU (CACPNet's MIoU is the "
    "crack IoU). People who label the same frames agree only so far, and exact scores end there.",
    "Within 2 pixels": "A predicted pixel counts when a labelled one lies within 2 pixels, and a labelled one is found when "
    "a predicted one does; several may match the same. Of DeepCrack (Zou et al.).",
    "Within 5 pixels": "The same within 5 pixels: common for CrackForest, whose published F1 values, CACPNet's among them, "
    "cannot be exact ones.",
    "Within 0.75 % of the diagonal": "The tolerance of the boundary benchmarks, by distance; they thin the prediction and "
    "match pixels one to one, which is not done here.",
    "ODS, OIS, AP, AIU": "ODS: best F1 with one threshold for all frames. OIS: each frame at its own best, counts pooled. AP: "
    "area under precision over recall by steps, at 256 thresholds. AIU: the mean, over thresholds and frames, of the IoU.",
    "Patch F1": "Patches of 32 x 32 px. True when 5 % of it is crack, found when half of that is predicted; any other is a "
    "false positive when 5 % of it fires.",
    "False alarms": "Pieces that fire at the model's threshold, further than 2 px from every label, by traits that can be "
    "measured. A trait is not a cause: a straight line may be a joint, a seam or a wire, and what is thin and dark may be a "
    "crack that nobody labelled. The first trait that fits is taken, in the order of the table.",
}


def report_html(seen: Sequence[Seen]) -> str:
    """The HTML report of evaluations and their galleries, data set by data set, with models side by side.

    Raises MissingDependency without matplotlib if there is a curve or a heat map of false alarms to draw.
    """
    sets: dict[str, list[Seen]] = {}
    for one in seen:
        sets.setdefault(one[0].dataset, []).append(one)
    body = [_head(sets), *(_section(number, part) for number, part in enumerate(sets.values())), _notes(seen[0][0])]
    style = files("edgecrack.evaluation").joinpath("report.css").read_text()
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>edgecrack: {escape(', '.join(sets))}</title><style>{style}</style></head>"
        f"<body><main>{''.join(body)}</main></body></html>\n"
    )


def _head(sets: dict[str, list[Seen]]) -> str:
    models = list(dict.fromkeys(evaluation.model for part in sets.values() for evaluation, _ in part))
    names = [name for name in SUMMARY if any(name in one.scores for part in sets.values() for one, _ in part)]
    rows = []
    for number, part in enumerate(sets.values()):
        evaluations = [evaluation for evaluation, _ in part]
        for place, each in enumerate(evaluations):
            link = f'<a href="#set{number}">{escape(each.dataset)}</a>' if place == 0 else ""
            cells = "".join(_score_cell(each, name, evaluations) for name in names)
            name = f'<td class="name">{link}</td><td class="name">{escape(each.model)}</td>'
            rows.append(f"<tr>{name}{cells}</tr>")
    heads = "".join(f"<th>{escape(LABELS[name])}</th>" for name in names)
    return (
        "<h1>Cracks found against cracks labelled</h1>"
        f'<p class="soft">{_number(models, "model")} on {_number(sets, "data set")}: {escape(", ".join(models))}. '
        f"{'The best of each data set is bold.' if len(models) > 1 else ''}</p>"
        f'<section class="wide"><table><thead><tr><th>data set</th><th>model</th>{heads}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></section>"
    )


def _number(things: Iterable[object], what: str) -> str:
    number = len(list(things))
    return f"{number} {what}{'s' * (number != 1)}"


def _section(number: int, part: Sequence[Seen]) -> str:
    evaluations = [evaluation for evaluation, _ in part]
    first = evaluations[0]
    return (
        f'<section id="set{number}"><h2>{escape(first.dataset)}</h2><p class="soft">{escape(about(first))}</p>'
        f"{_charts(evaluations)}{_scores(evaluations)}{_differences(evaluations)}"
        f"{''.join(_model(evaluation, gallery, len(part)) for evaluation, gallery in part)}</section>"
    )


def _charts(evaluations: Sequence[Evaluation]) -> str:
    if not evaluations[0].labelled:
        return ""
    exact, near = ({each.model: getattr(each, name) for each in evaluations} for name in ("strict", "near"))
    shipped = {each.model: each.threshold for each in evaluations}
    return _chart(curves_png({"Exact": exact, "Within 2 pixels": near}), "precision over recall") + _chart(
        thresholds_png(near, shipped, "F1 within 2 pixels"), "F1 over threshold"
    )


def _scores(evaluations: Sequence[Evaluation]) -> str:
    known = evaluations[0].scores
    heads = "".join(f"<th>{escape(each.model)}</th>" for each in evaluations)
    facts = about_models(evaluations)[:-1]  # no seconds, so that equal results give equal reports
    bodies = ["<tbody>", *(_row(label, [f"<td>{escape(cell)}</td>" for cell in cells]) for label, cells in facts)]
    bodies.append("</tbody>")
    for heading, block in BLOCKS.items():
        names = [name for name in block if name in known]
        if names:
            title = f'<tbody class="block"><tr><th colspan="{len(evaluations) + 1}">{escape(heading)}</th></tr></tbody>'
            rows = (
                _row(LABELS[name], [_score_cell(each, name, evaluations) for each in evaluations]) for name in names
            )
            bodies += [title, "<tbody>", *rows, "</tbody>"]
    return (
        f"<details><summary>{_number(known, 'score')}, by protocol</summary>"
        f'<div class="wide"><table><thead><tr><th></th>{heads}</tr></thead>{"".join(bodies)}</table></div></details>'
    )


def _row(label: str, cells: Sequence[str]) -> str:
    inner = ' class="in"' if label.startswith(" ") else ""
    return f"<tr><th{inner}>{escape(label.strip())}</th>{''.join(cells)}</tr>"


def _score_cell(evaluation: Evaluation, name: str, rivals: Sequence[Evaluation]) -> str:
    if name not in evaluation.scores:
        return "<td></td>"
    value, _, ends = written(evaluation, name).partition(" ")
    values = [rival.scores[name] for rival in rivals]
    best = max(values, key=partial(_merit, name))
    bold = len(rivals) > 1 and not name.endswith("threshold") and evaluation.scores[name] == best
    return f'<td{" class=best" * bold}>{value} <span class="ends">{ends}</span></td>'


def _merit(name: str, value: float) -> float:
    """A value that is higher for better scores."""
    if name == "area_ratio":
        return -abs(value - 1)
    return -value if name in _LOWER else value


def _differences(evaluations: Sequence[Evaluation]) -> str:
    first, *others = evaluations
    names = [name for name in SUMMARY if name in first.scores]
    if not others:
        return ""
    heads = "".join(f"<th>{escape(LABELS[name])}</th>" for name in names)
    rows = "".join(
        f"<tr><td>{escape(each.model)}</td>{''.join(f'<td>{compared(each, first, name)}</td>' for name in names)}</tr>"
        for each in others
    )
    return (
        f"<h3>Above {escape(first.model)}, on the same frames</h3><p class='soft'>An interval that holds 0 says that these "
        "frames do not tell the two apart.</p>"
        f'<div class="wide"><table><thead><tr><th></th>{heads}</tr></thead><tbody>{rows}</tbody></table></div>'
    )


def _model(evaluation: Evaluation, gallery: Gallery, models: int) -> str:
    shelves = {
        "Worst frames": gallery.worst,
        "Best frames": gallery.best,
        "Without a labelled crack, most firing first": gallery.silent,
    }
    shown = "".join(_frames(title, shelf.pictures) for title, shelf in shelves.items())
    inside = f"{_key() if shown else ''}{shown}{_false_alarms(evaluation, gallery)}"
    opened = " open" if models <= 2 else ""
    return f"<details{opened}><summary>{escape(evaluation.model)}: frames and false alarms</summary>{inside}</details>"


def _key() -> str:
    colours = zip((FOUND, MISSED, FALSE), ("labelled and found", "labelled and missed", "false alarm"), strict=True)
    spans = "".join(f'<span style="background: rgb{bgr[::-1]}"></span>{word}' for bgr, word in colours)
    return f'<p class="soft key">At the model\'s threshold:{spans} (2 px apart or more)</p>'


def _frames(title: str, pictures: Sequence[Picture], kind: str = "frames") -> str:
    if not pictures:
        return ""
    return f'<h4>{escape(title)}</h4><div class="{kind}">{"".join(map(_figure, pictures))}</div>'


def _figure(picture: Picture) -> str:
    images = "".join(f'<img src="{_uri(data, "jpeg")}" alt="">' for data in (picture.plain, picture.drawn))
    return f"<figure><div>{images}</div><figcaption>{escape(picture.name)}: {escape(picture.caption)}</figcaption></figure>"


def _false_alarms(evaluation: Evaluation, gallery: Gallery) -> str:
    alarms = evaluation.false_alarms
    total = sum(found["pixels"] for found in alarms.values())
    if not total:
        return "<h4>False alarms</h4><p>None at the model's threshold.</p>"
    trait = "{}<br><span class='ends'>{}</span>"
    rows = "".join(
        f"<tr><td>{trait.format(escape(KINDS[kind]), escape(EXPLAINED[kind]))}</td>"
        f"<td>{found['pieces']:.0f}</td><td>{found['share']:.4%}</td>"
        f'<td><i class="bar" style="width: {160 * found["pixels"] / total:.0f}px"></i> {found["pixels"] / total:.0%}</td></tr>'
        for kind, found in alarms.items()
    )
    crops = "".join(_frames(KINDS[kind], shelf.pictures, "crops") for kind, shelf in gallery.kinds.items())
    return (
        "<h4>False alarms by trait</h4>"
        '<div class="beside"><table><thead><tr><th>trait, the first that fits</th><th>pieces</th><th>of all pixels</th>'
        f"<th>of the false ones</th></tr></thead><tbody>{rows}</tbody></table>"
        f"{_chart(heat_png(gallery.heat), 'where false alarms are', 'Where in the frame they are')}</div>{crops}"
    )


def _chart(png: bytes, alt: str, caption: str = "") -> str:
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f'<figure class="chart"><img src="{_uri(png, "png")}" alt="{escape(alt)}">{below}</figure>'


def _uri(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _notes(first: Evaluation) -> str:
    notes = dict(_NOTES)
    if first.draws:
        notes["Intervals"] = (
            f"In brackets: where {CONFIDENCE:.0%} of {first.draws} draws of as many frames with replacement lie (seed "
            f"{first.seed}). Neighbouring frames of one drive show the same pavement: for them the interval is too narrow."
        )
    items = "".join(f"<dt>{escape(term)}</dt><dd>{text}</dd>" for term, text in notes.items())
    return f"<section><h2>How to read this</h2><dl>{items}</dl></section>"
