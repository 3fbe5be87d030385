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


def test_another_replay_goes_on_with_what_was_kept():
    replay, other = Replay(100), Replay(100)
    for number in range(9):
        replay.number(json.dumps({"n": number}))
    other.go_on(replay.sequence, replay.after(0))
    assert other.number('{"n":9}') == replay.number('{"n":9}')
    assert other.after(0) == replay.after(0)
    assert other.since(8) == replay.since(8)
    assert [number for number, _ in replay.after(8)] == [9, 10]


def test_what_does_not_follow_is_not_kept():
    replay = Replay()
    replay.go_on(5, [(3, "three"), (5, "five")])
    assert replay.after(0) == []
    with pytest.raises(ClientError):
        replay.since(4)
    assert json.loads(replay.number('{"type":"Turn"}'))["sequence"] == 6
