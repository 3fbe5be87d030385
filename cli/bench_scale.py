"""Commands of `steno bench` about what comes beyond one ingress: bus, nodes; how fast processes start; all of them."""

from pathlib import Path
from typing import Annotated, Any

import typer

from cli.bench_shown import (
    RESULTS,
    AsJson,
    Out,
    Quick,
    counts,
    described,
    measuring,
    say,
    show,
    show_levels,
    title,
    write,
)
from cli.bench_shown import capacity as capacity_page

Repeats = Annotated[int, typer.Option(min=1, help="How often each level is measured; the median counts.")]
Seconds = Annotated[float, typer.Option(min=1, help="How long each level is measured, each time, in s.")]


def bus(
    sessions: Annotated[
        str, typer.Option(metavar="N,...", help="Levels to try, in growing order.")
    ] = "100,250,500,750,1000",
    *,
    seconds: Seconds = 4,
    repeats: Repeats = 3,
    servers: Annotated[
        str, typer.Option(metavar="KIND,...", help="plain: one server; cluster: three masters.")
    ] = "plain,cluster",
    per_node: Annotated[int, typer.Option(min=1, help="Most sessions of one ingress node.")] = 250,
    as_json: AsJson = False,
    out: Out = RESULTS,
    quick: Quick = False,
) -> None:
    """What one Redis takes, and a cluster of three: sessions a core, operations, memory, delays."""
    from cli import bench_bus, bench_picture

    kinds = [kind.strip() for kind in servers.split(",")]
    if unknown := [kind for kind in kinds if kind not in bench_bus.KINDS]:
        raise typer.BadParameter(
            f"{', '.join(unknown)}: there are {', '.join(bench_bus.KINDS)}", param_hint="--servers"
        )
    levels = counts("40,80,120" if quick else sessions)
    with measuring(as_json, pools=()) as tell:
        seconds, repeats, per_node = (2, 1, 60) if quick else (seconds, repeats, per_node)
        result = described("bus", bench_bus.run(levels, seconds, repeats, tell, kinds, per_node), quick)
    write(result, out, lambda path: bench_picture.bus(result["levels"], title(result), path))
    parts = {
        "servers": "servers",
        "sessions": "sessions",
        "nodes": "nodes",
        "append_p50_ms": "append p50",
        "append_p99_ms": "p99",
        "inbound_p99_ms": "inbound p99",
        "outbound_p99_ms": "outbound p99",
        "ping_p99_ms": "ping p99",
        "operations": "ops/s",
        "redis_kib": "KiB each",
        "per_core": "per core",
        "generator_late_p99_ms": "late p99",
    }
    show_levels(result, parts, as_json)
    if not as_json:
        for kind, found in result["kinds"].items():
            say(_bus_says(kind, found))


def _bus_says(kind: str, found: dict[str, Any]) -> str:
    from cli.bench_model import Costs

    told = f"{kind}: measured up to [bold]{found['holds']}[/] sessions"
    if "costs" not in found:
        return f"{told}; no level kept up, so nothing is computed"
    costs = Costs(**found["costs"])
    return (
        f"{told}; Redis takes {costs.fixed:.3f} cores, {costs.node:.3f} for each node and {1000 * costs.session:.3f} "
        f"for 1,000 sessions, of all masters together ({found['masters']})"
    )


