"""Moonshine: an encoder over raw 16 kHz audio and a decoder that writes text, after https://arxiv.org/abs/2410.15608.

    audio [B, N] -> encode -> states [B, T, D] -> cross -> keys and values of every decoder layer
    tokens [B, Q] at positions [B, Q] -> decode (with a cache) -> hidden [B, Q, D] -> logits [B, Q, V]

One state per 384 samples (24 ms). A row is padded on the right with anything and comes out as if encoded alone; rows
of one decode call may stand at different positions.

Facts of the published tiny English checkpoint: 27 M parameters; decoding starts with token 1 (`<s>`, the decoder
start) and ends with token 2 (`</s>`); 0 is `<unk>`, and nothing is reserved for padding. Positions are rotary, so that
512, the published limit on tokens, binds the training and not the arithmetic. Word timing: the cross-attention heads in
`alignment_heads` follow the audio monotonically.

The parameters are those of `transformers`' `MoonshineForConditionalGeneration` laid out for speed: see `fused`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workers.int8 import Int8Linear
from workers.models.decoder import (
    Cache,
    Cross,
    Heard,
    Hint,
    Opening,
    Places,
    attention_weights,
    crossed,
    key_bias,
    places,
)

# (kernel, stride) of the three convolutions over time
CONVOLUTIONS = ((127, 64), (7, 3), (3, 2))
SAMPLES_PER_FRAME = 384
MIN_SAMPLES = 895  # the fewest that give one frame

Count = TypeVar("Count", int, Tensor)


@dataclass(frozen=True)
class MoonshineConfig:
    """Shape of a checkpoint; the defaults are tiny English."""

    vocab_size: int = 32768
    hidden_size: int = 288
    intermediate_size: int = 1152
    encoder_num_hidden_layers: int = 6
    decoder_num_hidden_layers: int = 6
    num_attention_heads: int = 8
    partial_rotary_factor: float = 0.9
    rope_theta: float = 10000.0
    max_position_embeddings: int = 512  # tokens per transcript, as trained
    bos_token_id: int = 1  # also the decoder's start
    eos_token_id: int = 2
    alignment_heads: tuple[tuple[int, int], ...] = ((3, 0), (3, 1), (4, 0), (4, 2), (4, 3))  # (layer, head)

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> Self:
        """From a checkpoint's `config.json`, ours or a Hub's; other keys are ignored.

        Raises ValueError for a variant that this module does not compute: grouped key/value heads, biased attention,
        other activations, encoder and decoder of different head counts.
        """
        rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
        found = {f.name: config[f.name] for f in fields(cls) if config.get(f.name) is not None}
        found |= {k: rope[k] for k in ("rope_theta", "partial_rotary_factor") if k in rope}
        heads = config.get(
            "decoder_num_attention_heads", found.get("num_attention_heads", cls.num_attention_heads)
        )
        found["num_attention_heads"] = heads
        demanded: dict[str, tuple[Any, ...]] = {
            "encoder_num_attention_heads": (heads, None),
            "encoder_num_key_value_heads": (heads, None),
            "decoder_num_key_value_heads": (heads, None),
            "decoder_start_token_id": (found.get("bos_token_id", cls.bos_token_id), None),
            "encoder_hidden_act": ("gelu", None),
            "decoder_hidden_act": ("silu", None),
            "attention_bias": (False, None),
        }
        if wrong := [key for key, allowed in demanded.items() if config.get(key) not in allowed]:
            raise ValueError(
                f"not a Moonshine that is served here: {', '.join(f'{k}={config[k]}' for k in wrong)}"
            )
        layers = found.get("decoder_num_hidden_layers", cls.decoder_num_hidden_layers)
        pairs = found.get("alignment_heads", cls.alignment_heads)
        found["alignment_heads"] = tuple((int(n), int(h)) for n, h in pairs if n < layers and h < heads)
        return cls(**found)


class Attention(nn.Module):
    """Projections around the attention; queries, keys and values in one matrix."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.o_proj = nn.Linear(width, width, bias=False)


