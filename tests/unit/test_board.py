"""The board's files, as Jetson's kernels lay them out."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgecrack import board
from edgecrack.memory import available_memory


@pytest.fixture
def jetson(tmp_path: Path) -> Path:
    files = {
        "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\n",
        "proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\0",
        "proc/meminfo": "MemTotal:        7802956 kB\nMemAvailable:    5242880 kB\n",
        "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
        "sys/class/thermal/thermal_zone0/temp": "48125\n",
        "sys/class/thermal/thermal_zone1/type": "cv0-thermal\n",  # off: its temp cannot be read
        "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon1/in1_label": "VDD_IN\n",
        "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon1/in1_input": "5000\n",
        "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon1/curr1_input": "1400\n",
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "729600\n",
        "sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq": "1510400\n",
        "sys/class/devfreq/17000000.gpu/cur_freq": "306000000\n",
        "sys/class/devfreq/17000000.gpu/max_freq": "624750000\n",
        "sys/class/devfreq/gpu-nvd-0/cur_freq": "114000000\n",  # of the video engine, on a Thor
        "sys/class/devfreq/gpu-nvd-0/max_freq": "1200000000\n",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_a_jetson_says_what_it_is(jetson: Path) -> None:
    assert board.jetpack(jetson) == "JetPack 6.1 or 6.2 (Jetson Linux R36.4.3)"
    assert board.model(jetson) == "NVIDIA Jetson Orin Nano Developer Kit"


def test_a_jetson_says_how_it_does(jetson: Path) -> None:
    assert board.temperatures(jetson) == {"cpu-thermal": 48.125}
    assert board.power(jetson) == {"VDD_IN": 7.0}
    assert board.clocks(jetson) == {"cpu0": (729.6, 1510.4), "gpu": (306.0, 624.75)}
    assert available_memory(jetson) == 5 << 30


def test_another_machine_says_nothing(tmp_path: Path) -> None:
    assert (board.jetpack(tmp_path), board.model(tmp_path), available_memory(tmp_path)) == ("", "", 0)
    assert not board.temperatures(tmp_path) and not board.power(tmp_path) and not board.clocks(tmp_path)


def test_this_machine_has_memory() -> None:
    assert 50 << 20 < available_memory() < 100 << 40


def test_a_release_that_is_not_known_is_still_named(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/nv_tegra_release").write_text("# R41 (release), REVISION: 1.0, GCID: 1\n")
    assert board.jetpack(tmp_path) == "JetPack of another version (Jetson Linux R41.1.0)"
