"""A recording on a terminal: the list, a session's timeline, its words with their delays, and two side by side."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from cli.display import clock, settled_and_pending
from cli.replay_diff import Change, Comparison, Pair, percentile
from wire.archive import Listed
from wire.delays import Way, of_finals, word_by_word
from wire.recorded import (
    Audio,
    Connection,
    Decided,
    Dropped,
    Item,
    Missed,
    Ordered,
    Published,
    Said,
    Stepped,
    Taken,
    Told,
)
from wire.recordings import Message, Recording

#: Letters of an id that are shown in tables.
SHORT = 8

_STYLES = {Change.CHANGED: "yellow", Change.MISSING: "red", Change.ADDED: "green", Change.MOVED: "cyan"}


def when(at_s: float) -> str:
    """UTC, to the second."""
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%d %H:%M:%S")


# ---------------------------------------------------------------------------------------------------------------------
# list


def listing(found: Iterable[Listed], console: Console) -> None:
    """A row for each recording, newest last. Ids are shortened: as much of one is enough for every command."""
    header = ("Id", "Began (UTC)", "Audio", "Pool", "Key", "Why", "Size", "Kept for", "Ended")
    table = Table(*header, box=None, pad_edge=False)
    for column in table.columns:
        column.no_wrap = True
    faults = list[str]()
    for one in found:
        facts, end = one.facts, one.end
        told = (facts.pool, facts.key, facts.why) if facts else ("?", "?", "?")
        audio = clock(end.audio_ms) if end else ""
        notes = " ".join(["encrypted"] * one.sealed + ["cut"] * one.cut)
        how = end.outcome if end else ("?" if one.fault else "not yet")
        row = (
            one.id[:SHORT],
            when(one.started_s),
            audio,
            *told,
            _bytes(one.size),
            _span(one.left_s),
            f"{how} {notes}".strip(),
        )
        table.add_row(*(escape(cell) for cell in row))
        faults += [one.fault] if one.fault else []
    if not table.row_count:
        console.print("no recordings. Ingress records where RECORD is set: steno ingress --settings")
        return
    console.print(table)
    for fault in dict.fromkeys(faults):
        console.print(f"[yellow]{faults.count(fault)} of them:[/] {escape(fault)}", highlight=False)


def _bytes(size: int) -> str:
    return f"{size / 2**20:.1f} MB" if size >= 2**20 else f"{size / 2**10:.0f} kB"


def _span(seconds: float) -> str:
    for unit, name in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds:.0f} s"


# ---------------------------------------------------------------------------------------------------------------------
# show


def timeline(recording: Recording, console: Console, whole: bool = False) -> None:
    """What happened, line by line; `whole`: also each frame and each step."""
    _head(recording, console)
    start_s = recording.facts.started_s
    ways = {id(final.item): way for final, way in of_finals(recording)}
    messages = {id(message.item): message for message in recording.messages}
    for item in recording.items:
        line = _line(item, messages, ways, whole)
        if line is not None:
            console.print(Text.assemble((f"{item.at_s - start_s:9.3f}  ", "dim"), line), soft_wrap=True)
    if recording.end:
        end = recording.end
        console.print(
            f"[dim]{end.ended_s - start_s:9.3f}[/]  [bold]over[/]       {escape(end.outcome)}",
            highlight=False,
        )
    _faults(recording, console)


def _head(recording: Recording, console: Console) -> None:
    facts, end = recording.facts, recording.end
    rows = {
        "session": facts.id,
        "began": f"{when(facts.started_s)} UTC, recorded because: {facts.why or '?'}",
        "asked for": "{} (pool {}), {} at {} Hz".format(
            facts.params.get("speech_model", "?"),
            facts.pool or "?",
            facts.params.get("encoding", "?"),
            facts.params.get("sample_rate", "?"),
        ),
        "served by": _served(recording),
        "ingress": f"{facts.ingress or '?'}, steno {facts.software or '?'}",
        "key": facts.key,
        "audio": f"{clock(end.audio_ms if end else len(recording.pcm) / 32)} in {len(recording.frames)} frames",
        "parameters": ", ".join(f"{name}={value}" for name, value in _telling(facts.params)),
    }
    table = Table.grid(padding=(0, 2, 0, 0))
    for name, value in rows.items():
        if value:
            table.add_row(Text(name, "dim"), Text(value))
    console.print(table)
    for first, last in recording.gaps:
        missing = f"{(last - first) // 16} ms of audio are missing at {clock(first / 16)}"
        console.print(f"[yellow]{missing}[/]", highlight=False)
    console.print()


def _served(recording: Recording) -> str:
    told = [
        f"{one.worker}: {one.model} ({one.digest[:12] or 'digest not known'}), steno {one.software}"
        for one in recording.takes
    ]
    return "\n".join(dict.fromkeys(told)) or "no worker has written"


def _telling(params: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Parameters that say something."""
    return [(name, value) for name, value in params.items() if value not in ("", None, [], False)]


def _faults(recording: Recording, console: Console) -> None:
    for fault in recording.faults:
        console.print(f"[yellow]not all is here:[/] {escape(fault)}", highlight=False)


