"""The goals of capacity beside what was measured: met, missed, or not measured yet. Pure."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cli import bench_plan
from cli.bench_model import line
from cli.bench_plan import PLANNED

Results = Mapping[str, Mapping[str, Any]]
#: What is asked for, the goal, what was measured, and whether that will do; None: not measured.
Row = tuple[str, str, str, bool | None]

MET = {True: "met", False: "**missed**", None: "not measured"}
#: The level at which delays have goals.
AT = 500
#: Goals in ms at that level: p50, p99.
DELAYS = {
    "inbound": ("Frame from socket to the worker's hands", 3, 15),
    "outbound": ("Event from worker to socket", 2, 10),
}
SESSIONS, OF_BARE, ADDED_MS, SESSION_KB, BEGIN_MS, BEND = 1_000, 0.5, 20, 60, 100, 0.15


def rows(results: Results) -> list[Row]:
    """Every goal, in the order in which they were set."""
    told = [*_ingress(results.get("ingress")), _nodes(results)]
    return [*told, *_startup(results.get("startup")), *_english(results)]


def table(results: Results) -> list[tuple[str, ...]]:
    """The same, as words."""
    return [(what, goal, found, MET[met]) for what, goal, found, met in rows(results)]


def _ingress(result: Mapping[str, Any] | None) -> list[Row]:
    levels = (result or {}).get("levels", [])
    at = next((level for level in levels if level["sessions"] == AT), None)
    idle = (result or {}).get("idle")
    said = f"at {AT} sessions"
    held = result["holds"] if result else None
    found = [
        _row(f"Sessions of one ingress, p99 added at most {ADDED_MS} ms", held, SESSIONS, "{:,}", least=True),
        _row(f"Sessions a core of ingress, {said}", at and at["per_core"], SESSIONS, "{:,}", least=True),
        _row(
            f"The same, of a bare receive loop's, {said}", at and at["of_bare"], OF_BARE, "{:.2f}", least=True
        ),
        _row(
            f"Memory of a session that says nothing in ingress, {said}",
            idle and idle["session_kib"] * 1.024,
            SESSION_KB,
            "{:.0f} KB",
        ),
    ]
    for way, (what, *goals) in DELAYS.items():
        for part, goal in zip((50, 99), goals, strict=True):
            found.append(_row(f"{what}, p{part}, {said}", at and at[f"{way}_p{part}_ms"], goal, "{:.1f} ms"))
    found.append(_row(f"Connect to Begin, p99, {said}", at and at["begin_p99_ms"], BEGIN_MS, "{:.0f} ms"))
    return [*found, _line(levels)]


def _line(levels: Sequence[Mapping[str, Any]]) -> Row:
    what, goal = "Ingress's cores over sessions: a line", f"slope within {BEND:.0%}, from 100 to {SESSIONS:,}"
    if (found := line(levels)) is None:
        return what, goal, "-", None
    said = f"from {found.fewest} to {found.most:,}"
    if found.bend is None:
        return what, goal, f"{said} only, too few levels to tell", False
    return what, goal, f"{found.bend:.1%}, {said}", found.bend <= BEND and found.most >= SESSIONS


def _nodes(results: Results) -> Row:
    result = results.get("nodes")
    what, goal = "Several ingress nodes, one Redis", "cores as the model says, within 15%"
    if result is None or result["off"] is None:
        return what, goal, "-", None
    at = bench_plan.full(results, PLANNED)
    where = "" if at is None else f"; by it [one Redis is full](#more-nodes) at {at:,} sessions"
    return what, goal, f"within {result['off']:.1%}{where}", bool(result["holds"])


def _startup(result: Mapping[str, Any] | None) -> list[Row]:
    names = {"ingress": 1_500, "licensing": 1_500, "usage": 1_500, "--help": 400}
    found = (result or {}).get("results", {})
    return [
        _row(
            f"`steno {name}`, from start to {'its end' if name == '--help' else 'ready'}",
            value,
            goal,
            "{:,.0f} ms",
        )
        for name, goal in names.items()
        for value in [found[name]["median_ms"] if name in found else None]
    ]


def _english(results: Results) -> list[Row]:
    """What was asked of the embedded English model on two cores."""
    held = results.get("worker", {}).get("holds")
    delays = results.get("latency", {}).get("results", {})
    points = results.get("accuracy", {}).get("difference_points")
    first, final = (delays.get(name, {}).get("p50") for name in ("first_partial_ms", "endpoint_to_final_ms"))
    return [
        _row("English on CPU: live sessions", held, 8, "{:,}", least=True),
        _row("English on CPU: first partial after speech starts, p50", first, 700, "{:,.0f} ms"),
        _row("English on CPU: final after the endpoint decision, p50", final, 150, "{:,.0f} ms"),
        _row("English on CPU: errors streamed, beyond those of the whole", points, 1, "{:+.2f} points"),
    ]


def _row(what: str, value: float | None, goal: float, form: str, least: bool = False) -> Row:
    said: Callable[[float], str] = form.format
    met = None if value is None else value >= goal if least else value <= goal
    return (
        what,
        f"{'at least' if least else 'at most'} {said(goal)}",
        "-" if value is None else said(value),
        met,
    )
