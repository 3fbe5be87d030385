"""Turns: plays for what a session sees, and properties over made-up conversations.

The recognizer here is a simulator written against the contract in `workers/recognizer.py`: it knows which words a
conversation has and when they are said, tells drafts, settles, answers flushes, and can be made slow.
"""

import copy
from collections import deque
from dataclasses import dataclass, field, replace
from itertools import cycle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.playbook import Playbook, call, raises, some
from wire.messages import SpeechStarted, Turn
from wire.messages import Word as TurnWord
from workers.recognizer import Hypothesis, Observation
from workers.turns import MOVES, Finished, Flush, Move, State, TurnRules, TurnTracker
from workers.words import Word

HOP = 32
RULES = TurnRules(format_turns=True)
OPEN = (State.SPEAKING, State.TRAILING)


def hops(start_ms, end_ms, speech):
    """Observations of the hops after `start_ms` up to `end_ms`."""
    return tuple(Observation(at, speech) for at in range(start_ms + HOP, end_ms + 1, HOP))


def heard(*pieces, **words):
    return Hypothesis(tuple(hop for piece in pieces for hop in piece), **words)


def word(text, start_ms, end_ms, confidence=0.9):
    return Word(text, start_ms, end_ms, confidence)


PLEASE, CALL, ANN = word("Please", 640, 880), word("call", 960, 1120), word("Ann", 1200, 1280)
ANNA, ANNA_DOT = word("Anna", 1200, 1520), word("Anna.", 1200, 1520)
SPEECH = (hops(0, 640, 0.0), hops(640, 1536, 0.9))


def partial(transcript, pending=None, utterance="", **attributes):
    """A partial that shows these settled words and this pending one."""

    def shown(words):
        texts = [each.text for each in words if each.word_is_final]
        open_texts = [each.text for each in words if not each.word_is_final]
        return texts == transcript.split() and open_texts == ([pending] if pending else [])

    wanted = {"end_of_turn": False, "transcript": transcript, "words": shown, "utterance": utterance}
    return some(Turn, **{**wanted, **attributes})


def final(transcript, order=0, **attributes):
    wanted = {"end_of_turn": True, "transcript": transcript, "turn_order": order}
    return some(
        Turn, words=lambda words: all(each.word_is_final for each in words), **{**wanted, **attributes}
    )


def spoken(rules=RULES, *settled, tail=(), **news):
    """A book whose session has said "Please call Anna" up to 1536 ms, with these words known."""
    book = Playbook(TurnTracker(rules, 0))
    book.actor.advance(heard(*SPEECH, settled=settled, tail=tail, heard_ms=1536, **news))
    return book


# ---------------------------------------------------------------------------------------------------------------------
# plays


def test_a_turn_from_first_fragment_to_final():
    book = Playbook(TurnTracker(RULES, 0))
    assert (
        book
        >> call.advance(heard(hops(0, 640, 0.0)))
        >> call.advance(heard(hops(640, 736, 0.9), tail=(word("Plea", 640, 720),), heard_ms=736))
        << partial("", "Plea", turn_is_formatted=True, turn_order=0)
        >> call.advance(heard(hops(736, 1312, 0.9), settled=(PLEASE, CALL), tail=(ANN,), heard_ms=1312))
        << partial("Please call", "Ann")
        >> call.advance(heard(hops(1312, 1536, 0.9)))
        >> call.advance(heard(hops(1536, 1728, 0.0), tail=(ANNA,), heard_ms=1728, end_of_turn=0.31))
        << partial("Please call", "Anna", end_of_turn_confidence=0.31)
        >> call.advance(heard(hops(1728, 1856, 0.0)))
        << partial("Please call", "Anna", utterance="Please call Anna")
        >> call.advance(heard(hops(1856, 2784, 0.0)))
        >> call.advance(heard(hops(2784, 2816, 0.0)))
        << Flush(1536 + 1280)
        >> call.advance(heard(settled=(ANNA_DOT,), tail=(), end_of_turn=0.82, flushed_ms=2816, heard_ms=2816))
        << final("Please call Anna.", utterance="", end_of_turn_confidence=0.82, turn_is_formatted=True)
        >> call.force_endpoint(2816)
        >> call.finish(2816)
        << Finished()
    )


@pytest.mark.parametrize(
    "asked,rule", [("force_endpoint", "forced"), ("finish", "terminated"), ("", "silent")]
)
def test_a_flush_knows_why(asked, rule):
    tracker = spoken(RULES, PLEASE).actor
    if asked:
        [flush] = getattr(tracker, asked)(1536)
    else:
        [*_, flush] = tracker.advance(heard(hops(1536, 2848, 0.0)))
    assert isinstance(flush, Flush)
    assert flush.why is not None
    assert (flush.why.rule, flush.why.at_ms) == (rule, flush.at_ms)
    assert flush.why.numbers["words"] == 1


def test_a_confident_turn_ends_after_the_shorter_silence():
    assert (
        spoken(RULES)
        >> call.advance(heard(hops(1536, 1728, 0.0), tail=(PLEASE,), heard_ms=1728, end_of_turn=0.7))
        << partial("", "Please")
        >> call.advance(heard(hops(1728, 1856, 0.0)))
        << partial("", "Please", utterance="Please")
        >> call.advance(heard(hops(1856, 1920, 0.0)))
        >> call.advance(heard(hops(1920, 1952, 0.0)))
        << Flush(1936)
    )


def test_confidence_of_words_that_have_not_heard_the_end_counts_for_nothing():
    book = spoken(RULES, PLEASE, end_of_turn=1.0)  # heard up to 1536, where speech goes on for another hop
    assert (
        book
        >> call.advance(heard(hops(1536, 1568, 0.9), hops(1568, 2240, 0.0)))
        >> call.advance(
            heard(hops(2240, 2272, 0.0), settled=(CALL,), tail=(), heard_ms=1600, end_of_turn=1.0)
        )
        << partial("Please call")
        << Flush(1968)
    )