class EncoderLayer(nn.Module):
    """Self-attention and a GELU feed-forward, each on the normalised residual stream."""

    def __init__(self, config: MoonshineConfig) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.self_attn = Attention(config.hidden_size)
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)
        self.input_layernorm = nn.LayerNorm(config.hidden_size, bias=False)
        self.post_attention_layernorm = nn.LayerNorm(config.hidden_size, bias=False)

    def forward(self, x: Tensor, rotation: Tensor, bias: Tensor | None) -> Tensor:
        """`x` `[B, T, D]`, `rotation` `[T, 1, 1, hd/2]`, `bias` `[B, 1, 1, T]`."""
        qkv = self.self_attn.qkv(self.input_layernorm(x)).view(*x.shape[:2], 3, self.heads, -1)
        q, k, v = rotated(qkv, rotation).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        x = x + self.self_attn.o_proj(y.transpose(1, 2).flatten(2))
        x += self.fc2(F.gelu(self.fc1(self.post_attention_layernorm(x))))
        return x


class Encoder(nn.Module):
    """Three convolutions that make a frame of every 384 samples, then transformer layers."""

    def __init__(self, config: MoonshineConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.conv1 = nn.Linear(CONVOLUTIONS[0][0], width, bias=False)
        self.conv2 = nn.Linear(CONVOLUTIONS[1][0] * width, 2 * width)
        self.conv3 = nn.Linear(CONVOLUTIONS[2][0] * 2 * width, width)
        self.groupnorm = nn.GroupNorm(1, width, eps=1e-5)
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.encoder_num_hidden_layers))
        self.layer_norm = nn.LayerNorm(width, bias=False)

    def stack(self) -> "list[EncoderLayer]":
        """The layers, first to last."""
        return list(cast("Iterable[EncoderLayer]", self.layers))

    def convolve(self, audio: Tensor, samples: Tensor | None) -> Tensor:
        """Audio `[B, N]` -> `[B, T, D]`; `samples` where rows have different lengths, None where all are full."""
        x = torch.tanh(self.conv1(audio.unfold(1, *CONVOLUTIONS[0])))
        x = self._normalised(x, samples)
        x = F.gelu(self.conv2(windows(x, *CONVOLUTIONS[1])))
        return F.gelu(self.conv3(windows(x, *CONVOLUTIONS[2])))

    def _normalised(self, x: Tensor, samples: Tensor | None) -> Tensor:
        """The group norm: one mean and variance per row, over its own frames and all channels."""
        if samples is None:
            variance, mean = torch.var_mean(x, dim=(1, 2), correction=0, keepdim=True)
        else:
            count = output_length(samples, *CONVOLUTIONS[0])
            beyond = (torch.arange(x.shape[1], device=x.device) >= count[:, None])[..., None]
            elements = (count * x.shape[2])[:, None, None]
            mean = x.masked_fill(beyond, 0.0).sum((1, 2), keepdim=True) / elements
            variance = (x - mean).masked_fill_(beyond, 0.0).square_().sum((1, 2), keepdim=True) / elements
        scale = self.groupnorm.weight * (variance + self.groupnorm.eps).rsqrt()
        return torch.addcmul(self.groupnorm.bias - mean * scale, x, scale)


