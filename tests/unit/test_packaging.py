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


def test_the_links_show_the_three_stages() -> None:
    for stage in ("export", "runtime", "calibration"):
        assert (ROOT / stage).is_symlink()
        assert (ROOT / stage).resolve() == ROOT / "edgecrack" / stage