def test_words_that_come_late_end_the_turn_where_they_would_have_in_time():
    """Speech has resumed when the words come; the turn ends before it all the same, and the next one has it."""
    book = spoken(RULES)
    assert (
        book
        >> call.advance(heard(hops(1536, 2144, 0.0), hops(2144, 2528, 0.9)))
        >> call.advance(heard(tail=(PLEASE, CALL), heard_ms=1728, end_of_turn=0.9))
        << partial("", "Please")
        << Flush(1936)
        >> call.advance(heard(settled=(PLEASE, CALL), tail=(), heard_ms=1936, flushed_ms=1936))
        << final("Please call", utterance="Please call")
    )
    assert book.actor.cut_ms == 1936
    assert book.actor.state is State.SPEAKING
    assert (
        book
        >> call.advance(heard(hops(2528, 3808, 0.0), tail=(word("Anna", 2200, 2500),), heard_ms=2720))
        << partial("", "Anna", turn_order=1, utterance="")
        << partial("", "Anna", turn_order=1, utterance="Anna")
        << Flush(2528 + 1280)
    )


def test_silence_ends_a_turn_whose_words_are_not_yet_known():
    assert (
        spoken()
        >> call.advance(heard(hops(1536, 2816, 0.0)))
        << Flush(2816)
        >> call.advance(heard(settled=(PLEASE,), tail=(), flushed_ms=2816, heard_ms=2816))
        << final("Please", utterance="Please")
    )


def test_a_threshold_of_zero_ends_after_the_shorter_silence_without_words():
    book = spoken(replace(RULES, end_of_turn_confidence_threshold=0.0))
    assert book >> call.advance(heard(hops(1536, 1952, 0.0))) << Flush(1936)


def test_a_threshold_of_one_waits_for_the_longer_silence():
    book = spoken(replace(RULES, end_of_turn_confidence_threshold=1.0), PLEASE)
    assert (
        book
        >> call.advance(heard(hops(1536, 1600, 0.0), tail=(), heard_ms=1600, end_of_turn=1.0))
        >> call.advance(heard(hops(1600, 2784, 0.0)))
        << partial("Please", utterance="Please")
        >> call.advance(heard(hops(2784, 2816, 0.0)))
        << Flush(2816)
    )


def test_a_cough_ends_without_a_message_and_its_order_is_used_again():
    book = spoken()
    assert (
        book
        >> call.advance(heard(hops(1536, 2816, 0.0)))
        << Flush(2816)
        >> call.advance(heard(tail=(), flushed_ms=2816, heard_ms=2816))
    )
    assert (book.actor.order, book.actor.state) == (0, State.LISTENING)


def test_a_click_is_forgotten_and_asks_for_nothing():
    book = Playbook(TurnTracker(RULES, 0))
    assert book >> call.advance(heard(hops(0, 64, 0.9), hops(64, 1312, 0.0)))
    assert book.actor.state is State.TRAILING
    assert book >> call.advance(heard(hops(1312, 1376, 0.0))) >> call.finish(1376) << Finished()


def test_quiet_speech_ends_by_the_silence_after_its_last_word():
    assert (
        Playbook(TurnTracker(RULES, 0))
        >> call.advance(heard(hops(0, 2016, 0.1), tail=(PLEASE, CALL), heard_ms=2016))
        << partial("", "Please", utterance="Please call")
        >> call.advance(heard(hops(2016, 2400, 0.1)))
        << Flush(1120 + 1280)
    )


def test_a_word_that_was_shown_and_is_taken_back_leaves_the_client_with_none():
    assert (
        spoken(RULES, tail=(word("Uh", 700, 800),))
        >> call.advance(heard(hops(1536, 1728, 0.0), tail=(), heard_ms=1728))
        << partial("")
        >> call.advance(heard(hops(1728, 2816, 0.0)))
        << Flush(2816)
        >> call.advance(heard(tail=(), flushed_ms=2816, heard_ms=2816))
    )


def test_a_pending_word_that_the_flush_does_not_confirm_is_taken_back():
    book = spoken(RULES, tail=(word("Uh", 700, 800),))
    book.actor.advance(heard(hops(1536, 2816, 0.0)))
    assert book >> call.advance(heard(tail=(), flushed_ms=2816, heard_ms=2816)) << partial("", turn_order=0)
    assert book.actor.order == 0


def test_a_repeated_draft_is_not_told_again():
    assert spoken(RULES, tail=(ANN,)) >> call.advance(
        heard(hops(1536, 1568, 0.9), tail=(ANN, ANNA), heard_ms=1568)
    )


def test_settled_words_leave_a_tail_of_which_nothing_was_said():
    assert (
        spoken(RULES, tail=(PLEASE, CALL, ANN))
        >> call.advance(heard(hops(1536, 1568, 0.9), settled=(PLEASE,)))
        << partial("Please", "call")
    )


def test_each_pause_ends_one_utterance_and_the_final_tells_the_rest():
    rules = replace(RULES, end_of_turn_confidence_threshold=0.9)
    thanks = word("Thanks.", 2600, 2900)
    book = spoken(rules)
    assert (
        book
        >> call.advance(heard(hops(1536, 1728, 0.0), settled=(PLEASE, CALL), tail=(ANNA, ANN), heard_ms=1728))
        << partial("Please call", "Anna")
        >> call.advance(heard(hops(1728, 2016, 0.0)))
        << partial("Please call", "Anna", utterance="Please call Anna Ann")
        >> call.advance(heard(hops(2016, 2592, 0.0), hops(2592, 2912, 0.9)))
        >> call.advance(heard(hops(2912, 3104, 0.0), settled=(ANNA_DOT,), tail=(thanks,), heard_ms=3104))
        << partial("Please call Anna.", "Thanks.")
        >> call.force_endpoint(3104)
        << Flush(3104)
        >> call.advance(heard(settled=(thanks,), tail=(), heard_ms=3104, flushed_ms=3104))
        << final("Please call Anna. Thanks.", utterance="Thanks.")
    )


