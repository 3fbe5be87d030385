"""`cli.latencies`: arithmetic on messages and times."""

import pytest

from cli.latencies import Latencies, summary


def turn(order: int, *spans: tuple[int, int], end: bool = False) -> dict:
    words = [{"start": start, "end": stop} for start, stop in spans]
    return {"type": "Turn", "turn_order": order, "end_of_turn": end, "words": words}


def test_delays_run_from_when_the_sound_was_spoken() -> None:
    delays = Latencies(audio_start_s=100.0)
    delays.observe(turn(0, (1_050, 1_100)), now_s=101.5)
    delays.observe(turn(0, (1_000, 1_200), (1_300, 1_700)), now_s=101.9)
    delays.observe(turn(0, (1_000, 1_200), (1_300, 1_800), end=True), now_s=102.4)
    assert delays.first_partial_ms == pytest.approx([500])  # the first word's start as the final has it
    assert delays.final_ms == pytest.approx([600])


def test_each_turn_counts_once() -> None:
    delays = Latencies(audio_start_s=0.0)
    for order in range(3):
        delays.observe(turn(order, (order * 1000, order * 1000 + 200)), now_s=order + 0.4)
        delays.observe(turn(order, (order * 1000, order * 1000 + 200), end=True), now_s=order + 0.7)
    assert delays.first_partial_ms == pytest.approx([400] * 3)
    assert delays.final_ms == pytest.approx([500] * 3)


def test_a_turn_that_the_client_ended_has_no_final_delay() -> None:
    delays = Latencies(audio_start_s=0.0)
    delays.observe(turn(0, (0, 200)), now_s=0.3)
    delays.terminated = True
    delays.observe(turn(0, (0, 200), end=True), now_s=0.4)
    assert delays.first_partial_ms == pytest.approx([300])
    assert delays.final_ms == []


@pytest.mark.parametrize(
    "message", [{"type": "Begin"}, {"type": "Termination"}, turn(0), turn(0, end=True), {"type": "Novelty"}]
)
def test_what_says_nothing_about_words_is_ignored(message) -> None:
    delays = Latencies(audio_start_s=0.0)
    delays.observe(message, now_s=1.0)
    assert delays == Latencies(audio_start_s=0.0)


def test_turns_before_any_audio_are_ignored() -> None:
    delays = Latencies()
    delays.observe(turn(0, (0, 100), end=True), now_s=1.0)
    assert delays == Latencies()


def test_begin() -> None:
    delays = Latencies()
    delays.begun(connect_s=10.0, now_s=10.123)
    assert delays.begin_ms == pytest.approx(123)


@pytest.mark.parametrize(
    "values,text", [([], "-"), ([412.4], "412 ms"), ([300, 100, 200], "200 ms (median of 3; 100 to 300)")]
)
def test_summary(values, text) -> None:
    assert summary(values) == text
