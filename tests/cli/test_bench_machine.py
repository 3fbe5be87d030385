"""`cli.bench_machine`: what ran where, and what it took."""

import os
import subprocess
import sys

import pytest

from cli.bench_machine import ToolMissing, Usage, describe, metric, tool
from wire import metrics
from wire.service import Probe


def test_the_description_names_machine_versions_and_commit() -> None:
    found = describe()
    assert found["machine"]["cores"] == os.cpu_count()
    assert found["machine"]["memory_gib"] > 0
    assert found["versions"]["torch"].startswith("2.")
    assert found["versions"]["redis"]
    assert found["commit"]


def test_a_missing_tool_tells_what_to_install() -> None:
    with pytest.raises(ToolMissing, match=r"pip install 'steno\[bench\]'"):
        tool("no_such_package.at_all")


def test_usage_sees_a_busy_process(wait_until_sync) -> None:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
        try:
            usage = Usage({"busy": busy.pid, "idle": os.getpid()})
            wait_until_sync(lambda: usage.cores()["busy"] > 0.05)
            assert set(usage.cores()) == {"busy", "idle", "others"}
            assert usage.cores()["others"] >= 0
        finally:
            busy.kill()


def test_a_metric_is_read_from_a_real_page() -> None:
    metrics.STEP_SECONDS.labels("bench").observe(0.5)
    with Probe("127.0.0.1", 0, "test") as probe:
        series = metric(probe.port, "steno_step_seconds")
    assert series['_count{occupancy="bench"}'] == 1
    assert series['_sum{occupancy="bench"}'] == 0.5
