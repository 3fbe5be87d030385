"""What is held of a session's log is what whoever takes it over needs, and no more than the limits allow."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingress.ledger import Ledger
from wire.entries import AudioFrame, Checkpoint, Saved, pack_checkpoint
from wire.errors import EntryError

SIZE = 100


def frame(number: int) -> AudioFrame:
    return AudioFrame(50 * (number - 1), bytes(SIZE))


def saved(number: int, generation: int = 1, session: str = "s") -> Saved:
    """A checkpoint after which the entries up to `number` are not needed."""
    packed = pack_checkpoint(Checkpoint(0, 0, f"{number}-0" if number else "", {}))
    return Saved(session, generation, packed)


def filled(count: int, most_bytes: int = 10_000, most_session_bytes: int = 10_000) -> Ledger:
    ledger = Ledger(most_bytes, most_session_bytes)
    assert [ledger.number("s", frame(number), SIZE) for number in range(1, count + 1)] == list(
        range(1, count + 1)
    )
    return ledger


def numbers(ledger: Ledger, session: str = "s") -> list[int] | None:
    log = ledger.log(session)
    return None if log is None else [number for number, _ in log.entries]


def test_everything_is_held_until_there_is_a_checkpoint():
    ledger = filled(3)
    log = ledger.log("s")
    assert log is not None
    assert (log.generation, log.checkpoint) == (0, b"")
    assert list(log.entries) == [(number, frame(number)) for number in (1, 2, 3)]


def test_what_stands_before_a_checkpoint_is_let_go():
    ledger = filled(5)
    ledger.saved(saved(3, generation=9))
    log = ledger.log("s")
    assert log is not None
    assert (log.generation, log.checkpoint) == (9, saved(3).packed)
    assert numbers(ledger) == [4, 5]
    assert ledger.bytes == 2 * SIZE
    ledger.saved(saved(5, generation=9))
    assert numbers(ledger) == []
    assert ledger.bytes == 0


def test_an_older_checkpoint_changes_nothing():
    ledger = filled(5)
    ledger.saved(saved(3, generation=9))
    ledger.saved(saved(4, generation=8))
    ledger.saved(saved(2, generation=9))
    ledger.saved(saved(5, generation=9, session="another's"))
    assert numbers(ledger) == [4, 5]


def test_a_checkpoint_that_cannot_be_read_changes_nothing():
    ledger = filled(2)
    with pytest.raises(EntryError):
        ledger.saved(Saved("s", 1, b"?"))
    assert numbers(ledger) == [1, 2]


def test_what_redis_has_taken_is_known():
    ledger = filled(3)
    assert (ledger.last_written("s"), ledger.last_written("t")) == (0, 0)
    ledger.written("s", 2)
    ledger.written("s", 1)
    ledger.written("t", 7)  # is over by now
    assert (ledger.last_written("s"), ledger.last_written("t")) == (2, 0)


def test_beyond_its_limit_a_session_cannot_be_restored_until_its_next_checkpoint():
    ledger = filled(6, most_session_bytes=5 * SIZE)
    assert ledger.bytes == 5 * SIZE
    assert ledger.log("s") is None
    ledger.saved(saved(1))
    assert numbers(ledger) == [2, 3, 4, 5, 6]


def test_beyond_the_nodes_limit_the_session_that_grows_pays():
    ledger = filled(3, most_bytes=5 * SIZE)
    for number in range(1, 5):
        ledger.number("t", frame(number), SIZE)
    assert ledger.bytes == 5 * SIZE
    assert numbers(ledger) == [1, 2, 3]
    assert ledger.log("t") is None


def test_a_session_that_is_over_is_forgotten():
    ledger = filled(3)
    ledger.number("t", frame(1), SIZE)
    ledger.drop("s")
    ledger.drop("s")
    assert ledger.bytes == SIZE
    assert numbers(ledger, "t") == [1]


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(-1, 12), st.integers(0, 400)), max_size=60))
def test_the_limits_hold_and_what_is_given_out_is_whole(steps: list[tuple[str, int, int]]):
    ledger, last = Ledger(900, 500), {"a": 0, "b": 0}
    for session, number, size in steps:
        if number < 0:
            last[session] = ledger.number(session, frame(last[session] + 1), size)
        else:
            ledger.saved(saved(min(number, last[session]), session=session))
        assert ledger.bytes <= 900
        log = ledger.log(session)
        if log is not None and log.entries:
            held = [entry for entry, _ in log.entries]
            assert held == list(range(held[0], last[session] + 1))


def test_a_session_from_another_node_goes_on_with_what_redis_holds_of_it():
    """Entries that nobody needs any more, and those that the node before could not count, are left out."""
    ledger = Ledger(10_000, 10_000)
    ledger.go_on("s", 4, 1, saved(2).packed, [(number, frame(number)) for number in range(1, 7)])
    assert numbers(ledger) == [3, 4]
    assert (ledger.last("s"), ledger.last_written("s")) == (4, 4)
    assert ledger.number("s", frame(5), 100) == 5
    ledger.drop("s")
    assert ledger.bytes == 0