class DecoderLayer(nn.Module):
    """Causal self-attention over the cache, cross-attention to the audio, a gated feed-forward."""

    def __init__(self, config: MoonshineConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.heads = config.num_attention_heads
        self.self_attn = Attention(width)
        self.q_proj = nn.Linear(width, width, bias=False)  # of the cross-attention
        self.o_proj = nn.Linear(width, width, bias=False)
        self.fc1 = nn.Linear(width, 2 * config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, width)
        self.input_layernorm = nn.LayerNorm(width, bias=False)
        self.post_attention_layernorm = nn.LayerNorm(width, bias=False)
        self.final_layernorm = nn.LayerNorm(width, bias=False)

    def self_attend(self, x: Tensor, rotation: Tensor, entries: Tensor, at: Places) -> Tensor:
        """Write the new tokens' keys and values, then look at all entries up to each token's own position."""
        qkv = self.self_attn.qkv(self.input_layernorm(x)).view(*x.shape[:2], 3, self.heads, -1)
        qkv = rotated(qkv, rotation)
        entries.flatten(0, 1).index_copy_(0, at.entries, qkv[:, :, 1:].flatten(0, 1))
        k, v = entries[:, : at.length].permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(qkv[:, :, 0].transpose(1, 2), k, v, attn_mask=at.bias)
        out: Tensor = self.self_attn.o_proj(y.transpose(1, 2).flatten(2))
        return x + out

    def queries(self, x: Tensor) -> Tensor:
        """Cross-attention queries `[B, H, Q, hd]`."""
        projected: Tensor = self.q_proj(self.post_attention_layernorm(x))
        return projected.view(*x.shape[:2], self.heads, -1).transpose(1, 2)

    def feed_forward(self, x: Tensor) -> Tensor:
        """The residual stream after the gated feed-forward."""
        value, gate = self.fc1(self.final_layernorm(x)).chunk(2, dim=-1)
        out: Tensor = self.fc2(F.silu(gate).mul_(value))
        return x + out


class Decoder(nn.Module):
    """Token embedding (tied to the output) and transformer layers."""

    def __init__(self, config: MoonshineConfig) -> None:
        super().__init__()
        width, layers = config.hidden_size, config.decoder_num_hidden_layers
        self.embed_tokens = nn.Embedding(config.vocab_size, width)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(layers))
        self.cross_kv = nn.Linear(width, layers * 2 * width, bias=False)  # of all layers' cross-attentions
        self.norm = nn.LayerNorm(width, bias=False)

    def stack(self) -> list[DecoderLayer]:
        """The layers, first to last."""
        return list(cast("Iterable[DecoderLayer]", self.layers))


