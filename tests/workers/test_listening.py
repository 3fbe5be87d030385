"""What was heard of each slot, whatever listens."""

from typing import Any

import numpy as np
import pytest

from tests.speech import FOX, samples
from workers import checkpoints
from workers.listening import Listener
from workers.recognizer import NO_FLUSH, Batch, Observation, SlotOptions, Spec
from workers.vad import HOP, SileroVAD
from workers.window import Window

pytestmark = pytest.mark.weights
SPEC = Spec("m", "-", 2, HOP, 32, catch_up=200)


@pytest.fixture(scope="module")
def vad() -> SileroVAD:
    return SileroVAD(checkpoints.load(checkpoints.fetch("silero-vad"))[1])


def batch(
    audio: Any, slot: int, reset: bool, origin_ms: int = 0, options: SlotOptions | None = None
) -> Batch:
    rows, count = np.zeros((2, SPEC.row_samples), np.float32), np.zeros(2, np.int64)
    rows[slot, : len(audio)], count[slot] = audio, len(audio)
    fresh = np.array([reset and slot == 0, reset and slot == 1])
    given = {slot: options} if options else {}
    return Batch(rows, count, fresh, np.full(2, origin_ms), np.full(2, NO_FLUSH), given)


def assert_same(some: list[Observation], others: list[Observation]) -> None:
    """Rows of a batch differ in the last digits."""
    assert [one.at_ms for one in some] == [other.at_ms for other in others]
    assert [one.speech for one in some] == pytest.approx([other.speech for other in others], abs=1e-5)


def ignore(slot: int, window: Window) -> None:
    pass


def test_hops_are_heard_in_order_however_they_came(vad: SileroVAD) -> None:
    fox = samples(FOX)
    at_once, bit_by_bit = Listener(SPEC, vad, 192), Listener(SPEC, vad, 192)
    assert at_once.accept(batch(fox, 0, reset=True)) == [0]
    told = at_once.listen(ignore)
    seen: list[tuple[int, int]] = []
    heard = []
    for start in range(0, len(fox), 700):
        bit_by_bit.accept(batch(fox[start : start + 700], 1, reset=start == 0))
        heard += bit_by_bit.listen(lambda slot, window: seen.append((slot, window.heard)))[1]
    assert_same(told[0], heard)
    assert told[1] == []
    assert seen == [(1, HOP * n) for n in range(1, len(fox) // HOP + 1)]
    assert at_once.windows[0].speech == bit_by_bit.windows[1].speech != []


def test_who_goes_on_in_silence_hears_the_same(vad: SileroVAD) -> None:
    quiet = np.zeros(2 * 16_000, np.float32)
    fox = samples(FOX)
    one, other = Listener(SPEC, vad, 192), Listener(SPEC, vad, 192)
    one.accept(batch(np.concatenate([fox, quiet]), 0, reset=True))
    one.listen(ignore)
    place = one.silence(0, lead=4 * HOP)
    assert place.at_ms == 32 * ((len(fox) + len(quiet)) // HOP)
    assert place.from_ms == place.at_ms - 128
    end = place.from_ms * 16
    rest = np.concatenate([fox, quiet])[end:]
    other.accept(batch(rest, 1, True, place.from_ms, SlotOptions(memory=place.memory)))
    assert other.listen(ignore)[1] == []
    for listener, slot in ((one, 0), (other, 1)):
        listener.accept(batch(fox, slot, reset=False))
    assert_same(one.listen(ignore)[0], other.listen(ignore)[1])


def test_a_new_occupant_hears_with_fresh_ears(vad: SileroVAD) -> None:
    fox = samples(FOX)
    listener = Listener(SPEC, vad, 192)
    listener.accept(batch(fox, 0, reset=True))
    first = listener.listen(ignore)[0]
    listener.accept(batch(fox[5_000:], 0, reset=False))
    listener.listen(ignore)
    listener.accept(batch(fox, 0, reset=True))
    assert_same(listener.listen(ignore)[0], first)