def _line(item: Item, messages: Mapping[int, Message], ways: Mapping[int, Way], whole: bool) -> Text | None:
    match item:
        case Told():
            return _told(messages[id(item)], ways.get(id(item)))
        case Said(_, text):
            return Text.assemble(("client     ", "blue"), text)
        case Ordered(_, order, position):
            return Text.assemble(("order      ", "blue"), f"{order} at {clock(position / 16)}")
        case Connection(_, happened, code, reason):
            return Text.assemble(("connection ", "blue"), f"{happened} {code or ''} {reason}")
        case Taken():
            again = f", heard again from {clock(item.from_ms - item.lead_ms)}" if item.generation > 1 else ""
            return Text.assemble(
                ("worker     ", "magenta"), f"{item.worker} takes it (generation {item.generation}{again})"
            )
        case Decided():
            return Text.assemble(("decision   ", "magenta"), _decision(item, whole))
        case Dropped(_, reason, generation, sequence):
            return Text.assemble(("dropped    ", "yellow"), f"event {generation}-{sequence}: {reason}")
        case Missed(_, count, reason):
            return Text.assemble(("missed     ", "yellow"), f"{count} items: {reason}")
        case Audio(_, position) if whole:
            return Text(f"audio      {clock(position / 16)} to {clock(item.end / 16)}", "dim")
        case Stepped() if whole:
            took = f"{1000 * (item.at_s - item.begun_s):.0f} ms, {item.sessions} sessions"
            return Text(f"step       {clock(item.from_ms)} to {clock(item.to_ms)} in {took}", "dim")
        case Published() if whole:
            return Text(f"published  {item.event} {item.generation}-{item.sequence}", "dim")
    return None


def _decision(item: Decided, whole: bool) -> str:
    """The rule, and what mattered to it; `whole`: every number that was looked at."""
    told, numbers = f"turn {item.turn_order} ends at {clock(item.end_ms)}: {item.rule}", item.numbers
    if whole:
        return (
            f"{told} ({', '.join(f'{name}={value}' for name, value in numbers.items() if value is not None)})"
        )
    parts = [f"{numbers['words']} words"] if "words" in numbers else []
    if numbers.get("silence_from_ms") is not None:
        silence_ms = numbers["silence_until_ms"] - numbers["silence_from_ms"]
        limits = f"min {numbers.get('min_turn_silence_ms')}, max {numbers.get('max_turn_silence_ms')}"
        parts.append(f"silence {silence_ms} ms ({limits})")
    if "confidence" in numbers:
        parts.append(f"confidence {numbers['confidence']} (threshold {numbers.get('threshold')})")
    return f"{told} ({', '.join(parts)})"


def _told(message: Message, way: Way | None) -> Text:
    if not message.is_turn:
        return Text.assemble(("told       ", "green"), message.item.text)
    turn = dict(message.fields)
    if message.is_final:
        line = Text.assemble(("final      ", "bold green"), (str(turn.get("transcript")), "bold"))
        if way is not None and way.total_ms is not None:
            parts = ", ".join(f"{name} {ms:.0f}" for name, ms in way.parts_ms.items())
            line.append(f"  +{way.total_ms:.0f} ms ({parts})", "dim")
        return line
    settled, pending = settled_and_pending(turn)
    return Text.assemble(
        ("partial    ", "green"), settled, " " if settled and pending else "", (pending, "dim italic")
    )


def word_table(recording: Recording, console: Console) -> None:
    """Each word of the finals: when it was spoken, how long until a message had it, and where the time went, in ms."""
    stages = ("queued", "begun", "stepped", "published", "told")
    table = Table("Spoken", "Word", "ms", *stages, box=None, pad_edge=False)
    for heard in word_by_word(recording):
        parts = heard.way.parts_ms
        total = heard.way.total_ms
        cells = [f"{parts[stage]:.0f}" if stage in parts else "" for stage in stages]
        spoken = clock(int(heard.word.get("start", 0)))
        table.add_row(
            spoken, escape(str(heard.word.get("text"))), "" if total is None else f"{total:.0f}", *cells
        )
    console.print(table)
    _faults(recording, console)


# ---------------------------------------------------------------------------------------------------------------------
# diff


def comparison(found: Comparison, names: tuple[str, str], console: Console) -> None:
    """The words that differ, each with its neighbours' place in time; then the sums."""
    table = Table("At", "", *map(escape, names), box=None, pad_edge=False)
    for pair in found.pairs:
        if pair.change is not Change.SAME:
            table.add_row(*_pair(pair), style=_STYLES[pair.change])
    if table.row_count:
        console.print(table)
        console.print()
    total = sum(pair.first is not None for pair in found.pairs)
    counts = ", ".join(f"{found.count(change)} {change}" for change in Change)
    console.print(f"{total} words: {counts}; error rate {found.error_rate:.2%}", highlight=False)
    delays = Table("final after last word, ms", *map(escape, names), box=None, pad_edge=False)
    for percent in (50, 95):
        both = [percentile(one, percent) for one in found.delays_ms]
        delays.add_row(f"p{percent}", *("" if one is None else f"{one:.0f}" for one in both))
    console.print(delays)
    same = "[green]the finals are identical[/], in text and in the times of words"
    differs = f"the finals differ: {'; '.join(found.slight) or 'see above'}"
    console.print(same if found.identical else differs, highlight=False)


def _pair(pair: Pair) -> tuple[str, str, str, str]:
    told = pair.first or pair.second
    at = clock(told.start_ms) if told else ""
    if pair.change is Change.MOVED and pair.first and pair.second:
        by = f"{pair.second.text} ({pair.second.start_ms - pair.first.start_ms:+} ms)"
        return at, str(pair.change), escape(pair.first.text), escape(by)
    return (
        at,
        str(pair.change),
        escape(pair.first.text) if pair.first else "",
        escape(pair.second.text) if pair.second else "",
    )
