"""`cli.bench_all`: the parts in their order; one that fails does not keep the others from running."""

from pathlib import Path

import pytest

from cli import bench_all
from cli.bench_all import LONG, PARTS, chosen


def test_the_suite_has_an_order_and_a_short_run_leaves_out_what_is_long() -> None:
    assert chosen([], short=False) == list(PARTS)
    assert not set(chosen([], short=True)) & set(LONG)
    assert chosen(["worker", "bus"], short=True) == ["bus", "worker"]
    assert chosen(["chaos"], short=True) == ["chaos"]
    with pytest.raises(ValueError, match="flight: there are startup, "):
        chosen(["bus", "flight"], short=True)


def test_what_fails_says_why_and_the_next_is_run(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    said: list[str] = []
    result = bench_all.run(
        ["bus", "nodes"], tmp_path / "file", True, said.append, lambda ran: said.append(ran.part)
    )
    assert said == ["1 of 2: bus", "bus", "2 of 2: nodes", "nodes"]
    assert not result["holds"]
    assert all("file" in part["failed"] for part in result["parts"])
    assert result["parts"][0]["command"].startswith("steno bench bus --short --json --out")


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_what_ran_leaves_its_result(tmp_path: Path) -> None:
    result = bench_all.run(["handshake"], tmp_path, True, lambda _: None, lambda _: None)
    assert result["holds"]
    assert result["parts"][0]["seconds"] > 0
    assert {path.name for path in tmp_path.iterdir()} == {"handshake.json", "handshake.png"}
