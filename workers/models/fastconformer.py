"""Cache-aware FastConformer with an RNN-T predictor and joint: Nemotron's streaming checkpoints, many slots a step.

The encoder is Noroozi et al. 2023 (arXiv 2312.17279): audio comes in chunks of `1 + lookahead` frames of 80 ms, each
frame sees its own chunk and a bounded past, and so every frame is encoded once. The first chunk of a session is filled
up with frames that do not exist, so that all steps have one shape; what comes of them is masked after each convolution.
Parameters are named as in the published checkpoints (transformers' `NemotronAsrStreamingForRNNT` and
`Nemotron3_5AsrForRNNT`), but for `fused`.
"""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Protocol, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: Mel frames to an encoder frame, in three strided convolutions.
SUBSAMPLING = 8
STAGES = 3
#: Keys are padded to a multiple of this, which fused attention wants of its mask.
ALIGNED = 8


@dataclass(frozen=True)
class FastConformerConfig:
    """Shapes; the defaults are the published English checkpoint's. `num_prompts` 0: no language prompt."""

    hidden_size: int = 1024
    num_hidden_layers: int = 24
    num_attention_heads: int = 8
    intermediate_size: int = 4096
    conv_kernel_size: int = 9
    subsampling_conv_channels: int = 256
    num_mel_bins: int = 80
    sliding_window: int = 71
    attention_bias: bool = True
    convolution_bias: bool = True
    scale_input: bool = True
    vocab_size: int = 1025
    blank_token_id: int = 1024
    decoder_hidden_size: int = 640
    num_decoder_layers: int = 2
    max_symbols_per_step: int = 10
    num_prompts: int = 0
    prompt_intermediate_size: int = 2048
    default_prompt_id: int = 101

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> Self:
        """From a checkpoint's `config.json`. Raises ValueError where it describes another architecture."""
        encoder = config.get("encoder_config", {})
        wanted = {"hidden_act": "silu", "subsampling_factor": SUBSAMPLING, "subsampling_conv_kernel_size": 3}
        wrong = {name: encoder[name] for name, value in wanted.items() if encoder.get(name, value) != value}
        if not encoder or wrong or config.get("hidden_act", "relu") != "relu":
            raise ValueError(
                f"this is no streaming transducer of a shape served here: {wrong or 'no encoder_config'}"
            )
        names = {part.name for part in fields(cls)}
        found = {"num_prompts": 128} if config.get("model_type") == "nemotron3_5_asr" else {}
        return cls(**found | {name: value for name, value in {**config, **encoder}.items() if name in names})

    def left(self, lookahead: int) -> int:
        """Frames of the past that a chunk sees: whole chunks only. Raises ValueError where not even one fits."""
        chunk = lookahead + 1
        if lookahead < 0 or self.sliding_window - 1 < chunk:
            raise ValueError(f"look-ahead {lookahead}: choose 0 to {self.sliding_window - 2}")
        return (self.sliding_window - 1) // chunk * chunk


