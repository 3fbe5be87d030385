"""What a recording holds: round trips, and what a reader does with what it does not know."""

import msgpack  # type: ignore[import-untyped]
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire import recorded
from wire.errors import EntryError
from wire.recorded import (
    FORMAT,
    KINDS,
    Audio,
    Batch,
    Said,
    SessionEnd,
    SessionFacts,
    Sound,
    TooNew,
    pack_batch,
    pack_end,
    pack_facts,
    unpack_batch,
    unpack_end,
    unpack_facts,
    weight,
)

texts = st.text(max_size=20)
whole = st.integers(-1, 2**40)
times = st.floats(0, 2e9)
maps = st.dictionaries(texts, st.none() | st.integers(-5, 2**40) | texts, max_size=3)


def values(kind: type) -> st.SearchStrategy:
    """Any value of one of the formats' dataclasses."""
    ways = {
        float: times,
        int: whole,
        str: texts,
        bool: st.booleans(),
        bytes: st.binary(max_size=20),
        tuple[int, ...]: st.lists(st.integers(0, 1000), max_size=4).map(tuple),
    }
    hints = recorded._hints(kind)
    return st.builds(kind, **{name: ways.get(hint, maps) for name, hint in hints.items()})


@pytest.mark.parametrize("kind", KINDS.values())
def test_each_kind_comes_back_as_it_went(kind: type):
    @given(st.lists(values(kind), max_size=3))
    def check(items):
        assert unpack_batch(pack_batch("here", 7, items)) == Batch("here", 7, tuple(items))

    check()


@given(values(SessionFacts), values(SessionEnd))
def test_facts_and_end_come_back(facts, end):
    assert unpack_facts(pack_facts(facts)) == facts
    assert unpack_end(pack_end(end)) == end


@given(st.binary(max_size=60))
def test_nothing_but_an_entry_error_comes_of_rubbish(data):
    for unpack in (unpack_batch, unpack_facts, unpack_end):
        try:
            unpack(data)
        except EntryError:
            continue


def test_a_later_format_is_told_apart_from_rubbish():
    packed = msgpack.packb([FORMAT + 1, "here", 0, [], "and more"])
    with pytest.raises(TooNew, match=f"format {FORMAT + 1} by a later release"):
        unpack_batch(packed)
    with pytest.raises(TooNew):
        unpack_facts(packed)


def test_kinds_and_fields_of_later_releases_are_passed_over():
    said = [2, 5.0, "hello", "a field of tomorrow"]
    packed = msgpack.packb([FORMAT, "here", 3, [said, [99, "?"], "?"], "more"])
    assert unpack_batch(packed) == Batch("here", 3, (Said(5.0, "hello"),), unknown=2)


def test_an_item_that_cannot_be_read_leaves_its_neighbours():
    packed = msgpack.packb([FORMAT, "here", 0, [[2, "when?", "hello"], [2, 6], [1, 7.0, 0, b"\0\0"]]])
    assert unpack_batch(packed) == Batch("here", 0, (Audio(7.0, 0, b"\0\0"),), broken=2)


frames = st.lists(
    st.tuples(times, st.integers(0, 20).map(lambda samples: bytes(2 * samples))), min_size=1, max_size=5
)


@given(st.integers(0, 2**40), frames)
def test_frames_that_were_gathered_come_out_one_by_one(position, given):
    at_s, pieces = zip(*given, strict=True)
    sound = Sound(position, at_s, pieces, sum(map(len, pieces)))
    wanted, start = [], position
    for came_s, pcm in given:
        wanted.append(Audio(came_s, start, pcm))
        start += len(pcm) // 2
    assert unpack_batch(pack_batch("here", 0, [sound])) == Batch("here", 0, tuple(wanted))
    assert weight(sound) == sum(map(weight, wanted))


@pytest.mark.parametrize(
    "fields",
    [
        [0, [1.0], [4], b"\0\0"],
        [0, [1.0], [1], b"\0"],
        [0, [], [2], b"\0\0"],
        [0, ["x"], [2], b"\0\0"],
        [0],
        [],
    ],
)
def test_frames_that_cannot_be_read_are_counted(fields):
    packed = msgpack.packb([FORMAT, "here", 0, [[12, *fields], [2, 5.0, "hello"]]])
    assert unpack_batch(packed) == Batch("here", 0, (Said(5.0, "hello"),), broken=1)


def test_audio_is_not_shown_where_items_are_printed():
    assert "pcm" not in repr(Audio(0.0, 0, b"secret"))
    assert Audio(0.0, 10, bytes(8)).end == 14
