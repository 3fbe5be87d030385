"""A recording drawn as a score: the whole in one picture, and each turn in lines of LINE_MS under its sound.

Lines keep one scale, so that they can be read on paper and on a phone. Places on a line are percents of its width.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from console import drawing
from console.markup import Html, h, join
from console.retold import PHASES, Note, Row, Story, Turn, Word
from wire.entries import SAMPLE_RATE
from wire.recorded import Decided

#: A line of a turn shows so much audio, in ms; words are kept apart as if a line were LINE_PX wide, a letter LETTER_PX.
LINE_MS = 6_000
LINE_PX, LETTER_PX = 760, 7.2
#: Columns of the picture of the whole; heights of sound and of speech probability in every picture.
WIDE, SOUND, SPEECH = 1_200, 72.0, 26.0
_HEIGHT = SOUND + SPEECH + 4
#: Distances between the times of an axis, in ms; one shows eight of them at most.
_STEPS = (500, 1_000, 2_000, 5_000, 10_000, 30_000, 60_000, 300_000, 600_000, 1_800_000)

#: Rule -> what it means that it fired (`workers/endpointing.py`, protocol 5).
MEANINGS = {
    "confident": "the model was sure enough that the turn was complete, and the shorter silence had passed",
    "punctuated": "a sentence was closed, and the shorter silence had passed",
    "silent": "the longest silence had passed, whatever the words say",
    "long": "the turn had reached its greatest length",
    "forced": "the client asked for it (ForceEndpoint)",
    "terminated": "the client ended the session (Terminate)",
}


@dataclass(frozen=True)
class Score:
    """Draws one story. `loudest`: what is drawn at full height; `hops`: probabilities of speech."""

    story: Story
    sound: drawing.Samples
    loudest: float
    hops: Sequence[tuple[int, float]]

    def whole(self) -> Html:
        """The picture of the whole session, in which one may look for a place."""
        length = self.story.length_ms
        blocks = [
            h(
                "a",
                turn.order,
                cls="block",
                href=f"#turn-{turn.order}",
                title=turn.text[:200],
                style=_box(turn, length),
            )
            for turn in self.story.turns
        ]
        strip = self._strip(0, length, WIDE)
        return h(
            "section",
            strip,
            h("div", *blocks, cls="blocks"),
            axis(0, length),
            cls="whole",
            aria_label="The session",
        )

    def turn(self, turn: Turn, slowest_ms: float) -> Html:
        """One turn: its lines, why it ended, and the way of each message; bars as long as `slowest_ms` are full."""
        play = h(
            "button",
            "\u25b6",
            type="button",
            cls="play",
            data_s=turn.from_ms,
            aria_label=f"Play turn {turn.order}",
        )
        when = h("span", f"{clock(turn.from_ms)} to {clock(turn.to_ms)}", cls="when num")
        head = h("h2", h("span", turn.order, cls="order"), " ", play, " ", when, " ", h("q", turn.text))
        lines = [
            self._line(turn, begin, begin + LINE_MS) for begin in range(turn.from_ms, turn.to_ms, LINE_MS)
        ]
        return h(
            "article",
            head,
            *lines,
            decided(turn.decision),
            times(turn.rows, slowest_ms),
            cls="turn",
            id=f"turn-{turn.order}",
        )

    def _line(self, turn: Turn, begin: int, end: int) -> Html:
        rows = _rows(turn, begin, end)
        marks = [_beyond(begin, turn.from_ms, begin, end), _beyond(turn.to_ms, end, begin, end)]
        strip = self._strip(begin, end, LINE_PX, *marks, _ended(turn.decision, begin, end))
        return h(
            "div", h("div", strip, axis(begin, end), h("ol", *rows, cls="rows"), cls="line"), cls="scroll"
        )

    def _strip(self, begin: int, end: int, columns: int, *marks: Html | None) -> Html:
        picture = h(
            "svg",
            h("path", cls="wave", d=drawing.waveform(self.sound, begin, end, columns, self.loudest, SOUND)),
            h(
                "path",
                cls="speech",
                transform=f"translate(0 {SOUND + 4})",
                d=drawing.speech(self.hops, begin, end, SPEECH, columns),
            ),
            *self._gaps(begin, end),
            *self._takes(begin, end),
            viewBox=f"{begin} 0 {end - begin} {_HEIGHT}",
            preserveAspectRatio="none",
            aria_hidden="true",
        )
        return h("div", picture, *marks, h("div", cls="cursor"), cls="strip", data_from=begin, data_to=end)

    def _gaps(self, begin: int, end: int) -> Iterator[Html]:
        for first, last in self.story.recording.gaps:
            x, width = first * 1000 // SAMPLE_RATE, max(1, (last - first) * 1000 // SAMPLE_RATE)
            if x < end and x + width > begin:
                yield h("rect", cls="gap", x=x, y=0, width=width, height=_HEIGHT)

    def _takes(self, begin: int, end: int) -> Iterator[Html]:
        for note in self.story.takeovers:
            if begin <= note.received_ms < end:
                yield h("line", cls="take", x1=note.received_ms, x2=note.received_ms, y1=0, y2=_HEIGHT)


def _rows(turn: Turn, begin: int, end: int) -> Iterator[Html]:
    """The messages of a turn on one line; those that came elsewhere and say nothing new here are left out."""
    before: list[tuple[str, bool]] = []
    for row in turn.rows:
        words = [word for word in row.words if begin <= word.start_ms < end]
        here = begin <= row.received_ms < end or (turn.to_ms <= end <= row.received_ms)
        news = [(word.text, word.settled) for word in words]
        if here or (news and (row.final or news != before)):
            yield _row(row, words, here, begin, end)
        before = news


def _row(row: Row, words: Sequence[Word], here: bool, begin: int, end: int) -> Html:
    lag = f"{row.behind_ms / 1000:.2f} s behind" if row.behind_ms is not None else ""
    came = _came(row.received_ms, lag, begin, end) if here else None
    kind = "final" if row.final else "partial"
    return h(
        "li",
        h("span", f"{kind}: ", cls="unseen"),
        came,
        *_spread(words, begin, end, row.final),
        cls=kind,
    )


def _came(at_ms: int, lag: str, begin: int, end: int) -> Html:
    """Where a message stands in its row; told to the left of it where there is no room to the right."""
    late = at_ms > begin + 0.87 * (end - begin)
    return h(
        "span", lag, cls="came late" if late else "came", style=f"left:{place(min(at_ms, end), begin, end)}"
    )


def _spread(words: Iterable[Word], begin: int, end: int, final: bool) -> Iterator[Html]:
    """Words at their places, moved to the right where they would cover each other."""
    free, scale = 0.0, 100 / (end - begin)
    for word in words:
        left = max(free, (word.start_ms - begin) * scale)
        free = left + (len(word.text) + 1) * LETTER_PX / LINE_PX * 100
        kinds = ["w"] + ["pale"] * (not word.settled and not final) + ["fresh"] * word.fresh
        yield h(
            "button" if final else "span",
            word.text,
            type="button" if final else None,
            tabindex=-1 if final else None,
            cls=" ".join(kinds),
            data_s=word.start_ms,
            data_e=word.end_ms,
            style=f"left:{left:.2f}%",
            title=f"{word.start_ms} to {word.end_ms} ms, confidence {word.confidence:.2f}",
        )
        yield Html(" ")


def _beyond(first: int, last: int, begin: int, end: int) -> Html | None:
    """What of a line lies outside of its turn."""
    if last <= first:
        return None
    left, right = place(first, begin, end), place(last, begin, end)
    return h("div", cls="beyond", style=f"left:{left};width:calc({right} - {left})")


def _ended(decision: Decided | None, begin: int, end: int) -> Html | None:
    """Where the turn ended, and how much later that was seen."""
    if decision is None or not begin <= decision.end_ms < end:
        return None
    left, right = place(decision.end_ms, begin, end), place(min(decision.heard_ms, end), begin, end)
    title = f"Ended at {decision.end_ms} ms, seen at {decision.heard_ms} ms"
    return h(
        "div",
        h("b", decision.rule),
        cls="ended",
        title=title,
        style=f"left:{left};width:calc({right} - {left})",
    )


def decided(decision: Decided | None) -> Html:
    """Why a turn ended: the rule that fired, and what the rules looked at."""
    if decision is None:
        return h("p", "Why it ended was not recorded.", cls="decision dim")
    numbers = [
        h("li", f"{name} ", h("b", "none" if value is None else str(value)))
        for name, value in decision.numbers.items()
    ]
    said = h(
        "p",
        "Ended by the rule ",
        h("b", decision.rule),
        " at ",
        h("b", clock(decision.end_ms), cls="num"),
        ", seen when ",
        h("b", clock(decision.heard_ms), cls="num"),
        " had been heard",
        f": {MEANINGS[decision.rule]}." if decision.rule in MEANINGS else ".",
    )
    return h("div", said, h("ul", *numbers, cls="chips num"), cls="decision")


def times(rows: Sequence[Row], slowest_ms: float) -> Html:
    """A bar for each message: where the time went since its last word was spoken."""
    head = [("Message", None), ("Where the time went", None), ("behind its last word", "num")]
    titles = [h("th", title, scope="col", cls=kind) for title, kind in head]
    names = ["final" if row.final else f"partial {number}" for number, row in enumerate(rows, 1)]
    body = [_bar(name, row, slowest_ms) for name, row in zip(names, rows, strict=True)]
    return h("table", h("thead", h("tr", *titles)), h("tbody", *body), cls="times")


def _bar(name: str, row: Row, slowest_ms: float) -> Html:
    named = list(zip(PHASES.values(), row.phases_ms, strict=False))
    parts = [
        h("i", cls=f"p{number}", style=f"width:{100 * ms / slowest_ms:.2f}%", title=f"{phase}: {ms:.0f} ms")
        for number, (phase, ms) in enumerate(named)
        if ms and slowest_ms
    ]
    told = ", ".join(f"{phase} {ms:.0f} ms" for phase, ms in named) or "not recorded"
    total = f"{row.behind_ms:.0f} ms" if row.behind_ms is not None else ""
    bar = h("td", *parts, h("span", told, cls="unseen" if parts else "dim"), cls="bar")
    return h("tr", h("th", name, scope="row"), bar, h("td", total, cls="num"))


def notes(told: Sequence[Note]) -> Html:
    """What else happened, each with a button that plays from there."""
    items = [
        h(
            "li",
            h("button", clock(note.received_ms), type="button", cls="num", data_s=note.received_ms),
            f" {note.text}",
            cls=note.kind,
        )
        for note in told
    ]
    return h("ul", *items, cls="notes") if items else join()


def axis(begin: int, end: int) -> Html:
    """Times under a strip, at round places."""
    step = next((step for step in _STEPS if (end - begin) / step <= 8), _STEPS[-1])
    marks = [
        h("span", clock(ms, tenths=step < 1_000), style=f"left:{place(ms, begin, end)}")
        for ms in range(-(-begin // step) * step, end, step)
        if ms - begin < 0.95 * (end - begin)
    ]
    return h("div", *marks, cls="axis num", aria_hidden="true")


def place(ms: int, begin: int, end: int) -> str:
    return f"{100 * (ms - begin) / (end - begin):.2f}%"


def clock(ms: int, tenths: bool = True) -> str:
    """0:03.4"""
    whole, rest = divmod(ms // 100, 10)
    return f"{whole // 60}:{whole % 60:02}" + (f".{rest}" if tenths else "")


def _box(turn: Turn, length: int) -> str:
    return f"left:{place(turn.from_ms, 0, length)};width:{place(turn.to_ms - turn.from_ms, 0, length)}"
