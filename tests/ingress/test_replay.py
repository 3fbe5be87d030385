"""What was told can be told again, or is refused: nothing is passed over in silence."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingress.replay import Replay
from wire.errors import ClientError, Close


def test_messages_are_numbered_from_one():
    replay = Replay()
    assert json.loads(replay.number('{"type":"Begin"}')) == {"sequence": 1, "type": "Begin"}
    assert json.loads(replay.number('{"type":"Turn"}')) == {"sequence": 2, "type": "Turn"}
    assert [json.loads(text)["sequence"] for text in replay.since(0)] == [1, 2]
    assert replay.since(2) == []


@pytest.mark.parametrize("sequence", [-1, 2, 10**12])
def test_what_was_never_sent_cannot_be_followed(sequence: int):
    replay = Replay()
    replay.number('{"type":"Begin"}')
    with pytest.raises(ClientError) as refused:
        replay.since(sequence)
    assert refused.value.code is Close.UNAUTHORIZED


@given(st.lists(st.integers(0, 30), max_size=40), st.integers(0, 40))
def test_since_gives_every_message_missed_or_refuses(sizes: list[int], last: int):
    replay, most = Replay(200), 200
    sent = [replay.number(json.dumps({"text": "ä" * size}, ensure_ascii=False)) for size in sizes]
    try:
        missed = replay.since(last)
    except ClientError:
        assert last > len(sent) or sum(len(text.encode()) for text in sent[last:]) > most
    else:
        assert missed == sent[last:]
        assert sum(len(text.encode()) for text in missed) <= most
