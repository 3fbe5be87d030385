"""A transducer's step over whichever slots are due: audio in, labels out, one round trip to the device.

Rows of a step are gathered out of the state of all slots, so that slots of any age and phase share a batch. On CUDA a
step is a captured graph, one for each batch size in `sizes`; spare rows work on a row of state that is nobody's. On a
CPU the same code runs eagerly, as wide as the batch is.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workers.boosting import Boost
from workers.features import HOP, WINDOW, StreamingLogMel
from workers.models.fastconformer import SUBSAMPLING, FastConformer, State

#: Frames of one launch at most: bounds the memory of a step.
MOST_FRAMES = 4096


@dataclass(frozen=True)
class Labels:
    """What greedy search said: `token` [B, R] int, -1 where nothing; `frame` [B, R] of the chunk; `odds` [B, R]."""

    token: NDArray[np.int64]
    frame: NDArray[np.int64]
    odds: NDArray[np.float32]


class Stepper:
    """State of `slots` slots, or one shared with steppers of other look-aheads, and the step over some of the slots.

    `boost`: key terms of slots, where there are any. Slots that have some go through a launch of their own, which is
    not captured.

    Not for two threads at a time.
    """

    def __init__(
        self, model: FastConformer, slots: int, state: State | None = None, boost: Boost | None = None
    ) -> None:
        self.model, self.slots = model, slots
        self.device = model.encoder_projector.weight.device
        self.frames = model.frames
        #: Samples by which a slot moves on in a step, and those that a step looks at.
        self.advance = SUBSAMPLING * HOP * self.frames
        self.width = self.advance - HOP + WINDOW
        #: Rounds of search in a step: more are rare, and cost a second round trip.
        self.rounds = self.frames + 4 + self.frames // 2
        self.widest = min(slots, max(1, MOST_FRAMES // self.frames))
        self.state = model.state(slots) if state is None else state
        self.boost = boost
        self._mel = StreamingLogMel(model.config.num_mel_bins, device=str(self.device))
        self._graphs: dict[int, tuple[torch.cuda.CUDAGraph, torch.cuda.CUDAGraph]] = {}
        cuda, rows = self.device.type == "cuda", self.widest
        self._host_rows = torch.full((rows,), slots, pin_memory=cuda)
        self._host_audio = torch.zeros(rows, self.width, pin_memory=cuda)
        self._host_said = torch.zeros(rows, 3 * self.rounds + 1, pin_memory=cuda)
        blank = self._blank
        self._rows = self._host_rows.to(self.device, copy=True)
        self._audio, self._said = blank(rows, self.width), blank(rows, 3 * self.rounds + 1)
        self._encoded = blank(rows, self.frames, model.config.decoder_hidden_size).to(
            model.encoder_projector.weight.dtype
        )
        self._at, self._count = torch.zeros_like(self._rows), torch.zeros_like(self._rows)

    def _blank(self, *shape: int) -> Tensor:
        """float32 zeros on the device."""
        return torch.zeros(*shape, device=self.device)

    @torch.inference_mode()
    def reset(self, rows: NDArray[np.int64], prompts: NDArray[np.int64] | None = None) -> None:
        """Start these slots over, with these language prompts [B] where the model takes any."""
        places = torch.from_numpy(rows).to(self.device)
        self.model.reset(self.state, places)
        if self.boost is not None:
            self.boost.reset(places)
        if prompts is not None and self.model.config.num_prompts:
            self.state.prompt[places] = torch.from_numpy(prompts).to(self.device)

    @torch.inference_mode()
    def step(self, rows: NDArray[np.int64], audio: NDArray[np.float32]) -> Labels:
        """`rows` [B] distinct slots, `audio` [B, width]: from 200 samples before a slot's next frame on.

        A slot's first step begins 7 mel frames before its first sample: `lead` samples of silence.
        """
        boosted = self.boost.wanted.numpy()[rows] if self.boost is not None else np.zeros(len(rows), np.bool_)
        if boosted.any() and not boosted.all():
            order = np.argsort(boosted, kind="stable")
            count = int(len(rows) - boosted.sum())
            halves = (order[:count], order[count:])
            found = [self.step(rows[half], audio[half]) for half in halves]
            return _joined(found, order)
        parts = [
            part
            for at in range(0, len(rows), self.widest)
            for part in self._launch(
                rows[at : at + self.widest], audio[at : at + self.widest], bool(boosted.any())
            )
        ]
        return Labels(*(np.concatenate(part) for part in zip(*_aligned(parts), strict=True)))

    @property
    def lead(self) -> int:
        """Samples of silence before the first sample of a slot."""
        return (SUBSAMPLING - 1) * HOP + WINDOW // 2

    @property
    def sizes(self) -> list[int]:
        """Batch sizes that are captured: powers of two and one between each pair of them."""
        found = {size for power in range(14) for size in (2**power, 3 * 2**power // 2) if size <= self.widest}
        return sorted(found | {self.widest})

    def _launch(
        self, rows: NDArray[np.int64], audio: NDArray[np.float32], boosted: bool
    ) -> list[tuple[NDArray[np.float32], int]]:
        count = len(rows)
        captured = bool(self._graphs) and not boosted
        size = next(size for size in self.sizes if size >= count) if captured else count
        self._host_rows[:count] = torch.from_numpy(rows)
        self._host_rows[count:size] = self.slots
        self._host_audio[:count] = torch.from_numpy(audio)
        self._rows[:size].copy_(self._host_rows[:size], non_blocking=True)
        self._audio[:size].copy_(self._host_audio[:size], non_blocking=True)
        graphs = self._graphs.get(size) if captured else None
        if graphs:
            graphs[0].replay()
        else:
            self._whole(size, boosted)
        found = self._said_by(size)
        pieces = [found[:count]]
        while pieces[-1][:, -1].any():  # rare: someone said more than a step has rounds for
            if graphs:
                graphs[1].replay()
            else:
                self._search(size, boosted)
            pieces.append(self._said_by(size)[:count])
        return [(np.stack(pieces), count)]

    def _said_by(self, size: int) -> NDArray[np.float32]:
        self._host_said[:size].copy_(self._said[:size], non_blocking=True)
        if self.device.type == "cuda":
            torch.cuda.current_stream().synchronize()
        return self._host_said[:size].numpy().copy()

    def _whole(self, size: int, boosted: bool = False) -> None:
        self._encoded[:size] = self.model.encode(self.state, self._rows[:size], self._mel(self._audio[:size]))
        self._at[:size].zero_()
        self._count[:size].zero_()
        self._search(size, boosted)

    def _search(self, size: int, boosted: bool = False) -> None:
        at, rows, encoded = self._at[:size], self._rows[:size], self._encoded[:size]
        tries = self.boost.of(rows) if self.boost is not None and boosted else None
        said = self.model.search(self.state, rows, encoded, at, self._count[:size], self.rounds, tries)
        if self.boost is not None and tries is not None:
            self.boost.put(rows, tries)
        # One tensor, so that one copy brings all home; labels are far below 2 ** 24.
        self._said[:size] = torch.cat(
            [*(part.float() for part in said), (at < self.frames)[:, None].float()], 1
        )

    @torch.inference_mode()
    def warm_up(self, pool: Any = None) -> None:
        """Run every batch size on nobody's row and, on CUDA, capture it.

        `pool`: memory of graphs (`torch.cuda.graph_pool_handle`), shared with steppers that never run at the same time:
        nothing of a graph's is needed once it is over.
        """
        self._rows.fill_(self.slots)
        if self.device.type != "cuda":
            self._whole(1)
            return
        pool = pool or torch.cuda.graph_pool_handle()
        for size in reversed(self.sizes):
            graphs = []
            for part in (self._whole, self._search):
                aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
                aside.wait_stream(torch.cuda.current_stream())
                with torch.cuda.stream(aside):
                    part(size)
                torch.cuda.current_stream().wait_stream(aside)
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph, pool=pool):
                    part(size)
                graphs.append(graph)
            self._graphs[size] = (graphs[0], graphs[1])
        torch.cuda.synchronize()
        torch.cuda.empty_cache()  # what the runs before the captures took: other workers may share the GPU


def _joined(parts: list[Labels], order: NDArray[np.int64]) -> Labels:
    """Rows of several steps, in the order that `order` was made of."""
    width = max(part.token.shape[1] for part in parts)
    back = np.argsort(order)

    def whole(name: str) -> NDArray[Any]:
        rows = [getattr(part, name) for part in parts]
        padded = [np.pad(row, ((0, 0), (0, width - row.shape[1])), constant_values=-1) for row in rows]
        return np.concatenate(padded)[back]

    return Labels(whole("token"), whole("frame"), whole("odds"))


def _aligned(
    launches: list[tuple[NDArray[np.float32], int]],
) -> list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]]:
    """Launches that took different numbers of searches, as arrays of one width."""
    most = max(len(pieces) for pieces, _ in launches)
    found = []
    for pieces, count in launches:
        rounds = (pieces.shape[2] - 1) // 3
        whole = np.full((most, count, 3 * rounds), -1, np.float32)
        whole[: len(pieces)] = pieces[:, :, :-1]
        token, frame, odds = whole.reshape(most, count, 3, rounds).transpose(2, 1, 0, 3).reshape(3, count, -1)
        found.append((token.astype(np.int64), frame.astype(np.int64), odds))
    return found
