"""The benchmarks' pictures (PNG)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cli.bench_machine import tool

_WIDTH, _HEIGHT, _DPI = 9.0, 7.0, 120


def _figure(rows: int, title: str) -> tuple[Any, Any]:
    tool("matplotlib").use("Agg")
    figure, axes = tool("matplotlib.pyplot").subplots(
        rows, 1, figsize=(_WIDTH, _HEIGHT), squeeze=False, layout="constrained"
    )
    figure.suptitle(title, fontsize=10)
    return figure, axes[:, 0]


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, dpi=_DPI)
    tool("matplotlib.pyplot").close(figure)


def sessions(levels: Sequence[Mapping[str, Any]], title: str, goal_ms: float, path: Path) -> None:
    """Delays and processor use over the number of sessions."""
    figure, (delays, cores) = _figure(2, title)
    counts = [level["sessions"] for level in levels]
    for part, style in (("final_p50_ms", "o-"), ("final_p95_ms", "s-"), ("gap_p95_ms", "^--")):
        known = [(n, level[part]) for n, level in zip(counts, levels, strict=True) if level[part] is not None]
        if known:
            names = {
                "final_p50_ms": "final, p50",
                "final_p95_ms": "final, p95",
                "gap_p95_ms": "between partials, p95",
            }
            delays.plot(*zip(*known, strict=True), style, label=names[part])
    delays.axhline(goal_ms, color="grey", linestyle=":", label=f"goal, {goal_ms:.0f} ms")
    delays.set(ylabel="ms after the last sound", yscale="log", xticks=counts)
    for name in levels[0]["cores"] if levels else ():
        cores.plot(counts, [level["cores"][name] for level in levels], "o-", label=name)
    cores.set(xlabel="live sessions", ylabel="cores in use", xticks=counts)
    for axis in (delays, cores):
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    _save(figure, path)


def ingress(levels: Sequence[Mapping[str, Any]], title: str, path: Path) -> None:
    """What an ingress adds to delays, and processor use, over the number of sessions."""
    figure, (delays, cores) = _figure(2, title)
    counts = [level["sessions"] for level in levels]
    for way, style in (("inbound", "o"), ("outbound", "s"), ("added", "^")):
        for part, line in ((50, "--"), (99, "-")):
            values = [level[f"{way}_p{part}_ms"] for level in levels]
            known = [(count, value) for count, value in zip(counts, values, strict=True) if value is not None]
            if known:
                delays.plot(*zip(*known, strict=True), style + line, label=f"{way}, p{part}")
    delays.set(ylabel="ms", yscale="log", xticks=counts)
    for name in levels[0]["cores"] if levels else ():
        cores.plot(counts, [level["cores"][name] for level in levels], "o-", label=name)
    cores.set(xlabel="live sessions", ylabel="cores in use", xticks=counts)
    for axis in (delays, cores):
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    _save(figure, path)


def bus(levels: Sequence[Mapping[str, Any]], title: str, path: Path) -> None:
    """What each kind of Redis takes over the number of sessions: delays, its cores, its operations."""
    figure, (delays, cores, operations) = _figure(3, title)
    for number, kind in enumerate(dict.fromkeys(level["servers"] for level in levels)):
        these = [level for level in levels if level["servers"] == kind]
        counts, color = [level["sessions"] for level in these], f"C{number}"
        for way, style in (("append", "o-"), ("inbound", "s--"), ("outbound", "^-."), ("ping", "x:")):
            values = [level[f"{way}_p99_ms"] for level in these]
            delays.plot(counts, values, style, color=color, label=f"{kind}: {way}, p99")
        cores.plot(counts, [level["cores"]["redis"] for level in these], "o-", color=color, label=kind)
        busiest = [level["busiest"] for level in these]
        cores.plot(counts, busiest, "^:", color=color, label=f"{kind}: the busiest server")
        operations.plot(counts, [level["operations"] for level in these], "o-", color=color, label=kind)
    delays.set(ylabel="ms", yscale="log")
    cores.set(ylabel="Redis, cores")
    operations.set(xlabel="sessions", ylabel="operations a second")
    for axis in (delays, cores, operations):
        axis.set_xticks(sorted({level["sessions"] for level in levels}))
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7, ncols=2)
    _save(figure, path)


def nodes(levels: Sequence[Mapping[str, Any]], title: str, path: Path) -> None:
    """Cores over sessions for each number of ingress nodes: as measured, and as the model says."""
    figure, axes = _figure(2, title)
    for axis, service in zip(axes, ("ingress", "redis"), strict=True):
        for number, count in enumerate(dict.fromkeys(level["nodes"] for level in levels)):
            these = [level for level in levels if level["nodes"] == count]
            counts, color = [level["sessions"] for level in these], f"C{number}"
            name = f"{count} node{'s' if count > 1 else ''}"
            axis.plot(counts, [level["cores"][service] for level in these], "o", color=color, label=name)
            told = "fitted" if these[0]["fitted"] else "predicted"
            line = [level["predicted"][service] for level in these]
            axis.plot(counts, line, "-" if told == "fitted" else "--", color=color, label=f"{name}, {told}")
        axis.set(ylabel=f"{service}, cores", xticks=sorted({level["sessions"] for level in levels}))
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8, ncols=2)
    axes[-1].set_xlabel("sessions on all nodes")
    _save(figure, path)


def delays(
    measured: Mapping[str, Sequence[float]],
    goals: Mapping[str, float],
    title: str,
    path: Path,
    unit: str = "ms",
) -> None:
    """Every measured value as a dot, medians as bars, goals as lines; one row for each measure."""
    shown = {name: values for name, values in measured.items() if values}
    figure, axes = _figure(max(1, len(shown)), title)
    for axis, (name, values) in zip(axes, shown.items(), strict=False):
        axis.plot(values, [0] * len(values), "o", alpha=0.4)
        axis.plot([sorted(values)[len(values) // 2]], [0], "|", markersize=30, color="black")
        if name in goals:
            axis.axvline(goals[name], color="tab:red", linestyle=":", label="goal")
        axis.set(yticks=[], title=name)
        axis.title.set_fontsize(9)
        axis.set_xlim(left=min(0.0, *values) - 5)
        axis.grid(alpha=0.3)
    axes[-1].set_xlabel(unit)
    _save(figure, path)


def counts(found: Mapping[str, int], title: str, path: Path, what: str = "sessions") -> None:
    """How often each thing happened."""
    figure, (axis,) = _figure(1, title)
    axis.barh(list(found), list(found.values()))
    axis.bar_label(axis.containers[0], fontsize=8)
    axis.set(xlabel=what)
    axis.tick_params(axis="y", labelsize=8)
    _save(figure, path)


def memory(readings: Mapping[str, Sequence[tuple[float, float]]], title: str, path: Path) -> None:
    """Memory of each process (KiB) over sessions that have ended, each from its own first reading on."""
    figure, (axis,) = _figure(1, title)
    for name, found in readings.items():
        if found:
            mib = [kib / 1024 for _, kib in found]
            label = f"{name}, {mib[0]:.0f} MiB at first"
            axis.plot([at for at, _ in found], [value - mib[0] for value in mib], label=label)
    axis.set(xlabel="sessions ended", ylabel="MiB more than at first")
    axis.grid(alpha=0.3)
    if any(readings.values()):
        axis.legend(fontsize=8)
    _save(figure, path)


def accuracy(clips: Sequence[Mapping[str, Any]], title: str, path: Path) -> None:
    """Error rates of each recording, streamed beside whole; the language is told where there are several."""
    figure, (axis,) = _figure(1, title)
    known = [clip for clip in clips if clip["reference"] is not None]
    for shift, part in ((-0.2, "streamed_wer"), (0.2, "whole_wer")):
        places = [number + shift for number in range(len(known))]
        axis.bar(places, [clip[part] for clip in known], 0.4, label=part.removesuffix("_wer"))
    axis.set(ylabel="error rate, %", xticks=range(len(known)))
    several = len({clip["language"] for clip in known}) > 1
    names = [f"{clip['language']} {clip['name']}" if several else clip["name"] for clip in known]
    axis.set_xticklabels(
        names, rotation=60 if several else 20, ha="right" if several else "center", fontsize=8
    )
    axis.legend()
    _save(figure, path)


def shares(found: Mapping[str, Mapping[str, float]], title: str, path: Path) -> None:
    """Percents by group and kind, as bars side by side."""
    figure, (axis,) = _figure(1, title)
    kinds = list(next(iter(found.values()), {}))
    for number, kind in enumerate(kinds):
        places = [group + 0.8 * (number + 0.5) / len(kinds) - 0.4 for group in range(len(found))]
        bars = axis.bar(
            places, [values[kind] for values in found.values()], 0.8 / len(kinds), label=f"{kind} key terms"
        )
        axis.bar_label(bars, fontsize=8)
    axis.set(ylabel="of the terms that are said, %", xticks=range(len(found)), ylim=(0, 100))
    axis.set_xticklabels(list(found))
    axis.legend()
    _save(figure, path)
