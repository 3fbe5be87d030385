"""When replays may have a step."""

import pytest

from workers.leftover import LEAST_S, Leftover
from workers.slots import Room

LIVE, ALONE = True, False


def test_alone_a_replay_goes_on_at_once() -> None:
    leftover = Leftover()
    leftover.took(10.0, 10.5)
    assert leftover.room(ALONE, 10.5) is Room.LEFT


@pytest.mark.parametrize(
    "took_s, after_s, room",
    [
        (0.5, 0.4, Room.NONE),
        (0.5, 0.5, Room.LEFT),
        (0.5, 4.4, Room.LEFT),
        (0.5, 4.5, Room.FIRST),
        (0.01, 0.9, Room.LEFT),
        (0.01, LEAST_S, Room.FIRST),
    ],
)
def test_beside_live_sessions_it_pauses_and_never_for_ever(took_s: float, after_s: float, room: Room) -> None:
    leftover = Leftover()
    leftover.took(64.0, 64.0 + took_s)
    assert leftover.room(LIVE, 64.0 + took_s + after_s) is room
