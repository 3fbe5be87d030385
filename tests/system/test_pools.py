"""Three pools behind one endpoint: each session is served by the pool of its model, at the same time as the others."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from cli.up import Stack
from tests.conversation import Conversation, is_final
from tests.speech import BECKETT, FOX, LIGHT, assert_heard, clip_pcm, pcm, silence
from tests.spoken import character_error_rate, clip

pytestmark = [pytest.mark.weights, pytest.mark.timeout(300)]

MULTILINGUAL = "universal-streaming-multilingual"
PRO = "universal-3-6-pro"
COUNTING = "counting.wav"


@pytest.fixture(scope="module")
def all_three() -> Iterator[Stack]:
    with Stack(pools=("english", "multilang", "u3pro")) as running:
        yield running
        running.check()


def spoken(url: str, language: str, name: str, **query: object) -> Conversation:
    samples, _ = clip(language, name)
    with Conversation(url, speech_model=MULTILINGUAL, **query) as conversation:  # type: ignore[arg-type]
        conversation.say(pcm(samples))
        conversation.order("Terminate")
        return conversation.hear_rest()


def test_sessions_of_all_three_pools_at_once_each_get_their_own_words(all_three: Stack) -> None:
    def english() -> str:
        with Conversation(all_three.url) as conversation:
            conversation.say(clip_pcm(FOX))
            return conversation.end().transcript

    def french() -> Conversation:
        return spoken(all_three.url, "fr", "pangrama", language_detection="true")

    def pro() -> Conversation:
        with Conversation(all_three.url, speech_model=PRO, language_detection="true") as conversation:
            conversation.say(clip_pcm(BECKETT))
            return conversation.end()

    with ThreadPoolExecutor(6) as threads:
        texts = [threads.submit(english) for _ in range(2)]
        conversations = [threads.submit(french) for _ in range(2)]
        pros = [threads.submit(pro) for _ in range(2)]
        for text in texts:
            assert_heard(FOX, text.result())
        for task in conversations:
            conversation = task.result()
            assert conversation.close == (1000, "Session Ended")
            assert character_error_rate(clip("fr", "pangrama")[1], conversation.transcript) < 0.3
            for final in conversation.finals:
                assert final["language_code"] == "fr"
                assert 0.5 < final["language_confidence"] <= 1
        for task in pros:
            conversation = task.result()
            assert_heard(BECKETT, conversation.transcript, 0.1)
            assert len(conversation.finals) > 3  # closed sentences end turns
            assert {final["language_code"] for final in conversation.finals} == {"en"}


def test_a_prompt_may_change_in_the_middle(all_three: Stack) -> None:
    """Numbers are written as the text before writes them."""
    with Conversation(all_three.url, speech_model=PRO, language_codes='["en"]') as conversation:
        conversation.say(clip_pcm(COUNTING) + silence(3))
        conversation.hear_until(is_final)
        conversation.order("UpdateConfiguration", prompt="We count: one, two, three, four.")
        conversation.say(clip_pcm(COUNTING) + silence(3))
        conversation.end()
    first, *_, last = (final["transcript"] for final in conversation.finals)
    assert any(sign.isdigit() for sign in first)
    assert "seven" in last.lower()


def test_a_number_is_waited_for(all_three: Stack) -> None:
    """Counting stops after four for most of a second, which ends other sentences."""
    audio, stop = clip_pcm(COUNTING), 2 * 16 * 1_240
    with Conversation(all_three.url, speech_model=PRO, mode="balanced") as conversation:
        conversation.say(audio[:stop] + silence(0.8) + audio[stop:] + silence(2))
        conversation.end()
    (final,) = conversation.finals
    assert "".join(filter(str.isdigit, final["transcript"])) == "12345678910"


def test_first_words_come_early_and_the_turn_is_announced_before_them(all_three: Stack) -> None:
    with Conversation(all_three.url, speech_model=PRO, mode="min_latency") as conversation:
        conversation.say(silence(0.5) + clip_pcm(BECKETT))
        started = conversation.hear_until(lambda message: message["type"] == "SpeechStarted")
        first = conversation.hear()
        conversation.end()
    assert first is not None
    assert first["type"] == "Turn"
    assert abs(started["timestamp"] - first["words"][0]["start"]) < 300


def test_rare_partials_where_continuous_ones_are_unwanted(all_three: Stack) -> None:
    def partials(continuous: bool) -> int:
        asked = {"min_turn_silence": 3_000, "max_turn_silence": 3_000, "continuous_partials": continuous}
        with Conversation(all_three.url, speech_model=PRO, **asked) as one:  # type: ignore[arg-type]
            one.say(clip_pcm(LIGHT) + silence(3.5))
            one.end()
        assert_heard(LIGHT, one.transcript, 0.1)
        return len(one.turns) - len(one.finals)

    assert partials(False) < partials(True) / 2


def test_a_language_may_be_given(all_three: Stack) -> None:
    conversation = spoken(all_three.url, "es", "pangrama", language_codes='["es"]', language_detection="true")
    assert character_error_rate(clip("es", "pangrama")[1], conversation.transcript) < 0.3
    assert {final["language_code"] for final in conversation.finals} == {"es"}


def test_language_is_not_told_unasked(all_three: Stack) -> None:
    conversation = spoken(all_three.url, "fr", "pangrama")
    assert not any("language_code" in turn for turn in conversation.turns)


def test_old_ways_to_choose_the_pool(all_three: Stack) -> None:
    for query in ("language=multi", "language=fr"):
        name, value = query.split("=")
        with Conversation(all_three.url, **{name: value}) as conversation:  # type: ignore[arg-type]
            assert conversation.end().messages[0]["configuration"]["model"] == MULTILINGUAL


def test_a_pool_that_is_not_deployed_is_refused_by_name() -> None:
    with Stack(pools=("english",)) as running, Conversation(running.url, speech_model=PRO) as conversation:
        conversation.hear_rest()
    (error,) = conversation.messages
    assert error["error_code"] == 3006
    assert "u3pro" in error["error"]
    assert "Deployed: english" in error["error"]


def test_the_pools_of_every_name_of_the_u3_family(all_three: Stack) -> None:
    for model in ("u3-rt-pro", "universal-3-5-pro", "universal-3-6"):
        with Conversation(all_three.url, speech_model=model) as conversation:
            configuration = conversation.end().messages[0]["configuration"]
            assert (configuration["model"], configuration["mode"]) == (model, "balanced")


def test_silence_gives_no_turn(all_three: Stack) -> None:
    with Conversation(all_three.url, speech_model=MULTILINGUAL) as conversation:
        conversation.say(bytes(2 * 16_000 * 10))
        conversation.end()
    assert conversation.turns == []