def test_without_formatting_text_is_plain_and_says_so():
    book = Playbook(TurnTracker(TurnRules(), 0))
    book.actor.advance(heard(*SPEECH))
    assert (
        book
        >> call.advance(heard(hops(1536, 1728, 0.0), tail=(PLEASE, ANNA_DOT), heard_ms=1728, end_of_turn=0.9))
        << partial("", "please", turn_is_formatted=False, end_of_turn_confidence=0.9)
        >> call.advance(heard(hops(1728, 1952, 0.0)))
        << partial("", "please", utterance="please anna")
        << Flush(1936)
        >> call.advance(heard(settled=(PLEASE, ANNA_DOT), tail=(), heard_ms=1936, flushed_ms=1936))
        << final("please anna", turn_is_formatted=False, utterance="")
    )


def test_formatting_changes_with_the_next_turn_only():
    book = spoken(RULES, PLEASE)
    book.actor.configure(TurnRules())
    assert book >> call.force_endpoint(1536) << Flush(1536)
    assert (
        book
        >> call.advance(
            heard(hops(1536, 1568, 0.9), settled=(CALL,), tail=(), heard_ms=1536, flushed_ms=1536)
        )
        << final("Please call", turn_is_formatted=True)
        >> call.advance(heard(hops(1568, 1888, 0.9), settled=(word("Anna.", 1600, 1700),), heard_ms=1888))
        << partial("anna", turn_is_formatted=False, turn_order=1)
    )


def test_new_rules_hold_at_once():
    book = spoken(RULES, PLEASE)
    book.actor.advance(heard(hops(1536, 2048, 0.0)))
    assert book >> call.configure(replace(RULES, max_turn_silence_ms=400)) << Flush(1936)


def test_a_new_vad_threshold_holds_for_the_next_hop():
    book = Playbook(TurnTracker(RULES, 0))
    assert book >> call.advance(heard(hops(0, 320, 0.2))) >> call.configure(replace(RULES, vad_threshold=0.1))
    assert book >> call.advance(heard(hops(320, 640, 0.2)))
    assert book.actor.state is State.SPEAKING


def test_a_forced_endpoint_cuts_speech_in_two():
    book = spoken(RULES, PLEASE)
    assert (
        book
        >> call.force_endpoint(1550)
        << Flush(1550)
        >> call.advance(heard(hops(1536, 1920, 0.9)))
        >> call.advance(
            heard(settled=(CALL, ANNA, word("Now", 1600, 1800)), tail=(), heard_ms=1920, flushed_ms=1550)
        )
        << final("Please call Anna", utterance="Please call Anna")
        << partial("Now", turn_order=1)
    )
    assert book.actor.cut_ms == 1550


def test_forced_endpoints_in_silence_do_nothing():
    book = Playbook(TurnTracker(RULES, 3))
    assert (
        book >> call.force_endpoint(0) >> call.advance(heard(hops(0, 640, 0.0))) >> call.force_endpoint(640)
    )
    assert (book.actor.order, book.actor.state) == (3, State.LISTENING)


def test_a_forced_endpoint_behind_an_end_already_decided_ends_nothing_more():
    book = spoken(RULES, PLEASE)
    assert (
        book
        >> call.advance(heard(hops(1536, 2816, 0.0)))
        << partial("Please", utterance="Please")
        << Flush(2816)
        >> call.force_endpoint(2816)
        >> call.advance(heard(tail=(), heard_ms=2816, flushed_ms=2816))
        << final("Please")
    )


def test_an_answer_to_an_earlier_time_is_no_answer():
    book = spoken(RULES, PLEASE)
    assert book >> call.force_endpoint(1536) << Flush(1536)
    assert book >> call.advance(heard(flushed_ms=1535))
    assert book >> call.advance(heard(flushed_ms=1536)) << final("Please")


def test_what_is_told_while_a_flush_is_awaited_belongs_to_the_next_turn():
    now = word("Now", 3000, 3200)
    assert (
        spoken(RULES, PLEASE)
        >> call.force_endpoint(1536)
        << Flush(1536)
        >> call.advance(heard(hops(1536, 2976, 0.0), hops(2976, 3200, 0.9), tail=(CALL, now), heard_ms=3200))
        >> call.advance(heard(settled=(CALL,), heard_ms=3200, flushed_ms=1536))
        << final("Please call")
        << partial("", "Now", turn_order=1)
    )


def test_a_tail_told_while_a_flush_is_awaited_is_shown_as_it_was_last_told():
    now, then = word("Now", 1600, 1900), word("then", 1900, 2200)
    assert (
        spoken(RULES, PLEASE)
        >> call.force_endpoint(1536)
        << Flush(1536)
        >> call.advance(heard(hops(1536, 2240, 0.9), tail=(now,), heard_ms=2000))
        >> call.advance(heard(settled=(CALL, now), tail=(then,), heard_ms=2240, flushed_ms=1536))
        << final("Please call")
        << partial("Now", "then", turn_order=1)
    )


def test_confidence_in_the_next_turn_is_not_told_of_the_last():
    book = spoken(RULES, PLEASE, end_of_turn=0.3)
    assert book >> call.force_endpoint(1536) << Flush(1536)
    assert (
        book
        >> call.advance(
            heard(
                hops(1536, 1920, 0.9),
                tail=(word("Now", 1600, 1800),),
                heard_ms=1920,
                end_of_turn=0.8,
                flushed_ms=1536,
            )
        )
        << final("Please", end_of_turn_confidence=0.3)
        << partial("", "Now", end_of_turn_confidence=0.8)
    )


