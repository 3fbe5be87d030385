"""Which replays end, and which may begin."""

from hypothesis import given
from hypothesis import strategies as st

from ingress.giveway import ending, may_begin

POOLS = ("english", "u3pro")


@given(
    pools=st.lists(st.sampled_from(POOLS), max_size=8),
    spare=st.fixed_dictionaries({pool: st.integers(-10, 3) for pool in POOLS}),
)
def test_as_many_end_as_others_wait_for_a_slot_of_their_pool_the_newest_first(pools, spare):
    replays = [(str(number), pool) for number, pool in enumerate(pools)]
    gone = set(ending(replays, spare.__getitem__))
    for pool in POOLS:
        own = [session for session, where in replays if where == pool]
        left = len(own) - min(len(own), max(0, -spare[pool]))
        assert [session for session in own if session not in gone] == own[:left]


def test_one_begins_where_a_slot_and_a_place_are_to_spare():
    assert may_begin(1, 9, 10)
    assert not may_begin(0, 9, 10)
    assert not may_begin(1, 10, 10)
