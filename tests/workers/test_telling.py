"""Messages of an open turn, of either family, alone. In play: `test_turns.py`."""

from dataclasses import replace

import pytest

from wire.messages import Turn
from workers import telling
from workers.endpointing import OpenTurn, TurnRules
from workers.words import Word

US, U3 = TurnRules(format_turns=True), TurnRules(format_turns=True, whole=True)
PLEASE, CALL, ANN = Word("Please", 0, 300, 0.9), Word("call", 300, 600, 0.9), Word("Ann.", 600, 900, 0.5)


def turn(*settled: Word, tail: tuple[Word, ...] = (), **known: object) -> OpenTurn:
    return replace(OpenTurn(settled=[*settled], tail=tail, confidence=0.7), **known)  # type: ignore[arg-type]


def shown(message: Turn) -> list[tuple[str, bool]]:
    return [(word.text, word.word_is_final) for word in message.words]


def test_word_by_word_one_word_may_change() -> None:
    told = telling.partial(turn(PLEASE, tail=(CALL, ANN)), US, 3)
    assert (told.turn_order, told.transcript, told.end_of_turn_confidence) == (3, "Please", 0.7)
    assert shown(told) == [("Please", True), ("call", False)]
    assert telling.pending(turn(PLEASE, tail=(CALL, ANN)), US) == "call"
    assert telling.pending(turn(PLEASE), US) is None


def test_whole_every_word_may_change() -> None:
    told = telling.partial(turn(PLEASE, tail=(CALL, ANN)), U3, 3, "Please call")
    assert (told.transcript, told.end_of_turn_confidence, told.utterance) == ("Please call Ann.", 0.0, "")
    assert shown(told) == [("Please", False), ("call", False), ("Ann.", False)]
    assert telling.pending(turn(PLEASE, tail=(CALL,)), U3) == "Please call"
    assert telling.pending(turn(), U3) is None


@pytest.mark.parametrize(
    "rules,utterance,confidence", [(US, "call Ann.", 0.7), (U3, "Please call Ann.", 1.0)]
)
def test_the_end_has_all_words_final(rules: TurnRules, utterance: str, confidence: float) -> None:
    told = telling.final(turn(PLEASE, CALL, ANN, told_ms=300), rules, 0)
    assert (told.end_of_turn, told.transcript) == (True, "Please call Ann.")
    assert (told.utterance, told.end_of_turn_confidence) == (utterance, confidence)
    assert all(final for _, final in shown(told))


def test_the_first_message_settles_how_a_turn_is_written() -> None:
    open_turn = turn(PLEASE, ANN)
    plain = replace(US, format_turns=False)
    assert telling.partial(open_turn, plain, 0).transcript == "please ann"
    later = telling.final(open_turn, US, 0)
    assert (later.transcript, later.turn_is_formatted) == ("please ann", False)


@pytest.mark.parametrize("rules", [US, U3])
def test_language_is_told_at_the_end_to_those_who_asked(rules: TurnRules) -> None:
    asked, known = (
        replace(rules, language_detection=True),
        turn(PLEASE, language="en", language_confidence=0.8),
    )
    assert telling.final(known, asked, 0).language_code == "en"
    assert telling.final(known, rules, 0).language_code is None
    assert telling.partial(known, asked, 0).language_code is None
