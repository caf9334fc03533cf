"""The plan of the runs behind docs/results.md, and the page that is written from what came out."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
pytest.importorskip("matplotlib", reason="the picture is drawn")

import frontier
from studies import papers, roofline, tables
from studies.costs import pace, scoring_hours, step_seconds, training_hours
from studies.found import Found, Scores
from studies.plan import COMPACT, SEEDS, SETS, VARIANTS, chosen, plan, rehearsed

METRICS = ("best_f1", "f1", "ois", "average_precision", "iou", "best_f1_2px", "f1_2px", "best_f1_5px", "patch_f1")
METRICS += ("f0.3_frame_mean", "best_f1_2px_frame_mean")


@pytest.fixture
def finish(tmp_path):
    """Leave in tmp_path/out what a finished row leaves: `finish(row, value)`, every score being `value`."""

    def call(row, value, only=""):
        folder = tmp_path / "out" / row.key
        folder.mkdir(parents=True)
        run = {
            "machine": {"cpu": "a CPU", "cores": 2},
            "threads": 1,
            "device": "cpu",
            "revision": "abc",
            "versions": {},
        }
        (folder / "row.json").write_text(json.dumps({"runs": [run, run]}))
        (folder / "steps.csv").write_text(f"step,seconds\n10,50\n{row.steps},600\n")
        for command in row.told:
            if command.name.startswith(only):
                (folder / f"{command.name}.done").touch()
        for test in row.tests:
            for precision in ("fp32", "int8"):
                scores = dict.fromkeys(METRICS, value)
                told = {"scores": scores, "intervals": {"f1_2px": [value - 0.1, value + 0.1]}, "frames": 3}
                (folder / test / precision).mkdir(parents=True)
                (folder / test / precision / "scores.json").write_text(json.dumps([told]))

    return call


def found(tmp_path):
    return Found.of(plan(), tmp_path / "out")


def by_name(name):
    return next(row for row in plan() if row.name == name)


def line_of(text, *starts):
    """The cells of the one line of the page's tables that begins with these cells."""
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {' | '.join(starts)} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_plan_fits_into_half_a_day_and_names_each_run_once():
    rows = plan()
    assert sum(map(training_hours, rows)) <= 12
    assert len({row.name for row in rows}) == len({row.key for row in rows}) == len(rows)
    assert all(scoring_hours(row) > 0 for row in rows)
    assert {row.study for row in rows} == {"left-out", "papers", "few", "ablation", "cross", "width", "moved"}


def test_a_set_that_is_left_out_is_not_trained_on_and_is_tested_on():
    rows = [row for row in plan() if row.study in ("left-out", "width")]
    assert {row.tests[0] for row in rows if row.study == "left-out"} == set(SETS)
    for row in rows:
        assert row.tests[0] not in row.train
        assert {row.tests[0], *row.train} == set(SETS)
        assert row.rendered


def test_runs_that_are_compared_differ_in_what_is_compared_alone():
    for family, (net, variants) in VARIANTS.items():
        runs = [by_name(f"ablation-{family}-{variant}-{seed}") for variant in variants for seed in SEEDS]
        same = {dataclasses.replace(run, name="", seed=0, settings=()) for run in runs}
        assert len(same) == 1
        assert same.pop().net == net
        assert len({run.settings for run in runs}) == len(variants)
    for row in plan():
        if row.study == "moved":
            whole = by_name(f"left-out-{row.tests[0]}-msfnet")
            assert (row.rendered == whole.rendered) != (row.settings == whole.settings), "one thing at a time"
            kept = {"name": "", "study": "", "tests": (), "int8": (), "rendered": 0, "settings": ()}
            assert dataclasses.replace(row, **kept) == dataclasses.replace(whole, **kept)
    few = [row for row in plan() if row.study == "few"]
    assert len({(row.steps, row.batch, row.crop, row.settings, row.net) for row in few}) == 1
    for claim in papers.CLAIMS:
        assert {claim.better, claim.worse} <= set(VARIANTS[claim.family][1])
    names = {row.name for row in plan()}
    assert set(tables.width_names().values()) <= names
    assert len({by_name(name).steps for name in tables.width_names().values()}) == 1


def test_every_row_is_a_run_that_the_trainer_knows():
    pytest.importorskip("torch")
    from edgecrack.models import build_model
    from edgecrack.spec import ModelSpec
    from edgecrack.training.recipes import recipe_for, with_switches

    for row in {(row.net, row.settings, row.crop): row for row in plan()}.values():
        spec, recipe = with_switches(ModelSpec(row.net, row.width / 4), recipe_for(row.net, "fast"), row.settings)
        net = build_model(spec)
        assert row.crop % net.stride == 0
        assert recipe.validate_steps > 0, "by the clock the best checkpoint would be another one each time"


