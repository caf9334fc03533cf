"""The HTML report: whole in itself, well-formed, and with everything in it that was scored."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest
from matplotlib import rc_context
from numpy.typing import NDArray

from edgecrack.dataset import LabelledFrame
from edgecrack.evaluation import Evaluation, Gallery, evaluate, report_html
from edgecrack.evaluation.curves import save_precision_recall
from edgecrack.evaluation.protocols import LABELS
from edgecrack.spec import ModelSpec

pytest.importorskip("matplotlib", reason="the report's curves need matplotlib")
Image = NDArray[np.uint8]


class Answer(NamedTuple):
    probability: Image


class Darkness:
    threshold = 0.6

    def __init__(self, name: str) -> None:
        self.spec = ModelSpec(name)

    def run(self, frame: Image) -> Answer:
        return Answer(255 - frame[:, :, 1])


class Frames(list[LabelledFrame]):
    """Frames in memory as `evaluate` takes them."""

    name, has_masks = "walls <b>", True

    def every(self, step: int) -> Frames:
        return Frames(self[::step])


def frames(*, labelled: bool) -> Frames:
    made = Frames()
    for index in range(4):
        image = np.random.default_rng(index).normal(180, 20, (120, 160, 3)).clip(0, 255).astype(np.uint8)
        mask = np.zeros((120, 160), np.uint8)
        cv2.line(mask, (10, 20 + 20 * index), (150, 90), 255, 2)
        image[mask > 0] = 30 + 20 * index
        image[100:103, 20:120] = 40  # a joint
        made.append(LabelledFrame(f"wall{index}", image, mask > 0 if labelled else None))
    made.has_masks = labelled
    made.name = "walls <b>" if labelled else "quiet"
    return made


def seen(*names: str, labelled: bool = True) -> list[tuple[Evaluation, Gallery]]:
    found = []
    for name in names:
        gallery = Gallery(0.6)
        score = evaluate(Darkness("scnet"), frames(labelled=labelled), name=name, witness=gallery, draws=50)
        found.append((score, gallery))
    return found


VOID = {"meta", "img", "br"}


class Reader(HTMLParser):
    """Keeps the text and the addresses, and fails where tags do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.text: list[str] = []
        self.addresses: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attributes: Sequence[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attributes if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.fixture(scope="module")
def report() -> str:
    return report_html([*seen("one", "two"), *seen("one", "two", labelled=False)])


def test_a_report_needs_nothing_else(report: str) -> None:
    reader = Reader(report)
    assert "script" not in reader.tags
    assert "link" not in reader.tags
    assert "@import" not in report
    assert "url(" not in report
    assert {re.split(r"[/;#]", address)[0] for address in reader.addresses} == {"data:image", ""}
    pictures = [address for address in reader.addresses if address.startswith("data:")]
    for address in pictures:
        data = base64.b64decode(address.partition(",")[2], validate=True)
        assert cv2.imdecode(np.frombuffer(data, np.uint8), 1) is not None
    assert len(pictures) > 20
    assert len(report) < 3_000_000


def test_of_areas_the_one_nearest_to_what_is_labelled_is_the_best() -> None:
    seldom, often = Darkness("scnet"), Darkness("scnet")
    seldom.threshold, often.threshold = 0.5, 0.2  # the second marks all that is a little dark
    models = [(evaluate(model, frames(labelled=True), draws=50), Gallery(0.6)) for model in (seldom, often)]
    ratios = [found.scores["area_ratio"] for found, _ in models]
    assert abs(ratios[0] - 1) < abs(ratios[1] - 1)
    assert ratios[0] < ratios[1]
    line = re.search(rf"<tr><th>{LABELS['area_ratio']}</th>(.*?)</tr>", report_html(models).replace("&#x27;", "'"))
    assert line is not None
    assert [cell.startswith(" class=best") for cell in line[1].split("<td")[1:]] == [True, False]


def test_a_report_has_every_score_of_every_model(report: str) -> None:
    text = "\n".join(Reader(report).text)
    for label in LABELS.values():
        assert label.strip() in text
    (first, _), _ = seen("one", "two")
    for name, value in first.scores.items():
        assert f"{value:.{3 if name.endswith('threshold') else 4}f}" in text, name
    for words in ("Above one, on the same frames", "Worst frames", "straight line", "wall3: F1 within 2 px", "quiet"):
        assert words in text


def test_names_are_text_and_no_markup(report: str) -> None:
    assert "walls <b>" not in report
    assert "walls &lt;b&gt;" in report


def test_names_are_no_formulas_and_all_of_them_stand_in_the_legend(tmp_path: Path) -> None:
    names = (r"m$x^2$ $\foo$", "_private", "cost $5")
    counts = {name: evaluation.near for name, (evaluation, _) in zip(names, seen(*names), strict=True)}
    path = tmp_path / "curves.svg"
    with rc_context({"svg.fonttype": "none"}):  # text as text
        save_precision_recall(path, counts)
    text = path.read_text()
    assert all(escape(name, quote=False) in text for name in names)


def test_where_nothing_fires_and_nothing_is_labelled_there_is_a_report_too() -> None:
    score, gallery = seen("one", labelled=False)[0]
    silent = Frames(LabelledFrame("blank", np.full((60, 80, 3), 255, np.uint8), None) for _ in range(2))
    silent.has_masks = False
    score = evaluate(Darkness("scnet"), silent, witness=(gallery := Gallery(0.6)))
    text = "\n".join(Reader(report_html([(score, gallery)])).text)
    assert "None at the model's threshold." in text
    assert "0.0000%" in text