def test_words_confirmed_by_listening_on_count_as_heard():
    book = spoken(RULES, tail=(PLEASE,))
    assert (
        book
        >> call.advance(heard(hops(1536, 1920, 0.0), heard_ms=1728, end_of_turn=0.9))
        << partial("", "Please", utterance="Please")
        >> call.advance(heard(hops(1920, 1952, 0.0)))
        << Flush(1936)
    )


def test_a_forced_endpoint_before_anyone_spoke_does_nothing():
    assert spoken(RULES, PLEASE) >> call.force_endpoint(640)


def test_news_that_do_not_say_how_far_they_heard_unhear_nothing():
    book = spoken(RULES)
    book.actor.advance(heard(hops(1536, 1728, 0.0), tail=(PLEASE,), heard_ms=1728, end_of_turn=0.9))
    book.actor.advance(heard(settled=(PLEASE,), end_of_turn=0.9))
    assert (
        book
        >> call.advance(heard(hops(1728, 1952, 0.0)))
        << partial("Please", utterance="Please")
        << Flush(1936)
    )


def test_the_end_of_audio_settles_the_open_turn():
    assert (
        spoken(RULES, tail=(PLEASE,))
        >> call.finish(1540)
        << Flush(1540)
        >> call.advance(heard(settled=(PLEASE,), tail=(), heard_ms=1540, flushed_ms=1540))
        << final("Please")
        << Finished()
        >> call.advance(heard(hops(1536, 3200, 0.9), settled=(CALL,)))
        >> call.force_endpoint(3200)
        >> call.configure(TurnRules())
        >> call.finish(3200)
    )


def test_the_end_of_audio_waits_for_the_flush_before_it():
    assert (
        spoken(RULES, PLEASE)
        >> call.force_endpoint(1536)
        << Flush(1536)
        >> call.advance(heard(hops(1536, 1856, 0.9)))
        >> call.finish(1856)
        >> call.advance(heard(tail=(), heard_ms=1536, flushed_ms=1536))
        << final("Please")
        << Flush(1856)
        >> call.advance(heard(settled=(word("Now", 1600, 1800),), tail=(), heard_ms=1856, flushed_ms=1856))
        << final("Now", order=1)
        << Finished()
    )


def test_speech_started_comes_once_before_the_first_turn_of_a_turn():
    started = some(SpeechStarted, timestamp=640, confidence=0.9)
    book = Playbook(TurnTracker(replace(RULES, whole=True), 0))
    assert (
        book
        >> call.advance(heard(*SPEECH, tail=(PLEASE,), heard_ms=1536))
        << started
        << some(Turn, end_of_turn=False, transcript="Please")
        >> call.force_endpoint(1536)
        << Flush(1536)
        >> call.advance(heard(settled=(PLEASE,), tail=(), heard_ms=1536, flushed_ms=1536))
        << final("Please")
    )


U3 = replace(RULES, whole=True, min_turn_silence_ms=128, max_turn_silence_ms=1280)


def test_a_closed_sentence_ends_a_turn_of_the_u3_family_after_the_shorter_silence():
    book = spoken(U3)
    assert (
        book
        >> call.advance(heard(hops(1536, 1664, 0.0), tail=(PLEASE, CALL, ANNA_DOT), heard_ms=1664))
        << some(SpeechStarted)
        << some(Turn, end_of_turn=False, transcript="Please call Anna.")
        << Flush(1664)
        >> call.advance(heard(settled=(PLEASE, CALL, ANNA_DOT), tail=(), heard_ms=1664, flushed_ms=1664))
        << final("Please call Anna.", utterance="Please call Anna.", end_of_turn_confidence=1.0)
    )


def test_an_open_sentence_is_shown_at_the_pause_and_waits_for_the_longer_silence():
    book = spoken(U3, tail=(PLEASE, CALL, ANNA))
    shown = some(Turn, end_of_turn=False, transcript="Please call Anna", utterance="")
    assert (
        book
        >> call.advance(heard(hops(1536, 1632, 0.0), tail=(PLEASE, CALL, ANNA), heard_ms=1632))
        >> call.advance(heard(hops(1632, 1664, 0.0)))
        << shown  # told before with the same words; the pause is the news
        >> call.advance(heard(hops(1664, 2784, 0.0)))
        >> call.advance(heard(hops(2784, 2816, 0.0)))
        << Flush(2816)
    )


def test_a_number_that_stops_short_is_held_though_its_sentence_is_closed():
    number = (
        word("Its", 640, 800),
        word("number", 820, 1100),
        word("is", 1110, 1200),
        word("555.", 1210, 1500),
    )
    book = spoken(U3)
    assert (
        book
        >> call.advance(heard(hops(1536, 1664, 0.0), tail=number, heard_ms=1664))
        << some(SpeechStarted)
        << some(Turn, end_of_turn=False, transcript="Its number is 555.")
        >> call.advance(heard(hops(1664, 2784, 0.0)))
        >> call.advance(heard(hops(2784, 2816, 0.0)))
        << Flush(2816)
    )


def test_words_may_change_until_the_final_in_the_u3_family():
    book = spoken(U3, tail=(PLEASE, CALL, ANN))
    assert (
        book
        >> call.advance(heard(tail=(word("Police", 640, 880), ANNA), heard_ms=1540))
        << some(Turn, end_of_turn=False, transcript="Police Anna", turn_order=0)
    )


def test_a_resumed_session_goes_on_with_its_order():
    book = Playbook(TurnTracker(RULES, 7, at_ms=64_000))
    assert (
        book
        >> call.advance(
            heard(hops(64_000, 64_320, 0.9), settled=(word("Hi", 64_000, 64_300),), heard_ms=64_320)
        )
        << partial("Hi", turn_order=7)
    )