def test_a_command_has_all_that_the_row_says():
    row = by_name("few-3.5-contrast-1")
    train, export, evaluate = map(str, row.told)
    assert train.startswith("edgecrack train --model msfnet --data DATA/road_survey --unlabelled DATA/road_survey")
    for part in ("--labels 0.035", "--rendered 0", "--steps 600", "--batch 4", "--crop 192", "--seed 1"):
        assert part in train
    assert f"--weights OUT/{row.key}/best.safetensors --size 1024x640" in export
    assert evaluate.endswith(f"--data DATA/road_survey --backend openvino --out OUT/{row.key}/road_survey/fp32")
    changed = dataclasses.replace(row, steps=601)
    assert changed.key != row.key
    names = [command.name for command in by_name("left-out-cfd-scnet").told]
    assert names[-2:] == ["export-cfd-int8", "evaluate-cfd-int8"], "what may fail at INT8 comes last"


def test_rows_are_chosen_by_globs():
    assert [row.name for row in chosen(plan(), "papers-*, cross-uav")] == [
        *(f"papers-{net}" for net in COMPACT),
        "papers-longer-msfnet",
        "papers-longer-scnet",
        "cross-uav",
    ]
    with pytest.raises(ValueError, match=r"no row is called paper-\*"):
        chosen(plan(), "papers-scnet,paper-*")


def test_a_rehearsal_takes_every_path_of_the_plan():
    small = rehearsed(plan(), 4)
    assert {(row.study, row.net) for row in small} == {(row.study, row.net) for row in plan()}
    assert any(row.unlabelled for row in small)
    assert any(row.int8 for row in small)
    assert {row.steps for row in small} == {4}


def test_a_number_that_was_not_kept_is_not_said_to_be_not_run():
    assert [Scores({"best_f1": 0.5}, {}).cell(metric) for metric in ("best_f1", "f1_2px")] == ["0.500", "not kept"]


def test_the_page_has_finished_rows_and_says_of_the_others_that_they_were_not_run(finish, tmp_path):
    for out, value in zip(SETS, (0.4, 0.5, 0.6), strict=True):
        finish(by_name(f"left-out-{out}-scnet"), value)
    finish(by_name("left-out-cfd-cacpnet"), 0.7, only="export")  # its training has not ended
    finish(by_name("papers-msfnet"), 0.9)
    page = tables.written("", found(tmp_path))
    assert line_of(page, "`scnet`", "cfd")[2:5] == ["0.600 [0.50, 0.70]", "0.600", "0.600"]
    assert line_of(page, "`scnet`", "**mean of those left out**")[2:5] == ["0.500"] * 3
    assert line_of(page, "`cacpnet`", "cfd")[2] == "not run"
    assert line_of(page, "`cacpnet`", "**mean of those left out**")[2] == "not run"
    assert line_of(page, "`msfnet`", "0.900")[2:] == ["0.900"] * 9
    assert line_of(page, "SCNet, full width, its paper")[1] == "0.904"
    assert line_of(page, "`papers-msfnet`") == [
        "`papers-msfnet`",
        "0",
        "1200",
        "cfd",
        "10",
        "a CPU, 1 of 2 cores",
        "abc",
    ]
    assert line_of(page, "`papers-scnet`")[4] == "not run"
    assert line_of(page, "cfd", "not run / not run")
    assert "4 of 86 rows are finished" in page
    for row in plan():
        assert str(row.told[0]) in page


def test_scores_of_a_row_whose_int8_failed_are_shown(finish, tmp_path):
    row = by_name("left-out-cfd-scnet")
    finish(row, 0.6)
    (tmp_path / "out" / row.key / "evaluate-cfd-int8.done").rename(
        tmp_path / "out" / row.key / "export-cfd-int8.failed"
    )
    page = tables.written("", found(tmp_path))
    assert line_of(page, "`scnet`", "0.25")[2:5] == ["failed", "failed", "0.600"]
    assert "0 of 86 rows are finished" in page


