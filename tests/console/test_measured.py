"""`console.measured`: pages of metrics -> delays."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from console.measured import DELAYS, MAX_READINGS, WINDOW_S, Readings, parse, quantile
from wire import metrics

BOUNDS = (0.1, 0.2, 0.5, 1.0, 5.0)


def page(*values: float, name: str = "begin_seconds") -> str:
    registry = CollectorRegistry()
    histogram = Histogram(f"steno_{name}", "x", ["pool"], buckets=BOUNDS, registry=registry)
    for place, value in enumerate(values):
        histogram.labels(f"pool {place % 2}").observe(value)
    return generate_latest(registry).decode()


def test_the_histograms_that_are_shown_exist():
    known = {family.name for family in metrics.REGISTRY.collect() if family.type == "histogram"}
    assert {f"steno_{name}" for name in DELAYS} <= known


def test_pages_are_summed_over_labels_and_services():
    found = parse([page(0.15, 0.3), page(0.4), page(1, name="news_lag_seconds"), "no metrics"])
    assert found == {"begin_seconds": {0.1: 0, 0.2: 1, 0.5: 3, 1.0: 3, 5.0: 3, float("inf"): 3}}


def test_a_broken_page_is_passed_over():
    assert parse(['steno_begin_seconds_bucket{le="x"} 1\nsteno_begin_seconds_bucket{le="1"} nothing\n']) in (
        {},
        {"begin_seconds": {}},
        {"begin_seconds": {1.0: 0.0}},
    )


@given(st.lists(st.floats(0, 4.9), min_size=1, max_size=50), st.sampled_from([0.5, 0.95]))
def test_an_estimate_lies_in_the_bucket_of_the_value(values, share):
    found = quantile(parse([page(*values)])["begin_seconds"], share)
    true = sorted(values)[max(0, -(-int(share * 100) * len(values) // 100) - 1)]
    bounds = (0.0, *BOUNDS)
    place = next(place for place, bound in enumerate(bounds) if true <= bound)
    assert found is not None
    assert bounds[max(0, place - 1)] - 1e-9 <= found <= bounds[max(1, place)] + 1e-9


def test_nothing_counted_is_no_value_and_beyond_the_last_bound_is_that_bound():
    assert quantile({}, 0.5) is None
    assert quantile({1.0: 0.0, float("inf"): 0.0}, 0.5) is None
    assert quantile(parse([page(9, 9)])["begin_seconds"], 0.5) == 5.0


def test_what_happened_lately_is_shown_and_everything_where_nothing_did():
    readings = Readings()
    assert readings.delays() == []
    readings.add(parse([page(4, 4, 4)]), 0)
    [row] = readings.delays()
    assert (row["count"], row["window_s"], row["p50_ms"]) == (3, None, 3000.0)
    readings.add(parse([page(4, 4, 4, 0.15)]), 10)
    [row] = readings.delays()
    assert (row["count"], row["window_s"], row["p50_ms"]) == (1, 10, 150.0)
    readings.add(parse([page(4, 4, 4, 0.15)]), 10 + WINDOW_S)
    [row] = readings.delays()
    assert (row["count"], row["window_s"]) == (4, None)


def test_a_service_that_began_anew_is_counted_from_its_begin():
    readings = Readings()
    readings.add(parse([page(4, 4, 4)]), 0)
    readings.add(parse([page(0.15)]), 10)
    [row] = readings.delays()
    assert (row["count"], row["p50_ms"]) == (1, 150.0)


@pytest.mark.parametrize("share", [0.5, 0.95])
def test_all_in_one_bucket(share):
    assert quantile({1.0: 0.0, 2.0: 10.0, float("inf"): 10.0}, share) == pytest.approx(1 + share)


def test_now_reaches_back_for_a_while_only():
    readings = Readings()
    for number in range(3 * MAX_READINGS):
        readings.add(parse([page(4)]), number)
    assert len(readings._kept) <= MAX_READINGS