@pytest.mark.parametrize("confidence, told", [(float("nan"), 0.0), (-1.0, 0.0), (7.0, 1.0)])
def test_confidence_is_told_as_a_probability(confidence, told):
    [turn] = TurnTracker(RULES, 0).advance(
        heard(*SPEECH, settled=(PLEASE,), heard_ms=1536, end_of_turn=confidence)
    )
    assert isinstance(turn, Turn)
    assert turn.end_of_turn_confidence == told


def test_hops_that_do_not_advance_are_refused():
    book = Playbook(TurnTracker(RULES, 0, at_ms=320))
    assert book >> call.advance(heard(hops(288, 320, 0.9))) << raises(ValueError, "backwards")
    assert (
        book
        >> call.advance(heard(hops(320, 352, 0.9), hops(320, 352, 0.9)))
        << raises(ValueError, "backwards")
    )
    assert book >> call.advance(heard(hops(320, 352, 0.9)))


# ---------------------------------------------------------------------------------------------------------------------
# the table


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("move", Move)
def test_a_move_is_in_the_table_or_changes_nothing(state, move):
    tracker = TurnTracker(RULES, 0)
    tracker.state = state
    if (state, move) in MOVES:
        tracker._move(move)
        assert tracker.state is MOVES[state, move]
    else:
        with pytest.raises(RuntimeError, match=f"{move} in {state}"):
            tracker._move(move)
        assert tracker.state is state


def test_every_state_can_be_reached_and_only_the_last_is_not_left():
    assert {State.LISTENING, *MOVES.values()} == set(State)
    assert {state for state, _ in MOVES} == set(State) - {State.DONE}


# ---------------------------------------------------------------------------------------------------------------------
# made-up conversations


@dataclass(frozen=True)
class Conversation:
    """Speech probability by hop, the words, and when a decode listens: (heard_ms, belief that the turn is over)."""

    speech: tuple[float, ...]
    words: tuple[Word, ...]
    decodes: tuple[tuple[int, float], ...]

    @property
    def end_ms(self):
        return HOP * len(self.speech)


loudness = st.lists(st.sampled_from([0.9, 0.6, 0.3]), min_size=1, max_size=4)
quietness = st.lists(st.sampled_from([0.0, 0.2]), min_size=1, max_size=3)
lengths = st.tuples(
    st.integers(60, 400), st.sampled_from([0, 30, 120])
)  # of a word, and of the gap behind it
beliefs = st.sampled_from([0.1, 0.39, 0.41, 0.95])
parts = st.tuples(
    *(st.integers(0, 60), quietness, st.booleans()),
    *(st.integers(10, 50), loudness, st.lists(lengths, min_size=1, max_size=3), beliefs),
)
conversation_parts = st.lists(parts, max_size=4)


@st.composite
def conversations(draw):
    """Stretches of speech with words, pauses of every length, clicks, coughs; a decode in pauses and in long speech."""
    speech: list[float] = []
    words: list[Word] = []
    decodes: list[tuple[int, float]] = []
    for silent_hops, quiet, click, said_hops, loud, word_lengths, belief in draw(conversation_parts):
        pause = fill(quiet, silent_hops)
        if click and len(pause) > 8:
            pause[-4] = 0.9
        speech += pause
        start, end = HOP * len(speech), HOP * (len(speech) + said_hops)
        speech += [0.9, 0.9, *fill(loud, said_hops - 2), *fill(quiet, 6)]
        decodes += [(at, 0.05) for at in range(start + 640, end, 640)] + [(end + 192, belief)]
        words += said(start, end, word_lengths, len(words))
    speech += fill([0.0], draw(st.integers(1, 60)))
    return Conversation(tuple(speech), tuple(words) if draw(st.integers(0, 9)) else (), tuple(decodes))


def fill(pattern, count):
    return [pattern[n % len(pattern)] for n in range(count)]


def said(start, end, word_lengths, number):
    """Words of these lengths and gaps, over and over, that end a little before `end`."""
    words: list[Word] = []
    sizes = cycle(word_lengths)
    length, gap = next(sizes)
    while start + length <= end - 40:
        words.append(word(f"w{number + len(words)}", start, start + length))
        start += length + gap
        length, gap = next(sizes)
    return words


@dataclass
class Simulator:
    """A recognizer that knows what is said, step by step; decodes come `late_ms` after the audio they have heard."""

    talk: Conversation
    late_ms: int = 0
    flush_ms: int | None = None
    stepped: int = 0  # hops
    settled: int = 0  # words
    known_ms: int = 0
    todo: deque = field(default_factory=deque)

    def __post_init__(self):
        self.todo.extend(self.talk.decodes)

    def resumed(self, at_ms):
        """As if all before `at_ms` had been told."""
        self.stepped, self.known_ms = at_ms // HOP, at_ms
        self.settled = sum(each.start_ms < at_ms for each in self.talk.words)
        return self

    def step(self, count):
        """Hypothesis after the next `count` hops."""
        first, self.stepped = self.stepped, min(self.stepped + count, len(self.talk.speech))
        now_ms = HOP * self.stepped
        hops = tuple(Observation(HOP * (n + 1), self.talk.speech[n]) for n in range(first, self.stepped))
        if self.flush_ms is not None:
            return self.answer(hops)
        while self.todo and self.todo[0][0] <= self.known_ms:
            self.todo.popleft()  # a flush has heard as much
        if self.todo and self.todo[0][0] + self.late_ms <= now_ms:
            return self.decode(hops, *self.todo.popleft())
        return Hypothesis(hops)

    def answer(self, hops):
        at_ms, self.flush_ms = self.flush_ms or 0, None
        self.known_ms = max(self.known_ms, at_ms)
        settled = self.settle(lambda each: each.start_ms < at_ms)
        return Hypothesis(hops, settled, (), 0.5, at_ms, at_ms)

    def decode(self, hops, heard_ms, confidence):
        self.known_ms = heard_ms
        settled = self.settle(lambda each: each.end_ms <= heard_ms - 700)
        tail = [each for each in self.talk.words[self.settled :] if each.end_ms <= heard_ms]
        if tail and tail[-1].end_ms > heard_ms - 240:
            tail[-1] = replace(tail[-1], text=tail[-1].text + "~")  # half heard
        return Hypothesis(hops, settled, tuple(tail), confidence, None, heard_ms)

    def settle(self, ripe):
        ripe_words = [each for each in self.talk.words[self.settled :] if ripe(each)]
        self.settled += len(ripe_words)
        return tuple(ripe_words)