def test_a_claim_holds_when_every_seed_agrees(finish, tmp_path):
    values = {"full": (0.5, 0.6, 0.7), "no-attention": (0.4, 0.5, 0.4), "no-focal": (0.6, 0.7, 0.8)}
    values |= {"no-soft-iou": (0.4, 0.5, 0.75), "cheap-prior": (0.6, 0.7)}
    for variant, scores in values.items():
        for seed, value in enumerate(scores):
            finish(by_name(f"ablation-scnet-{variant}-{seed}"), value)
    page = tables.written("", found(tmp_path))
    assert line_of(page, "SCNet: attention")[3:] == ["+0.167 ± 0.115", "+0.167 ± 0.115", "holds"]
    assert line_of(page, "SCNet: focal over cross-entropy")[3:] == ["-0.100 ± 0.000", "-0.100 ± 0.000", "opposite"]
    assert line_of(page, "SCNet: soft IoU")[5] == "undecided"
    assert line_of(page, "SCNet: an edge prior (ours, cheap)")[3:] == [
        "+0.100 ± 0.000",
        "+0.100 ± 0.000",
        "2 of 3 seeds run",
    ]
    assert line_of(page, "CACPNet: pyramid")[3:] == ["not run"] * 3
    assert line_of(page, "`scnet`", "scnet-full")[2] == "0.600 ± 0.100"
    assert line_of(page, "`scnet`", "scnet-cheap-prior")[2] == "0.650 ± 0.071 (2 of 3)"


def test_few_labels_are_compared_seed_by_seed(finish, tmp_path):
    for seed, (more, less) in enumerate(((0.5, 0.48), (0.6, 0.55))):
        finish(by_name(f"few-3.5-contrast-{seed}"), more)
        finish(by_name(f"few-3.5-supervised-{seed}"), less)
    cells = line_of(tables.written("", found(tmp_path)), "3.5 %")
    assert cells[1:] == ["0.515 ± 0.049", "0.550 ± 0.071", "+0.035 ± 0.021", "holds"]


def test_what_came_out_is_kept_when_the_folders_are_gone(finish, tmp_path):
    kept = tmp_path / "results.json"
    finish(by_name("left-out-cfd-scnet"), 0.6)
    (tmp_path / "out" / "frontier.json").write_text(json.dumps({"machine": "a CPU", "roof": "a roof", "rows": {}}))
    first = Found.of(plan(), tmp_path / "out", kept)
    first.keep(kept)
    (tmp_path / "out").rename(tmp_path / "gone")
    assert tables.written("", Found.of(plan(), tmp_path / "out", kept)) == tables.written("", first)
    finish(by_name("papers-msfnet"), 0.9)
    both = Found.of(plan(), tmp_path / "out", kept)
    page = tables.written("", both)
    assert line_of(page, "`scnet`", "cfd")[2] == "0.600 [0.50, 0.70]"
    assert line_of(page, "`msfnet`", "0.900")
    assert "measured on a CPU" in page
    both.keep(kept)
    assert list(json.loads(kept.read_text())["rows"]) == [
        by_name("left-out-cfd-scnet").key,
        by_name("papers-msfnet").key,
    ]


def test_a_finished_row_is_not_replaced_by_one_that_has_not_ended_elsewhere(finish, tmp_path):
    kept, row = tmp_path / "results.json", by_name("papers-msfnet")
    finish(row, 0.9)
    Found.of(plan(), tmp_path / "out", kept).keep(kept)
    (tmp_path / "out").rename(tmp_path / "gone")
    finish(row, 0.1, only="train")
    assert Found.of(plan(), tmp_path / "out", kept).several([row.name], "cfd", "best_f1") == [0.9]
    (tmp_path / "out" / row.key / "train.done").rename(tmp_path / "out" / row.key / "train.failed")
    assert Found.of(plan(), tmp_path / "out", kept).several([row.name], "cfd", "best_f1") == [0.9]


def test_what_stands_outside_the_markers_is_kept(finish, tmp_path):
    page = tmp_path / "results.md"
    tables.write_page(page, found(tmp_path))
    own = page.read_text().replace("<!-- end of papers -->", "<!-- end of papers -->\n\nCompact nets come close.", 1)
    page.write_text("Ours.\n" + own)
    finish(by_name("papers-msfnet"), 0.9)
    tables.write_page(page, found(tmp_path))
    again = page.read_text()
    assert again.startswith("Ours.\n# Results")
    assert "Compact nets come close." in again
    assert line_of(again, "`msfnet`", "0.900")
    assert again.count("<!-- papers:") == again.count("<!-- end of papers -->") == 1
    tables.write_page(page, found(tmp_path))
    assert page.read_text() == again
    with pytest.raises(ValueError, match="papers"):
        tables.written(again.replace("<!-- end of papers -->", ""), found(tmp_path))


def test_the_pace_is_that_of_the_rows_that_were_run_here(finish, tmp_path):
    row = by_name("papers-msfnet")
    assert pace(plan(), tmp_path / "out") is None
    finish(row, 0.9)
    assert pace(plan(), tmp_path / "out") == pytest.approx(600 / row.steps / step_seconds(row))


