"""`cli.display`: what lands on a terminal, in a log, in a pipe."""

import io
import json

import pytest
from rich.console import Console

from cli.client import Received
from cli.display import EveryChange, FinalLines, JsonLines, LiveDisplay, clock, settled_and_pending


@pytest.fixture
def session(scripts) -> list[Received]:
    """Begin, two partials and a final, an empty final, Termination."""
    hello, world = scripts.word("Hello", 100, 300), scripts.word("[b]world.", 320, 61_500)
    messages = [
        {"type": "Begin"},
        scripts.turn(0, [scripts.word("Hell", 100, 200, final=False)]),
        scripts.turn(0, [hello, scripts.word("wor", 320, 400, final=False)]),
        scripts.turn(0, [hello, world], end=True),
        scripts.turn(1, [], end=True),
        {"type": "Termination"},
    ]
    return [Received(json.dumps(each), each, 0.5 * number) for number, each in enumerate(messages)]


def console(**options) -> Console:
    return Console(file=io.StringIO(), width=100, **options)


def text(made: Console) -> str:
    assert isinstance(made.file, io.StringIO)
    return made.file.getvalue()


@pytest.mark.parametrize(
    "ms,words",
    [(0, "00:00.0"), (1_949, "00:01.9"), (59_960, "01:00.0"), (754_321, "12:34.3"), (3_723_400, "1:02:03.4")],
)
def test_times(ms, words) -> None:
    assert clock(ms) == words


def test_settled_and_pending(session) -> None:
    found = [settled_and_pending(each.fields) for each in session if each.fields["type"] == "Turn"]
    assert found == [("", "Hell"), ("Hello", "wor"), ("Hello [b]world.", ""), ("", "")]


def test_a_pipe_gets_one_line_per_finished_turn(session) -> None:
    made = console()
    for received in session:
        FinalLines(made)(received)
    assert text(made) == "Hello [b]world.\n"


def test_json_lines_are_what_came(session) -> None:
    made = console()
    for received in session:
        JsonLines(made)(received)
    assert [json.loads(line) for line in text(made).splitlines()] == [each.fields for each in session]


def test_json_lines_are_never_folded() -> None:
    made = console()
    long = json.dumps({"type": "Turn", "transcript": "word " * 200})
    JsonLines(made)(Received(long, json.loads(long), 0.0))
    assert text(made) == long + "\n"


def test_a_log_gets_a_line_per_change_with_its_time(session) -> None:
    made = console()
    display = EveryChange(made)
    for received in session:
        display(received)
        display(received)  # the same again changes nothing
    lines = [line.strip() for line in text(made).splitlines()]
    assert lines == [
        "0.50 s  partial  (Hell)",
        "1.00 s  partial  Hello (wor)",
        "1.50 s  final    Hello [b]world.  [00:00.1 - 01:01.5]",
    ]


def test_a_terminal_shows_the_open_turn_and_keeps_the_finished_one(session) -> None:
    made = console(force_terminal=True, color_system="truecolor")
    with LiveDisplay(made) as live:
        for received in session:
            live(received)
            live._live.refresh()
    shown = text(made)
    assert "Hell" in shown
    assert "\x1b[2;3mwor" in shown  # dim and italic
    assert "\x1b[1mHello [b]world.\x1b[0m" in shown  # bold
    assert " ms" not in shown
    assert shown.index("\x1b[2;3mwor") < shown.index("\x1b[1mHello")


def test_a_terminal_can_show_how_long_after_its_last_word_a_turn_was_finished(scripts) -> None:
    made = console(force_terminal=True)
    turn = scripts.turn(0, [scripts.word("Hello.", 100, 300)], end=True)
    with LiveDisplay(made, delays=True) as live:
        live(Received(json.dumps(turn), turn, 0.812))
    assert "+512 ms" in text(made)


def test_a_final_tells_its_language_where_that_was_asked_for(scripts) -> None:
    turn = scripts.turn(0, [scripts.word("Bonjour.", 100, 300)], end=True)
    turn |= {"language_code": "fr", "language_confidence": 0.987}
    received = Received(json.dumps(turn), turn, 0.8)
    log, terminal = console(), console(force_terminal=True, color_system=None)
    EveryChange(log)(received)
    with LiveDisplay(terminal) as live:
        live(received)
    assert "Bonjour.  [00:00.1 - 00:00.3]  fr 99%" in text(log)
    assert "Bonjour.  fr 99%" in text(terminal)


def test_a_long_turn_is_folded_beside_its_time(scripts) -> None:
    made = console(force_terminal=True, color_system=None)
    turn = scripts.turn(0, [scripts.word("word", 100 * i, 100 * i + 50) for i in range(40)], end=True)
    with LiveDisplay(made) as live:
        live(Received(json.dumps(turn), turn, 5.0))
    assert text(made).count("word") == 40
    assert "\n           word word" in text(made)
