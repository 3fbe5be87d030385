"""`cli.chaos_stage`: one blow on the real stack, and what is looked at afterwards."""

from collections.abc import Iterator

import pytest

from cli.chaos_stage import Stage

pytestmark = [pytest.mark.slow, pytest.mark.weights, pytest.mark.timeout(600)]

#: Blows that no test of a stack by themselves (`tests/system/`) has: all but those to Redis.
FAULTS = ("nothing", "kill", "hang", "drain", "ingress", "redis-empty")


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with Stage(0, 12, 1) as found:
        assert found.settle(lambda _: None)[0] >= 2
        yield found


@pytest.mark.parametrize("fault", FAULTS)
def test_nothing_is_lost_or_doubled(stage: Stage, fault: str) -> None:
    found = stage.play(fault, 1, lambda: False)
    (verdict,) = found.verdicts
    assert verdict.finals >= 2
    assert (verdict.lost, verdict.doubled) == (0, 0)
    assert (found.disorder, found.misused, found.doubly_held) == (0, 0, 0)
    assert len(found.moved_ms) <= (fault in ("kill", "hang", "drain"))


def test_who_stops_strikes_no_more(stage: Stage) -> None:
    assert stage.play("kill", 5, lambda: True).verdicts == []


def test_nothing_is_left(stage: Stage) -> None:
    assert not any(stage.leftovers().values())
