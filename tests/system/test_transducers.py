"""A native transducer behind the real wire: ingress, Redis and a worker as processes, spoken digits as audio."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from cli.up import Stack
from tests import digits
from tests.conversation import Conversation, is_final
from tests.digits import needed
from tests.speech import pcm, silence

pytestmark = [pytest.mark.weights, pytest.mark.timeout(180), needed]


def test_digits_are_told_word_by_word_and_turn_by_turn() -> None:
    said = digits.strings(4)

    def spoken(one: digits.Said) -> Conversation:
        with Conversation(running.url, max_turn_silence=5_000) as conversation:
            conversation.say(pcm(one.audio))
            return conversation.end()

    with Stack(env={"MODEL": digits.FOLDER, "LOOKAHEAD": "1"}) as running:
        with ThreadPoolExecutor(len(said)) as threads:
            for one, conversation in zip(said, threads.map(spoken, said), strict=True):
                assert conversation.transcript == digits.offline(one.audio, 1)
                assert len(conversation.finals) == 1
                assert len(conversation.turns) > 1  # words came before the turn was over
        with Conversation(running.url, max_turn_silence=400) as conversation:
            for one in said[:2]:
                conversation.say(pcm(one.audio) + silence(2))
                conversation.hear_until(is_final)  # without Terminate, and without any more audio
            conversation.end()
        running.check()
    assert len(conversation.finals) >= 2
    assert {word["word_is_final"] for turn in conversation.finals for word in turn["words"]} == {True}