class Moonshine(nn.Module):
    """The whole model. Load with `load_state_dict(fused(checkpoint))`; use under `torch.inference_mode()`."""

    frame_ms = SAMPLES_PER_FRAME / 16
    min_samples = MIN_SAMPLES
    max_tokens = 1 << 15  # rotary positions set no limit; the rules of re-decoding do
    max_samples = 1 << 30

    def __init__(self, config: MoonshineConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self._output: Int8Linear | None = None  # the embedding in 8 bits, once quantised
        self._turns = rotations(config, 1024)
        self._alignment: dict[int, list[int]] = {}  # heads by layer
        for layer, head in config.alignment_heads:
            self._alignment.setdefault(layer, []).append(head)
        self.end_token = config.eos_token_id

    def quantise(self) -> None:
        """Replace the large products of a loaded model by 8-bit ones (`workers/int8.py`), except the convolutions,
        whose published weights are not in 8 bits. For inference on a CPU only.
        """
        stacked = {"qkv": 3, "cross_kv": 2 * self.config.decoder_num_hidden_layers}
        for module in list(self.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, nn.Linear) and not name.startswith("conv"):
                    setattr(module, name, Int8Linear(child.weight.detach(), child.bias, stacked.get(name, 1)))
        self._output = Int8Linear(self.decoder.embed_tokens.weight.detach(), None)

    def frames(self, samples: int) -> int:
        """Encoder frames that so many samples give; 0 below `MIN_SAMPLES`."""
        return frames(samples)

    def encode(self, audio: Tensor, samples: Tensor) -> Tensor:
        """Audio `[B, N]` float32 in [-1, 1], of which `samples` `[B]` int64 count -> states `[B, T, D]`.

        Each row is computed as if alone, whatever stands behind its samples; states beyond a row's own
        `frames(samples)` are undefined. Every row needs at least `MIN_SAMPLES`.
        """
        shortest, longest = int(samples.min()), int(samples.max())
        if shortest < MIN_SAMPLES:
            raise ValueError(f"{shortest} samples give no frame; {MIN_SAMPLES} are the fewest")
        if shortest == longest:
            return self._encode(audio[:, :longest], None)
        if audio.device.type == "cpu":
            return self._encode_each(audio, samples.tolist())
        return self._encode_masked(audio[:, :longest], samples)

    def _encode_each(self, audio: Tensor, samples: list[int]) -> Tensor:
        """Rows of the same length together, others apart: on a CPU, padding costs more than separate calls."""
        states = audio.new_zeros(len(samples), frames(max(samples)), self.config.hidden_size)
        for length in set(samples):
            rows = [row for row, own in enumerate(samples) if own == length]
            states[rows, : frames(length)] = self._encode(audio[rows, :length], None)
        return states

    def _encode_masked(self, audio: Tensor, samples: Tensor) -> Tensor:
        """All rows in one batch: what a GPU likes."""
        beyond = torch.arange(audio.shape[1], device=audio.device) >= samples[:, None]
        return self._encode(audio.masked_fill(beyond, 0.0), samples)

    def _encode(self, audio: Tensor, samples: Tensor | None) -> Tensor:
        x = self.encoder.convolve(audio, samples)
        rotation = self._rotation(x.shape[1], x.device)[: x.shape[1], None, None]
        bias = None if samples is None else key_bias(frames(samples), x.shape[1], x.dtype)
        for layer in self.encoder.stack():
            x = layer(x, rotation, bias)
        normed: Tensor = self.encoder.layer_norm(x)
        return normed

    def listen(self, rows: Sequence[Tensor], final: Sequence[bool]) -> Heard:  # noqa: ARG002 all are heard alike
        """As the contract says (`models/decoder.py`). Every row needs at least `MIN_SAMPLES`."""
        samples = torch.tensor([len(row) for row in rows])
        audio = nn.utils.rnn.pad_sequence(list(rows), batch_first=True)
        count = frames(samples)
        return Heard(self.encode(audio, samples), count, count)

    def open(self, hints: Sequence[Hint], cross: Cross) -> list[Opening]:  # noqa: ARG002 there is nothing to choose
        """The start token."""
        return [Opening((self.config.bos_token_id,))] * len(hints)

    def cross(self, states: Tensor, count: Tensor | None = None) -> Cross:
        """Keys and values of `states` `[B, T, D]` for every decoder layer, computed once per encoding.

        `count` `[B]`: each row's own frames; None when all T count in all rows.
        """
        c = self.config
        both = self.decoder.cross_kv(states)
        return crossed(both, c.num_attention_heads, c.decoder_num_hidden_layers, count, self._alignment)

    def cache(self, batch: int, length: int) -> Cache:
        """Room for `length` tokens in each of `batch` rows."""
        c, weight = self.config, self.decoder.norm.weight
        return Cache(
            weight.new_zeros(
                c.decoder_num_hidden_layers,
                batch,
                length,
                2,
                c.num_attention_heads,
                c.head_dim,
                requires_grad=False,
            )
        )

    def decode(
        self, tokens: Tensor, positions: Tensor, cache: Cache, cross: Cross, need_attention: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """One pass over `tokens` `[B, Q]` that stand at `positions` `[B, Q]` (int64, below the cache's length).

        Every earlier position of a row must have been decoded into `cache` before, or be among these tokens. Returns
        hidden states `[B, Q, D]` for `logits`, and with `need_attention` the alignment heads' cross-attention
        `[B, Q, T]`, summed over heads.
        """
        x = self.decoder.embed_tokens(tokens)
        longest = int(positions.max()) + 1
        at = places(positions, longest, cache.entries.shape[2], x.dtype)
        rotation = self._rotation(longest, x.device)[positions][:, :, None, None]
        attention = x.new_zeros(*tokens.shape, cross.keys[0].shape[2]) if need_attention else None
        for index, layer in enumerate(self.decoder.stack()):
            x = layer.self_attend(x, rotation, cache.entries[index], at)
            q = layer.queries(x)
            if attention is not None and (heads := self._alignment.get(index)):
                keys = cross.aligned[index] if cross.aligned else cross.keys[index][:, heads]
                attention += attention_weights(q[:, heads], keys, cross.bias).sum(1)
            y = F.scaled_dot_product_attention(
                q, cross.keys[index], cross.values[index], attn_mask=cross.bias
            )
            x = x + layer.o_proj(y.transpose(1, 2).flatten(2))
            x = layer.feed_forward(x)
        return self.decoder.norm(x), attention

    def scores(self, hidden: Tensor, first: Tensor) -> Tensor:  # noqa: ARG002 every token may stand everywhere
        """`logits`, in float32."""
        return self.logits(hidden).float()

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores of the next token, `[..., D] -> [..., V]`: the embedding again. As dear as all layers together."""
        if self._output is not None:
            return self._output(hidden)  # type: ignore[no-any-return]
        return F.linear(hidden, self.decoder.embed_tokens.weight)

    def _rotation(self, length: int, device: torch.device) -> Tensor:
        if length > len(self._turns):
            self._turns = rotations(self.config, 2 * length)
        if self._turns.device != device:
            self._turns = self._turns.to(device)
        return self._turns


def output_length(length: Count, kernel: int, stride: int) -> Count:
    """Frames that an unpadded convolution leaves."""
    return (length - kernel) // stride + 1


def frames(samples: Count) -> Count:
    """Encoder frames that so many samples give, for a number or elementwise; 0 below `MIN_SAMPLES`."""
    for kernel, stride in CONVOLUTIONS:
        samples = output_length(samples, kernel, stride)
    return samples * (samples > 0)


def windows(x: Tensor, kernel: int, stride: int) -> Tensor:
    """Overlapping windows over time, `[B, T, C] -> [B, T', kernel * C]`, as a view: a convolution becomes a product."""
    batch, length, width = x.shape
    x = x.contiguous()
    shape = (batch, output_length(length, kernel, stride), kernel * width)
    return x.as_strided(shape, (length * width, stride * width, 1))


def rotations(config: MoonshineConfig, length: int) -> Tensor:
    """`[length, hd/2]` complex: the turn of each pair of channels at each position.

    The pairs past the rotary share of the head turn by nothing, so that all pairs can be multiplied alike.
    """
    rotary = int(config.head_dim * config.partial_rotary_factor)
    frequencies = torch.zeros(config.head_dim // 2)
    frequencies[: rotary // 2] = 1.0 / config.rope_theta ** (torch.arange(0, rotary, 2).float() / rotary)
    angles = torch.arange(length).float()[:, None] * frequencies
    return torch.polar(torch.ones_like(angles), angles)


def rotated(qkv: Tensor, rotation: Tensor) -> Tensor:
    """Turn queries and keys (not values) of `[B, T, 3, H, hd]` to their positions, in place where float32 allows."""
    if qkv.dtype != torch.float32:
        return rotated(qkv.float(), rotation).to(qkv.dtype)
    pairs = qkv[:, :, :2].view(*qkv.shape[:2], 2, qkv.shape[3], -1, 2)
    torch.view_as_complex(pairs).mul_(rotation)
    return qkv


def fused(checkpoint: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A `transformers` Moonshine state dict as `Moonshine.load_state_dict` takes it.

    Drops the prefix `model.` and the output projection (tied to the embedding), joins matrices that are applied to the
    same input, and lays convolution kernels out for `windows`.
    """
    source = {name.removeprefix("model."): value for name, value in checkpoint.items()}
    source.pop("proj_out.weight", None)
    joined: dict[str, Tensor] = {}
    cross: list[Tensor] = []
    for name in list(source):
        if name.endswith("self_attn.q_proj.weight"):
            parts = [source.pop(name.replace(".q_proj.", f".{part}_proj.")) for part in "qkv"]
            joined[name.replace("q_proj", "qkv")] = torch.cat(parts)
    for index in range(sum(name.endswith("encoder_attn.k_proj.weight") for name in source)):
        cross += [source.pop(f"decoder.layers.{index}.encoder_attn.{part}_proj.weight") for part in "kv"]
    joined["decoder.cross_kv.weight"] = torch.cat(cross)
    for name, value in source.items():
        matrix = value.transpose(1, 2).flatten(1) if value.dim() == 3 else value
        joined[name.replace(".mlp.", ".").replace(".encoder_attn.", ".")] = matrix
    return joined
