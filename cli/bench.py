"""`steno bench`: what the real stack does here, as tables, JSON and pictures."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli import bench_scale
from cli.bench_shown import RESULTS, AsJson, OfPool, Out, Quick, Tls
from cli.bench_shown import capacity as _capacity
from cli.bench_shown import counts as _counts
from cli.bench_shown import described as _result
from cli.bench_shown import measuring as _measuring
from cli.bench_shown import say as _say
from cli.bench_shown import show as _print
from cli.bench_shown import show_levels as _print_levels
from cli.bench_shown import title as _title
from cli.bench_shown import write as _write

if TYPE_CHECKING:
    from cli.bench_native import Asked

app = typer.Typer(
    help="Measure the whole stack on this machine: accuracy, sessions, latency.\n\nEach starts a stack of its own, and "
    "writes JSON and a picture. Let nothing else run meanwhile.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)


@app.command(
    epilog="[bold]Examples[/]\n  [cyan]steno bench accuracy[/]\n  [cyan]steno bench accuracy --pool multilang[/]"
)
def accuracy(
    pool: OfPool = "english", as_json: AsJson = False, out: Out = RESULTS, quick: Quick = False
) -> None:
    """Error rate streamed in real time, against the same weights on the whole recording, by language.

    Words are counted; characters in Japanese and Chinese.
    """
    from cli import bench_accuracy, bench_picture, bench_pools

    name = bench_pools.of(pool).named("accuracy")
    with _measuring(as_json, [pool]) as tell:
        result = _result(name, bench_accuracy.run(quick, tell, pool), quick)
    parts = ("seconds", "unit", "streamed_wer", "whole_wer", "streamed_vs_whole_wer")
    rows = [(clip["language"], clip["name"], *(clip[part] for part in parts)) for clip in result["clips"]]
    if len(result["languages"]) > 1:
        rows += [(one["language"], "all", *(one[part] for part in parts)) for one in result["languages"]]
    rows.append(("all", "all", *({**result, "unit": ""}[part] for part in parts)))
    _write(result, out, lambda path: bench_picture.accuracy(result["clips"], _title(result), path))
    header = ("language", "recording", "s", "errors in", "streamed, %", "whole, %", "streamed vs whole, %")
    _print(result, header, rows, as_json)
    if not as_json:
        _say(f"streamed is {result['difference_points']:+.2f} points from whole (goal: at most +1)")


@app.command(
    epilog="[bold]Examples[/]\n  [cyan]steno bench worker --sessions 4,8,12 --seconds 60[/]\n"
    "  [cyan]steno bench worker --pool multilang --sessions 1,2,4[/]\n"
    "  [cyan]steno bench worker --model dummy:nemotron-en --lookahead 0 --sessions 120,240,480[/]"
)
def worker(  # noqa: PLR0913 each is an option of the command
    pool: OfPool = "english",
    *,
    sessions: Annotated[str, typer.Option(metavar="N,...", help="Levels to try.")] = "1,2,4,8,12,16",
    seconds: Annotated[float, typer.Option(min=2, help="Audio of each session at each level, in s.")] = 30,
    repeats: Annotated[int, typer.Option(min=1, help="How often each level; the median counts.")] = 1,
    workers: Annotated[
        int,
        typer.Option(
            min=0,
            max=64,
            show_default="one per core; with --model one",
            help="Worker processes; share a GPU.",
        ),
    ] = 0,
    model: Annotated[
        str, typer.Option(metavar="MODEL", help="A native transducer: a folder, or dummy:nemotron-en.")
    ] = "",
    lookahead: Annotated[int, typer.Option(min=0, max=69, help="Of a native transducer, in frames.")] = 6,
    send_ms: Annotated[
        int, typer.Option(min=50, max=1000, help="With --model: audio of a client's message, in ms.")
    ] = 50,
    step_ms: Annotated[
        int,
        typer.Option(min=0, max=500, show_default="STEP_MS", help="With --model: ms between two steps."),
    ] = 0,
    as_json: AsJson = False,
    out: Out = RESULTS,
    quick: Quick = False,
) -> None:
    """How many live sessions of a pool this machine holds.

    With --model workers serve a native transducer, and a level is judged by the lag of their steps.
    """
    if model:
        from cli.bench_native import Asked

        counts = _counts("1,2" if quick else sessions)
        length = 15 if quick else seconds
        asked = Asked(model, lookahead, counts, length, pool, workers or 1, send_ms, step_ms)
        _native(asked, as_json, out, quick)
        return
    from cli import bench_picture, bench_pools, bench_worker

    bench = bench_pools.of(pool)
    counts = _counts(f"1,{bench.sessions}" if quick else sessions)
    with _measuring(as_json, [pool]) as tell:
        measured = bench_worker.run(
            counts,
            15 if quick else seconds,
            tell,
            workers or os.cpu_count() or 1,
            pool,
            1 if quick else repeats,
        )
        result = _result(bench.named("worker"), measured, quick)
    goal_ms = bench.final_p95_ms
    _write(result, out, lambda path: bench_picture.sessions(result["levels"], _title(result), goal_ms, path))
    parts = {
        "sessions": "sessions",
        "phrases": "phrases",
        "final_p50_ms": "final p50",
        "final_p95_ms": "p95",
        "gap_p95_ms": "gap p95",
        "growth_ms": "growth",
        "end_max_ms": "end max",
        "generator_late_p99_ms": "late p99",
    }
    _print_levels(result, parts, as_json)
    if as_json:
        return
    _say(
        f"holds [bold]{result['holds']}[/] live sessions (goal: {result['goals']['sessions']}, p95 of finals at most "
        f"{goal_ms:.0f} ms). Delays in ms, "
        "services in cores; gap: between partials; late: the generator itself"
    )
    if max(level["cores"]["others"] for level in result["levels"]) > bench_worker.BUSY_CORES:
        _say("[yellow]other programs used this machine meanwhile: the figures tell of them too[/]")


def _native(asked: "Asked", as_json: bool, out: Path, quick: bool) -> None:
    from cli import bench_native, bench_picture

    with _measuring(as_json, [asked.pool]) as tell:
        result = _result(f"native-{asked.lookahead}", bench_native.run(asked, tell), quick)
    chunk_ms = result["settings"]["chunk_ms"]
    told = {
        f"{level['sessions']} sessions: lag": [ms for ms in (level["lag_p50_ms"], level["lag_p95_ms"]) if ms]
        for level in result["levels"]
    }
    lines = dict.fromkeys(told, chunk_ms)
    _write(result, out, lambda path: bench_picture.delays(told, lines, _title(result), path))
    rows = [
        (
            level["sessions"],
            level["lag_p50_ms"],
            level["lag_p95_ms"],
            ", ".join(f"{name}: {one['p50_ms']}/{one['p95_ms']}" for name, one in level["steps"].items()),
            level["state_mb"],
            f"{level['busy']:.0%}",
            "yes" if level["holds"] else ", ".join(level["falls_short"]),
        )
        for level in result["levels"]
    ]
    header = ("sessions", "lag p50", "p95", "step p50/p95 by sessions in it", "state, MB", "busy", "holds")
    _print(result, header, rows, as_json)
    if not as_json:
        _say(f"holds [bold]{result['holds']}[/] live sessions: p95 of lag at most a chunk of {chunk_ms} ms")


@app.command(epilog="[bold]Examples[/]\n  [cyan]steno bench latency --repeats 5[/]")
def latency(
    pool: OfPool = "english",
    *,
    repeats: Annotated[int, typer.Option(min=1, help="How often each session is repeated.")] = 5,
    seconds: Annotated[float, typer.Option(min=2, help="Audio of each session, in s.")] = 30,
    as_json: AsJson = False,
    out: Out = RESULTS,
    quick: Quick = False,
) -> None:
    """What one speaker waits for: Begin, first words, finals."""
    from cli import bench_latency, bench_picture, bench_pools

    name = bench_pools.of(pool).named("latency")
    with _measuring(as_json, [pool]) as tell:
        times, length = 1 if quick else repeats, min(seconds, 15) if quick else seconds
        measured = bench_latency.run(times, length, tell, pool)
        result = _result(name, measured, quick)
    meanings, goals = bench_latency.MEANINGS, result["goals"]
    values = {f"{delay}: {meaning}": result["measured"][delay] for delay, meaning in meanings.items()}
    lines = {f"{delay}: {meanings[delay]}": goal for delay, goal in goals.items()}
    _write(result, out, lambda path: bench_picture.delays(values, lines, _title(result), path))
    rows = [
        (
            delay,
            *(result["results"][delay][part] for part in ("count", "p50", "p95", "max")),
            goals.get(delay, ""),
            meaning,
        )
        for delay, meaning in meanings.items()
    ]
    server = result["results"]["server_end_of_turn"]
    rows.append(
        (
            "server_end_of_turn",
            int(server["count"]),
            server["p50_ms"],
            server["p95_ms"],
            "",
            "",
            "the worker's own metric",
        )
    )
    _print(result, ("measure", "count", "p50, ms", "p95", "max", "goal p50", "meaning"), rows, as_json)


@app.command(epilog="[bold]Examples[/]\n  [cyan]steno bench churn --sessions 10000[/]")
def churn(
    sessions: Annotated[int, typer.Option(min=1, help="Sessions, of every kind, good and bad.")] = 10_000,
    tls: Tls = False,
    as_json: AsJson = False,
    out: Out = RESULTS,
    quick: Quick = False,
) -> None:
    """What many short sessions leave behind: memory, files, tasks, keys."""
    from cli import bench_churn, bench_picture

    with _measuring(as_json, pools=()) as tell:
        measured = bench_churn.run(1_000 if quick else sessions, tell, tls)
        result = _result("churn-tls" if tls else "churn", measured, quick)
    _write(result, out, lambda path: bench_picture.counts(result["outcomes"], _title(result), path))
    rows = [(name, value, result["after"][name]) for name, value in result["before"].items()]
    _print(result, ("measure", "before", "after"), rows, as_json)
    if not as_json:
        for outcome, count in result["outcomes"].items():
            _say(f"[dim]{count:6d}  {outcome}[/]")
        _say(
            f"{sum(result['outcomes'].values())} sessions in {result['seconds']} s; memory grew by "
            f"{result['growth_kib_per_1000']} KiB per thousand; leaks: {', '.join(result['leaks']) or 'none'}"
        )


@app.command(
    epilog="[bold]Examples[/]\n  [cyan]steno bench overload[/]\n  [cyan]steno bench overload --sessions 8 --rounds 5[/]"
)
def overload(
    pool: OfPool = "english",
    *,
    sessions: Annotated[
        int,
        typer.Option(min=0, show_default="what `steno bench worker` finds", help="Sessions at full load."),
    ] = 0,
    seconds: Annotated[float, typer.Option(min=6, help="How long each load lasts, in s.")] = 45,
    rounds: Annotated[int, typer.Option(min=1, help="How often each load is measured.")] = 3,
    workers: Annotated[
        int, typer.Option(min=1, max=64, show_default="one per core", help="Worker processes.")
    ] = os.cpu_count() or 1,
    as_json: AsJson = False,
    out: Out = RESULTS,
    quick: Quick = False,
) -> None:
    """What accepted sessions suffer when twice as many want in, and how soon the others are refused."""
    from cli import bench_overload, bench_picture, bench_pools

    name = bench_pools.of(pool).named("overload")
    with _measuring(as_json, [pool]) as tell:
        if quick:
            sessions, seconds, rounds = sessions or 2, min(seconds, 12), 1
        measured = bench_overload.run(sessions, seconds, rounds, tell, workers, pool)
        result = _result(name, measured, quick)
    shown = {part: values for part, values in result["measured"].items() if not part.endswith("late_ms")}
    _write(result, out, lambda path: bench_picture.delays(shown, {}, _title(result), path))
    parts: tuple[str, ...] = ("load", "offered", "accepted", "refused", "refused_p50_ms", "refused_p95_ms")
    parts += (
        "first_partial_p50_ms",
        "first_partial_p95_ms",
        "final_p50_ms",
        "final_p95_ms",
        "generator_late_p99_ms",
    )
    header = ("load", "offered", "accepted", "refused", "after p50, ms", "p95", "first partial p50", "p95")
    rows = [tuple(level[part] for part in parts) for level in result["levels"]]
    _print(result, (*header, "final p50", "p95", "late p99"), rows, as_json)
    if not as_json:
        for level in result["levels"]:
            for error in level["errors"]:
                _say(f"[yellow]{level['load']}: {error}[/]")
        ratios = ", ".join(
            f"{part.removesuffix('_p95_ms')} {ratio}" for part, ratio in result["ratios"].items()
        )
        _say(
            f"p95 at twice the load over p95 at full load: {ratios} (goal: at most {bench_overload.GOAL_RATIO}): "
            f"{'holds' if result['holds'] else 'missed'}"
        )


@app.command(
    epilog="[bold]Examples[/]\n  [cyan]steno bench soak --sessions 5000[/]\n  [cyan]steno bench soak --restarts 4[/]\n"
    "  [cyan]steno bench soak --model ./nemotron-en[/]"
)
def soak(
    sessions: Annotated[int, typer.Option(min=20, help="Sessions, of every kind and length.")] = 2_000,
    at_once: Annotated[int, typer.Option(min=1, max=200, help="Sessions at a time.")] = 8,
    restarts: Annotated[
        int, typer.Option(min=0, max=20, help="Workers and ingress nodes killed and begun anew meanwhile.")
    ] = 0,
    model: Annotated[
        str, typer.Option(metavar="MODEL", help="What the workers serve; else the embedded English one.")
    ] = "",
    as_json: AsJson = False,
    out: Out = RESULTS,
    quick: Quick = False,
) -> None:
    """What thousands of sessions leave in every process of a whole stack: memory, files, tasks, keys."""
    from cli import bench_picture, bench_soak

    with _measuring(as_json) as tell:
        measured = bench_soak.run(60 if quick else sessions, at_once, restarts, tell, model)
        result = _result("soak-model" if model else "soak", measured, quick)
    _write(result, out, lambda path: bench_picture.memory(result["readings"], _title(result), path))
    header = ("process", "readings", "first, MiB", "last", "KiB per 1000 sessions", "+-", "grows")
    rows = [tuple(row.values()) for row in result["memory"]]
    _print({**result, "readings": None} if as_json else result, header, rows, as_json)
    if not as_json:
        for outcome, count in result["outcomes"].items():
            _say(f"[dim]{count:6d}  {outcome}[/]")
        _say(
            f"{sum(result['outcomes'].values())} sessions in {result['seconds']} s; {result['usage_counted_s']} s of "
            f"audio billed; leaks: {', '.join(result['leaks']) or 'none'}"
        )


@app.command(
    epilog="[bold]Examples[/]\n  [cyan]steno bench record[/]\n  [cyan]steno bench record --short --json[/]\n"
    "  [cyan]steno bench record --sessions 0[/]  ingress alone"
)
def record(
    crowd: Annotated[int, typer.Option(min=1, help="Sessions on ingress, without a model.")] = 100,
    sessions: Annotated[int, typer.Option(min=0, help="Sessions on the worker; 0: only ingress.")] = 4,
    *,
    seconds: Annotated[float, typer.Option(min=1, help="Audio of a turn on ingress, in s.")] = 8,
    worker_seconds: Annotated[float, typer.Option(min=2, help="Audio of a turn on the worker, in s.")] = 15,
    rounds: Annotated[int, typer.Option(min=1, help="Pairs of turns, recorded and not.")] = 9,
    as_json: AsJson = False,
    out: Out = RESULTS,
    quick: Quick = False,
) -> None:
    """What recording sessions costs ingress and a worker, plain and encrypted: recorded and not, by turns."""
    from cli import bench_picture, bench_record

    with _measuring(as_json, [bench_record.POOL] if sessions else ()) as tell:
        if quick:
            crowd, sessions, rounds = min(crowd, 40), min(sessions, 1), 2
            seconds, worker_seconds = min(seconds, 3), min(worker_seconds, 5)
        measured = bench_record.run(crowd, sessions, (seconds, worker_seconds), rounds, tell)
        result = _result("record", measured, quick)
    values = {
        f"{part}, {mode}: more processor time, by pair": [
            100 * (on / max(off, 1e-9) - 1) for off, on in found
        ]
        for mode, parts in result["pairs"].items()
        for part, found in parts.items()
    }
    goals = {name: 100 * bench_record.GOAL_SHARE for name in values if name.startswith(bench_record.JUDGED)}
    _write(result, out, lambda path: bench_picture.delays(values, goals, _title(result), path, "%"))
    rows = [
        (
            *(row[name] for name in ("part", "mode", "off_ms", "on_ms")),
            *(f"{row[name]:+.1%}" for name in ("share", "low", "high")),
        )
        for row in result["rows"]
    ]
    header = (
        "part",
        "mode",
        "unrecorded, ms/s",
        "recorded, ms/s",
        "share",
        "a quarter below",
        "a quarter above",
    )
    _print(result, header, rows, as_json)
    if not as_json:
        goal = f"goal: recording adds less than {result['goals']['share']:.0%} to ingress and worker"
        _say(f"{goal}: {'met' if result['met'] else 'missed'}")


@app.command(epilog="[bold]Examples[/]\n  [cyan]steno bench replays --replays 1000[/]")
def replays(
    count: Annotated[int, typer.Option("--replays", min=1, help="Replays to run, at least.")] = 1_000,
    sessions: Annotated[int, typer.Option(min=1, help="Live sessions.")] = 2,
    at_once: Annotated[int, typer.Option(min=1, help="Replays at once (REPLAY_SESSIONS).")] = 2,
    *,
    seconds: Annotated[
        float, typer.Option(min=2, help="Speech of each live session in a window, in s.")
    ] = 30,
    as_json: AsJson = False,
    out: Out = RESULTS,
    quick: Quick = False,
) -> None:
    """What live sessions notice of replays: delays of finals alone, and beside a queue of replays."""
    from cli import bench_picture, bench_replays

    with _measuring(as_json, [bench_replays.POOL]) as tell:
        if quick:
            count, sessions, seconds = min(count, 3), 1, min(seconds, 6.0)
        measured = bench_replays.run(count, sessions, at_once, seconds, tell)
        result = _result("replays", measured, quick)
    _write(result, out, lambda path: bench_picture.delays(result["measured"], {}, _title(result), path))
    header = ("live sessions", "finals", "p50, ms", "p95, ms", "max, ms")
    rows = [
        (kind, one["count"], one["p50"], one["p95"], one["max"]) for kind, one in result["results"].items()
    ]
    _print(result, header, rows, as_json)
    if not as_json:
        settings = result["settings"]
        _say(f"{settings['replays']} replays run, {settings['refused']} times one had to wait for a place")


@app.command(epilog="[bold]Examples[/]\n  [cyan]steno bench handshake --connections 1000[/]")
def handshake(
    connections: Annotated[int, typer.Option(min=1, max=20_000, help="Clients at once.")] = 1_000,
    rounds: Annotated[int, typer.Option(min=1, help="How often.")] = 5,
    tls: Tls = False,
    as_json: AsJson = False,
    out: Out = RESULTS,
    quick: Quick = False,
) -> None:
    """What a crowd waits at the door: all connect at the same moment."""
    from cli import bench_handshake, bench_picture

    with _measuring(as_json, pools=()) as tell:
        measured = bench_handshake.run(
            min(connections, 100) if quick else connections, 1 if quick else rounds, tell, tls
        )
        result = _result("handshake-tls" if tls else "handshake", measured, quick)
    named = {
        f"round {number}: from connecting to 101, {result['settings']['connections']} at once": found
        for number, found in enumerate(result["rounds"], start=1)
    }
    values = {name: found["percentiles_ms"] for name, found in named.items()}
    goals = dict.fromkeys(named, bench_handshake.GOAL_MAX_MS)
    _write(result, out, lambda path: bench_picture.delays(values, goals, _title(result), path))
    parts = ("opened", "failed", "p50_ms", "p99_ms", "max_ms", "generator_cores")
    rows = [
        (number, *(found[part] for part in parts), *found["cores"].values())
        for number, found in enumerate(result["rounds"], start=1)
    ]
    header = ("round", "opened", "failed", "p50, ms", "p99", "max", "generator, cores")
    _print(result, (*header, *result["rounds"][0]["cores"]), rows, as_json)
    if not as_json:
        _say(
            f"goal: none above {bench_handshake.GOAL_MAX_MS:.0f} ms: {'holds' if result['holds'] else 'missed'}"
        )


@app.command(
    epilog="[bold]Examples[/]\n  [cyan]steno bench ingress --sessions 250,500,1000 --seconds 20[/]\n"
    "  [cyan]steno bench ingress --compare as-is,gc=off,gc=50000/20/50,freeze,loop=asyncio,TICK_MS=8 --sessions 250[/]"
)
def ingress(
    sessions: Annotated[
        str, typer.Option(metavar="N,...", help="Levels to try, in growing order.")
    ] = "100,250,500,750,1000,1250",
    *,
    seconds: Annotated[float, typer.Option(min=1, help="How long each level is measured, in s.")] = 5,
    repeats: Annotated[int, typer.Option(min=1, help="How often; the median counts.")] = 3,
    every: Annotated[bool, typer.Option("--every", help="Go on after a level that does not hold.")] = False,
    compare: Annotated[
        str,
        typer.Option(
            metavar="SETTING,...",
            help="Compare the first level with each of these, in turns: as-is, gc=A/B/C, gc=off, freeze, loop=asyncio, "
            "NAME=VALUE (a variable); joined with +.",
        ),
    ] = "",
    as_json: AsJson = False,
    out: Out = RESULTS,
    quick: Quick = False,
) -> None:
    """How many sessions one ingress holds, and what it adds to their delay; beside a bare receive loop."""
    from cli import bench_ingress, bench_picture

    counts = sorted(set(_counts("50,100" if quick else sessions)))
    seconds, repeats = (3, 1) if quick else (seconds, repeats)
    if compare:
        _compare(compare, counts[0], seconds, repeats, as_json, out, quick)
        return
    with _measuring(as_json, pools=()) as tell:
        measured = bench_ingress.run(counts, seconds, tell, every or quick, repeats)
        result = _result("ingress", measured, quick)
    _write(result, out, lambda path: bench_picture.ingress(result["levels"], _title(result), path))
    parts = {
        "sessions": "sessions",
        "added_p50_ms": "added p50",
        "added_p99_ms": "p99",
        "inbound_p50_ms": "inbound p50",
        "inbound_p99_ms": "p99",
        "outbound_p50_ms": "outbound p50",
        "outbound_p99_ms": "p99",
        "begin_p99_ms": "begin p99",
        "session_kib": "KiB each",
        "held_kib": "audio",
        "per_core": "per core",
        "of_bare": "of bare",
        "generator_late_p99_ms": "late p99",
    }
    _print_levels(result, parts, as_json)
    if not as_json:
        goals, line = bench_ingress.GOALS, result["line"]
        _say(
            f"holds [bold]{result['holds']}[/] sessions (goal: {goals['sessions']:.0f}; added p99 at most "
            f"{goals['added_p99_ms']:.0f} ms, {goals['of_bare']} of the bare loop). Delays in ms, services in cores; "
            "audio: of a session's KiB, held since the last checkpoint; a session that says nothing takes "
            f"{result['idle']['session_kib']:.0f} KiB (goal: {goals['idle_kib']:.0f})"
        )
        if line is not None:
            bend = "unknown: under four levels" if line["bend"] is None else f"{line['bend']:.1%}"
            _say(
                f"from {line['fewest']} to {line['most']} sessions: {line['fixed']:.3f} cores and "
                f"{1000 * line['session']:.3f} for 1,000 sessions; the slope strays by {bend} "
                f"(goal: {goals['bend']:.0%})"
            )


def _compare(
    text: str, count: int, seconds: float, rounds: int, as_json: bool, out: Path, quick: bool
) -> None:
    from cli import bench_ingress, bench_picture, bench_tuned

    try:
        settings = bench_tuned.parse(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--compare") from None
    with _measuring(as_json, pools=()) as tell:
        measured = bench_ingress.compare(settings, count, seconds, rounds, tell)
        result = _result("ingress-settings", measured, quick)
    values = {f"{name}: cores of ingress": cores for name, cores in result["measured"].items()}
    _write(result, out, lambda path: bench_picture.delays(values, {}, _title(result), path, "cores"))
    rows = []
    for name, level in result["compared"].items():
        least, most = level["spread"].get("per_core", (level["per_core"],) * 2)
        rows.append((name, *(level[part] for part in bench_ingress.COMPARED), f"{least} to {most}"))
    _print(result, ("settings", *bench_ingress.COMPARED, "per core, spread"), rows, as_json)


@app.command(
    epilog="[bold]Examples[/]\n  [cyan]steno bench chaos --runs 200 --faults kill[/]\n"
    "  [cyan]steno bench chaos --runs 5 --faults hang,drain,redis-empty[/]"
)
def chaos(
    runs: Annotated[int, typer.Option(min=1, help="How often each fault strikes.")] = 10,
    faults: Annotated[
        str,
        typer.Option(
            "--faults",
            "--fault",
            metavar="FAULT,...",
            help="To a worker: kill, hang, drain. To ingress: ingress. To Redis: redis-restart, redis-empty, "
            "redis-away, redis-full, redis-disk. To nobody: nothing.",
        ),
    ] = "kill,hang,drain,ingress,redis-restart,redis-empty,redis-away,redis-full,redis-disk",
    seconds: Annotated[
        float, typer.Option(min=10, help="Audio of each session, in s; faults strike in it.")
    ] = 60,
    sessions: Annotated[int, typer.Option(min=1, max=16, help="Sessions at once, in each stack.")] = 1,
    stacks: Annotated[
        int, typer.Option(min=1, max=16, help="Stacks side by side: sooner done, but pauses grow.")
    ] = 1,
    as_json: AsJson = False,
    out: Out = RESULTS,
    quick: Quick = False,
) -> None:
    """What a client notices when its worker, ingress or Redis dies: finals lost, doubled, changed; the pause.

    Ctrl-C ends it with the running round, and tells what was found by then.
    """
    from cli import bench_chaos, bench_picture

    names = [name.strip() for name in faults.split(",")]
    if unknown := [name for name in names if name not in bench_chaos.FAULTS]:
        raise typer.BadParameter(
            f"{', '.join(unknown)}: there are {', '.join(bench_chaos.FAULTS)}", param_hint="--faults"
        )
    with _measuring(as_json) as tell:
        measured = bench_chaos.run(names, 1 if quick else runs, seconds, tell, sessions, stacks)
        result = _result("chaos", measured, quick)
    told = {
        f"{row['fault']}: {part}": row[part]
        for row in result["faults"]
        for part in ("finals", "lost", "doubled", "changed")
    }
    _write(result, out, lambda path: bench_picture.counts(told, _title(result), path, "finals"))
    _print(result, tuple(result["faults"][0]), [tuple(row.values()) for row in result["faults"]], as_json)
    if not as_json:
        left = ", ".join(f"{what} {count}" for what, count in result["left"].items())
        _say(f"left after all: {left}")
        _say(f"goals: 0 but in runs and finals; pause p95 at most {bench_chaos.GOAL_PAUSE_MS:.0f} ms")
        if result["stopped"]:
            _say(f"ended early: {result['stopped']}")


@app.command(epilog="[bold]Examples[/]\n  [cyan]steno bench keyterms --pools english[/]")
def keyterms(
    pools: Annotated[
        str, typer.Option(metavar="POOL,...", help="Of english, multilang.")
    ] = "english,multilang",
    as_json: AsJson = False,
    out: Out = RESULTS,
    quick: Quick = False,
) -> None:
    """What key terms find, and what they spoil. Needs espeak-ng (Debian, Ubuntu: apt install espeak-ng)."""
    from cli import bench_keyterms, bench_names, bench_picture

    names = [name.strip() for name in pools.split(",")]
    if unknown := [name for name in names if name not in bench_keyterms.MODELS]:
        raise typer.BadParameter(
            f"{', '.join(unknown)}: there are {', '.join(bench_keyterms.MODELS)}", param_hint="--pools"
        )
    bench_names.program()
    with _measuring(as_json, pools=names) as tell:
        result = _result("keyterms", bench_keyterms.run(quick, names, tell), quick)
    _write(
        result,
        out,
        lambda path: bench_picture.shares(bench_keyterms.shares(result["pools"]), _title(result), path),
    )
    rows = [
        (pool, part, kind, found[part].get("recall", {}).get(kind), wer)
        for pool, found in result["pools"].items()
        for part in ("names", "recordings")
        for kind, wer in found[part]["wer"].items()
    ]
    _print(result, ("pool", "clips", "key terms", "recall, %", "word errors, %"), rows, as_json)
    if not as_json:
        for pool, found in result["pools"].items():
            worse = found["recordings"]["difference_points"]
            _say(
                f"{pool}: terms that nobody says cost recordings {worse:+.2f} points "
                f"(goal: at most {bench_keyterms.GOAL_POINTS:+})"
            )


@app.command(epilog="[bold]Examples[/]\n  [cyan]steno bench capacity --sessions 500,2000[/]")
def capacity(
    sessions: Annotated[str, typer.Option(metavar="N,...", help="How many to plan for.")] = "100,1000,10000",
    results: Annotated[Path, typer.Option(help="Folder with the results of the other benchmarks.")] = RESULTS,
    to: Annotated[Path | None, typer.Option(help="Write the page here instead of showing it.")] = None,
) -> None:
    """What so many sessions need, computed from results that are there; writes CAPACITY.md."""
    told = _capacity(results, _counts(sessions))
    if to is None:
        typer.echo(told, nl=False)
    else:
        to.write_text(told)
        _say(f"[dim]written: {to}[/]")


def _example(*lines: str) -> str:
    return "\n".join(("[bold]Examples[/]", *(f"  [cyan]steno bench {line}[/]" for line in lines)))


app.command(epilog=_example("bus --sessions 250,500,1000", "bus --servers cluster"))(bench_scale.bus)
app.command(epilog=_example("nodes --nodes 1,2,4 --sessions 100,200"))(bench_scale.nodes)
app.command(epilog=_example("startup --rounds 10"))(bench_scale.startup)
app.command("all", epilog=_example("all --short", "all ingress bus nodes --capacity CAPACITY.md"))(
    bench_scale.every
)
