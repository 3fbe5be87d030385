"""What every recognizer does with a batch first: keep each slot's audio, and hear where someone speaks.

Speech is told hop by hop, one batched step of the voice detector for all slots that have one. Where the detector was
after each hop is kept for a while, so that a worker that takes a session over listens on as this one would have.
"""

from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workers.memory import KEPT_HOPS, Hop, recall, remember, remember_silence
from workers.recognizer import NO_FLUSH, Batch, Memory, Observation, Quiet, SlotOptions, Spec
from workers.vad import HOP, SileroVAD
from workers.window import SAMPLES_PER_MS, Window

#: Speech ends below the threshold less this (Silero's own hysteresis).
HYSTERESIS = 0.15
#: No threshold is lower.
FLOOR = 0.01

#: Told of each hop of a slot, once it is in the slot's window.
Heard = Callable[[int, Window], None]


class Listener:
    """The windows of all slots and the voice detector's state. `pause_ms`: silence after which nobody is speaking."""

    def __init__(self, spec: Spec, vad: SileroVAD, pause_ms: int) -> None:
        self.windows = [Window() for _ in range(spec.slots)]
        self._spec, self._vad, self._pause_ms = spec, vad, pause_ms
        self._state = vad.state(spec.slots)
        self._audio = np.zeros((spec.slots, HOP), np.float32)  # of the hops that are heard next
        self._hops: list[deque[Hop]] = [deque(maxlen=KEPT_HOPS) for _ in range(spec.slots)]

    def warm_up(self) -> None:
        """One hop, on a state that is nobody's."""
        slots, blank = self._spec.slots, self._state.context.new_zeros
        with torch.inference_mode():
            self._vad.step(self._vad.state(slots), blank(slots, HOP), blank(slots) == 0)

    def accept(self, batch: Batch) -> list[int]:
        """Take in the batch's audio, options and flushes. Returns the slots that have a new occupant."""
        fresh: list[int] = np.flatnonzero(batch.reset).tolist()
        if fresh:
            self._vad.reset(self._state, self._there(batch.reset))
            for slot in fresh:
                self._hops[slot].clear()
                self.windows[slot] = self._opened(slot, int(batch.origin_ms[slot]), batch.options.get(slot))
        for slot, options in batch.options.items():
            self.windows[slot].options, self.windows[slot].before = options, None
        for slot in np.flatnonzero(batch.samples).tolist():
            self.windows[slot].append(batch.audio[slot, : batch.samples[slot]])
        for slot in np.flatnonzero(batch.flush_ms != NO_FLUSH).tolist():
            self.windows[slot].flush_ms = int(batch.flush_ms[slot])
        return fresh

    def listen(self, heard: Heard) -> list[list[Observation]]:
        """Speech probability of every hop that is complete, by slot."""
        told: list[list[Observation]] = [[] for _ in self.windows]
        while ready := [slot for slot, window in enumerate(self.windows) if window.end - window.heard >= HOP]:
            active = np.zeros(self._spec.slots, bool)
            active[ready] = True
            for slot in ready:
                window = self.windows[slot]
                self._audio[slot] = window.audio(window.heard, window.heard + HOP)
            with torch.inference_mode():
                heard_now = self._vad.step(self._state, self._there(self._audio), self._there(active))
                speech, states = heard_now.tolist(), self._vad.rows(self._state).cpu().numpy()
            for slot in ready:
                window = self.windows[slot]
                self._hear(window, speech[slot])
                heard(slot, window)
                self._hops[slot].append(Hop(window.heard, window.speaking, window.onset, states[slot]))
                told[slot].append(Observation(window.ms(window.heard), speech[slot]))
        return told

    def _there(self, array: NDArray[Any]) -> Tensor:
        """Where the detector is."""
        return torch.from_numpy(array).to(self._state.context.device)

    def memory(self, slot: int) -> Memory:
        """What to keep of a slot's past, right after `Window.finish`."""
        window = self.windows[slot]
        hops = [hop for hop in self._hops[slot] if hop.heard <= window.turn_from]
        return remember(window, self._spec.model, hops[-1] if hops else None)

    def silence(self, slot: int, lead: int) -> Quiet:
        """A place right behind the newest hop, where nobody speaks, for who may need `lead` samples before it."""
        window = self.windows[slot]
        hop = self._hops[slot][-1]
        known = remember_silence(window, self._spec.model, lead, hop)
        return Quiet(window.ms(hop.heard), int(known["start"]) // SAMPLES_PER_MS, known)

    def _opened(self, slot: int, origin_ms: int, options: SlotOptions | None) -> Window:
        """A new window, with what the options remember; nothing, if that cannot be understood."""
        if options is None or options.memory is None:
            return Window(origin_ms=origin_ms)
        try:
            window, state = recall(options.memory, self._spec.model, origin_ms, options)
            if state is not None:
                self._vad.restore(self._state, slot, torch.from_numpy(state.copy()))
        except (KeyError, TypeError, ValueError):
            return Window(origin_ms=origin_ms)
        return window

    def _hear(self, window: Window, speech: float) -> None:
        threshold = window.options.vad_threshold - (HYSTERESIS if window.speaking else 0.0)
        voiced = speech >= max(threshold, FLOOR)
        window.hear(HOP, voiced)
        if voiced:
            if not window.speaking:
                window.onset = window.heard - HOP
            window.speaking, window.last_speech = True, window.heard
        elif window.heard - window.last_speech >= self._pause_ms * SAMPLES_PER_MS:
            window.speaking = False
