"""The contract between the engine and a model: what goes into a step and what comes out.

A recognizer holds all model state inside, preallocated, slot on axis 0; a pool package (`english`, ...) builds one.
No I/O, no clock, no logging; seeded; deterministic on a CPU. Times are ms of the session's audio time.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from workers.words import Word

#: `Batch.flush_ms` of a slot that asks for no flush.
NO_FLUSH = -1


@dataclass(frozen=True)
class Spec:
    """What a recognizer is. `hop_ms`: grain of observations; `languages`: codes of those it writes; `state_bytes`:
    memory of a session's state in the model.

    A slot takes part in a step with whole chunks of `chunk_samples`: one when all is well, up to `catch_up` of them
    when steps take longer than chunks. Without that, one long step after another would let audio pile up for ever.
    """

    model: str
    licence: str
    slots: int
    chunk_samples: int
    hop_ms: int
    sample_rate: int = 16_000
    catch_up: int = 1
    languages: tuple[str, ...] = ()
    state_bytes: int = 0

    @property
    def row_samples(self) -> int:
        """Most samples of one slot in one step: the width of a batch."""
        return self.chunk_samples * self.catch_up


#: What a model keeps of a slot's past for whoever takes the session over: a few kB of what msgpack carries, the model's
#: own business otherwise.
Memory = dict[str, Any]


@dataclass(frozen=True)
class Quiet:
    """In silence: who goes on at `at_ms` with `memory`, given the audio from `from_ms` on, hears what this one does."""

    at_ms: int
    from_ms: int
    memory: Memory


@dataclass(frozen=True)
class SlotOptions:
    """What a session asks of the model itself; turn rules stay with `turns.py`. A model ignores what it has no use for.

    language        code of the only language spoken; None: listen for it
    languages       codes of the languages that may be spoken, where `language` is None; empty: any
    keyterms        words to be preferred where the audio supports them
    prompt          what the session is about, for names and spellings
    agent_context   what the other side of the conversation said last
    previous_turns  how many turns before the open one are its context, at most
    memory          what another worker kept of the session (`Hypothesis.memory`); read when the slot is reset
    first_ms        speech after which a turn's first words are told, ...
    partial_ms      ... and audio between two later partials; 0: what suits the model
    mode            what is to be traded for what: `min_latency`, `balanced`, `max_accuracy`; empty: nothing was said
    """

    vad_threshold: float = 0.4
    language: str | None = None
    languages: tuple[str, ...] = ()
    keyterms: tuple[str, ...] = ()
    prompt: str = ""
    agent_context: str = ""
    previous_turns: int = 0
    memory: Memory | None = None
    first_ms: int = 0
    partial_ms: int = 0
    mode: str = ""


@dataclass(frozen=True)
class Batch:
    """One step's input over all `S` slots.

    audio     [S, C] float32 in -1..1, C = `row_samples`; the first `samples[s]` of row s count, the rest is ignored
    samples   [S] int64; 0: no audio for this slot in this step. It hears nothing, but may be told what was due before
    reset     [S] bool: a new occupant; forget everything before reading this row's audio
    origin_ms [S] int64: audio time of the new occupant's first sample (not 0 after a resume); read where `reset`
    flush_ms  [S] int64: settle every word up to this audio time, at this or a later step; NO_FLUSH otherwise. Never
              later than the audio given so far (this row included). Asked once; stands until answered.
    options   slot -> options, for slots whose options are new or changed
    hold      slots for which nothing is decoded in this step, whatever is due: it is due at a later one. Only for
              recognizers that choose what they decode
    """

    audio: NDArray[np.float32]
    samples: NDArray[np.int64]
    reset: NDArray[np.bool_]
    origin_ms: NDArray[np.int64]
    flush_ms: NDArray[np.int64]
    options: Mapping[int, SlotOptions] = field(default_factory=dict)
    hold: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Observation:
    """One hop of audio: ends at `at_ms`, `speech` is the probability that someone speaks."""

    at_ms: int
    speech: float


@dataclass(frozen=True)
class Hypothesis:
    """What a slot's model believes after a step; all words since the last flush was answered are in play.

    observations  hops completed in this step, in order
    settled       words newly settled in this step: never change, each is told exactly once
    tail          words after the settled ones that may still change (replaces the tail told before); `None`: no news
    end_of_turn   belief (0 to 1) that the speaker is done after the last word known; of the newest decode
    flushed_ms    answer to a flush: every word that starts before is settled (in this or earlier steps, `tail` is
                  what begins after); no later word starts before it
    heard_ms      audio time up to which `settled` and `tail` have heard; words end by then
    failed        this slot's computation failed, its neighbours' did not; its state is of no use any more
    language      code of the language that these words are in, with `language_confidence` 0 to 1 (0 where it was given
                  and not heard); None: the model tells none, or nothing was decoded yet in the open turn
    memory        with an answer to a flush: what to keep of the past, from there on; None: the model keeps none
    quiet         while nothing is open: a place that another worker may go on from, and the memory for it
    held          something was due, and there was no time for it in this step
    """

    observations: tuple[Observation, ...] = ()
    settled: tuple[Word, ...] = ()
    tail: tuple[Word, ...] | None = None
    end_of_turn: float = 0.0
    flushed_ms: int | None = None
    heard_ms: int = 0
    failed: bool = False
    language: str | None = None
    language_confidence: float = 0.0
    memory: Memory | None = None
    quiet: Quiet | None = None
    held: bool = False


class Recognizer(Protocol):
    """A model with one row of state per slot. Calls come from one thread, one at a time.

    `behind`: the last step left work undone for want of time; a step without audio would go on with it.
    """

    spec: Spec
    behind: bool

    def warm_up(self) -> None:
        """Run every shape once, so that the first session meets no surprise. Called once, before `step`."""

    def step(self, batch: Batch) -> list[Hypothesis | None]:
        """One step; element s is None where slot s had nothing to do and nothing to tell."""