@dataclass
class Run:
    """What one way of stepping through a conversation led to."""

    effects: list
    messages: list
    cuts: list
    tracker: TurnTracker

    @property
    def finals(self):
        return [turn for turn in self.messages if turn.end_of_turn]

    @property
    def told(self):
        return [
            (turn.turn_order, [(each.text, each.start, each.end) for each in turn.words])
            for turn in self.finals
        ]


def play(talk, rules=RULES, chunks=(1,), late_ms=0, delays=(0,), each_step=None, order=0, at_ms=0):
    """Step through to the end; an answer to a flush waits for some more steps, in turn as `delays` say.

    With `at_ms`, a session that resumes there with turn `order`.
    """
    tracker, simulator = TurnTracker(rules, order, at_ms), Simulator(talk, late_ms).resumed(at_ms)
    effects, sizes, waits = [], cycle(chunks), cycle(delays)
    asked, wait = None, 0

    def perform(found):
        nonlocal asked, wait
        effects.extend(found)
        for effect in found:
            if isinstance(effect, Flush):
                assert asked is None, "one flush at a time"
                assert effect.at_ms <= HOP * simulator.stepped, "not of audio to come"
                asked, wait = effect.at_ms, next(waits)

    def step(count):
        nonlocal asked, wait
        if asked is not None and wait == 0:
            simulator.flush_ms, asked = asked, None
        wait -= 1
        perform(tracker.advance(simulator.step(count)))
        if each_step:
            each_step(tracker, HOP * simulator.stepped)

    while simulator.stepped < len(talk.speech):
        step(next(sizes))
    perform(tracker.finish(talk.end_ms))
    for _ in range(100):
        if tracker.state is not State.DONE:
            step(0)
    assert tracker.state is State.DONE
    messages = [effect for effect in effects if isinstance(effect, Turn)]
    return Run(effects, messages, [effect.at_ms for effect in effects if isinstance(effect, Flush)], tracker)


def snapshot(tracker):
    """All there is to a tracker, for comparison."""
    return copy.deepcopy({**vars(tracker), "_gate": vars(tracker._gate)})


chunkings = st.lists(st.integers(1, 8), min_size=1, max_size=6)
slowness = {
    "chunks": chunkings,
    "late_ms": st.integers(0, 500),
    "delays": st.lists(st.integers(0, 3), min_size=1),
}
some_rules = st.builds(
    TurnRules,
    min_turn_silence_ms=st.sampled_from([160, 400, 416]),
    max_turn_silence_ms=st.sampled_from([960, 1280, 1300]),
    end_of_turn_confidence_threshold=st.sampled_from([0.0, 0.4, 1.0]),
    format_turns=st.booleans(),
)
#: The U3 family: every second word closes a sentence, should a pause follow.
u3_rules = st.builds(
    TurnRules,
    min_turn_silence_ms=st.sampled_from([100, 128, 512]),
    max_turn_silence_ms=st.sampled_from([640, 1280, 1300]),
    hold=st.sampled_from([0.5, 1.0]),
    format_turns=st.just(True),
    whole=st.just(True),
)


def closed(talk):
    words = [replace(each, text=each.text + "." * (n % 2)) for n, each in enumerate(talk.words)]
    return replace(talk, words=tuple(words))


cases = st.tuples(conversations(), some_rules) | st.tuples(conversations().map(closed), u3_rules)
many = settings(max_examples=max(300, settings().max_examples))


@many
@given(cases, st.fixed_dictionaries(slowness))
def test_every_settled_word_is_in_exactly_one_final_in_order(case, slow):
    talk, rules = case
    run = play(talk, rules, **slow)
    found = [each.text for turn in run.finals for each in turn.words]
    assert found == [each.text for each in talk.words]


@many
@given(cases, st.fixed_dictionaries(slowness))
def test_orders_count_up_and_partials_carry_the_open_one(case, slow):
    talk, rules = case
    run = play(talk, rules, **slow)
    assert [turn.turn_order for turn in run.finals] == list(range(len(run.finals)))
    open_order = 0
    for turn in run.messages:
        assert turn.turn_order == open_order
        open_order += turn.end_of_turn
    assert run.tracker.order == open_order


@many
@given(cases, chunkings, st.lists(st.integers(0, 1), min_size=1))
def test_cutting_the_audio_into_other_chunks_moves_no_endpoint(case, chunks, delays):
    talk, rules = case
    whole, other = play(talk, rules), play(talk, rules, chunks, delays=delays)
    assert other.told == whole.told
    assert other.cuts == whole.cuts


@many
@given(cases, st.fixed_dictionaries(slowness))
def test_a_slow_recognizer_changes_no_final(case, slow):
    talk, rules = case
    assert play(talk, rules, **slow).told == play(talk, rules).told


