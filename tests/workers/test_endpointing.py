"""The gate, the open turn's silences, and the rules, each alone. How they play together: `test_turns.py`."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wire.params import SessionParams, parse_query
from workers.endpointing import (
    HYSTERESIS,
    MIN_BURST_MS,
    Moment,
    OpenTurn,
    Pause,
    Span,
    SpeechGate,
    TurnRules,
    confident,
    ending,
    long,
    punctuated,
    silent,
)
from workers.recognizer import Observation
from workers.words import Word

HOP = 32
RULES = TurnRules()
WORDS = [Word("Please", 100, 400, 0.9), Word("call.", 500, 900, 0.9)]


def spans(probabilities, threshold=0.4, hop=HOP, at_ms=0):
    """(start, end, voiced) of what the gate lets out; times in ms."""
    gate = SpeechGate(threshold, at_ms)
    heard = [gate.hear(Observation(at_ms + hop * n, p)) for n, p in enumerate(probabilities, start=1)]
    return [(span.start_ms, span.end_ms, span.voiced) for span in heard if span]


# ---------------------------------------------------------------------------------------------------------------------
# rules from parameters


def test_rules_come_from_the_session_parameters():
    asked = {"vad_threshold": 0.3, "min_turn_silence": 160, "max_turn_silence": 400, "format_turns": True}
    params = SessionParams().updated({**asked, "end_of_turn_confidence_threshold": 0.7})
    assert TurnRules.of(params.for_worker()) == TurnRules(0.3, 160, 400, 0.7, format_turns=True)


@pytest.mark.parametrize(
    "model,mode,rules",
    [
        ("u3-rt-pro", None, (100, 1000, 1.0, True)),
        ("universal-3-5-pro", None, (128, 1280, 1.0, True)),
        ("universal-3-5-pro", "max_accuracy", (512, 2560, 1.0, True)),
        ("universal-3-6-pro", "min_latency", (128, 640, 1.0, True)),
        ("universal-3-6", "max_accuracy", (612, 2560, 0.5, True)),
        ("universal-streaming-english", None, (400, 1280, 1.0, False)),
    ],
)
def test_the_u3_family_has_rules_of_its_own(model, mode, rules):
    asked = [("speech_model", model), *([("mode", mode)] if mode else [])]
    found = TurnRules.of(parse_query(asked).for_worker())
    assert (found.min_turn_silence_ms, found.max_turn_silence_ms, found.hold, found.whole) == rules
    assert found.format_turns is found.whole


def test_rules_of_no_parameters_are_the_defaults():
    assert TurnRules.of(SessionParams().for_worker()) == RULES


def test_a_missing_parameter_is_noticed():
    with pytest.raises(KeyError):
        TurnRules.of({"vad_threshold": 0.4})


# ---------------------------------------------------------------------------------------------------------------------
# the gate


def test_speech_needs_more_than_one_hop_and_counts_from_its_first():
    assert spans([0.1, 0.9, 0.9, 0.9, 0.1]) == [
        (0, 32, False),
        (32, 96, True),
        (96, 128, True),
        (128, 160, False),
    ]


def test_a_single_loud_hop_is_silence():
    assert spans([0.1, 0.9, 0.1]) == [(0, 32, False), (32, 96, False)]


def test_speech_goes_on_a_little_below_the_threshold_but_does_not_begin_there():
    assert [voiced for *_, voiced in spans([0.3, 0.3, 0.9, 0.9, 0.3, 0.26, 0.24])] == [
        False,
        False,
        True,
        True,
        True,
        False,
    ]


@pytest.mark.parametrize("threshold", [0.0, 0.01, 0.1, 1.0])
def test_silence_ends_speech_at_any_threshold_but_zero(threshold):
    [*_, last] = spans([1.0, 1.0, 1.0, 0.0], threshold)
    assert last[2] is (threshold == 0)


def test_short_hops_need_as_much_speech_as_long_ones():
    found = spans([0.9] * 6, hop=10)
    assert found[0] == (0, MIN_BURST_MS, True)


@settings(max_examples=max(300, settings().max_examples))
@given(
    st.lists(st.floats(0, 1) | st.just(float("nan")), max_size=60), st.floats(0.05, 1), st.integers(0, 5000)
)
def test_spans_have_no_gap_and_speech_no_quiet_hop(probabilities, threshold, at_ms):
    found = spans(probabilities, threshold, at_ms=at_ms)
    assert all(later[0] == earlier[1] for earlier, later in pairwise(found))
    if found:
        assert found[0][0] == at_ms
        assert at_ms + HOP * len(probabilities) - found[-1][1] < MIN_BURST_MS
    for start, end, voiced in found:
        hops = probabilities[(start - at_ms) // HOP : (end - at_ms) // HOP]
        if voiced:
            assert all(p >= max(threshold - HYSTERESIS, 0.01) for p in hops)
        else:
            assert len(hops) < MIN_BURST_MS / HOP + 1


# ---------------------------------------------------------------------------------------------------------------------
# the open turn


def test_spans_of_a_kind_are_kept_as_one():
    turn = OpenTurn()
    for start, voiced in [(0, True), (32, True), (64, False), (96, False), (160, False)]:
        turn.listen(Span(start, start + 32, voiced))
    assert [(span.start_ms, span.end_ms) for span in turn.spans] == [(0, 64), (64, 128), (160, 192)]


def test_too_little_speech_without_a_word_has_no_silence():
    turn = OpenTurn(speech_ms=64, pauses=[Pause(100, 3000)])
    assert turn.silences(3000, speaking=False) == []


def test_enough_speech_has_its_pauses():
    turn = OpenTurn(speech_ms=96, pauses=[Pause(100, 3000)])
    assert turn.silences(3000, speaking=False) == [Pause(100, 3000)]


def test_words_without_speech_are_silent_from_the_last_word_on():
    turn = OpenTurn(tail=tuple(WORDS))
    assert turn.silences(2000, speaking=False) == [Pause(900, 2000)]
    assert turn.silences(800, speaking=False) == [Pause(900, 900)]
    assert turn.silences(2000, speaking=True) == []


# ---------------------------------------------------------------------------------------------------------------------
# the rules


def moment(pauses, now_ms=5000, rules=RULES, **turn):
    return Moment(
        OpenTurn(**{"settled": WORDS, "onset_ms": 100, "speech_ms": 800, **turn}), pauses, now_ms, rules
    )


@pytest.mark.parametrize(
    "heard_ms, confidence, until_ms, ends_ms",
    [
        (1100, 0.9, 1400, 1400),
        (1100, 0.9, 1399, None),  # the shorter silence has not passed
        (1600, 0.9, 1599, None),  # nor has the audio been heard that the confidence comes from
        (1600, 0.9, 1700, 1600),
        (999, 0.9, 3000, None),  # heard only part of the speech
        (1000, 0.9, 3000, 1400),
        (1100, 0.4, 3000, None),  # not above the threshold
        (1100, 0.41, 3000, 1400),
    ],
)
def test_confident(heard_ms, confidence, until_ms, ends_ms):
    assert confident(moment([Pause(1000, until_ms)], heard_ms=heard_ms, confidence=confidence)) == ends_ms


def test_confidence_without_a_word_ends_nothing():
    assert confident(moment([Pause(1000, 9000)], settled=[], heard_ms=1100, confidence=1.0)) is None


def test_confidence_judges_a_pause_that_is_over():
    pauses = [Pause(1000, 1500), Pause(2000, 2100)]
    assert confident(moment(pauses, heard_ms=1200, confidence=0.9)) == 1400
    assert confident(moment(pauses, heard_ms=1501, confidence=0.9)) is None


def test_a_threshold_of_zero_ends_after_the_shorter_silence_whatever_is_known():
    rules = TurnRules(end_of_turn_confidence_threshold=0)
    assert confident(moment([Pause(1000, 1400)], rules=rules, settled=[])) == 1400
    assert confident(moment([Pause(1000, 1399)], rules=rules, settled=[])) is None


def test_a_threshold_of_one_leaves_only_silence():
    rules = TurnRules(end_of_turn_confidence_threshold=1)
    assert ended(moment([Pause(1000, 3000)], rules=rules, heard_ms=1100, confidence=1.0)) == 2280


WHOLE = TurnRules(min_turn_silence_ms=128, whole=True)


@pytest.mark.parametrize(
    "texts, heard_ms, until_ms, ends_ms",
    [
        ("Please call.", 1096, 1127, None),  # the shorter silence is not over
        ("Please call.", 1096, 1128, 1128),
        ("Please call.", 1400, 3000, 1400),  # heard later
        ("Please call.", 999, 3000, None),  # heard only part of the speech
        ("Please call", 1096, 2000, None),
        ("Please call,", 1096, 2000, None),
        ("はじめまして。", 1096, 2000, 1128),
        ("آپ کیسے ہیں\u06d4", 1096, 2000, 1128),
        ("Its number is 555.", 1096, 2279, None),  # held
        ("Its number is 555.", 1096, 2280, 2280),
    ],
)
def test_punctuated(texts, heard_ms, until_ms, ends_ms):
    words = [Word(text, 100 * n, 100 * n + 90, 0.9) for n, text in enumerate(texts.split(), start=1)]
    at = moment([Pause(1000, until_ms)], rules=WHOLE, settled=words, heard_ms=heard_ms)
    assert punctuated(at) == ends_ms


def test_each_family_has_its_own_rule():
    pause, sure = [Pause(1000, 2000)], {"heard_ms": 1096, "confidence": 1.0}
    assert confident(moment(pause, rules=WHOLE, **sure)) is None
    assert punctuated(moment(pause, **sure)) is None
    assert punctuated(moment(pause, rules=WHOLE, settled=[], **sure)) is None


def test_a_patient_model_holds_for_half_as_long():
    words = [Word("Call", 100, 400, 0.9), Word("555.", 500, 900, 0.9)]
    number = [Word("phone", 0, 90, 0.9), *words]
    at = {"settled": number, "heard_ms": 1100}
    rules = replace(WHOLE, hold=0.5)
    assert punctuated(moment([Pause(1000, 3000)], rules=rules, **at)) == 1640


@pytest.mark.parametrize("until_ms, ends_ms", [(2279, None), (2280, 2280), (9000, 2280)])
def test_silent(until_ms, ends_ms):
    assert silent(moment([Pause(1000, until_ms)])) == ends_ms


@pytest.mark.parametrize("now_ms, ends_ms", [(60_099, None), (60_100, 900), (70_000, 900)])
def test_long_cuts_behind_the_last_settled_word(now_ms, ends_ms):
    assert long(moment([], now_ms=now_ms)) == ends_ms


def test_long_cuts_at_its_limit_where_nothing_is_settled():
    assert long(moment([], now_ms=61_000, settled=[])) == 60_100
    assert long(moment([], now_ms=61_000, settled=[], onset_ms=None)) is None


def ended(at):
    found = ending(at)
    return found and found.at_ms


def test_the_earliest_end_wins():
    assert ended(moment([Pause(1000, 3000)], heard_ms=1100, confidence=0.9)) == 1400
    assert ended(moment([Pause(1000, 3000)])) == 2280
    assert ended(moment([Pause(1000, 1100)])) is None


def test_an_ending_tells_the_rule_and_the_numbers_it_looked_at():
    found = ending(moment([Pause(1000, 3000)], heard_ms=1100, confidence=0.9, now_ms=3000))
    assert found is not None
    assert (found.rule, found.now_ms) == ("confident", 3000)
    assert found.numbers["confident_ms"] == 1400
    assert found.numbers["silent_ms"] == 2280
    assert "long_ms" not in found.numbers
    assert found.numbers["silence_from_ms"] == 1000
    assert found.numbers["confidence"] == 0.9
    assert found.numbers["threshold"] == RULES.end_of_turn_confidence_threshold
