"""What a client notices when its worker, its ingress or Redis dies, hangs or goes away, some hundred times in a row.

Stacks that live on (`cli/chaos_stage.py`) are hurt again and again while sessions speak; each blow is a run with a
verdict of its own (`cli/chaos_verdict.py`). Who stops it early is told what there is.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

from cli.bench_figures import percentile
from cli.bench_worker import SILENCE
from cli.chaos_stage import AWAY_S, CALM_S, FAULTS, Round, Stage
from cli.chaos_verdict import Verdict
from wire.errors import StackError

GOAL_PAUSE_MS, GOAL_DRAIN_MS = 2_000.0, 2_000.0
_LOOK_S = 0.2

METHOD = (
    "Real stacks side by side, each with two workers of the english pool, sessions over real WebSockets from "
    "another process, 50 ms chunks in real time, talks made of recorded phrases. A blow falls when all services "
    f"are ready and all sessions are served, {CALM_S[0]:g} to {CALM_S[1]:g} s later at random. kill: SIGKILL; "
    "hang: SIGSTOP, and SIGCONT once the sessions have moved; drain: SIGTERM; each to a worker that holds "
    "sessions, while the other one is the warm spare; a killed or drained one is begun anew as the next spare. "
    "ingress: SIGKILL to the only ingress, which is begun anew at once, its clients resume. redis-restart: Redis "
    "killed and started again with its data (appendonly, every second); redis-empty: without; redis-away: nothing"
    f" passes between it and the services for {AWAY_S:.0f} s; redis-full: for so long it takes no writes "
    "(maxmemory, noeviction); redis-disk: for so long it can write nothing to its disk. nothing: no blow, for "
    "comparison. Each blow is a run. Finals are matched, by the "
    "audio of their words, with those of undisturbed sessions with the same talk (two, or up to five while each "
    "tells something new): nothing told of their audio, told more than once, with words that none of these told "
    "there. unsteady: finals that those did not all tell alike, as a busy machine lets happen; it should be 0. "
    "pause: how much later after its last word the most delayed final until the next blow came than undisturbed. "
    "moved: from the blow until another worker held all the sessions. disorder: finals that were misnumbered or "
    "overlapped; misused: sessions whose usage was not exactly the audio they sent; doubly held: sessions that "
    "two workers held at once; left: leases, sessions' keys, keys without an expiry, after all."
)


class Tally:
    """What was found so far, by all stages together; safe to use from threads."""

    def __init__(self, faults: Sequence[str], runs: int, tell: Callable[[str], None]) -> None:
        self.stopped = threading.Event()
        self.calm = [0, 0]
        self.left: dict[str, int] = dict.fromkeys(("leases", "session", "never"), 0)
        self._found: dict[str, list[Round]] = {fault: [] for fault in faults}
        self._runs = runs
        self._tell = tell
        self._lock = threading.Lock()

    def missing(self, fault: str) -> int:
        """Runs that are still to be done; none once stopped."""
        return 0 if self.stopped.is_set() else max(0, self._runs - len(self.verdicts(fault)))

    def add(self, fault: str, found: Round) -> None:
        with self._lock:
            self._found[fault].append(found)
        row = summary(fault, self._found[fault])
        parts = ", ".join(f"{part} {row[part]}" for part in ("lost", "doubled", "changed"))
        self._tell(f"{fault}: {row['runs']} of {self._runs} runs; {parts} (Ctrl-C ends with the round)")

    def add_calm(self, finals: int, unsteady: int) -> None:
        with self._lock:
            self.calm = [self.calm[0] + finals, self.calm[1] + unsteady]

    def add_left(self, found: dict[str, int]) -> None:
        with self._lock:
            for what, count in found.items():
                self.left[what] += count

    def rows(self) -> list[dict[str, Any]]:
        return [summary(fault, rounds) for fault, rounds in self._found.items()]

    def errors(self) -> list[str]:
        """How sessions ended that should not have."""
        return [error for rounds in self._found.values() for found in rounds for error in found.errors]

    def verdicts(self, fault: str) -> list[Verdict]:
        """Of each run."""
        return [verdict for found in self._found[fault] for verdict in found.verdicts]


def run(
    faults: Sequence[str],
    runs: int,
    seconds: float,
    tell: Callable[[str], None],
    sessions: int = 2,
    stacks: int = 1,
) -> dict[str, Any]:
    """So many runs of each fault; fewer after Ctrl-C, or when a stage fails: `stopped` says why. Raises StackError."""
    tally = Tally(faults, runs, tell)
    with ExitStack() as rooms:
        stages = []
        for number in range(stacks):
            tell(f"starting stack {number + 1} of {stacks}")
            stages.append(rooms.enter_context(Stage(number, seconds, sessions)))
        stopped = _play(stages, faults, tally, tell)
    return {
        "settings": {
            "runs": runs,
            "seconds": seconds,
            "sessions": sessions,
            "stacks": stacks,
            "silence": SILENCE,
        },
        "method": METHOD,
        "goals": {
            "pause_p95_ms": GOAL_PAUSE_MS,
            "drained_p95_ms": GOAL_DRAIN_MS,
            "lost": 0,
            "doubled": 0,
            "changed": 0,
        },
        "stopped": stopped,
        "undisturbed": {"finals": tally.calm[0], "unsteady": tally.calm[1]},
        "faults": tally.rows(),
        "left": tally.left,
        "errors": tally.errors(),
        "each_run": {fault: [asdict(verdict) for verdict in tally.verdicts(fault)] for fault in faults},
    }


def _play(stages: Sequence[Stage], faults: Sequence[str], tally: Tally, tell: Callable[[str], None]) -> str:
    """All stages at once, until enough is done; why it ended early, if it did."""
    stopped = ""
    with ThreadPoolExecutor(len(stages), thread_name_prefix="stage") as pool:
        playing = [pool.submit(_perform, stage, faults, tally, tell) for stage in stages]
        try:
            while wait(playing, _LOOK_S).not_done:
                pass
        except KeyboardInterrupt:
            stopped = "interrupted"
            tally.stopped.set()
            tell("ending with this round")
            wait(playing)
    for one in playing:
        try:
            one.result()
        except StackError as error:
            if not any(row["runs"] for row in tally.rows()):
                raise
            stopped = str(error)
    return stopped


def _perform(stage: Stage, faults: Sequence[str], tally: Tally, tell: Callable[[str], None]) -> None:
    try:
        tally.add_calm(*stage.settle(tell))
        for fault in faults:
            while most := tally.missing(fault):
                tally.add(fault, stage.play(fault, most, tally.stopped.is_set))
        tell("looking what is left")
        tally.add_left(stage.leftovers())
    except BaseException:
        tally.stopped.set()  # the others end, too
        raise


def summary(fault: str, rounds: Sequence[Round]) -> dict[str, Any]:
    """A row of the table."""
    verdicts: list[Verdict] = [verdict for found in rounds for verdict in found.verdicts]
    row: dict[str, Any] = {"fault": fault, "runs": len(verdicts)}
    for part in ("finals", "lost", "doubled", "changed"):
        row[part] = sum(getattr(verdict, part) for verdict in verdicts)
    for part in ("disorder", "misused", "doubly_held"):
        row[part] = sum(getattr(found, part) for found in rounds)
    row["errors"] = sum(len(found.errors) for found in rounds)
    pauses = [verdict.pause_ms for verdict in verdicts if verdict.pause_ms is not None]
    moved = [ms for found in rounds for ms in found.moved_ms]
    for name, values in (("pause", pauses), ("moved", moved)):
        row[f"{name}_p50_ms"] = _rounded(percentile(values, 50))
        row[f"{name}_p95_ms"] = _rounded(percentile(values, 95))
        row[f"{name}_max_ms"] = _rounded(max(values, default=None))
    return row


def _rounded(value: float | None) -> int | None:
    return None if value is None else round(value)


__all__ = ["FAULTS", "GOAL_DRAIN_MS", "GOAL_PAUSE_MS", "run", "summary"]