@many
@given(conversations(), st.booleans(), chunkings, st.data())
def test_a_session_resumed_at_a_final_tells_the_same_finals(talk, sure, chunks, data):
    """Silences are whole hops here, so that a resumed session's hops lie where they lay."""
    cuts = [(0, 0)]
    rules = replace(RULES, min_turn_silence_ms=416, end_of_turn_confidence_threshold=0.4 if sure else 0.0)
    whole = play(talk, rules, each_step=lambda tracker, _: cuts.append((tracker.order, tracker.cut_ms)))
    order, at_ms = data.draw(st.sampled_from(sorted({cut for cut in cuts if cut[1] % HOP == 0})))
    assert play(talk, rules, chunks, order=order, at_ms=at_ms).told == whole.told[order:]


@many
@given(st.lists(st.floats(0, 0.39), max_size=150), some_rules, chunkings)
def test_no_speech_in_nothing_out(speech, rules, chunks):
    assert play(Conversation(tuple(speech), (), ()), rules, chunks).effects == [Finished()]


@many
@given(cases, chunkings)
def test_no_turn_stays_open_longer_than_the_longest_silence(case, chunks):
    talk, rules = case

    def check(tracker, now_ms):
        hops = talk.speech[: now_ms // HOP]
        last = max(
            (n for n, speech in enumerate(hops, start=1) if speech >= rules.vad_threshold - 0.15), default=0
        )
        if now_ms - HOP * last >= rules.max_turn_silence_ms:
            assert tracker.state not in OPEN

    play(talk, rules, chunks, each_step=check)


@many
@given(cases, chunkings)
def test_a_turn_that_ends_at_a_pause_ends_within_the_longest_silence_after_speech(case, chunks):
    talk, rules = case
    run = play(talk, rules, chunks)
    for cut in run.cuts[:-1]:  # the last may be the end of the audio
        before = talk.speech[: -(-cut // HOP)]
        last = HOP * max(
            n for n, speech in enumerate(before, start=1) if speech >= rules.vad_threshold - 0.15
        )
        assert cut - last <= rules.max_turn_silence_ms


@many
@given(cases, chunkings)
def test_forcing_an_endpoint_in_silence_does_nothing(case, chunks):
    talk, rules = case

    def force(tracker, now_ms):
        if tracker.state is State.LISTENING:
            before = snapshot(tracker)
            assert tracker.force_endpoint(now_ms) == []
            assert snapshot(tracker) == before

    assert play(talk, rules, chunks, each_step=force).effects == play(talk, rules, chunks).effects


@many
@given(conversations(), chunkings, st.lists(st.sampled_from("afcz"), max_size=6))
def test_after_the_end_nothing(talk, chunks, inputs):
    tracker = play(talk, chunks=chunks).tracker
    late = heard(
        hops(talk.end_ms, talk.end_ms + 3200, 0.9), settled=(PLEASE,), tail=(CALL,), flushed_ms=10**6
    )
    calls = {
        "a": lambda: tracker.advance(late),
        "f": lambda: tracker.force_endpoint(10**6),
        "c": lambda: tracker.configure(TurnRules()),
        "z": lambda: tracker.finish(10**6),
    }
    for each in inputs:
        assert calls[each]() == []
        assert tracker.state is State.DONE


@many
@given(conversations(), some_rules, st.fixed_dictionaries(slowness))
def test_partials_show_one_pending_word_and_final_words_never_change(talk, rules, slow):
    shown: dict[int, list[TurnWord]] = {}
    for turn in play(talk, rules, **slow).messages:
        states = [each.word_is_final for each in turn.words]
        assert states in ([True] * len(states), [True] * (len(states) - 1) + [False])
        assert turn.transcript == " ".join(each.text for each in turn.words if each.word_is_final)
        final_words = [each for each in turn.words if each.word_is_final]
        before = shown.setdefault(turn.turn_order, [])
        assert final_words[: len(before)] == before
        shown[turn.turn_order] = final_words
        assert turn.turn_is_formatted is rules.format_turns
        if turn.end_of_turn:
            assert all(states)
            assert states


@many
@given(conversations(), some_rules, st.fixed_dictionaries(slowness))
def test_utterances_tell_no_word_twice(talk, rules, slow):
    utterances = [turn.utterance for turn in play(talk, rules, **slow).messages]
    told = [
        int(text.removeprefix("w").removesuffix("~"))
        for utterance in utterances
        for text in utterance.split()
    ]
    assert told == sorted(set(told))


@many
@given(conversations(), st.integers(200, 4000), st.fixed_dictionaries(slowness))
def test_a_cut_of_long_turns_loses_nothing(talk, max_turn_ms, slow):
    rules = replace(
        RULES, max_turn_ms=max_turn_ms, max_turn_silence_ms=2_500, end_of_turn_confidence_threshold=1.0
    )
    run = play(talk, rules, **slow)
    assert [each.text for turn in run.finals for each in turn.words] == [each.text for each in talk.words]
    assert run.cuts == sorted(run.cuts)
    settled_ms = 0  # end of the last word that the open turn has shown as final
    for effect in run.effects:
        if isinstance(effect, Turn):
            ends = [each.end for each in effect.words if each.word_is_final]
            settled_ms = 0 if effect.end_of_turn else max(ends, default=0)
        elif isinstance(effect, Flush):
            assert effect.at_ms >= settled_ms


@many
@given(conversations().map(closed), u3_rules, st.fixed_dictionaries(slowness))
def test_the_u3_family_tells_a_turn_whole_and_announces_it_once(talk, rules, slow):
    run = play(talk, rules, **slow)
    told = [effect for effect in run.effects if isinstance(effect, Turn | SpeechStarted)]
    announced = [n for n, effect in enumerate(told) if isinstance(effect, SpeechStarted)]
    first = {
        told.index(turn): turn for turn in {each.turn_order: each for each in reversed(run.messages)}.values()
    }
    assert sorted(first) == [n + 1 for n in announced]  # each right before the first message of its turn
    for turn in run.messages:
        assert turn.transcript == " ".join(each.text for each in turn.words)
        assert {each.word_is_final for each in turn.words} <= {turn.end_of_turn}
        assert (turn.utterance, turn.end_of_turn_confidence) == (
            (turn.transcript, 1) if turn.end_of_turn else ("", 0)
        )


# ---------------------------------------------------------------------------------------------------------------------
# language, masks, scripts without spaces

LISTENING = replace(RULES, language_detection=True)
FRENCH = {"language": "fr", "language_confidence": 0.93}


def ended(rules, *settled, **news):
    """A turn of these words, ended by force and answered; the final."""
    book = spoken(rules, *settled, **news)
    assert book.actor.force_endpoint(1536) == [Flush(1536)]
    told = [
        each for each in book.actor.advance(heard(flushed_ms=1536, heard_ms=1536)) if isinstance(each, Turn)
    ]
    assert [turn.end_of_turn for turn in told] == [True]
    return told[0]


def test_language_is_told_with_finals_to_those_who_asked():
    assert (ended(LISTENING, PLEASE, CALL, **FRENCH).language_code) == "fr"
    assert (ended(LISTENING, PLEASE, CALL, **FRENCH).language_confidence) == 0.93
    assert (ended(RULES, PLEASE, CALL, **FRENCH).language_code) is None
    assert (ended(LISTENING, PLEASE, CALL).language_code) is None


def test_language_is_not_told_with_partials_that_end_no_utterance():
    tracker = TurnTracker(LISTENING, 0)
    effects = tracker.advance(heard(*SPEECH, settled=(PLEASE,), tail=(CALL,), heard_ms=1536, **FRENCH))
    assert [effect.language_code for effect in effects if isinstance(effect, Turn)] == [None]


def test_a_language_that_the_client_gave_is_certain():
    assert ended(LISTENING, PLEASE, CALL, language="fr").language_confidence == 1.0


def test_the_next_turn_does_not_inherit_the_language():
    book = spoken(LISTENING, PLEASE, CALL, **FRENCH)
    book.actor.force_endpoint(1536)
    book.actor.advance(heard(flushed_ms=1536, heard_ms=1536, **FRENCH))
    later = hops(1536, 2560, 0.9)
    book.actor.advance(heard(later, settled=(word("Hello", 1600, 2000),), heard_ms=2560))
    assert book.actor.force_endpoint(2560) == [Flush(2560)]
    (told,) = [
        each for each in book.actor.advance(heard(flushed_ms=2560, heard_ms=2560)) if isinstance(each, Turn)
    ]
    assert told.language_code is None


def test_strong_words_are_masked_for_those_who_asked():
    shit = word("Shit,", 960, 1120)
    masked = ended(replace(RULES, filter_profanity=True), PLEASE, shit)
    assert (masked.transcript, masked.words[1].text) == ("Please S***,", "S***,")
    assert ended(RULES, PLEASE, shit).transcript == "Please Shit,"


def test_scripts_without_spaces_are_joined_without():
    assert ended(RULES, word("今日", 640, 880), word("は", 960, 1120)).transcript == "今日は"


# ---------------------------------------------------------------------------------------------------------------------
# anything in any state

any_time = st.integers(-100, 6_000)
any_words = st.lists(
    st.builds(word, st.sampled_from(["a", "b.", "'", "C"]), any_time, any_time, st.floats(0, 1)), max_size=3
).map(tuple)
any_hypothesis = st.fixed_dictionaries(
    {
        "hops": st.lists(st.tuples(st.integers(-5, 400), st.floats()), max_size=8),  # ms since the one before
        "settled": any_words,
        "tail": st.none() | any_words,
        "end_of_turn": st.floats(),
        "flushed_ms": st.none() | any_time | st.just(10**9),
        "heard_ms": any_time,
    }
)
any_input = st.one_of(
    st.tuples(st.just("advance"), any_hypothesis),
    st.tuples(st.just("advance"), any_hypothesis),
    st.tuples(st.just("force_endpoint"), any_time),
    st.tuples(st.just("configure"), some_rules),
    st.tuples(st.just("finish"), any_time),
)


def hypothesis_after(tracker, hops, **told):
    at_ms, observations = tracker._gate.at_ms, []
    for step_ms, speech in hops:
        at_ms += step_ms
        observations.append(Observation(at_ms, speech))
    return Hypothesis(tuple(observations), **told)


@settings(max_examples=max(600, settings().max_examples))
@given(some_rules, st.lists(any_input, max_size=25))
def test_any_input_in_any_state_leads_to_a_legal_state_or_is_refused_and_changes_nothing(rules, inputs):
    tracker, asked_ms, order = TurnTracker(rules, 0), None, 0
    for name, value in inputs:
        argument = hypothesis_after(tracker, **value) if name == "advance" else value
        before, state = snapshot(tracker), tracker.state
        try:
            effects = getattr(tracker, name)(argument)
        except ValueError:
            assert name == "advance"
            assert snapshot(tracker) == before
            continue
        if state is State.DONE:
            assert effects == []
            assert snapshot(tracker) == before
        flushed_ms = argument.flushed_ms if name == "advance" else None
        if asked_ms is not None and flushed_ms is not None and flushed_ms >= asked_ms:
            asked_ms = None
        elif asked_ms is not None:
            assert effects == [], "nothing is decided before the answer"
        for effect in effects:
            if isinstance(effect, Flush):
                assert asked_ms is None, "one flush at a time"
                asked_ms = effect.at_ms
            elif isinstance(effect, Turn):
                assert effect.turn_order == order
                order += effect.end_of_turn
        assert (asked_ms is not None) is (tracker.state is State.FLUSHING)
        assert (Finished() in effects) is (tracker.state is State.DONE and state is not State.DONE)
    assert tracker.order == order
