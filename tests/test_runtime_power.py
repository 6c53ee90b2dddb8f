"""Power, clocks and throttling: from a board's files, from NVML, and into telemetry and the summary."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.power import PowerWatch, open_meter
from runtime.power_board import open_board
from runtime.power_nvml import open_nvml
from runtime.telemetry import Telemetry
from tests.live_doubles import until

ORIN = {
    "proc/device-tree/compatible": "nvidia,p3768\0nvidia,tegra234\0",
    "sys/class/hwmon/hwmon1/in1_label": "VDD_IN\n",
    "sys/class/hwmon/hwmon1/in1_input": "5000\n",
    "sys/class/hwmon/hwmon1/curr1_input": "2400\n",
    "sys/class/hwmon/hwmon1/in2_label": "VDD_CPU_GPU_CV\n",
    "sys/class/hwmon/hwmon1/in2_input": "5000\n",
    "sys/class/hwmon/hwmon1/curr2_input": "1000\n",
    "sys/class/hwmon/hwmon2/oc3_event_cnt": "4\n",
    "sys/class/devfreq/17000000.gpu/cur_freq": "612000000\n",
    "sys/class/devfreq/17000000.gpu/max_freq": "1020000000\n",
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
    "sys/class/thermal/thermal_zone0/temp": "70000\n",
    "sys/class/thermal/thermal_zone1/type": "gpu-thermal\n",
    "sys/class/thermal/thermal_zone1/temp": "61500\n",
    "sys/class/thermal/cooling_device0/type": "pwm-fan\n",
    "sys/class/thermal/cooling_device0/cur_state": "3\n",
    "sys/class/thermal/cooling_device1/type": "devfreq-17000000.gpu\n",
    "sys/class/thermal/cooling_device1/cur_state": "0\n",
}
NVML = """
int nvmlInit_v2(void) { return %(init)d; }
int nvmlShutdown(void) { return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) { *device = (void *)7; return index == 1 ? 0 : 6; }
int nvmlDeviceGetPowerUsage(void *device, unsigned *mw) { *mw = 71500; return device == (void *)7 ? 0 : 2; }
int nvmlDeviceGetMaxClockInfo(void *device, int kind, unsigned *mhz) { *mhz = 1980; return kind != 1; }
int nvmlDeviceGetClockInfo(void *device, int kind, unsigned *mhz) { *mhz = 1410; return kind != 1; }
int nvmlDeviceGetTemperature(void *device, int sensor, unsigned *c) { return 3; }
int nvmlDeviceGetCurrentClocksThrottleReasons(void *device, unsigned long long *r) { *r = 0x20; return 0; }
"""


@pytest.fixture
def board(tmp_path: Path) -> Path:
    for name, text in ORIN.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_a_boards_files(board: Path) -> None:
    meter = open_meter(root=board)
    assert meter is not None and meter.gpu_most_mhz == 1020
    assert meter.read() == {
        "power_w": 12.0, "gpu_mhz": 612.0, "temperature_c": 61.5, "throttles": {"thermal": False, "current": False},
    }  # fmt: skip
    (board / "sys/class/hwmon/hwmon2/oc3_event_cnt").write_text("5\n")
    (board / "sys/class/thermal/cooling_device1/cur_state").write_text("2\n")
    assert meter.read()["throttles"] == {"thermal": True, "current": True}
    assert meter.read()["throttles"] == {"thermal": True, "current": False}


def test_rails_are_added_where_none_feeds_the_whole_board(board: Path) -> None:
    (board / "sys/class/hwmon/hwmon1/in1_label").write_text("VDD_GPU_SOC\n")
    (board / "sys/class/thermal/thermal_zone1/temp").unlink()
    meter = open_board(board)
    assert meter is not None and meter.read()["power_w"] == 17.0 and "temperature_c" not in meter.read()


def test_another_machine_is_no_board(board: Path) -> None:
    (board / "proc/device-tree/compatible").write_text("raspberrypi,5\0")
    assert open_board(board) is None and open_board(board / "nowhere") is None


@pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc to compile a double of NVML with")
def test_nvml(tmp_path: Path) -> None:
    libraries = []
    for init in (0, 9):
        source, library = tmp_path / f"nvml{init}.c", tmp_path / f"libnvml{init}.so"
        source.write_text(NVML % {"init": init})
        subprocess.run(["gcc", "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
        libraries.append(str(library))
    meter = open_nvml(1, libraries[0])
    assert meter is not None and meter.gpu_most_mhz == 1980
    assert meter.read() == {
        "power_w": 71.5, "gpu_mhz": 1410.0, "throttles": {"power": False, "thermal": True, "hardware": False},
    }  # fmt: skip
    meter.close()
    assert open_nvml(0, libraries[0]) is None and open_nvml(1, libraries[1]) is None
    assert open_nvml(0, str(tmp_path / "none.so")) is None


class Script:
    """A meter whose readings the test gives; the last is repeated."""

    source, gpu_most_mhz = "a script", 1000.0

    def __init__(self, *readings: dict[str, Any]) -> None:
        self._readings, self.closed, self.read_times = list(readings), False, 0

    def read(self) -> dict[str, Any]:
        self.read_times += 1
        return self._readings.pop(0) if len(self._readings) > 1 else self._readings[0]

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    yield Telemetry()


def test_telemetry_and_summary(telemetry: Telemetry) -> None:
    meter = Script(
        {"power_w": 10.0, "throttles": {"thermal": False}}, {"power_w": 20.0, "throttles": {"thermal": True}},
        {"power_w": 15.0, "gpu_mhz": 500.0, "throttles": {"thermal": False}},
    )  # fmt: skip
    with PowerWatch(telemetry, lambda: meter, period_s=60) as watch:
        until(lambda: meter.read_times == 1)
        watch.look()
        assert telemetry.throttles() == {"thermal": (1, True)}
        watch.look()
        watch.look()
    assert meter.closed and telemetry.throttles() == {"thermal": (1, False)}
    assert watch.summary() == {
        "source": "a script", "readings": 4, "gpu_most_mhz": 1000.0,
        "power_w": {"least": 10.0, "mean": 15.0, "most": 20.0},
        "gpu_mhz": {"least": 500.0, "mean": 500.0, "most": 500.0}, "throttled_share": {"thermal": 0.25},
    }  # fmt: skip
    assert watch.line() == "GPU by a script: 15.0 W, 500 MHz, slowed down: thermal 25% of the time"


def test_it_reads_again_and_again_until_it_ends() -> None:
    meter = Script({"power_w": 1.0, "throttles": {"power": False}})
    with PowerWatch(None, lambda: meter, period_s=0.005) as watch:
        until(lambda: meter.read_times > 3)
    assert watch.line().endswith("1.0 W, not slowed down")


def test_without_a_meter_nothing_is_said() -> None:
    with PowerWatch(None, lambda: None) as watch:
        assert watch.summary() is None and watch.line() == ""
