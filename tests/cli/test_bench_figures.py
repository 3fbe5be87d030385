"""`cli.bench_figures`: which final answers which phrase, percentiles, growth."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.bench_figures import (
    Heard,
    Record,
    answers,
    covering,
    middle,
    percentile,
    quantile_of_buckets,
    slope,
    slope_and_error,
    spread,
)


def turn(at_s: float, first: int, last: int, end: int, final: bool = True) -> Heard:
    return Heard(at_s, final, 0, first, last, end, "")


def test_the_last_final_that_ends_within_a_phrase_covers_it() -> None:
    early, late = turn(2.0, 1_000, 1_200, 1_400), turn(3.2, 1_500, 2_600, 2_950)
    following = turn(5.0, 4_000, 4_500, 4_800)
    assert covering([early, late, following], (1_000, 3_000)) is late


def test_a_phrase_joined_with_the_next_is_covered_by_the_joint_final() -> None:
    joint = turn(6.0, 1_000, 4_500, 4_900)
    assert covering([joint], (1_000, 2_000)) is joint
    assert covering([joint], (4_000, 5_000)) is joint


def test_partials_and_later_turns_cover_nothing() -> None:
    assert covering([turn(2.0, 1_000, 1_500, 1_900, final=False)], (1_000, 2_000)) is None
    assert covering([turn(6.0, 4_000, 4_500, 4_900)], (1_000, 2_000)) is None


def record(*turns: Heard) -> Record:
    """Four seconds in 50 ms chunks, the first sent at 100.05 s; one phrase from 1,000 to 3,000 ms."""
    return Record(((1_000, 3_000),), 50, sent_s=[100 + 0.05 * (n + 1) for n in range(80)], turns=list(turns))


def test_delays_count_from_the_sending_of_the_audio() -> None:
    (answer,) = answers(
        record(
            turn(101.45, 1_000, 1_000, 1_200, final=False),
            turn(102.25, 1_000, 1_800, 2_000, final=False),
            turn(103.4, 1_000, 2_700, 2_950),
        )
    )
    assert answer.final_ms == pytest.approx(400)
    assert answer.after_word_ms == pytest.approx(450)
    assert answer.first_partial_ms == pytest.approx(400)
    assert answer.gaps_ms == pytest.approx((400, 800, 750))


def test_a_phrase_without_messages_has_one_long_gap_and_no_delays() -> None:
    (answer,) = answers(record())
    assert (answer.final_ms, answer.after_word_ms, answer.first_partial_ms) == (None, None, None)
    assert answer.gaps_ms == pytest.approx((1_950,))


def test_a_phrase_that_was_not_sent_to_its_end_is_left_out() -> None:
    cut = record()
    del cut.sent_s[59:]
    assert answers(cut) == []


def test_a_final_before_the_phrase_is_over_is_no_answer_to_its_end() -> None:
    (answer,) = answers(record(turn(102.6, 1_000, 1_800, 2_000)))
    assert answer.early
    assert answer.final_ms is None


def test_words_of_the_phrase_before_are_no_first_partial() -> None:
    (answer,) = answers(
        record(
            turn(101.1, 0, 500, 900),
            turn(101.6, 1_000, 1_000, 1_300, final=False),
            turn(103.5, 1_000, 2_800, 3_000),
        )
    )
    assert answer.first_partial_ms == pytest.approx(550)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1), st.floats(0, 100))
def test_a_percentile_is_a_measured_value_and_never_falls(values, part) -> None:
    found = percentile(values, part)
    assert found is not None
    assert found in values
    assert min(values) <= found <= max(values)


def test_percentiles_by_nearest_rank() -> None:
    assert [percentile(list(range(1, 21)), part) for part in (0, 50, 95, 99, 100)] == [1, 10, 19, 20, 20]
    assert percentile([], 50) is None


@given(st.floats(-100, 100), st.floats(-1000, 1000))
def test_the_slope_of_a_line(rise, offset) -> None:
    assert slope([(x, rise * x + offset) for x in range(10)]) == pytest.approx(rise, abs=1e-6)


def test_the_slope_of_too_little_is_none() -> None:
    assert slope([]) == slope([(1, 5), (2, 9)]) == slope([(1, 5), (1, 9), (1, 7)]) == 0


def test_a_percentile_out_of_a_histogram() -> None:
    buckets = [(0.1, 0.0), (0.2, 10.0), (0.5, 20.0), (float("inf"), 20.0)]
    assert quantile_of_buckets(buckets, 25) == pytest.approx(0.15)
    assert quantile_of_buckets(buckets, 75) == pytest.approx(0.35)
    assert quantile_of_buckets([(0.1, 0.0), (float("inf"), 4.0)], 50) == 0.1
    assert quantile_of_buckets([(0.1, 0.0)], 50) is None
    assert quantile_of_buckets([], 50) is None


def test_a_slope_comes_with_how_well_it_is_known() -> None:
    exact = [(float(x), 3.0 * x + 1.0) for x in range(10)]
    assert slope_and_error(exact) == pytest.approx((3.0, 0.0), abs=1e-9)
    # Least squares by hand: slope 0.6, residuals -0.2, 0.2, 0.6, -1.0, 0.4.
    found, error = slope_and_error([(1.0, 2.0), (2.0, 3.0), (3.0, 4.0), (4.0, 3.0), (5.0, 5.0)])
    assert found == pytest.approx(0.6)
    assert error == pytest.approx((1.6 / 3 / 10) ** 0.5)
    assert slope_and_error(exact[:2]) == (0.0, 0.0)
    assert slope_and_error([(1.0, 2.0)] * 4) == (0.0, 0.0)


def test_the_middle_of_several_rounds() -> None:
    rounds = [
        {"sessions": 4, "p99": 3.0, "lost": 0, "holds": True, "name": "a", "cores": {"x": 0.1}, "none": None},
        {
            "sessions": 4,
            "p99": 9.0,
            "lost": 2,
            "holds": False,
            "name": "b",
            "cores": {"x": 0.5},
            "none": None,
        },
        {"sessions": 4, "p99": 4.0, "lost": 0, "holds": True, "name": "c", "cores": {"x": 0.2}, "none": 7.0},
    ]
    found = middle(rounds, worst=("lost",))
    assert found.pop("spread") == {"p99": (3.0, 9.0), "lost": (0, 2), "cores x": (0.1, 0.5)}
    assert found == {
        "sessions": 4,
        "p99": 4.0,
        "lost": 2,
        "holds": True,
        "name": "c",
        "cores": {"x": 0.2},
        "none": 7.0,
    }
    assert spread([3.04, 1.0]) == (1.0, 3.0)
