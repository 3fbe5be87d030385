"""From `steno bench nodes` and `bus` to how far one Redis goes, and a cluster: the section of `CAPACITY.md`. Pure.

The model (`cli/bench_model.py`): cores = fixed + node x ingress nodes + session x sessions, where a node counts as far
as its ticks are used. For ingress nothing is fixed. In a cluster, what is fixed and what a node costs is paid at each
master, and what a session costs at one of them; the busiest master counts, which has a little more than its share. Of m
masters, when three were measured:

    cores of all = (fixed + node x nodes) x m / 3 + session x sessions     at most     m x cores planned / uneven
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cli.bench_model import Costs

Results = Mapping[str, Mapping[str, Any]]
#: Of a core, what is planned with: the rest is for bursts, the machine's own work and a node that is lost.
PLANNED = 0.7
NODES = (1, 2, 4, 8, 16)
MASTERS = (3, 6)
_HEAD = """
## More nodes

Model: cores = fixed + node x (ingress nodes) + session x sessions, least squares over what was measured; for ingress
nothing is fixed. A node counts as far as its ticks are used: by chance half at 15 sessions and whole from 100 on
(`cli/bench_model.py`), fewer where processes wait for cores, so in the table it is as was measured. "Predicted" are
sizes that the model had not seen. Every node has {per_node:,} sessions, which is what {planned:.0%} of a core hold by
this model.
"""


def section(results: Results, planned: float) -> list[str]:
    """The section's lines; none where nothing of it was measured. `planned`: how much of a core is planned with."""
    nodes, bus = results.get("nodes"), results.get("bus")
    if nodes is None:
        return []
    ingress = Costs(**nodes["model"]["ingress"])
    per_node = per_core(ingress, planned)
    parts = [
        _HEAD.format(per_node=per_node, planned=planned),
        "\n",
        *_checked(nodes),
        "\n",
        *_costs(nodes, bus),
    ]
    redis, whence = _redis(nodes, bus)
    parts += ["\n", *_growth(ingress, redis, per_node, whence, planned)]
    if bus is not None and "costs" in bus["kinds"].get("cluster", {}):
        parts += ["\n", *_clusters(bus["kinds"]["cluster"], per_node, planned)]
    return parts


def full(results: Results, planned: float) -> int | None:
    """Sessions at which one Redis takes its whole core; None where nothing says so."""
    nodes = results.get("nodes")
    if nodes is None:
        return None
    return (
        _redis(nodes, results.get("bus"))[0].most(per_core(Costs(**nodes["model"]["ingress"]), planned))
        or None
    )


def per_core(ingress: Costs, planned: float) -> int:
    """Sessions of one node that may take so much of a core."""
    return max(1, math.floor((planned - ingress.node) / ingress.session)) if ingress.session else 1


def cluster_most(found: Mapping[str, Any], masters: int, per_node: float, planned: float) -> int:
    """Sessions that a cluster of so many masters holds. `found`: what `steno bench bus` says of its cluster."""
    costs, times = Costs(**found["costs"]), masters / found["masters"]
    spread = Costs(costs.fixed * times, costs.node * times, costs.session)
    return spread.most(per_node, masters * planned / found["uneven"])


def _redis(nodes: Mapping[str, Any], bus: Mapping[str, Any] | None) -> tuple[Costs, str]:
    """One server's costs: by the bus, whose levels are larger, where it was measured."""
    if bus is not None and "costs" in bus["kinds"].get("plain", {}):
        return Costs(**bus["kinds"]["plain"]["costs"]), "`steno bench bus`"
    return Costs(**nodes["model"]["redis"]), "`steno bench nodes`"


def _checked(nodes: Mapping[str, Any]) -> list[str]:
    rows = [
        (
            f"{level['nodes']}",
            f"{level['sessions']:,}",
            f"{level['used']:.2f}",
            *(
                cell
                for service in ("ingress", "redis")
                for cell in (
                    f"{level['cores'][service]:.3f}",
                    f"{level['predicted'][service]:.3f} ({level['off'][service]:+.0%})",
                )
            ),
            ("fitted" if level["fitted"] else "predicted")
            + (f"; {', '.join(level['falls_short'])}" if level["falls_short"] else ""),
        )
        for level in nodes["levels"]
    ]
    header = (
        "Nodes",
        "Sessions",
        "Ticks used",
        "Ingress, cores",
        "model",
        "Redis, cores",
        "model",
        "The model's",
    )
    return table(header, rows)


def _costs(nodes: Mapping[str, Any], bus: Mapping[str, Any] | None) -> list[str]:
    known = {
        "Ingress, by `steno bench nodes`": nodes["model"]["ingress"],
        "Redis, by `steno bench nodes`": nodes["model"]["redis"],
    }
    for kind, found in (bus or {}).get("kinds", {}).items():
        if "costs" in found:
            servers = "one server" if kind == "plain" else f"all of {found['masters']} masters"
            known[f"Redis, {servers}, by `steno bench bus`"] = found["costs"]
    rows = [
        (name, f"{one['fixed']:.3f}", f"{one['node']:.3f}", f"{1_000 * one['session']:.3f}")
        for name, one in known.items()
    ]
    return table(("Cores of", "fixed", "each node", "1,000 sessions"), rows)


def _growth(ingress: Costs, redis: Costs, per_node: int, whence: str, planned: float) -> list[str]:
    rows = []
    for count in NODES:
        sessions = count * per_node
        cores = redis.cores(count, sessions)
        said = "" if cores <= planned else " (above plan)" if cores <= 1 else " (**full**)"
        ours = ingress.cores(count, sessions)
        rows.append((f"{count}", f"{sessions:,}", f"{ours:.1f}", f"{cores:.2f}{said}"))
    told = table(("Ingress nodes", "Sessions", "Ingress, cores", "One Redis, cores"), rows)
    filled, plan = redis.most(per_node), redis.most(per_node, planned)
    if not filled:
        return [*told, "\nWhere Redis is full does not follow from these figures.\n"]
    said = (
        f"\nComputed, Redis by {whence}: sessions grow in a line with nodes until **one Redis is full at {filled:,} "
        f"sessions** ({_whole(filled / per_node)} nodes); planned with {planned:.0%} of its core, {plan:,}.\n"
    )
    return [*told, said]


def _clusters(found: Mapping[str, Any], per_node: int, planned: float) -> list[str]:
    said = "; ".join(
        f"of {masters} masters: full at {cluster_most(found, masters, per_node, 1.0):,}, planned "
        f"{cluster_most(found, masters, per_node, planned):,}"
        for masters in MASTERS
    )
    whence = f"Redis Cluster, computed from {found['masters']} masters measured on one machine"
    why = "A session costs more there: it is written and read by itself."
    return [f"{whence}, were each on a core of its own: {said}. {why}\n"]


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of Markdown."""
    return [f"| {' | '.join(line)} |\n" for line in (header, ["---"] * len(header), *rows)]


def _whole(value: float) -> int:
    return max(1, math.ceil(value))
