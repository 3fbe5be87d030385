"""`cli.bench_plan`: how far one Redis goes, by costs that are known."""

from typing import Any

import pytest

from cli.bench_model import Costs
from cli.bench_plan import cluster_most, full, per_core, section

INGRESS = {"fixed": 0.0, "node": 0.1, "session": 0.001}
REDIS = {"fixed": 0.0, "node": 0.03, "session": 0.0004}
LEVEL: dict[str, Any] = {
    "nodes": 2,
    "sessions": 200,
    "used": 1.96,
    "cores": {"ingress": 0.44, "redis": 0.14},
    "predicted": {"ingress": 0.4, "redis": 0.14},
    "off": {"ingress": -0.091, "redis": 0.0},
    "fitted": False,
    "falls_short": ["generator late"],
}
NODES: dict[str, Any] = {"model": {"ingress": INGRESS, "redis": REDIS}, "levels": [LEVEL]}
CLUSTER: dict[str, Any] = {
    "masters": 3,
    "uneven": 1.1,
    "costs": {"fixed": 0.03, "node": 0.06, "session": 0.0006},
}


def test_without_nodes_there_is_nothing_to_say() -> None:
    assert section({"bus": {"kinds": {}}}, 0.7) == []


def test_a_node_has_what_its_core_holds() -> None:
    assert per_core(Costs(**INGRESS), 0.7) == 600


@pytest.mark.parametrize(
    "row",
    [
        "| 2 | 200 | 1.96 | 0.440 | 0.400 (-9%) | 0.140 | 0.140 (+0%) | predicted; generator late |",
        "| Redis, by `steno bench nodes` | 0.000 | 0.030 | 0.400 |",
        "| 2 | 1,200 | 1.4 | 0.54 |",  # 2 x 0.03 + 1,200 x 0.0004
        "| 4 | 2,400 | 2.8 | 1.08 (**full**) |",
    ],
)
def test_the_section(row: str) -> None:
    assert row in "".join(section({"nodes": NODES}, 0.7)).splitlines()


def test_where_one_redis_is_full() -> None:
    told = "".join(section({"nodes": NODES}, 0.7))
    # 600 sessions and their node take 0.27 cores.
    assert "Redis by `steno bench nodes`" in told
    assert "full at 2,222 sessions** (4 nodes); planned with 70% of its core, 1,555." in told
    assert "Cluster" not in told


def test_costs_of_nothing_say_nothing() -> None:
    idle = {"ingress": INGRESS, "redis": {"fixed": 0.0, "node": 0.0, "session": 0.0}}
    results = {"nodes": {**NODES, "model": idle}}
    assert full(results, 0.7) is None
    assert "Where Redis is full does not follow" in "".join(section(results, 0.7))
    assert full({}, 0.7) is None
    assert full({"nodes": NODES}, 0.7) == 2_222


def test_the_bus_knows_better_and_knows_clusters() -> None:
    plain = {"masters": 1, "costs": {"fixed": 0.1, "node": 0.0, "session": 0.0003}}
    told = "".join(section({"nodes": NODES, "bus": {"kinds": {"plain": plain, "cluster": CLUSTER}}}, 0.7))
    assert "| Redis, one server, by `steno bench bus` | 0.100 | 0.000 | 0.300 |" in told
    assert "full at 3,000 sessions** (5 nodes)" in told
    assert "of 3 masters: full at" in told


def test_more_masters_hold_more_but_each_hears_every_node() -> None:
    three, six = (cluster_most(CLUSTER, masters, 600, 1.0) for masters in (3, 6))
    assert three == pytest.approx((3 / 1.1 - 0.03) / (0.0006 + 0.06 / 600), abs=1)
    assert three < six < 2 * three