def fused(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A published state dict with query, key and value as one product."""
    state = dict(weights)
    for name in [name for name in weights if ".self_attn.q_proj." in name]:
        parts = [state.pop(name.replace("q_proj", part)) for part in ("q_proj", "k_proj", "v_proj")]
        state[name.replace("q_proj", "qkv_proj")] = torch.cat(parts)
    return state


@dataclass
class State:
    """What is remembered of each slot, slot on axis 0 (1 where layers come first); row S is nobody's, for padding.

    keys [layers, S + 1, left, 2, D]: a ring over frames, keys and values; `seen` [S + 1] frames so far
    """

    seen: Tensor
    keys: Tensor
    conv: Tensor  # [layers, S + 1, kernel - 1, D]
    stages: tuple[Tensor, ...]  # last frame before each strided convolution
    hidden: Tensor  # [predictor layers, S + 1, H]
    cell: Tensor
    predicted: Tensor  # [S + 1, H]: the predictor's newest output
    prompt: Tensor  # [S + 1]: language prompt

    @property
    def bytes_per_slot(self) -> int:
        """Memory of one slot."""
        parts = (
            self.seen,
            self.keys,
            self.conv,
            *self.stages,
            self.hidden,
            self.cell,
            self.predicted,
            self.prompt,
        )
        return sum(part.nbytes for part in parts) // len(self.seen)


class _FeedForward(nn.Module):
    def __init__(self, config: FastConformerConfig) -> None:
        super().__init__()
        self.linear1 = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.attention_bias)
        self.linear2 = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.attention_bias)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.linear2(F.silu(self.linear1(x)))
        return found


class _Attention(nn.Module):
    def __init__(self, config: FastConformerConfig) -> None:
        super().__init__()
        width, self.heads = config.hidden_size, config.num_attention_heads
        self.qkv_proj = nn.Linear(width, 3 * width, bias=config.attention_bias)
        self.o_proj = nn.Linear(width, width, bias=config.attention_bias)
        self.relative_k_proj = nn.Linear(width, width, bias=False)
        self.bias_u = nn.Parameter(torch.zeros(self.heads, width // self.heads))
        self.bias_v = nn.Parameter(torch.zeros(self.heads, width // self.heads))

    def forward(self, x: Tensor, ring: Tensor, view: "_View", distances: Tensor) -> Tensor:
        """`x` [B, T, D]; `ring` [S + 1, left, 2, D] is read, then written; `distances` [H, d, P] (`_distances`)."""
        rows, frames, width = x.shape
        head = width // self.heads
        query, new = self.qkv_proj(x).split([width, 2 * width], dim=-1)
        new = new.view(rows, frames, 2, width)
        past = ring[view.rows[:, None], view.read]
        ring.index_put_((view.rows[:, None], view.write), new)
        keys, values = (
            torch.cat([past, new], dim=1).view(rows, -1, 2, self.heads, head).permute(2, 0, 3, 1, 4)
        )
        query = query.view(rows, frames, self.heads, head).transpose(1, 2)
        places = ((query + self.bias_v[:, None]) @ distances).contiguous()
        # Transformer-XL's shift: key j of query i stands at distance (past + i - j), one further left for each query.
        number, span = places.shape[-1], keys.shape[2]
        stride = places.stride()
        shifted = places.as_strided(
            (rows, self.heads, frames, span), (stride[0], stride[1], number - 1, 1), frames - 1
        )
        mask = torch.where(view.visible, shifted * head**-0.5, float("-inf"))
        heard = F.scaled_dot_product_attention(query + self.bias_u[:, None], keys, values, attn_mask=mask)
        found: Tensor = self.o_proj(heard.transpose(1, 2).reshape(rows, frames, width))
        return found

    def project(self, positions: Tensor) -> Tensor:
        """Sinusoids [P, D] -> [H, d, P]."""
        found: Tensor = (
            self.relative_k_proj(positions).view(len(positions), self.heads, -1).permute(1, 2, 0).contiguous()
        )
        return found


class _Convolution(nn.Module):
    def __init__(self, config: FastConformerConfig) -> None:
        super().__init__()
        width, bias = config.hidden_size, config.convolution_bias
        self.pointwise_conv1 = nn.Conv1d(width, 2 * width, 1, bias=bias)
        self.depthwise_conv = nn.Conv1d(width, width, config.conv_kernel_size, groups=width, bias=bias)
        self.norm = nn.LayerNorm(width)
        self.pointwise_conv2 = nn.Conv1d(width, width, 1, bias=bias)

    def forward(self, x: Tensor, past: Tensor, rows: Tensor) -> Tensor:
        """`x` [B, T, D]; `past` [S + 1, kernel - 1, D] is read and written."""
        x = F.glu(F.linear(x, self.pointwise_conv1.weight[:, :, 0], self.pointwise_conv1.bias), dim=-1)
        whole = torch.cat([past[rows], x], dim=1)
        past.index_copy_(0, rows, whole[:, -past.shape[1] :])
        kernel = self.depthwise_conv.weight[:, 0]
        x = (whole.unfold(1, kernel.shape[1], 1) * kernel).sum(-1)
        x = x if self.depthwise_conv.bias is None else x + self.depthwise_conv.bias
        return F.linear(F.silu(self.norm(x)), self.pointwise_conv2.weight[:, :, 0], self.pointwise_conv2.bias)


class _Block(nn.Module):
    def __init__(self, config: FastConformerConfig) -> None:
        super().__init__()
        self.feed_forward1, self.feed_forward2 = _FeedForward(config), _FeedForward(config)
        self.self_attn = _Attention(config)
        self.conv = _Convolution(config)
        self.norm_feed_forward1 = nn.LayerNorm(config.hidden_size)
        self.norm_self_att = nn.LayerNorm(config.hidden_size)
        self.norm_conv = nn.LayerNorm(config.hidden_size)
        self.norm_feed_forward2 = nn.LayerNorm(config.hidden_size)
        self.norm_out = nn.LayerNorm(config.hidden_size)

    def forward(self, x: Tensor, ring: Tensor, past: Tensor, view: "_View", distances: Tensor) -> Tensor:
        x = torch.add(x, self.feed_forward1(self.norm_feed_forward1(x)), alpha=0.5)
        x = x + self.self_attn(self.norm_self_att(x), ring, view, distances)
        x = x + self.conv(self.norm_conv(x), past, view.rows)
        x = torch.add(x, self.feed_forward2(self.norm_feed_forward2(x)), alpha=0.5)
        found: Tensor = self.norm_out(x)
        return found


class _Stage(nn.Module):
    """A depthwise strided convolution and a pointwise one."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise_conv = nn.Conv2d(channels, channels, 3, stride=2, groups=channels)
        self.pointwise_conv = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.pointwise_conv(self.depthwise_conv(x))
        return found


class _Subsampling(nn.Module):
    def __init__(self, config: FastConformerConfig) -> None:
        super().__init__()
        channels = config.subsampling_conv_channels
        self.bands = [config.num_mel_bins]
        for _ in range(STAGES):
            self.bands.append(self.bands[-1] // 2 + 1)
        self.conv_in = nn.Conv2d(1, channels, 3, stride=2)
        self.layers = nn.ModuleList(_Stage(channels) for _ in range(STAGES - 1))
        self.linear = nn.Linear(channels * self.bands[-1], config.hidden_size)

    def forward(self, mel: Tensor, past: tuple[Tensor, ...], view: "_View") -> Tensor:
        """`mel` [B, 8 T, bands] -> [B, T, D]; `past`: the frame before this chunk, for each stage."""
        x = mel[:, None]
        missing = SUBSAMPLING - 1
        for number, stage in enumerate((self.conv_in, *self.layers)):
            # Frames before the first are zeros to every convolution, whatever the one before made of them.
            exist = torch.arange(x.shape[2], device=x.device) >= missing
            x = torch.where(view.first[:, None, None, None] & ~exist[:, None], 0.0, x)
            whole = torch.cat([past[number][view.rows], x], dim=2)
            past[number].index_copy_(0, view.rows, x[:, :, -1:])
            x = F.relu(stage(F.pad(whole, (2, 1))))
            missing //= 2
        found: Tensor = self.linear(x.transpose(1, 2).flatten(2))
        return found


@dataclass
class _View:
    """Where the rows of a step lie in the state."""

    rows: Tensor  # [B]
    first: Tensor  # [B] bool: no frame before this chunk
    read: Tensor  # [B, past]: places of the past in the ring, oldest first
    write: Tensor  # [B, T]
    visible: Tensor  # [B, 1, 1, past + T] bool


class _Encoder(nn.Module):
    def __init__(self, config: FastConformerConfig) -> None:
        super().__init__()
        self.subsampling = _Subsampling(config)
        self.layers = nn.ModuleList(_Block(config) for _ in range(config.num_hidden_layers))


class _Predictor(nn.Module):
    def __init__(self, config: FastConformerConfig) -> None:
        super().__init__()
        width = config.decoder_hidden_size
        self.embedding = nn.Embedding(config.vocab_size, width)
        self.lstm = nn.LSTM(width, width, config.num_decoder_layers, batch_first=True)
        self.decoder_projector = nn.Linear(width, width)

    def forward(self, tokens: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`tokens` [B], `hidden` and `cell` [layers, B, H] -> output [B, H], new hidden, new cell."""
        x, hiddens, cells = self.embedding(tokens), [], []
        for layer in range(len(hidden)):
            weight = [
                getattr(self.lstm, f"{part}_l{layer}")
                for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            ]
            gates = F.linear(x, weight[0], weight[2]) + F.linear(hidden[layer], weight[1], weight[3])
            admit, keep, candidate, show = gates.chunk(4, dim=-1)
            new = admit.sigmoid() * candidate.tanh() + keep.sigmoid() * cell[layer]
            x = show.sigmoid() * new.tanh()
            hiddens.append(x)
            cells.append(new)
        return self.decoder_projector(x), torch.stack(hiddens), torch.stack(cells)


class _Joint(nn.Module):
    def __init__(self, config: FastConformerConfig) -> None:
        super().__init__()
        self.head = nn.Linear(config.decoder_hidden_size, config.vocab_size)


class _Prompt(nn.Module):
    """One language vector, fused into every frame."""

    def __init__(self, config: FastConformerConfig) -> None:
        super().__init__()
        self.width = config.hidden_size
        self.linear_1 = nn.Linear(config.hidden_size + config.num_prompts, config.prompt_intermediate_size)
        self.linear_2 = nn.Linear(config.prompt_intermediate_size, config.hidden_size)

    def forward(self, x: Tensor, prompt: Tensor) -> Tensor:
        # A product with a one-hot vector is a column of the matrix.
        frames, languages = self.linear_1.weight[:, : self.width], self.linear_1.weight[:, self.width :]
        mixed = F.linear(x, frames, self.linear_1.bias) + languages.t()[prompt][:, None]
        found: Tensor = self.linear_2(F.relu(mixed))
        return found


class Chooser(Protocol):
    """Chooses a label for each row, and is told what was said."""

    def choose(self, logits: Tensor, blank: int) -> Tensor:
        """Labels [B] of `logits` [B, V]."""

    def advance(self, label: Tensor, said: Tensor) -> None:
        """`label` [B] was said where `said` [B]."""


def _shape(config: FastConformerConfig, lookahead: int) -> tuple[int, int, int]:
    """Frames of a chunk, of the past that it sees, and of the past with what fused attention wants."""
    frames, left = lookahead + 1, config.left(lookahead)
    return frames, left, -(-(left + frames) // ALIGNED) * ALIGNED - frames


class FastConformer(nn.Module):
    """The network with one look-ahead. Call `ready` once the weights are loaded; use under `torch.inference_mode()`."""

    def __init__(self, config: FastConformerConfig, lookahead: int) -> None:
        super().__init__()
        self.config = config
        self.frames, self.left, self.past = _shape(config, lookahead)
        self.encoder = _Encoder(config)
        self.encoder_projector = nn.Linear(config.hidden_size, config.decoder_hidden_size)
        self.decoder = _Predictor(config)
        self.joint = _Joint(config)
        if config.num_prompts:
            self.prompt_projector = _Prompt(config)
        self._distances: list[Tensor] = []
        self._start: tuple[Tensor, Tensor, Tensor] | None = None

    @torch.inference_mode()
    def ready(self) -> Self:
        """Work out once what depends on weights alone: distances for each layer, the predictor's beginning."""
        config, weight = self.config, self.encoder_projector.weight
        places = torch.arange(self.past + self.frames - 1, -self.frames, -1, dtype=torch.float)
        rate = 10_000.0 ** (-torch.arange(0, config.hidden_size, 2) / config.hidden_size)
        turns = places[:, None] * rate
        sinusoids = torch.stack([turns.sin(), turns.cos()], dim=-1).flatten(1).to(weight)
        self._distances = [layer.self_attn.project(sinusoids) for layer in self.encoder.layers]  # type: ignore[union-attr,operator]
        blank = torch.full((1,), config.blank_token_id, device=weight.device)
        nothing = weight.new_zeros(config.num_decoder_layers, 1, config.decoder_hidden_size)
        self._start = self.decoder(blank, nothing, nothing)
        return self

    def at(self, lookahead: int) -> Self:
        """The same weights, and no copy of them, with another look-ahead. Raises ValueError for one that is none."""
        other = copy.copy(self)
        other.frames, other.left, other.past = _shape(self.config, lookahead)
        return other.ready()

    def state(self, slots: int, left: int = 0) -> State:
        """State of so many slots, all new, with room for `left` frames of the past: networks of several look-aheads
        may share one, a slot those of one look-ahead between two resets."""
        config, blank = self.config, self.encoder_projector.weight.new_zeros
        rows, layers = slots + 1, config.num_hidden_layers
        channels, bands = config.subsampling_conv_channels, self.encoder.subsampling.bands
        seen = torch.zeros(rows, dtype=torch.long, device=self.encoder_projector.weight.device)
        state = State(
            seen,
            blank(layers, rows, max(left, self.left), 2, config.hidden_size),
            blank(layers, rows, config.conv_kernel_size - 1, config.hidden_size),
            tuple(blank(rows, 1 if n == 0 else channels, 1, bands[n]) for n in range(STAGES)),
            blank(config.num_decoder_layers, rows, config.decoder_hidden_size),
            blank(config.num_decoder_layers, rows, config.decoder_hidden_size),
            blank(rows, config.decoder_hidden_size),
            torch.full_like(seen, config.default_prompt_id if config.num_prompts else 0),
        )
        self.reset(state, torch.arange(rows, device=seen.device))
        return state

    def reset(self, state: State, rows: Tensor) -> None:
        """Start `rows` [N] over. What lies in the ring of keys is out of sight, and stays."""
        if self._start is None:
            raise RuntimeError("call ready() first, once the weights are loaded")
        predicted, hidden, cell = self._start
        state.seen[rows] = 0
        for part in state.stages:
            part[rows] = 0
        state.conv[:, rows] = 0
        state.hidden[:, rows], state.cell[:, rows], state.predicted[rows] = hidden, cell, predicted
        state.prompt[rows] = self.config.default_prompt_id if self.config.num_prompts else 0

    def encode(self, state: State, rows: Tensor, mel: Tensor) -> Tensor:
        """`mel` [B, 8 T, bands], T = lookahead + 1, of the slots `rows` [B] -> frames for the joint [B, T, H].

        The first chunk of a slot brings 7 frames too many, in front; they are not looked at.
        """
        view = self._view(state, rows)
        x = self.encoder.subsampling(mel.to(self.encoder_projector.weight.dtype), state.stages, view)
        x = x * math.sqrt(self.config.hidden_size) if self.config.scale_input else x
        for layer, ring, past, distances in zip(
            self.encoder.layers, state.keys, state.conv, self._distances, strict=True
        ):
            x = layer(x, ring, past, view, distances)
        state.seen.index_copy_(0, rows, state.seen[rows] + self.frames)
        if self.config.num_prompts:
            x = self.prompt_projector(x, state.prompt[rows])
        found: Tensor = self.encoder_projector(x)
        return found

    def _view(self, state: State, rows: Tensor) -> _View:
        seen = state.seen[rows]
        ages = torch.arange(self.past, 0, -1, device=rows.device)  # of the past, in frames before this chunk
        new = torch.arange(self.frames, device=rows.device)
        visible = ages <= torch.clamp(seen, max=self.left)[:, None]
        visible = F.pad(visible, (0, self.frames), value=True)[:, None, None]
        return _View(
            rows, seen == 0, (seen[:, None] - ages) % self.left, (seen[:, None] + new) % self.left, visible
        )

    def search(
        self,
        state: State,
        rows: Tensor,
        frames: Tensor,
        at: Tensor,
        said: Tensor,
        rounds: int,
        chooser: "Chooser | None" = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Greedy search, all rows at once, `rounds` times: a label, or one frame on.

        frames [B, T, H] from `encode`; `at` [B]: the frame where each row stands, and `said` [B], labels said there,
        both written; rows with `at` = T are through. `chooser`: who chooses among labels instead of the model.
        -> labels [B, rounds] (-1: none), their frames and the model's probabilities.
        """
        config, last = self.config, frames.shape[1] - 1
        hidden, cell, predicted = state.hidden[:, rows], state.cell[:, rows], state.predicted[rows]
        every = torch.arange(len(rows), device=rows.device)
        labels, places, odds = [], [], []
        for _ in range(rounds):
            joined = F.relu(frames[every, at.clamp(max=last)] + predicted)
            logits = self.joint.head(joined).float()
            best, label = logits.max(-1)
            if chooser is not None:
                label = chooser.choose(logits, config.blank_token_id)
                best = logits.gather(1, label[:, None])[:, 0]
            speaks = (label != config.blank_token_id) & (at <= last)
            labels.append(torch.where(speaks, label, -1))
            places.append(at.clone())
            odds.append((best - logits.logsumexp(-1)).exp())
            if chooser is not None:
                chooser.advance(label, speaks)
            new, new_hidden, new_cell = self.decoder(label, hidden, cell)
            mask = speaks[:, None]
            predicted = torch.where(mask, new, predicted)
            hidden, cell = torch.where(mask, new_hidden, hidden), torch.where(mask, new_cell, cell)
            said += speaks
            done = (at <= last) & (~speaks | (said >= config.max_symbols_per_step))
            said.masked_fill_(done, 0)
            at += done
        state.hidden.index_copy_(1, rows, hidden)
        state.cell.index_copy_(1, rows, cell)
        state.predicted.index_copy_(0, rows, predicted)
        return torch.stack(labels, 1), torch.stack(places, 1), torch.stack(odds, 1)
