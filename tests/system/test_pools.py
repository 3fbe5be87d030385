"""Two pools behind one endpoint: each session is served by the pool of its model, at the same time as the others."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from cli.up import Stack
from tests.conversation import Conversation
from tests.speech import FOX, assert_heard, clip_pcm, pcm
from tests.spoken import character_error_rate, clip

pytestmark = [pytest.mark.weights, pytest.mark.timeout(300)]

MULTILINGUAL = "universal-streaming-multilingual"


@pytest.fixture(scope="module")
def both() -> Iterator[Stack]:
    with Stack(pools=("english", "multilang")) as running:
        yield running
        running.check()


def spoken(url: str, language: str, name: str, **query: object) -> Conversation:
    samples, _ = clip(language, name)
    with Conversation(url, speech_model=MULTILINGUAL, **query) as conversation:  # type: ignore[arg-type]
        conversation.say(pcm(samples))
        conversation.order("Terminate")
        return conversation.hear_rest()


def test_sessions_of_both_pools_at_once_each_get_their_own_words(both: Stack) -> None:
    def english() -> str:
        with Conversation(both.url) as conversation:
            conversation.say(clip_pcm(FOX))
            return conversation.end().transcript

    def french() -> Conversation:
        return spoken(both.url, "fr", "pangrama", language_detection="true")

    with ThreadPoolExecutor(4) as threads:
        texts = [threads.submit(english) for _ in range(2)]
        conversations = [threads.submit(french) for _ in range(2)]
        for text in texts:
            assert_heard(FOX, text.result())
        for task in conversations:
            conversation = task.result()
            assert conversation.close == (1000, "Session Ended")
            assert character_error_rate(clip("fr", "pangrama")[1], conversation.transcript) < 0.3
            for final in conversation.finals:
                assert final["language_code"] == "fr"
                assert 0.5 < final["language_confidence"] <= 1


def test_a_language_may_be_given(both: Stack) -> None:
    conversation = spoken(both.url, "es", "pangrama", language_codes='["es"]', language_detection="true")
    assert character_error_rate(clip("es", "pangrama")[1], conversation.transcript) < 0.3
    assert {final["language_code"] for final in conversation.finals} == {"es"}


def test_language_is_not_told_unasked(both: Stack) -> None:
    conversation = spoken(both.url, "fr", "pangrama")
    assert not any("language_code" in turn for turn in conversation.turns)


def test_old_ways_to_choose_the_pool(both: Stack) -> None:
    for query in ("language=multi", "language=fr"):
        name, value = query.split("=")
        with Conversation(both.url, **{name: value}) as conversation:  # type: ignore[arg-type]
            assert conversation.end().messages[0]["configuration"]["model"] == MULTILINGUAL


def test_a_pool_that_is_not_deployed_is_refused_by_name(both: Stack) -> None:
    with Conversation(both.url, speech_model="universal-3-5-pro") as conversation:
        conversation.hear_rest()
    (error,) = conversation.messages
    assert error["error_code"] == 3006
    assert "Deployed: english, multilang" in error["error"]


def test_silence_gives_no_turn(both: Stack) -> None:
    with Conversation(both.url, speech_model=MULTILINGUAL) as conversation:
        conversation.say(bytes(2 * 16_000 * 10))
        conversation.end()
    assert conversation.turns == []
