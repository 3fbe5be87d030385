"""The contract holds on both of its sides: what the engine makes, and what its readers make of saying nothing."""

import numpy as np
import pytest

from workers.recognizer import NO_FLUSH, Hypothesis, SlotOptions, Spec
from workers.slots import Slots
from workers.turns import TurnRules, TurnTracker

SPEC = Spec("any", "any", slots=3, chunk_samples=640, hop_ms=10)


def test_a_hypothesis_without_news_changes_nothing() -> None:
    tracker = TurnTracker(TurnRules(), order=4, at_ms=1_000)
    assert tracker.advance(Hypothesis()) == []
    assert (tracker.order, tracker.cut_ms) == (4, 1_000)


def test_a_batch_is_as_the_contract_says() -> None:
    slots = Slots(SPEC)
    slot = slots.seat("s", 1, 250, SlotOptions(vad_threshold=0.3))
    slots.feed("s", np.full(SPEC.chunk_samples, -32768, np.int16))
    plan = slots.plan()
    assert plan is not None
    batch = plan.batch
    assert batch.audio.dtype == np.float32
    assert batch.audio.shape == (3, 640)
    assert float(batch.audio[slot].min()) == -1.0
    assert batch.samples.tolist() == [640 if row == slot else 0 for row in range(3)]
    assert batch.reset.tolist() == [row == slot for row in range(3)]
    assert batch.origin_ms[slot] == 250
    assert batch.flush_ms.tolist() == [NO_FLUSH] * 3
    assert batch.options == {slot: SlotOptions(vad_threshold=0.3)}


def test_values_cannot_be_changed_under_way() -> None:
    with pytest.raises(AttributeError):
        Hypothesis().heard_ms = 1  # type: ignore[misc]
