"""What drafting asks of an encoder and decoder, and what the architectures share.

rows of audio -> listen -> Heard (states) -> cross -> Cross (keys and values of every decoder layer)
                 open   -> Opening: the tokens with which each row's transcript begins
tokens [B, Q] at positions [B, Q] -> decode (with a Cache) -> hidden [B, Q, D] -> scores [K, V]
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class Hint:
    """What is known of a row's speech before it is decoded; a model that has no use for it ignores it.

    language   its code, where it is known
    among      codes it may have, where it is not known; empty: any
    prior      what speaks for each code already, in seconds of speech (`workers/language.py`) ...
    weight     ... and what this row's own speech counts beside it
    before     tokens of a text that came before
    ask        tell language and silence anew, even where the language is known
    """

    language: str | None = None
    among: tuple[str, ...] = ()
    prior: Mapping[str, float] = field(default_factory=dict)
    weight: float = 1.0
    before: tuple[int, ...] = ()
    ask: bool = False


@dataclass(frozen=True)
class Opening:
    """How a row's transcript begins: `tokens` stand before the prefix.

    languages  code -> probability by this row alone, likeliest first; empty where the model was not asked
    silence    probability that nobody speaks, 0 where the model was not asked or cannot tell
    pace       how many tokens this language takes where most take one; a row's cap grows with it
    """

    tokens: tuple[int, ...]
    language: str | None = None
    languages: dict[str, float] = field(default_factory=dict)
    silence: float = 0.0
    pace: float = 1.0


@dataclass(frozen=True)
class Heard:
    """Encoded rows: `states` [B, T, D]; `count` [B] states of each row that the decoder sees; `spoken` [B] how many of
    these belong to the audio itself, the rest is silence that was put after it."""

    states: Tensor
    count: Tensor
    spoken: Tensor


@dataclass(frozen=True)
class Cross:
    """What the decoder sees of the audio, per decoder layer: keys and values `[B, H, T, hd]`.

    `bias`: `[B, 1, 1, T]` float, 0 for a row's own frames and -inf behind them; None when all rows are full.
    `aligned`: by layer, the keys of its alignment heads alone; found again at every decode where it is left out.
    """

    keys: list[Tensor]
    values: list[Tensor]
    bias: Tensor | None
    aligned: dict[int, Tensor] = field(default_factory=dict)

    def rows(self, index: Tensor) -> Self:
        """The rows in `index` alone, as a copy."""
        return replace(
            self,
            keys=[keys[index] for keys in self.keys],
            values=[values[index] for values in self.values],
            bias=None if self.bias is None else self.bias[index],
            aligned={layer: keys[index] for layer, keys in self.aligned.items()},
        )

    def repeated(self, row: int, times: int) -> Self:
        """One row, several times: a view of it."""

        def again(part: Tensor) -> Tensor:
            return part[row : row + 1].expand(times, *part.shape[1:])

        return replace(
            self,
            keys=[again(keys) for keys in self.keys],
            values=[again(values) for values in self.values],
            bias=None if self.bias is None else again(self.bias),
            aligned={layer: again(keys) for layer, keys in self.aligned.items()},
        )


@dataclass(frozen=True)
class Cache:
    """Self-attention keys and values of all tokens so far: `[layers, B, L, 2, H, hd]`, written in place by `decode`.

    An entry counts only for queries at its own position or later, so that what lies beyond a row's accepted length is
    harmless and is overwritten when decoding gets there again.
    """

    entries: Tensor


class EncoderDecoder(Protocol):
    """A model that `workers/drafting.py` can drive. Use under `torch.inference_mode()`."""

    frame_ms: float  # of one state
    min_samples: int  # the fewest of a row
    end_token: int
    max_tokens: int  # opening, prefix and transcript together
    max_samples: int  # the most of a row

    def listen(self, rows: Sequence[Tensor], final: Sequence[bool]) -> Heard:
        """Encode rows of audio [n] float32 at 16 kHz, each as if alone.

        `final`: the row's words are about to stand, so that care is worth more than time.
        """

    def cross(self, states: Tensor, count: Tensor | None = None) -> Cross:
        """Keys and values for the decoder; `count` [B] states of each row, None when all count."""

    def open(self, hints: Sequence[Hint], cross: Cross) -> list[Opening]:
        """How the transcript of each row begins."""

    def cache(self, batch: int, length: int) -> Cache:
        """Room for `length` tokens in each of `batch` rows."""

    def decode(
        self, tokens: Tensor, positions: Tensor, cache: Cache, cross: Cross, need_attention: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """One pass over `tokens` [B, Q] at `positions` [B, Q]: hidden [B, Q, D], and the alignment heads' summed
        attention [B, Q, T] where it is needed. Earlier positions must be in the cache or among the tokens."""

    def scores(self, hidden: Tensor, first: Tensor) -> Tensor:
        """Scores of the next token after each of `hidden` [K, D] -> [K, V]; -inf for what may not be said there.

        `first` [K] bool: nothing but the opening has been said so far.
        """


@dataclass(frozen=True)
class Places:
    """Where the tokens of one decode call go: indices into the cache's `[B * L]`, how far to look, and the mask."""

    entries: Tensor
    length: int
    bias: Tensor | None


def places(positions: Tensor, longest: int, room: int, dtype: torch.dtype) -> Places:
    """Of tokens at `positions` [B, Q], all below `longest`, in a cache with `room` for each row."""
    rows = torch.arange(len(positions), device=positions.device)[:, None]
    entries = (rows * room + positions).flatten()
    if positions.shape[1] == 1 and int(positions.min()) + 1 == longest:
        return Places(entries, longest, None)
    later = torch.arange(longest, device=positions.device) > positions[..., None]
    bias = torch.zeros(later.shape, dtype=dtype, device=positions.device).masked_fill_(later, -torch.inf)
    return Places(entries, longest, bias[:, None])


def key_bias(count: Tensor, length: int, dtype: torch.dtype) -> Tensor:
    """`[B, 1, 1, length]`: 0 for each row's first `count` keys, -inf for the rest."""
    beyond = torch.arange(length, device=count.device) >= count[:, None]
    return torch.zeros(beyond.shape, dtype=dtype, device=count.device).masked_fill_(beyond, -torch.inf)[
        :, None, None
    ]


def attention_weights(q: Tensor, k: Tensor, bias: Tensor | None) -> Tensor:
    """Softmax of the scaled products, `[B, H, Q, T]`: what the fused attention keeps to itself."""
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    return torch.softmax(scores if bias is None else scores + bias, dim=-1)


def crossed(
    both: Tensor, heads: int, layers: int, count: Tensor | None, aligned: dict[int, list[int]]
) -> Cross:
    """`Cross` out of `both` [B, T, layers * 2 * D]: keys and values of all layers in one product."""
    batch, length = both.shape[:2]
    # Contiguous, because decode reads it many times, a head at a time.
    apart = both.view(batch, length, layers, 2, heads, -1).permute(2, 3, 0, 4, 1, 5).contiguous()
    full = count is None or int(count.min()) == length
    bias = None if full or count is None else key_bias(count, length, both.dtype)
    keys, values = (list(part.unbind()) for part in apart.unbind(1))
    return Cross(keys, values, bias, {n: keys[n][:, chosen] for n, chosen in aligned.items()})
