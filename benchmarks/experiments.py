"""The runs behind docs/results.md: `--plan` prints them, `--rows NAMES` runs them, `--table` writes the page.

Rows are run one at a time, the most important first, at the lowest priority. A run that ends early, by Ctrl-C, by a
file `stop` in --out or by a kill, resumes with the same command: training from its last checkpoint, and what has
finished is kept. The results of finished rows also go into docs/results.json, so that the page can be written without
the folders of other rows: several processes, on several machines, may each run rows into a folder of their own. The
labelled sets are looked for in EDGECRACK_DATA, or ../shared/data. `--smoke` rehearses everything in minutes: the first
row of each net and study, with a few tiny steps on tiny rendered sets.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from studies import rehearsal
from studies.costs import pace, scoring_hours, training_hours
from studies.found import Found
from studies.plan import Row, chosen, plan, rehearsed
from studies.runs import Runner, Stopped, finished
from studies.tables import write_page

SMOKE_STEPS = 4


def main(arguments: list[str] | None = None) -> None:
    options = options_of(arguments)
    rows = rehearsed(plan(), options.smoke) if options.smoke else plan()
    try:
        wanted = chosen(rows, options.rows or "*")
    except ValueError as error:
        raise SystemExit(str(error)) from error
    if options.plan:
        print_plan(wanted, options.out)
    elif options.rows:
        run(wanted, options)
    if options.table:
        kept = options.docs.with_suffix(".json")
        found = Found.of(rows, options.out, kept)
        found.keep(kept)
        write_page(options.docs, found)
        print(options.docs)


def print_plan(rows: Sequence[Row], out: Path) -> None:
    """Print each row with its commands and hours, then the sums."""
    for row in rows:
        state = (
            "finished"
            if finished(out, row)
            else f"{training_hours(row):.2f} h of training, {scoring_hours(row):.2f} h of scoring"
        )
        print(f"\n{row.name}: {state}")
        for command in row.told:
            print(f"  {command}")
    left = [row for row in rows if not finished(out, row)]
    hours = sum(map(training_hours, left)), sum(map(scoring_hours, left))
    print(
        f"\n{len(left)} of {len(rows)} rows are left: {hours[0]:.1f} h of training and {hours[1]:.1f} h of scoring on one core."
    )
    if (slower := pace(rows, out)) is not None:
        print(f"A step has taken {slower:.1f} times as long as that here: {slower * hours[0]:.1f} h of training.")


def run(rows: Sequence[Row], options: argparse.Namespace) -> None:
    """Run what is left of `rows`; exits with 1 if one failed, with 130 if interrupted."""
    data = data_folder(options)
    if hasattr(os, "nice"):
        os.nice(19)
    # a background job of a shell inherits an ignored SIGINT, and so would its children
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    runner = Runner(options.out.resolve(), data, options.threads, options.device, options.pause)
    if options.smoke:
        runner = replace(runner, sizes=rehearsal.SIZES)
    try:
        failed = runner.run(rows)
    except Stopped as stopped:
        raise SystemExit(str(stopped)) from None
    except KeyboardInterrupt:
        print("interrupted; the same command goes on where it was", file=sys.stderr)
        raise SystemExit(130) from None
    if failed:
        raise SystemExit(f"{len(failed)} of {len(rows)} rows failed: {', '.join(failed)}")


def data_folder(options: argparse.Namespace) -> Path:
    """The folder of the labelled sets; with --smoke, the tiny ones are created there."""
    if options.smoke:
        folder = options.out.resolve() / "data"
        rehearsal.write_sets(folder)
        return Path(folder)
    found = Path(os.environ.get("EDGECRACK_DATA", "../shared/data")).resolve()
    if not found.is_dir():
        raise SystemExit(f"no labelled data in {found}; set EDGECRACK_DATA to a folder with road_survey, uav and cfd")
    return found


def options_of(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plan", action="store_true", help="print the rows, their commands and what they will take")
    parser.add_argument(
        "--rows", metavar="NAMES", help="run these rows: names or globs with commas between; '*' for all"
    )
    parser.add_argument("--table", action="store_true", help="write the page from the rows that are finished")
    parser.add_argument("--out", type=Path, default=Path("runs/experiments"), help="folder of the runs")
    parser.add_argument("--docs", type=Path, help="the page  [default: docs/results.md; with --smoke OUT/results.md]")
    parser.add_argument("--threads", type=int, default=1, help="of a training")
    parser.add_argument("--device", default="cpu", help="of a training: cpu or cuda")
    parser.add_argument("--pause", type=Path, metavar="FILE", help="sleep while this file exists")
    parser.add_argument("--smoke", type=int, nargs="?", const=SMOKE_STEPS, metavar="STEPS", help="a rehearsal")
    options = parser.parse_args(arguments)
    if not (options.plan or options.rows or options.table):
        parser.error("say what to do: --plan, --rows NAMES or --table")
    if options.smoke and options.out == parser.get_default("out"):
        options.out = Path("runs/rehearsal")
    options.docs = options.docs or (options.out / "results.md" if options.smoke else Path("docs/results.md"))
    return options


if __name__ == "__main__":
    main()