def nodes(
    nodes: Annotated[str, typer.Option(metavar="N,...", help="How many ingress nodes.")] = "1,2,4",
    sessions: Annotated[
        str, typer.Option(metavar="N,...", help="How many sessions, on all nodes together.")
    ] = "60,120,180",
    *,
    seconds: Seconds = 4,
    repeats: Repeats = 3,
    as_json: AsJson = False,
    out: Out = RESULTS,
    quick: Quick = False,
) -> None:
    """Several ingress nodes on one Redis: processor time as measured, and as the model of CAPACITY.md predicts it."""
    from cli import bench_nodes, bench_picture

    wanted, levels = counts("1,2,3" if quick else nodes), counts("30,60" if quick else sessions)
    if min(levels) < max(wanted):
        raise typer.BadParameter("each node needs a session", param_hint="--sessions")
    with measuring(as_json, pools=()) as tell:
        seconds, repeats = (2, 1) if quick else (seconds, repeats)
        result = described("nodes", bench_nodes.run(wanted, levels, seconds, repeats, tell), quick)
    write(result, out, lambda path: bench_picture.nodes(result["levels"], title(result), path))
    rows = [
        (
            level["nodes"],
            level["sessions"],
            f"{level['used']:.2f}",
            level["added_p99_ms"],
            *(
                cell
                for service in ("ingress", "redis")
                for cell in (
                    f"{level['cores'][service]:.3f}",
                    f"{level['predicted'][service]:.3f}",
                    f"{level['off'][service]:+.1%}",
                )
            ),
            "fitted" if level["fitted"] else "predicted",
            ", ".join(level["falls_short"]) or "-",
        )
        for level in result["levels"]
    ]
    header = (
        "nodes",
        "sessions",
        "ticks used",
        "added p99",
        "ingress, cores",
        "model",
        "off",
        "redis, cores",
        "model",
        "off",
    )
    show(result, (*header, "for the model", "doubtful"), rows, as_json)
    if not as_json:
        off, goal = result["off"], result["goals"]["off"]
        told = "nothing was predicted" if off is None else f"predictions are off by at most {off:.1%}"
        say(f"{told} (goal: {goal:.0%})")


def startup(
    rounds: Annotated[int, typer.Option(min=1, help="How often each is started.")] = 5,
    as_json: AsJson = False,
    out: Out = RESULTS,
    quick: Quick = False,
) -> None:
    """How long ingress, licensing and usage take until they are ready, and `steno --help`."""
    from cli import bench_picture, bench_startup

    with measuring(as_json, pools=()) as tell:
        result = described("startup", bench_startup.run(1 if quick else rounds, tell), quick)
    values = {f"steno {name}": times for name, times in result["measured"].items()}
    goals = {f"steno {name}": goal for name, goal in result["goals"].items()}
    write(result, out, lambda path: bench_picture.delays(values, goals, title(result), path))
    rows = [
        (
            f"steno {name}",
            found["median_ms"],
            "{} to {}".format(*found["spread_ms"]),
            result["goals"][name],
            "met" if found["holds"] else "missed",
        )
        for name, found in result["results"].items()
    ]
    show(result, ("what", "median, ms", "spread", "goal", ""), rows, as_json)


def every(
    parts: Annotated[
        list[str] | None, typer.Argument(metavar="[PART]...", help="Only these parts of the suite.")
    ] = None,
    *,
    capacity: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Then write the page of `steno bench capacity` here.")
    ] = None,
    as_json: AsJson = False,
    out: Out = RESULTS,
    quick: Quick = False,
) -> None:
    """The whole suite, one after the other; what fails loses nothing of the others. With --short a few minutes."""
    from cli import bench_all
    from cli.bench_capacity import SIZES

    try:
        chosen = bench_all.chosen(parts or [], quick)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="PART") from None
    with measuring(as_json, pools=()) as tell:
        result = described(
            "all", bench_all.run(chosen, out, quick, tell, lambda ran: _tell(ran, as_json)), quick
        )
    write(result, out, None)
    rows = [(one["part"], one["seconds"], one["failed"] or "done", one["command"]) for one in result["parts"]]
    show(result, ("part", "s", "outcome", "command"), rows, as_json)
    if capacity is not None:
        capacity.write_text(capacity_page(out, SIZES))
        say(f"[dim]written: {capacity}[/]")
    raise typer.Exit(0 if result["holds"] else 1)


def _tell(ran: Any, quiet: bool) -> None:
    if not quiet:
        from rich.console import Console

        said = "[red]failed[/]" if ran.failed else "[green]done[/]"
        Console(stderr=True).print(f"{said}  {ran.part:<10} {ran.seconds:6.1f} s", highlight=False)
