"""Who sits where, which samples go into the next step, and whose result came out of it.

    seat -> feed, cut, flush, configure ... -> plan -> (model thread: step) -> deliver -> ... -> unseat

A replay has steps of its own, one at a time, so that what it is told hangs on nobody's company and nobody waits for it
in a step: live sessions go first, and `plan` says when a replay may.

Positions are samples of the session's 16 kHz audio, from its first sample, also after a resume. For each session
`stepped <= planned <= fed`: results are back up to `stepped`, samples are in a plan up to `planned`, and `fed` is the
end of its backlog. Two plans may be out at a time, so that one is prepared while the other computes.
"""

import itertools
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from wire.strides import HELD
from workers.recognizer import NO_FLUSH, Batch, Hypothesis, SlotOptions, Spec

#: Audio a slot may hold back. Past it `feed` refuses: whoever reads the stream must read less.
BACKLOG_S = 30

Samples = NDArray[np.int16] | NDArray[np.float32]


@dataclass(frozen=True)
class Owner:
    """Whose row it is: a session, as taken for the `generation`-th time."""

    session: str
    generation: int


@dataclass(frozen=True)
class Plan:
    """One step to run. `owners` by slot: whose state the row is; None where nobody's first row has gone out yet.
    `replay`: it is a replay's.
    """

    batch: Batch
    owners: tuple[Owner | None, ...]
    replay: bool = False


@dataclass(eq=False)
class _Seat:
    slot: int
    owner: Owner
    origin_ms: int
    fed: int
    planned: int
    stepped: int
    options: SlotOptions | None
    pieces: deque[Samples] = field(default_factory=deque)
    cuts: deque[int] = field(default_factory=deque)
    fresh: bool = True
    steady: bool = False  # until it has caught up
    # Of a replay's steps to come (`wire/strides.py`); a chunk each when they are over.
    strides: deque[int] | None = None
    held: bool = False  # the last step left undone what was due
    flush_ms: int = NO_FLUSH  # asked, not yet in a plan
    awaited_ms: int = NO_FLUSH  # in a plan, not yet answered
    out: int = 0  # plans out that may tell something about it


class Room(Enum):
    """For a replay's step: none; what live sessions leave; before them."""

    NONE = 0
    LEFT = 1
    FIRST = 2


class _Arrays:
    """The arrays of one batch, made once."""

    def __init__(self, spec: Spec) -> None:
        self.audio = np.zeros((spec.slots, spec.row_samples), dtype=np.float32)
        self.samples = np.zeros(spec.slots, dtype=np.int64)
        self.reset = np.zeros(spec.slots, dtype=np.bool_)
        self.origin_ms = np.zeros(spec.slots, dtype=np.int64)
        self.flush_ms = np.full(spec.slots, NO_FLUSH, dtype=np.int64)

    def clear(self) -> None:
        self.samples[:] = 0
        self.reset[:] = False
        self.flush_ms[:] = NO_FLUSH


