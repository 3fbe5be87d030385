"""`cli.bench_record`: a small run of each mode, and the sums."""

import asyncio
from collections.abc import Mapping

import pytest

from cli import bench_record
from cli.bench_record import modes, pairs, rows
from wire.errors import StackError


@pytest.mark.slow
@pytest.mark.weights
@pytest.mark.timeout(300)
def test_each_mode_is_measured_in_pairs() -> None:
    told: list[str] = []
    result = bench_record.run(2, 1, (1.0, 2.0), 1, told.append)
    assert told == [f"{part}, {mode}: round 1 of 1" for mode in modes() for part in ("ingress", "worker")]
    parts = ("ingress", "ingress", "redis", "redis", "worker", "worker")
    assert tuple(row["part"] for row in result["rows"]) == parts
    assert all(row["off_ms"] > 0 and row["on_ms"] > 0 for row in result["rows"] if row["part"] != "redis")


def test_turns_change_places_and_the_first_of_each_does_not_count() -> None:
    asked: list[bool] = []

    async def turn(recorded: bool) -> Mapping[str, float]:
        asked.append(recorded)
        return {"ingress": float(len(asked))}

    told: list[str] = []
    found = asyncio.run(pairs(turn, 2, told.append, "here"))
    assert asked == [False, True, False, True, True, False]
    assert found == {"ingress": [(3.0, 4.0), (6.0, 5.0)]}
    assert told == ["here: round 1 of 2", "here: round 2 of 2"]


def test_the_share_is_of_each_pair_and_the_middle_counts() -> None:
    worker = [(200.0, 220.0)]
    found = rows({"recorded": {"worker": worker, "ingress": [(1.0, 1.02), (4.0, 4.12), (2.0, 2.5)]}})
    assert [(row["part"], row["mode"], row["off_ms"], row["on_ms"], row["share"]) for row in found] == [
        ("ingress", "recorded", 2.0, 2.5, 0.03),
        ("worker", "recorded", 200.0, 220.0, 0.1),
    ]
    assert (found[0]["low"], found[0]["high"]) == (0.02, 0.25)


def test_who_asks_is_recorded_and_encrypted_where_that_is_measured() -> None:
    found = [(mode, env["RECORD"], "RECORD_KEY" in env) for mode, env in modes().items()]
    assert found == [("recorded", "ask", False), ("encrypted", "ask", True)]


def test_more_audio_than_redis_holds_is_refused_at_once() -> None:
    with pytest.raises(StackError, match="fewer seconds or rounds"):
        bench_record.run(1_000, 0, (60.0, 2.0), 10, print)
