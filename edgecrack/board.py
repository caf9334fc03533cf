"""Board status: JetPack, power mode, clocks, temperatures, power. From /proc and /sys, on any Linux.

The paths are those of Jetson's kernels (R36 and later); where a path is missing, its value is omitted. Written from
NVIDIA's documentation and not yet run on a Jetson.
"""

from __future__ import annotations

import re
import subprocess
from contextlib import suppress
from pathlib import Path

ROOT = Path("/")

# Jetson Linux release -> the JetPack that includes it
_JETPACKS = {"36.3": "6.0", "36.4": "6.1 or 6.2", "36.5": "6.2", "38.2": "7.0", "38.4": "7.1", "39.2": "7.2"}


def jetpack(root: Path = ROOT) -> str:
    """The JetPack version, such as "JetPack 6.1 or 6.2 (Jetson Linux R36.4.3)"; "" if this is not a Jetson."""
    found = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", _read(root / "etc/nv_tegra_release"))
    if not found:
        return ""
    major, revision = found.groups()
    known = _JETPACKS.get(f"{major}.{revision.split('.')[0]}", "of another version")
    return f"JetPack {known} (Jetson Linux R{major}.{revision})"


def model(root: Path = ROOT) -> str:
    """The board model, such as "NVIDIA Jetson Orin Nano Developer Kit"; "" on a machine without a device tree."""
    return _read(root / "proc/device-tree/model").strip("\0 \n")


def power_mode() -> str:
    """The power mode that `nvpmodel -q` reports, such as "15W"; "" if nvpmodel is missing."""
    try:
        done = subprocess.run(["nvpmodel", "-q"], capture_output=True, text=True, timeout=5)  # noqa: S607 the system's
    except (OSError, subprocess.TimeoutExpired):
        return ""
    found = re.search(r"NV Power Mode: *(\S+)", done.stdout)
    return found[1] if found else ""


def temperatures(root: Path = ROOT) -> dict[str, float]:
    """Temperatures in degrees Celsius by thermal zone, such as "gpu-thermal"; omits zones that are switched off."""
    zones = {}
    for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*")):
        value = _number(zone / "temp")
        if value is not None:
            zones[_read(zone / "type").strip() or zone.name] = value / 1000
    return zones


def power(root: Path = ROOT) -> dict[str, float]:
    """Power in watts by supply rail, such as "VIN_SYS_5V0", from the INA3221 monitors on a Jetson module."""
    rails = {}
    for label in sorted((root / "sys/bus/i2c/drivers/ina3221").glob("*/hwmon/hwmon*/in*_label")):
        channel = label.name.removeprefix("in").removesuffix("_label")
        millivolts, milliamperes = (_number(label.with_name(f"{kind}{channel}_input")) for kind in ("in", "curr"))
        if millivolts is not None and milliamperes is not None:
            rails[_read(label).strip()] = millivolts * milliamperes / 1e6
    return rails


def clocks(root: Path = ROOT) -> dict[str, tuple[float, float]]:
    """Current and maximum clock in MHz of the first CPU core ("cpu0") and of the GPU ("gpu")."""
    places = [("cpu0", root / "sys/devices/system/cpu/cpu0/cpufreq", "scaling_cur_freq", "cpuinfo_max_freq", 1e3)]
    gpus = [gpu for gpu in (root / "sys/class/devfreq").glob("*gpu*") if "nvd" not in gpu.name]  # Thor's video engine
    places += [("gpu", gpu, "cur_freq", "max_freq", 1e6) for gpu in gpus]
    found = {}
    for name, folder, now, most, unit in places:
        values = _number(folder / now), _number(folder / most)
        if values[0] is not None and values[1] is not None:
            found[name] = (values[0] / unit, values[1] / unit)
    return found


def _read(path: Path) -> str:
    with suppress(OSError):  # a zone or rail may be unreadable while it is switched off
        return path.read_text(errors="replace")
    return ""


def _number(path: Path) -> float | None:
    with suppress(ValueError):
        return float(_read(path))
    return None
