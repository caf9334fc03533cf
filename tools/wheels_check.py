"""Resolve every extra from wheels alone, for Python 3.10 to 3.13 on x86-64 and aarch64: `make wheels-check`.

pip downloads wheels only if an index does not serve their metadata, and installs nothing. Markers of requirements
(`; platform_machine == ...`) are evaluated for the machine this runs on, since pip has no other way.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import requires

from packaging.requirements import Requirement

PYTHONS = ("3.10", "3.11", "3.12", "3.13")
PLATFORMS = {
    machine: [f"manylinux_2_{glibc}_{machine}" for glibc in (17, 26, 27, 28, 34, 35, 39)] + [f"manylinux2014_{machine}"]
    for machine in ("x86_64", "aarch64")
}
AT_ONCE = 6  # pip waits for the index most of the time
SOURCE_ONLY = {"pycuda"}  # no wheel for any platform: compiled against the machine's CUDA
# NVIDIA publishes these as tiny source archives that depend on the wheels named here; the libraries of the full
# TensorRT, some GB, are fetched from NVIDIA's own index at install time
STUBS = {
    "tensorrt": ["tensorrt-cu13-bindings>=10.3"],
    "tensorrt-rtx": ["tensorrt-rtx-cu13-bindings", "tensorrt-rtx-cu13-libs"],
}


def main(pip_options: list[str]) -> int:
    """Print a line per combination; returns 1 if one cannot be resolved."""
    combinations = [
        (extra, wanted, machine, python)
        for extra, wanted in extras().items()
        for machine in PLATFORMS
        for python in PYTHONS
    ]

    def check(combination: tuple[str, list[str], str, str]) -> str:
        _, wanted, machine, python = combination
        names = [wheel for name in wanted for wheel in STUBS.get(Requirement(name).name, [name])]
        names = [name for name in names if Requirement(name).name not in SOURCE_ONLY]
        return resolve(names, python, PLATFORMS[machine], pip_options) if names else ""

    failed = 0
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for (extra, wanted, machine, python), error in zip(combinations, pool.map(check, combinations), strict=True):
            skipped = [name for name in wanted if Requirement(name).name in SOURCE_ONLY]
            note = f" (without {', '.join(skipped)}: no wheels, compiled on the machine)" if skipped else ""
            stubs = sorted({Requirement(name).name for name in wanted} & STUBS.keys())
            note += f" ({', '.join(stubs)} by the wheels behind it)" if stubs else ""
            print(f"{'FAIL' if error else 'ok  '} [{extra or 'base'}] Python {python} {machine}{note}", flush=True)
            if error:
                failed += 1
                print(f"     {error}", file=sys.stderr)
    return bool(failed)


def extras() -> dict[str, list[str]]:
    """The requirements of the base ("") and of each extra, including those of the base."""
    found: dict[str, list[str]] = {"": []}
    for line in requires("edgecrack") or []:
        requirement = Requirement(line)
        extra = str(requirement.marker).split('"')[1] if requirement.marker else ""
        requirement.marker = None
        found.setdefault(extra, []).append(str(requirement))
    for names in found.values():  # of an extra that takes in another, as search does train
        for line in [line for line in names if Requirement(line).name == "edgecrack"]:
            names.remove(line)
            names += [name for extra in Requirement(line).extras for name in found[extra]]
    return {extra: found[""] + (names if extra else []) for extra, names in found.items()}


def resolve(names: list[str], python: str, platforms: list[str], pip_options: list[str]) -> str:
    """The last line of pip's errors; empty if it finds wheels for everything."""
    choose = [option for platform in platforms for option in ("--platform", platform)]
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--dry-run",
            "--ignore-installed",
            "--quiet",
            "--target",
            folder,
        ]
        # fast-deps reads the metadata from within a wheel if the index does not serve it separately
        command += ["--only-binary=:all:", "--use-feature=fast-deps"]
        done = subprocess.run(
            [*command, "--python-version", python, *choose, *pip_options, *names], capture_output=True, text=True
        )
    lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
    return "" if done.returncode == 0 else (lines or done.stderr.splitlines() or ["pip failed and said nothing"])[-1]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
