"""What is in the wheel and in the source archive."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    # a copy without the links' targets twice: building writes into the tree it builds from
    source = tmp_path_factory.mktemp("source")
    subprocess.run(["git", "-C", str(ROOT), "checkout-index", "-a", f"--prefix={source}/"], check=True)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def package_files() -> set[str]:
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "edgecrack"], capture_output=True, text=True, check=True
    )
    return set(listed.stdout.split())


def test_the_wheel_holds_the_package_and_nothing_else(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == package_files()


def test_the_source_archive_holds_the_package_once(built: Path) -> None:
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
    assert package_files() <= names
    assert not {name for name in names if name.startswith(("export", "runtime", "calibration"))}
    assert {"LICENSE", "README.md", "pyproject.toml"} <= names


JETSON_ONLY = "--system-site-packages", "numpy<2", "cuda-bindings==12.9.*", "JetPack"


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["make", "--no-print-directory", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_gpu_check_takes_what_a_jetson_brings(tmp_path: Path) -> None:
    (tmp_path / "release").write_text("# R36 (release), REVISION: 4.3\n")
    jetson = make("-n", "gpu-check", f"VENV={tmp_path}/venv", f"RELEASE={tmp_path}/release")
    assert all(word in jetson.stdout for word in JETSON_ONLY)
    assert ".[cpu]" not in jetson.stdout
    desktop = make("-n", "gpu-check", f"VENV={tmp_path}/venv", f"RELEASE={tmp_path}/none")
    assert not any(word in desktop.stdout for word in JETSON_ONLY)
    assert ".[cpu]" in desktop.stdout
    assert "constraints.txt" not in jetson.stdout + desktop.stdout


def test_gpu_check_stops_where_jetpacks_opencv_is_not_seen(tmp_path: Path) -> None:
    (tmp_path / "release").write_text("# R36 (release), REVISION: 4.3\n")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").write_text(f'#!/bin/sh\necho "$*" >>{tmp_path}/calls\n[ "$1" = -m ]\n')
    (tmp_path / "bin" / "python").chmod(0o755)
    done = make("gpu-check", f"VENV={tmp_path}", f"RELEASE={tmp_path}/release")
    assert done.returncode != 0
    assert f"{tmp_path} does not see JetPack's OpenCV: apt install python3-opencv" in done.stderr
    assert [line.split()[0] for line in (tmp_path / "calls").read_text().splitlines()] == ["-m", "-c"]
    assert not (tmp_path / ".gpu").exists()


def test_the_links_show_the_three_stages() -> None:
    for stage in ("export", "runtime", "calibration"):
        assert (ROOT / stage).is_symlink()
        assert (ROOT / stage).resolve() == ROOT / "edgecrack" / stage
