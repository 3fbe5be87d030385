"""One session through seat, slots, recognizer and turns, as the engine drives them, without processes and clock: what a
worker tells of it, and what another one tells that goes on from any of its checkpoints.
"""

from dataclasses import dataclass, field
from typing import Any

from wire.entries import (
    AudioEntry,
    AudioFrame,
    Checkpoint,
    Control,
    Lease,
    Offer,
    Order,
    pack_checkpoint,
    unpack_checkpoint,
)
from workers.recognizer import Hypothesis, Recognizer
from workers.seat import Seat
from workers.slots import Slots
from workers.turns import Effect, Finished, Flush, Turn

FRAME = 800  # samples: 50 ms, which is no whole number of chunks


@dataclass
class Service:
    """What was told, and where another worker could have gone on: (checkpoint, finals told by then)."""

    finals: list[Turn] = field(default_factory=list)
    saved: list[tuple[Checkpoint, int]] = field(default_factory=list)

    @property
    def told(self) -> list[tuple[int, list[tuple[str, int, int]]]]:
        """Orders, and words with their times."""
        return [(turn.turn_order, [(w.text, w.start, w.end) for w in turn.words]) for turn in self.finals]


def served(
    recognizer: Recognizer, audio: bytes, params: dict[str, Any], checkpoint: Checkpoint | None = None
) -> Service:
    """The session from the checkpoint (its beginning) to its end."""
    return _Worker(recognizer, audio, params, checkpoint).serve()


class _Worker:
    def __init__(
        self, recognizer: Recognizer, audio: bytes, params: dict[str, Any], checkpoint: Checkpoint | None
    ) -> None:
        self.recognizer = recognizer
        if checkpoint is not None:  # through Redis
            checkpoint = unpack_checkpoint(pack_checkpoint(checkpoint))
        self.seat = Seat(Lease(b"1-0", Offer("s", "node", "pool", params), 1, checkpoint))
        first = int(checkpoint.entry_id.split("-")[0]) if checkpoint and checkpoint.entry_id else 0
        self.log = _log(audio)[first:]
        self.slots = Slots(recognizer.spec)
        self.slots.seat("s", 1, self.seat.origin_ms, self.seat.options, steady=True)
        self.service = Service()
        self.over = False

    def serve(self) -> Service:
        while not self.over:
            if self.log and self.seat.next() is None:
                entry = self.log.pop(0)
                self.seat.receive(entry[0], [entry], 0.0)
            self.feed()
            if (plan := self.slots.plan(self.recognizer.behind)) is not None:
                for _, _, hypothesis in self.slots.deliver(plan, self.recognizer.step(plan.batch)):
                    self.hear(hypothesis)
        return self.service

    def feed(self) -> None:
        while (entry := self.seat.next()) is not None:
            if isinstance(entry, AudioFrame):
                self.slots.feed("s", self.seat.samples(entry))
                self.seat.consumed(entry)
                if (end_ms := self.seat.lead_heard_to()) is not None:
                    self.slots.flush("s", end_ms)
            elif self.slots.cut("s") > self.slots.stepped("s"):
                return
            else:
                self.seat.consumed(entry)
                self.perform(self.seat.tracker.finish(self.seat.ms(entry.position)))

    def hear(self, hypothesis: Hypothesis) -> None:
        assert not hypothesis.failed
        hypothesis = self.seat.heard(hypothesis)
        self.perform(self.seat.tracker.advance(hypothesis))
        if hypothesis.observations and (rest := self.seat.rest(hypothesis.observations[-1].at_ms)):
            self.save(rest.checkpoint)

    def perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Flush(at_ms):
                    self.slots.flush("s", at_ms)
                case Turn(end_of_turn=True):
                    self.service.finals.append(effect)
                    self.save(self.seat.publication(effect).checkpoint)
                case Finished():
                    self.over = True

    def save(self, checkpoint: Checkpoint | None) -> None:
        if checkpoint is not None:
            self.service.saved.append((checkpoint, len(self.service.finals)))


def _log(audio: bytes) -> list[tuple[bytes, AudioEntry]]:
    """The session's stream: frames, and the order to end."""
    size = 2 * FRAME
    frames: list[AudioEntry] = [
        AudioFrame(start // 2, audio[start : start + size]) for start in range(0, len(audio), size)
    ]
    frames.append(Control(Order.TERMINATE, len(audio) // 2, None))
    return [(f"{number}-0".encode(), entry) for number, entry in enumerate(frames, start=1)]