def convolutions(path):
    """A file with a float convolution (1, 2, 8, 8) -> (1, 4, 8, 8) and one in INT8 after it, 4 -> 1, and an upsampling."""
    weights = {"a": [4, 2, 3, 3], "b": [1, 4, 1, 1], "c": [1, 1, 2, 2]}
    constants = [
        helper.make_tensor(name, TensorProto.FLOAT, dims, [0.5] * math.prod(dims)) for name, dims in weights.items()
    ]
    constants.append(helper.make_tensor("scale", TensorProto.FLOAT, [], [0.1]))
    constants.append(helper.make_tensor("zero", TensorProto.INT8, [], [0]))
    nodes = [
        helper.make_node("Conv", ["x", "a"], ["y"], pads=[1, 1, 1, 1]),
        helper.make_node("QuantizeLinear", ["y", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"]),
        helper.make_node("Conv", ["d", "b"], ["z"]),
        helper.make_node("ConvTranspose", ["z", "c"], ["out"], strides=[2, 2]),
    ]
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, 8, 8])
    answer = helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, 1, 16, 16])
    graph = helper.make_graph(nodes, "convolutions", [given], [answer], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), str(path))
    return path


def test_the_roof_counts_multiply_adds_and_bytes(tmp_path):
    path = convolutions(tmp_path / "convolutions.onnx")
    first, second, third = roofline.layers(path)
    assert first == roofline.Layer(2 * 4 * 9 * 64, 2 * 64 + 72 + 4 * 64, int8=False)
    assert second == roofline.Layer(4 * 64, 4 * 64 + 4 + 64, int8=True)
    assert third == roofline.Layer(4 * 64, 64 + 4 + 256, int8=False)
    assert roofline.multiply_adds(path) == 4608 + 256 + 256
    gpu = roofline.Gpu("toy", int8=2e3, half=1e3, memory=1e9)
    assert roofline.floor_milliseconds(path, gpu) == pytest.approx(
        1e3 * (2 * 4608 / 1e3 + 2 * 256 / 2e3 + 2 * 256 / 1e3)
    )
    slow = roofline.Gpu("toy", int8=2e12, half=1e12, memory=1e3)
    assert roofline.floor_milliseconds(path, slow) == pytest.approx(1e3 * (2 * 456 + 324 + 2 * 324) / 1e3)


def test_where_a_row_was_run_elsewhere_the_shipped_net_of_its_width_is_timed(finish, tmp_path, monkeypatch):
    rows = [by_name("left-out-cfd-scnet"), by_name("width-0.125-scnet")]
    for row in rows:
        finish(row, 0.6)
    (tmp_path / "shipped").touch()
    monkeypatch.setattr(frontier, "shipped", lambda net, folder: tmp_path / "shipped")
    assert frontier.models(found(tmp_path), tmp_path / "out") == {rows[0].name: tmp_path / "shipped"}


@pytest.mark.parametrize(
    ("machine", "rows", "kept"),
    [
        ("A", {"b": 2}, ("A", {"a": 1, "b": 2})),
        ("B", {"b": 2}, ("A", {"a": 1})),
        ("B", {"a": 2, "b": 2}, ("B", {"a": 2, "b": 2})),
    ],
)
def test_a_speed_that_was_measured_is_not_lost_and_those_of_two_machines_are_not_mixed(machine, rows, kept, tmp_path):
    (tmp_path / "kept.json").write_text(json.dumps({"frontier": {"machine": "A", "rows": {"a": 1}}, "rows": {}}))
    (tmp_path / "frontier.json").write_text(json.dumps({"machine": machine, "rows": rows}))
    timed = Found.of(plan(), tmp_path, tmp_path / "kept.json").frontier
    assert (timed["machine"], timed["rows"]) == kept


def test_the_picture_and_its_table_have_what_was_measured(finish, tmp_path):
    row = by_name("width-0.125-scnet")
    finish(row, 0.6)
    model = tmp_path / "out" / row.key / "cfd" / "scnet.int8-cpu.onnx"
    convolutions(model)
    assert frontier.models(found(tmp_path), tmp_path / "out") == {row.name: model}
    speed = {"milliseconds": 3.14, "gmacs": 0.5, "roof_milliseconds": 0.25}
    told = {"machine": "a CPU", "roof": "a roof", "rows": {row.key: speed}}
    (tmp_path / "out" / "frontier.json").write_text(json.dumps(told))
    page = tables.written("", found(tmp_path))
    assert line_of(page, "`scnet`", "0.125")[2:] == ["0.600", "0.600", "0.600", "3.1", "0.50", "0.25"]
    assert "measured on a CPU" in page
    points = [{"net": "scnet", "width": width, "f1": width, **speed} for width in (0.125, 0.25)]
    frontier.draw(points, tmp_path / "frontier.png")
    assert (tmp_path / "frontier.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(SystemExit, match="no row that left cfd out is finished"):
        frontier.main(["--out", str(tmp_path / "nothing"), "--kept", str(tmp_path / "nothing.json")])
