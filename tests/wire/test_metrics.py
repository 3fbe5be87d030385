"""Metrics: declared once, named alike, shown as a scraper expects."""

import math
import re
from pathlib import Path

import pytest
from prometheus_client import REGISTRY as GLOBAL_REGISTRY
from prometheus_client import generate_latest
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.parser import text_string_to_metric_families

from wire import metrics

DECLARED = {name: value for name, value in vars(metrics).items() if isinstance(value, MetricWrapperBase)}


def shown():
    return {
        family.name: family
        for family in text_string_to_metric_families(generate_latest(metrics.REGISTRY).decode())
    }


def test_every_metric_is_ours_by_name_and_has_a_line_of_help():
    for name, metric in DECLARED.items():
        family = next(iter(metric.describe()))
        assert family.name.startswith("steno_"), name
        assert family.documentation.endswith("."), name
        assert "\n" not in family.documentation, name


def test_a_constant_is_named_like_its_metric():
    for name, metric in DECLARED.items():
        family = next(iter(metric.describe())).name
        assert f"steno_{name.lower()}".removesuffix("_total") == family


def test_units_stand_in_the_names():
    for name, metric in DECLARED.items():
        if metric._type == "histogram":
            assert name.endswith("_SECONDS"), name


def test_nothing_of_ours_is_in_the_global_registry():
    assert not [family.name for family in GLOBAL_REGISTRY.collect() if family.name.startswith("steno_")]


def test_the_page_shows_every_metric_and_no_birth_dates():
    families = shown()
    for metric in DECLARED.values():
        assert next(iter(metric.describe())).name in families
    assert not [name for name in families if name.endswith("_created")]


def test_an_observation_appears_on_the_page():
    before = metrics.REGISTRY.get_sample_value("steno_redis_errors_total", {"operation": "append"}) or 0.0
    metrics.REDIS_ERRORS.labels(operation="append").inc()
    [sample] = [s for s in shown()["steno_redis_errors"].samples if s.labels == {"operation": "append"}]
    assert sample.value == before + 1


@pytest.mark.parametrize("name", [name for name, metric in DECLARED.items() if metric._type == "histogram"])
def test_buckets_rise_and_end_in_infinity(name: str):
    metric = DECLARED[name]
    child = metric.labels(*metric._labelnames) if metric._labelnames else metric
    bounds = [float(s.labels["le"]) for s in child._samples() if s.name == "_bucket"]
    assert bounds == sorted(set(bounds))
    assert bounds[0] > 0
    assert bounds[-1] == math.inf


@pytest.mark.parametrize(
    "active,label",
    [
        (0, "0"),
        (1, "1"),
        (2, "2"),
        (3, "3-4"),
        (4, "3-4"),
        (5, "5-8"),
        (8, "5-8"),
        (9, "9-16"),
        (48, "33-64"),
    ],
)
def test_occupancy_labels(active: int, label: str):
    assert metrics.occupancy(active) == label


def test_each_occupancy_lies_within_its_label():
    for active in range(1, 300):
        low, _, high = metrics.occupancy(active).partition("-")
        assert int(low) <= active <= int(high or low)


def test_the_operators_page_names_only_metrics_that_there_are():
    page = (Path(__file__).parents[2] / "docs/failures.md").read_text()
    named = {name.removesuffix("_total") for name in re.findall(r"steno_[a-z_]+", page)}
    there = {next(iter(metric.describe())).name for metric in DECLARED.values()}
    assert len(named) > 10
    assert named - there == set()


def test_every_metric_is_told_of_by_somebody():
    """One that nobody observes shows an empty panel for ever."""
    root = Path(__file__).parents[2]
    sources = [
        path.read_text()
        for room in ("console", "ingress", "licensing", "usage", "wire", "workers")
        for path in (root / room).rglob("*.py")
        if path != root / "wire/metrics.py"
    ]
    assert [name for name in DECLARED if not any(f"metrics.{name}" in source for source in sources)] == []