class Slots:
    """The rows of a recognizer and the sessions in them. KeyError for a session that has no seat."""

    def __init__(self, spec: Spec, backlog_s: int = BACKLOG_S) -> None:
        self._spec = spec
        self._capacity = max(backlog_s * spec.sample_rate, spec.row_samples)
        self._per_ms = spec.sample_rate // 1000
        self._seats: dict[str, _Seat] = {}
        self._empty = list(range(spec.slots))
        self._arrays = (_Arrays(spec), _Arrays(spec))
        self._out: deque[tuple[Plan, tuple[_Seat | None, ...]]] = deque()
        self._turns = deque[_Seat]()  # of replays: who was served longest ago comes next

    @property
    def live(self) -> bool:
        """Whether anybody sits here who is no replay."""
        return len(self._turns) < len(self._seats)

    @property
    def replays(self) -> int:
        """Replays that sit here."""
        return len(self._turns)

    @property
    def free(self) -> int:
        """Slots without a session."""
        return len(self._empty)

    # ---- sessions

    def seat(
        self,
        session: str,
        generation: int,
        origin_ms: int,
        options: SlotOptions,
        steady: bool = False,
        strides: bytes | None = None,
    ) -> int:
        """Give the session a slot; its audio begins at `origin_ms`. Raises ValueError if seated, or no slot is free.

        `steady`: until it has caught up, its audio goes out in pieces as it first did (`pace` of `plan`), so that what
        is decoded, and when, is what another worker decoded, or would have. `strides`: of a replay, the chunks that
        each step takes, however fast they come; when they are over, one a step.
        """
        if session in self._seats or not self._empty:
            raise ValueError(f"session {session} is seated already" if self._empty else "every slot is taken")
        slot, start = self._empty.pop(0), origin_ms * self._per_ms
        self._seats[session] = _Seat(
            slot, Owner(session, generation), origin_ms, start, start, start, options, steady=steady
        )
        if strides is not None:
            self._seats[session].strides = deque(strides)
            self._turns.append(self._seats[session])
        return slot

    def steady(self, session: str) -> None:
        """From here on as with `seat(..., steady=True)`: its audio was held up somewhere, and comes all at once."""
        self._seats[session].steady = True

    def unseat(self, session: str) -> None:
        """Free the slot. Samples not planned are dropped, and so is what plans still out will say about it."""
        seat = self._seats.pop(session)
        if seat.strides is not None:
            self._turns.remove(seat)
        self._empty.append(seat.slot)
        self._empty.sort()

    def configure(self, session: str, options: SlotOptions) -> None:
        """New options, from the next row of this session on."""
        self._seats[session].options = options

    # ---- audio

    def feed(self, session: str, samples: Samples) -> int:
        """Append mono samples (int16, or float32 in -1..1); the array is kept, not copied. Returns the room left.

        Raises ValueError for another shape or type, and if more comes than `room`; then nothing is taken.
        """
        seat = self._seats[session]
        if samples.ndim != 1 or samples.dtype not in (np.int16, np.float32):
            raise ValueError(f"samples are {samples.dtype} {samples.shape}, expected int16 or float32 [N]")
        if len(samples) > self.room(session):
            raise ValueError(f"{len(samples)} samples, but room for {self.room(session)}")
        if len(samples):
            seat.pieces.append(samples)
            seat.fed += len(samples)
        return self.room(session)

    def room(self, session: str) -> int:
        """Samples that `feed` takes now."""
        seat = self._seats[session]
        return self._capacity - (seat.fed - seat.planned)

    def cut(self, session: str) -> int:
        """Let everything fed so far go out, the last chunk short, and no row reach across; returns that position.

        An order at this place in the audio may be obeyed once `stepped` is there.
        """
        seat = self._seats[session]
        if seat.fed > seat.planned and (not seat.cuts or seat.cuts[-1] < seat.fed):
            seat.cuts.append(seat.fed)
        return seat.fed

    def finish(self, session: str) -> None:
        """No audio comes any more: a replay's last flushes wait for none."""
        seat = self._seats[session]
        if seat.strides is not None:
            seat.strides.clear()

    def flush(self, session: str, at_ms: int) -> None:
        """Ask the model to settle up to `at_ms`, with the plan that reaches it. Raises ValueError past what was fed."""
        seat = self._seats[session]
        if at_ms * self._per_ms > seat.fed:
            raise ValueError(f"flush at {at_ms} ms, but fed {seat.fed} samples")
        seat.flush_ms = at_ms

    def fed(self, session: str) -> int:
        return self._seats[session].fed

    def planned(self, session: str) -> int:
        return self._seats[session].planned

    def stepped(self, session: str) -> int:
        return self._seats[session].stepped

    def backlogs_ms(self) -> list[int]:
        """Audio fed and not planned, of everybody but replays: those come as fast as they are taken, and always have
        some.
        """
        seats = (seat for seat in self._seats.values() if seat.strides is None)
        return [(seat.fed - seat.planned) // self._per_ms for seat in seats]

    # ---- steps

    @property
    def catching_up(self) -> bool:
        """Whether a steady seat has enough for a step: there is no need to wait for more."""
        return any(seat.steady and self._is_full(seat) for seat in self._seats.values())

    @property
    def replaying(self) -> bool:
        """Whether a replay has enough for a step."""
        return any(self._is_full(seat) for seat in self._turns)

    def plan(self, behind: bool = False, pace: int = 1, replay: Room = Room.LEFT) -> Plan | None:
        """The next step, or None if no slot has anything to do; `behind`: the recognizer has, even without audio;
        `pace`: chunks that a steady seat takes at most; `replay`: when the step may be a replay's.

        A slot takes part with a full chunk; with less where a cut asks for it; and with no samples at all while a flush
        of what is planned already waits, or is unanswered, so that the model can go on without new audio. Any other
        slot that has had a row may be told something, too: what was due before and found no room. The plan's arrays
        are its own until the plan after the next is made. Raises RuntimeError if two plans are out.
        """
        if len(self._out) == len(self._arrays):
            raise RuntimeError("two plans are out already: deliver the first")
        if (due := self._in_step(behind, replay)) is None:
            return None
        arrays = self._arrays[0]
        self._arrays = (self._arrays[1], arrays)
        arrays.clear()
        rows: list[_Seat | None] = [None] * self._spec.slots
        options: dict[int, SlotOptions] = {}
        hold, taking = self._on_hold(due), set(due)
        for seat in self._seats.values():
            if seat in taking:
                self._fill(seat, arrays, options, pace)
            if not seat.fresh:
                rows[seat.slot] = seat
                seat.out += 1
        of_slots = (arrays.audio, arrays.samples, arrays.reset, arrays.origin_ms, arrays.flush_ms)
        batch = Batch(*of_slots, options, hold)
        owners = tuple(seat.owner if seat else None for seat in rows)
        plan = Plan(batch, owners, replay=bool(due) and due[0].strides is not None)
        self._out.append((plan, tuple(rows)))
        return plan

    def _in_step(self, behind: bool, replay: Room) -> list[_Seat] | None:
        """Who takes part: all live seats that are due, or one replay. None: there is no step."""
        live = [seat for seat in self._seats.values() if seat.strides is None and self._due(seat)]
        after = bool(live) or behind
        again = next((seat for seat in self._turns if self._due(seat)), None)
        if again is None or replay is Room.NONE or (after and replay is not Room.FIRST):
            return live if after else None
        self._turns.remove(again)
        self._turns.append(again)
        return [again]

    def _on_hold(self, due: list[_Seat]) -> frozenset[int]:
        """Live seats and replays are decoded in steps of their own; a replay, where its recorded step was."""
        again = due[0] if due and due[0].strides is not None else None
        others = {seat.slot for seat in self._seats.values() if (seat.strides is None) == (again is not None)}
        if again is None:
            return frozenset(others)
        others |= {seat.slot for seat in self._turns if seat is not again}
        return frozenset(others | ({again.slot} if self._holds(again) else set()))

    def _holds(self, seat: _Seat) -> bool:
        """Whether a replay's next step left something undone when it was recorded."""
        return bool((self._recorded(seat) or 0) & HELD)

    def _due(self, seat: _Seat) -> bool:
        stuck = seat.awaited_ms != NO_FLUSH and not seat.out  # the last row did not bring the answer
        if self._stride(seat):  # a flush goes with the audio that it went with
            return self._is_full(seat) or bool(seat.cuts)
        return self._is_full(seat) or bool(seat.cuts) or self._reached(seat) or stuck or seat.held

    def _is_full(self, seat: _Seat) -> bool:
        chunks = self._stride(seat) or 1
        return seat.fed - seat.planned >= chunks * self._spec.chunk_samples

    def _stride(self, seat: _Seat) -> int | None:
        """Chunks of a replay's next step, as far as that was recorded."""
        recorded = self._recorded(seat)
        return None if recorded is None else recorded & ~HELD

    def _recorded(self, seat: _Seat) -> int | None:
        """A replay's next step, as it was recorded."""
        if not seat.strides:
            return None
        return next(itertools.islice(seat.strides, self._skipped(seat), None), None)

    def _skipped(self, seat: _Seat) -> int:
        """How many steps come before it that had no audio: where nothing waits, there are none. An order that is still
        to be obeyed may change that, so they are not dropped before the next step is planned.
        """
        if seat.held or seat.flush_ms != NO_FLUSH or seat.awaited_ms != NO_FLUSH:
            return 0
        return sum(1 for _ in itertools.takewhile(lambda stride: not stride, seat.strides or ()))

    def _reached(self, seat: _Seat) -> bool:
        """Whether a flush waits that needs no more audio than is planned."""
        return seat.flush_ms != NO_FLUSH and seat.flush_ms * self._per_ms <= seat.planned

    def _fill(self, seat: _Seat, arrays: _Arrays, options: dict[int, SlotOptions], pace: int) -> None:
        slot, row = seat.slot, arrays.audio[seat.slot]
        if seat.strides is not None:
            stride, holds = self._stride(seat), self._holds(seat)
            row = row[: (1 if stride is None else stride) * self._spec.chunk_samples]
            for _ in range(min(self._skipped(seat) + 1, len(seat.strides))):
                seat.strides.popleft()
            seat.held = holds
        elif seat.steady:
            row = row[: pace * self._spec.chunk_samples]
        arrays.samples[slot] = self._take(seat, row)
        seat.steady = seat.steady and self._is_full(seat)
        if seat.fresh:
            arrays.reset[slot], arrays.origin_ms[slot] = True, seat.origin_ms
            seat.fresh = False
        if seat.options is not None:
            options[slot], seat.options = seat.options, None
        if self._reached(seat):
            arrays.flush_ms[slot] = seat.awaited_ms = seat.flush_ms
            seat.flush_ms = NO_FLUSH

    def _take(self, seat: _Seat, row: NDArray[np.float32]) -> int:
        """Move samples from the backlog into `row`: whole chunks as far as there are any, and not across a cut.

        A flush does not change how audio is cut into chunks, so that it hangs on nothing but the audio what is decoded.
        """
        limit = seat.cuts[0] if seat.cuts else seat.fed
        wanted = min(len(row), limit - seat.planned)
        if not seat.cuts:
            wanted -= wanted % self._spec.chunk_samples
        taken = 0
        while taken < wanted:
            piece = seat.pieces.popleft()
            count = min(len(piece), wanted - taken)
            if count < len(piece):
                seat.pieces.appendleft(piece[count:])
            scale = 1 / 32768 if piece.dtype == np.int16 else 1.0
            np.multiply(piece[:count], np.float32(scale), out=row[taken : taken + count])
            taken += count
        seat.planned += taken
        if seat.cuts and seat.planned >= seat.cuts[0]:
            seat.cuts.popleft()
        return taken

    def deliver(self, plan: Plan, results: Sequence[Hypothesis | None]) -> list[tuple[str, int, Hypothesis]]:
        """Results to those who still sit where they sat: (session, generation, hypothesis).

        Plans come back in the order they were made. Raises ValueError otherwise, or if results do not match the slots.
        """
        if not self._out or plan is not self._out[0][0] or len(results) != self._spec.slots:
            raise ValueError("not the oldest plan that is out, or not one result for each slot")
        _, rows = self._out.popleft()
        delivered: list[tuple[str, int, Hypothesis]] = []
        for seat, count, result in zip(rows, plan.batch.samples, results, strict=True):
            if seat is None or self._seats.get(seat.owner.session) is not seat:
                continue
            seat.out -= 1
            seat.stepped += int(count)
            if result is None:
                continue
            if result.flushed_ms is not None and result.flushed_ms >= seat.awaited_ms:
                seat.awaited_ms = NO_FLUSH
            delivered.append((seat.owner.session, seat.owner.generation, result))
        return delivered

    def integrity(self) -> None:
        """Raises RuntimeError if the books do not balance; cheap enough to call whenever idle."""
        taken = sorted([*self._empty, *(seat.slot for seat in self._seats.values())])
        if taken != list(range(self._spec.slots)):
            raise RuntimeError(f"slots {taken} for {self._spec.slots} rows")
        for session, seat in self._seats.items():
            held = sum(len(piece) for piece in seat.pieces)
            if not seat.stepped <= seat.planned <= seat.fed or held != seat.fed - seat.planned:
                raise RuntimeError(f"{session}: {seat.stepped=} {seat.planned=} {seat.fed=} {held=}")
            if any(not seat.planned < cut <= seat.fed for cut in seat.cuts):
                raise RuntimeError(f"{session}: cuts {list(seat.cuts)} outside {seat.planned}..{seat.fed}")
