"""`cli.bench_model`: costs are found again where they are known, and lines are straight or not."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.bench_model import FRAMES_A_TICK, TICK_MS, Costs, Row, fit, line, off, straight, used
from ingress.settings import IngressSettings

SIZES = [(nodes, sessions) for nodes in (1, 2, 4) for sessions in (100, 200, 400)]
COST = st.floats(0, 0.1)


def row(nodes: int, sessions: int, cores: float) -> Row:
    return nodes, used(nodes, sessions), sessions, cores


@given(COST, COST, st.floats(1e-5, 1e-2))
def test_what_was_put_in_is_found_again(fixed: float, node: float, session: float) -> None:
    known = Costs(fixed, node, session)
    found = fit([row(nodes, sessions, known.cores(nodes, sessions)) for nodes, sessions in SIZES])
    assert found.cores(8, 3_000) == pytest.approx(known.cores(8, 3_000), rel=1e-3, abs=1e-6)


@given(st.lists(st.floats(0, 3), min_size=9, max_size=9))
def test_nothing_costs_less_than_nothing(cores: list[float]) -> None:
    found = fit([row(*size, value) for size, value in zip(SIZES, cores, strict=True)])
    assert min(found.fixed, found.node, found.session) >= 0


def test_one_number_of_nodes_cannot_tell_nodes_from_what_is_fixed() -> None:
    found = fit([row(1, 1_000, 1.1), row(1, 2_000, 2.1)])
    assert [found.fixed, found.node, found.session] == pytest.approx([0.0, 0.1, 0.001])
    assert fit([row(1, 100, 0.2), row(2, 100, 0.3), row(1, 200, 0.3)], fixed=False).fixed == 0
    with pytest.raises(ValueError, match="nothing was measured"):
        fit([])


def test_how_many_a_core_holds() -> None:
    costs = Costs(0.1, 0.5, 0.0005)
    assert costs.most(1_000) == 900  # 0.1 + 0.9 x 0.5 + 900 x 0.0005 = 1
    assert costs.cores(9, 9_000) == pytest.approx(9.1)
    assert costs.most(1_000, 0.05) == 0


def test_a_tick_in_which_nothing_came_is_not_taken() -> None:
    assert IngressSettings.model_fields["tick_ms"].default == TICK_MS
    assert used(1, 0) == 0
    assert used(0, 10) == 0
    assert used(1, 1) == pytest.approx(FRAMES_A_TICK, rel=0.05), "each frame is written by itself"
    assert used(4, 4_000) == pytest.approx(4), "each tick has frames"
    assert used(4, 60) == pytest.approx(4 * used(1, 15))


@pytest.mark.parametrize("frames", [0.1, 0.6, 1.2, 2.4])
def test_the_share_of_ticks_is_what_chance_gives(frames: float) -> None:
    """Frames at random against `ingress/outbox.py`'s rule: at once after a pause, and then a tick later."""
    random, now, writes, written, waits = Random(1), 0.0, 0, -1.0, False
    for _ in range(50_000):
        now += random.expovariate(frames)
        if waits and now >= written + 1:
            writes, written, waits = writes + 1, written + 1, False
        if now >= written + 1:
            writes, written = writes + 1, now
        else:
            waits = True
    assert writes / now == pytest.approx(used(1, frames / FRAMES_A_TICK), rel=0.03)


def test_a_line_is_straight_and_a_curve_is_not() -> None:
    sizes = (100, 250, 500, 750, 1_000)
    found = straight([(size, 0.1 + 0.001 * size) for size in sizes])
    assert found is not None
    assert found.fixed == pytest.approx(0.1)
    assert found.session == pytest.approx(0.001)
    assert (found.fewest, found.most) == (100, 1_000)
    assert found.bend == pytest.approx(0.0, abs=1e-9)
    curve = straight([(size, 1e-6 * size**2) for size in sizes])
    assert curve is not None
    assert curve.bend is not None
    assert curve.bend > 0.4


def test_few_sizes_say_little() -> None:
    assert straight([(100, 0.1)]) is None
    short = straight([(100, 0.1), (200, 0.2), (300, 0.3)])
    assert short is not None
    assert short.bend is None


def test_who_falls_behind_is_not_on_the_line() -> None:
    levels = [
        {"sessions": size, "cores": {"ingress": size / 1_000}, "failed": 0, "served": served}
        for size, served in ((50, 50), (100, 100), (200, 199), (400, 300))
    ]
    found = line(levels)
    assert found is not None
    assert (found.fewest, found.most) == (100, 200)


def test_how_far_off() -> None:
    assert off(1.1, 1.0) == pytest.approx(0.1)
    assert off(1.0, 0.0) == 0.0
