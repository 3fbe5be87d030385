"""A session on a terminal, in a log, or as JSON lines: one listener for each.

All take `client.Received` messages as they come. Text that may still change is dim and italic, text that will not is
plain, and a finished turn is bold behind the time at which it was spoken.
"""

from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from cli.client import Received


def clock(ms: float) -> str:
    """`1:02:03.4`, without the hours where there are none."""
    seconds, tenths = divmod(round(ms / 100), 10)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return (f"{hours}:{minutes:02}" if hours else f"{minutes:02}") + f":{seconds:02}.{tenths}"


def settled_and_pending(turn: dict[str, Any]) -> tuple[str, str]:
    """A Turn's text that will not change, and the text that may (protocol 4.3.1, 4.3.2)."""
    words = turn["words"]
    settled = " ".join(word["text"] for word in words if word["word_is_final"])
    pending = " ".join(word["text"] for word in words if not word["word_is_final"])
    return settled, pending


def language(turn: dict[str, Any]) -> str:
    """The language that a final was heard in, and how sure that is; "" where the session did not ask for it."""
    code, confidence = turn.get("language_code"), turn.get("language_confidence")
    if not code:
        return ""
    return f"{code} {confidence:.0%}" if isinstance(confidence, (int, float)) else str(code)


def final_row(turn: dict[str, Any], delay_ms: float | None = None) -> Table:
    """A finished turn behind its time; `delay_ms` after its last word it was known to be finished."""
    text = Text(turn["transcript"], "bold")
    if heard := language(turn):
        text.append(f"  {heard}", "not bold green")
    if delay_ms is not None:
        text.append(f"  +{delay_ms:.0f} ms", "not bold dim")
    return _row(turn, text, "cyan")


def partial_row(turn: dict[str, Any]) -> Table:
    """An open turn behind its time."""
    settled, pending = settled_and_pending(turn)
    gap = " " if settled and pending else ""
    return _row(turn, Text.assemble(settled, gap, (pending, "dim italic")), "dim cyan")


def _row(turn: dict[str, Any], text: Text, style: str) -> Table:
    """Two columns, so that long turns are folded beside their time."""
    start = turn["words"][0]["start"] if turn["words"] else 0
    row = Table.grid(padding=(0, 2, 0, 0))
    row.add_column(width=9, justify="right", style=style)
    row.add_column()
    row.add_row(clock(start), text)
    return row


class LiveDisplay:
    """For a terminal: finished turns stay, the open one is drawn again in place. A context manager.

    With `delays`, each finished turn tells how long after its last word it came.
    """

    def __init__(self, console: Console, delays: bool = False) -> None:
        self._live = Live(console=console, refresh_per_second=20, transient=True)
        self._delays = delays

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def __call__(self, received: Received) -> None:
        turn = received.fields
        if turn.get("type") != "Turn":
            return
        self._live.update(Text() if turn["end_of_turn"] else partial_row(turn))
        if turn["end_of_turn"] and turn["words"]:
            delay_ms = received.at_s * 1000 - turn["words"][-1]["end"] if self._delays else None
            self._live.console.print(final_row(turn, delay_ms))


class FinalLines:
    """For a file or a pipe: one line of plain text per finished turn."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def __call__(self, received: Received) -> None:
        turn = received.fields
        if turn.get("type") == "Turn" and turn["end_of_turn"] and turn["transcript"]:
            self._console.out(turn["transcript"], highlight=False)


class EveryChange:
    """For a log: one line per change of the text, with when it came; pending words in brackets."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._last: object = None

    def __call__(self, received: Received) -> None:
        turn = received.fields
        if turn.get("type") != "Turn" or not turn["words"]:
            return
        settled, pending = settled_and_pending(turn)
        now = (turn["turn_order"], turn["end_of_turn"], settled, pending)
        if now == self._last:  # other times or confidences only
            return
        self._last = now
        if turn["end_of_turn"]:
            start, end = clock(turn["words"][0]["start"]), clock(turn["words"][-1]["end"])
            line = Text.assemble(
                f"{received.at_s:7.2f} s  final    ", (turn["transcript"], "bold"), f"  [{start} - {end}]"
            )
            if heard := language(turn):
                line.append(f"  {heard}", "green")
        else:
            gap = " " if settled and pending else ""
            text = (f"({pending})", "dim italic") if pending else ""
            line = Text.assemble(f"{received.at_s:7.2f} s  partial  ", settled, gap, text)
        self._console.print(line, soft_wrap=True, highlight=False)


class JsonLines:
    """For programs: each server message on a line of its own, as it came."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def __call__(self, received: Received) -> None:
        self._console.out(received.text, highlight=False)
        self._console.file.flush()
