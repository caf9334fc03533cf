"""What the README tells a user to type is there, and its Python runs."""

from __future__ import annotations

import re
import runpy
import shlex
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import typer.main

from edgecrack.cli import app

ROOT = Path(__file__).parents[2]
PAGES = {page.name: page.read_text() for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def command_lines(text: str) -> list[str]:
    """Every `edgecrack …`, `make …` of the shell blocks and of the code in tables and sentences."""
    shell = [line.split(" #")[0].strip() for block in blocks(text, "sh") for line in block.splitlines()]
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    inline = [code.replace("\\|", "|").replace("\n", " ") for code in re.findall(r"`([^`]+)`", prose)]
    return [line for line in shell + inline if line.startswith(("edgecrack ", "make "))]


COMMANDS = [(page, line) for page, text in PAGES.items() for line in command_lines(text)]


LINKS = [
    (page, link) for page, text in PAGES.items() for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link
]


def anchors(page: Path) -> set[str]:
    """What the headings of a page are linked by."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(("page", "link"), LINKS)
def test_a_link_in_the_documents_leads_somewhere(page: str, link: str) -> None:
    here = ROOT / page if page == "README.md" else ROOT / "docs" / page
    path, _, anchor = link.partition("#")
    there = here.parent / path if path else here
    assert there.exists()
    assert not anchor or anchor in anchors(there)


def options_of(command: Any) -> set[str]:
    return {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)} | {"--help"}


@pytest.mark.parametrize(("page", "line"), COMMANDS, ids=[f"{page}: {line}" for page, line in COMMANDS])
def test_a_command_in_the_documents_exists(page: str, line: str) -> None:
    words = shlex.split(re.sub(r"[\[\]|]", " ", line))
    if words[0] == "make":
        made = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert words[1] in made
        return
    group: Any = typer.main.get_command(app)
    if words[1].startswith("-"):
        assert words[1] in options_of(group)
        return
    command = group.commands[words[1]]
    if hasattr(command, "commands"):  # a verb of verbs
        command = command.commands[words[2]]
    wanted = {word.split("=")[0] for word in words[2:] if re.match(r"--?[a-zA-Z]", word)}
    assert wanted <= options_of(command), f"{page} names options that `edgecrack {words[1]}` does not have"


def test_the_python_of_the_readme_runs(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "msfnet.int8-cpu.onnx").write_bytes(model.read_bytes())
    frame = np.full((48, 64, 3), 30, np.uint8)
    frame[:, 30:34] = 200
    cv2.imwrite("frame.jpg", frame)
    video = cv2.VideoWriter("drive.mp4", cv2.VideoWriter.fourcc(*"mp4v"), 10, (64, 48))
    for _ in range(3):
        video.write(frame)
    video.release()
    python = [block for block in blocks(PAGES["README.md"], "python") if "msfnet.int8-cpu.onnx" in block]
    assert python
    for block in python:
        (tmp_path / "readme.py").write_text(block)
        runpy.run_path(str(tmp_path / "readme.py"))
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:4]] == ["0", "1", "2"]
