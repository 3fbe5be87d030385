"""Whisper: an encoder over log-mel features and a decoder that writes text, after https://arxiv.org/abs/2212.04356.

    rows of audio -> listen (features, a margin of silence, encode) -> states, one per 20 ms
    states -> open (which language, does anybody speak) -> opening tokens; states -> cross -> decode -> scores

Trained on windows of 30 s, it understands shorter ones if the table of positions is cut to their length and some
silence follows the speech: a second is enough to know what was said so far, more makes the last words sure.

Facts of the published multilingual checkpoints: an opening is `<|startoftranscript|>`, a language, `<|transcribe|>`,
`<|notimestamps|>`, behind `<|startofprev|>` and what was said before, if anything was. The token of a language is
chosen by its score behind `<|startoftranscript|>`; the score of `<|nospeech|>` in the same place tells whether anybody
speaks. Text tokens come first in the vocabulary, then the end token, then all others. Word timing: the heads in
`alignment_heads` follow the audio.

The parameters are those of `transformers`' `WhisperForConditionalGeneration`, laid out for speed: see `fused`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workers import int8
from workers.features import SAMPLE_RATE, SAMPLES_PER_FRAME, LogMel, with_margin
from workers.int8 import Int8Linear
from workers.language import combined
from workers.models.decoder import (
    Cache,
    Cross,
    Heard,
    Hint,
    Opening,
    Places,
    attention_weights,
    crossed,
    places,
)

#: Silence put behind the speech: while it goes on, and when its words are about to stand.
MARGIN_S, FINAL_MARGIN_S = 1.0, 3.0
#: Tokens of a language where English has one: its letters may be two or three tokens each (`Opening.pace`).
_SYLLABLES = ("ja", "ko", "yue", "zh")
_ABJADS = ("ar", "el", "fa", "he", "ur", "yi")
_ALPHASYLLABARIES = (
    *("am", "as", "bn", "bo", "gu", "hi", "hy", "ka", "km", "kn", "lo", "ml"),
    *("mr", "my", "ne", "pa", "sa", "sd", "si", "ta", "te", "th"),
)
PACE = dict.fromkeys(_SYLLABLES, 2.0) | dict.fromkeys(_ABJADS, 1.5) | dict.fromkeys(_ALPHASYLLABARIES, 4.0)
#: Most tokens of what was said before, as its authors have it: half of the decoder's room.
BEFORE_SHARE = 2


@dataclass(frozen=True)
class WhisperConfig:
    """Shape of a checkpoint and what its tokens mean."""

    vocab_size: int
    num_mel_bins: int
    d_model: int
    encoder_layers: int
    decoder_layers: int
    encoder_attention_heads: int
    decoder_attention_heads: int
    encoder_ffn_dim: int
    decoder_ffn_dim: int
    max_source_positions: int
    max_target_positions: int
    end: int
    start: int
    before: int
    transcribe: int
    no_timestamps: int
    no_speech: int
    languages: Mapping[str, int]  # code -> token
    unsaid: tuple[int, ...]  # tokens of noises and signs that are not speech
    unsaid_first: tuple[int, ...]  # more of them where a transcript begins
    alignment_heads: tuple[tuple[int, int], ...]  # (layer, head)

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> Self:
        """From a checkpoint's `config.json` with what its `generation_config.json` adds, ours or a Hub's.

        Raises ValueError for a variant that this module does not compute (English-only ones among them), KeyError
        where something is missing.
        """
        demanded: dict[str, tuple[Any, ...]] = {
            "model_type": ("whisper",),
            "activation_function": ("gelu", None),
            "scale_embedding": (False, None),
            "tie_word_embeddings": (True, None),
        }
        if wrong := [key for key, allowed in demanded.items() if config.get(key) not in allowed]:
            raise ValueError(
                f"not a Whisper that is served here: {', '.join(f'{k}={config.get(k)}' for k in wrong)}"
            )
        if not config.get("lang_to_id"):
            raise ValueError("not a multilingual Whisper, or its generation_config.json is missing")
        no_timestamps, end = config["no_timestamps_token_id"], config["eos_token_id"]
        layers, heads = config["decoder_layers"], config["decoder_attention_heads"]
        pairs = config.get("alignment_heads") or [
            [n, h] for n in range(layers // 2, layers) for h in range(heads)
        ]
        shape = ("vocab_size", "num_mel_bins", "d_model", "max_source_positions", "max_target_positions")
        rooms = [f"{room}_{part}" for room in ("encoder", "decoder") for part in _ROOM]
        return cls(
            **{key: config[key] for key in (*shape, *rooms)},
            end=end,
            start=config["decoder_start_token_id"],
            before=config.get("prev_sot_token_id") or no_timestamps - 2,
            transcribe=config["task_to_id"]["transcribe"],
            no_timestamps=no_timestamps,
            no_speech=no_timestamps - 1,
            languages={text.strip("<|>"): token for text, token in config["lang_to_id"].items()},
            unsaid=tuple(config.get("suppress_tokens") or ()),
            unsaid_first=tuple(token for token in config.get("begin_suppress_tokens") or () if token != end),
            alignment_heads=tuple((int(n), int(h)) for n, h in pairs if n < layers and h < heads),
        )


_ROOM = ("layers", "attention_heads", "ffn_dim")


class Attention(nn.Module):
    """Projections around the self-attention; queries, keys and values in one matrix."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)
        self.out_proj = nn.Linear(width, width)


class EncoderLayer(nn.Module):
    """Self-attention and a GELU feed-forward, each on the normalised residual stream."""

    def __init__(self, config: WhisperConfig) -> None:
        super().__init__()
        width = config.d_model
        self.heads = config.encoder_attention_heads
        self.self_attn = Attention(width)
        self.fc1 = nn.Linear(width, config.encoder_ffn_dim)
        self.fc2 = nn.Linear(config.encoder_ffn_dim, width)
        self.self_attn_layer_norm = nn.LayerNorm(width)
        self.final_layer_norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """`x` `[B, T, D]`."""
        qkv = self.self_attn.qkv(self.self_attn_layer_norm(x)).view(*x.shape[:2], 3, self.heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v)
        x = x + self.self_attn.out_proj(y.transpose(1, 2).flatten(2))
        x += self.fc2(F.gelu(self.fc1(self.final_layer_norm(x))))
        return x


class Encoder(nn.Module):
    """Two convolutions, positions, transformer layers."""

    def __init__(self, config: WhisperConfig) -> None:
        super().__init__()
        width = config.d_model
        self.conv1 = nn.Conv1d(config.num_mel_bins, width, 3, padding=1)
        self.conv2 = nn.Conv1d(width, width, 3, stride=2, padding=1)
        self.embed_positions = nn.Embedding(config.max_source_positions, width)
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.encoder_layers))
        self.layer_norm = nn.LayerNorm(width)

    def forward(self, features: Tensor) -> Tensor:
        """`[B, bands, 2 T]` -> `[B, T, D]`; the table of positions is cut to T.

        The library may sum a batch's first convolution in another order than a row's own, and 8-bit layers make much
        of the last bit: a session would be told other words in company than alone. So each row has its own.
        """
        x = torch.cat([self.conv1(row) for row in torch.split(features, 1)])
        x = F.gelu(self.conv2(F.gelu(x))).transpose(1, 2)
        x = x + self.embed_positions.weight[: x.shape[1]]
        for layer in self.layers:
            x = layer(x)
        normed: Tensor = self.layer_norm(x)
        return normed


class DecoderLayer(nn.Module):
    """Causal self-attention over the cache, cross-attention to the audio, a GELU feed-forward."""

    def __init__(self, config: WhisperConfig) -> None:
        super().__init__()
        width = config.d_model
        self.heads = config.decoder_attention_heads
        self.self_attn = Attention(width)
        self.q_proj = nn.Linear(width, width)  # of the cross-attention
        self.out_proj = nn.Linear(width, width)
        self.fc1 = nn.Linear(width, config.decoder_ffn_dim)
        self.fc2 = nn.Linear(config.decoder_ffn_dim, width)
        self.self_attn_layer_norm = nn.LayerNorm(width)
        self.encoder_attn_layer_norm = nn.LayerNorm(width)
        self.final_layer_norm = nn.LayerNorm(width)

    def self_attend(self, x: Tensor, entries: Tensor, at: Places) -> Tensor:
        """Write the new tokens' keys and values, then look at all entries up to each token's own position."""
        qkv = self.self_attn.qkv(self.self_attn_layer_norm(x)).view(*x.shape[:2], 3, self.heads, -1)
        entries.flatten(0, 1).index_copy_(0, at.entries, qkv[:, :, 1:].flatten(0, 1))
        k, v = entries[:, : at.length].permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(qkv[:, :, 0].transpose(1, 2), k, v, attn_mask=at.bias)
        out: Tensor = self.self_attn.out_proj(y.transpose(1, 2).flatten(2))
        return x + out

    def queries(self, x: Tensor) -> Tensor:
        """Cross-attention queries `[B, H, Q, hd]`."""
        projected: Tensor = self.q_proj(self.encoder_attn_layer_norm(x))
        return projected.view(*x.shape[:2], self.heads, -1).transpose(1, 2)

    def feed_forward(self, x: Tensor) -> Tensor:
        """The residual stream after the feed-forward."""
        out: Tensor = self.fc2(F.gelu(self.fc1(self.final_layer_norm(x))))
        return x + out


class Decoder(nn.Module):
    """Token embedding (tied to the output), positions, transformer layers."""

    def __init__(self, config: WhisperConfig) -> None:
        super().__init__()
        width, layers = config.d_model, config.decoder_layers
        self.embed_tokens = nn.Embedding(config.vocab_size, width)
        self.embed_positions = nn.Embedding(config.max_target_positions, width)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(layers))
        self.cross_kv = nn.Linear(width, layers * 2 * width)  # of all layers' cross-attentions
        self.layer_norm = nn.LayerNorm(width)

    def stack(self) -> list[DecoderLayer]:
        """The layers, first to last."""
        return list(cast("Iterable[DecoderLayer]", self.layers))


class Whisper(nn.Module):
    """The whole model. Load with `load_state_dict(fused(checkpoint))`; use under `torch.inference_mode()`."""

    frame_ms = SAMPLES_PER_FRAME * 1000 / SAMPLE_RATE
    min_samples = SAMPLES_PER_FRAME
    _unsaid: Tensor
    _unsaid_first: Tensor

    def __init__(self, config: WhisperConfig) -> None:
        super().__init__()
        self.config = config
        self.end_token = config.end
        self.max_tokens = config.max_target_positions
        self.max_samples = config.max_source_positions * SAMPLES_PER_FRAME
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.features = LogMel(config.num_mel_bins)
        self._output: Int8Linear | None = None  # the embedding in 8 bits, once quantised
        self._alignment: dict[int, list[int]] = {}  # heads by layer
        for layer, head in config.alignment_heads:
            self._alignment.setdefault(layer, []).append(head)
        self.register_buffer("_unsaid", self._forbidden(config.unsaid), persistent=False)
        self.register_buffer(
            "_unsaid_first", self._forbidden((*config.unsaid, *config.unsaid_first)), persistent=False
        )

    def _forbidden(self, tokens: Sequence[int]) -> Tensor:
        """`[V]`: -inf for these, and for whatever is neither text nor the end; 0 for the rest."""
        bias = torch.zeros(self.config.vocab_size)
        bias[self.config.end + 1 :] = -torch.inf
        bias[list(tokens)] = -torch.inf
        return bias

    def quantise(self) -> None:
        """Replace the large products of a loaded model by 8-bit ones (`workers/int8.py`), except the convolutions.

        For inference on a CPU only.
        """
        for module in list(self.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, nn.Linear):
                    setattr(module, name, Int8Linear(child.weight.detach(), child.bias))
        self._output = Int8Linear(self.decoder.embed_tokens.weight.detach(), None)

    # ---- hearing

    def listen(self, rows: Sequence[Tensor], final: Sequence[bool]) -> Heard:
        """As the contract says (`models/decoder.py`). ValueError for a row longer than the positions go (30 s)."""
        limit = self.max_samples
        if longest := [len(row) for row in rows if len(row) > limit]:
            raise ValueError(f"{longest[0]} samples in a window; {limit} are the most")
        margins = [int((FINAL_MARGIN_S if last else MARGIN_S) * SAMPLE_RATE) for last in final]
        padded = with_margin(rows, margins, limit)
        spoken = torch.tensor([-(-len(row) // SAMPLES_PER_FRAME) for row in rows])
        count = torch.tensor([len(row) // SAMPLES_PER_FRAME for row in padded])
        states = torch.zeros(len(rows), int(count.max()), self.config.d_model)
        for length in {len(row) for row in padded}:  # on a CPU, padding costs more than separate calls
            same = [at for at, row in enumerate(padded) if len(row) == length]
            batch = torch.stack([padded[at] for at in same])
            states[same, : length // SAMPLES_PER_FRAME] = self.encoder(self.features(batch))
        return Heard(states, count, spoken)

    def cross(self, states: Tensor, count: Tensor | None = None) -> Cross:
        """Keys and values of `states` `[B, T, D]` for every decoder layer, computed once per encoding."""
        c = self.config
        both = self.decoder.cross_kv(states)
        return crossed(both, c.decoder_attention_heads, c.decoder_layers, count, self._alignment)

    # ---- opening

    def open(self, hints: Sequence[Hint], cross: Cross) -> list[Opening]:
        """Openings; rows whose language is not known, or is asked for, take a decoder pass of one token."""
        asked = [at for at, hint in enumerate(hints) if hint.ask or hint.language is None]
        scores = dict(zip(asked, self._asked(cross, asked), strict=True)) if asked else {}
        return [self._opening(hint, scores.get(at)) for at, hint in enumerate(hints)]

    def _asked(self, cross: Cross, rows: list[int]) -> Tensor:
        """Probabilities [len(rows), V] of what follows the start token."""
        chosen = cross if len(rows) == len(cross.keys[0]) else cross.rows(torch.tensor(rows))
        tokens = torch.full((len(rows), 1), self.config.start)
        hidden, _ = self.decode(tokens, torch.zeros_like(tokens), self.cache(len(rows), 1), chosen)
        return self.logits(hidden[:, 0]).float().softmax(-1)

    def _opening(self, hint: Hint, chances: Tensor | None) -> Opening:
        c = self.config
        language, told, silence = hint.language, dict[str, float](), 0.0
        if chances is not None:
            codes = [code for code in hint.among if code in c.languages] or list(c.languages)
            likely = chances[[c.languages[code] for code in codes]]
            shares = (likely / likely.sum().clamp_min(1e-9)).tolist()
            told = dict(sorted(zip(codes, shares, strict=True), key=lambda pair: -pair[1]))
            silence = float(chances[c.no_speech])
        if language is None or language not in c.languages:
            language = next(iter(combined(told, hint.weight, hint.prior)), next(iter(c.languages)))
        before = hint.before[-(c.max_target_positions // BEFORE_SHARE - 1) :]
        begun = (c.before, *before) if before else ()
        tokens = (*begun, c.start, c.languages[language], c.transcribe, c.no_timestamps)
        return Opening(tokens, language, told, silence, PACE.get(language, 1.0))

    # ---- writing

    def cache(self, batch: int, length: int) -> Cache:
        """Room for `length` tokens in each of `batch` rows."""
        c = self.config
        heads = c.decoder_attention_heads
        return Cache(torch.zeros(c.decoder_layers, batch, length, 2, heads, c.d_model // heads))

    def decode(
        self, tokens: Tensor, positions: Tensor, cache: Cache, cross: Cross, need_attention: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """One pass over `tokens` `[B, Q]` at `positions` `[B, Q]`, as the contract says (`models/decoder.py`)."""
        x = self.decoder.embed_tokens(tokens) + self.decoder.embed_positions(positions)
        at = places(positions, int(positions.max()) + 1, cache.entries.shape[2], x.dtype)
        attention = x.new_zeros(*tokens.shape, cross.keys[0].shape[2]) if need_attention else None
        for index, layer in enumerate(self.decoder.stack()):
            x = layer.self_attend(x, cache.entries[index], at)
            q = layer.queries(x)
            if attention is not None and (heads := self._alignment.get(index)):
                keys = cross.aligned[index] if cross.aligned else cross.keys[index][:, heads]
                attention += attention_weights(q[:, heads], keys, cross.bias).sum(1)
            y = F.scaled_dot_product_attention(
                q, cross.keys[index], cross.values[index], attn_mask=cross.bias
            )
            x = x + layer.out_proj(y.transpose(1, 2).flatten(2))
            x = layer.feed_forward(x)
        return self.decoder.layer_norm(x), attention

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores of all tokens, `[..., D] -> [..., V]`: the embedding again."""
        if self._output is not None:
            return self._output(hidden)  # type: ignore[no-any-return]
        return F.linear(hidden, self.decoder.embed_tokens.weight)

    def scores(self, hidden: Tensor, first: Tensor) -> Tensor:
        """`logits` of text and the end alone, less what is never said."""
        return self.logits(hidden).float() + torch.where(first[:, None], self._unsaid_first, self._unsaid)


def loaded(config: Mapping[str, Any], weights: Mapping[str, Tensor], precision: str) -> Whisper:
    """A model ready for inference, from `config.json` and a state dict; `precision` as `int8.chosen` takes it.

    Raises ValueError, KeyError or RuntimeError for a checkpoint of another architecture.
    """
    torch.manual_seed(0)
    model = Whisper(WhisperConfig.from_dict(config))
    model.load_state_dict(fused(weights))
    if int8.chosen(precision):
        model.quantise()
    return model.eval()


def fused(checkpoint: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A `transformers` Whisper state dict as `Whisper.load_state_dict` takes it, in float32.

    Drops the prefix `model.` and the output projection (tied to the embedding), and joins matrices that are applied to
    the same input; keys, which have no bias, get one of zeros. Raises KeyError where a part is missing.
    """
    source = {name.removeprefix("model."): value.float() for name, value in checkpoint.items()}
    source.pop("proj_out.weight", None)
    joined: dict[str, Tensor] = {}
    cross: dict[str, list[Tensor]] = {"weight": [], "bias": []}
    for name in [name for name in source if name.endswith("self_attn.q_proj.weight")]:
        stem = name.removesuffix(".q_proj.weight")
        weights, biases = _taken(source, stem, "qkv")
        joined[f"{stem}.qkv.weight"], joined[f"{stem}.qkv.bias"] = torch.cat(weights), torch.cat(biases)
    for index in range(sum(name.endswith("encoder_attn.k_proj.weight") for name in source)):
        weights, biases = _taken(source, f"decoder.layers.{index}.encoder_attn", "kv")
        cross["weight"] += weights
        cross["bias"] += biases
    joined |= {f"decoder.cross_kv.{end}": torch.cat(parts) for end, parts in cross.items() if parts}
    return joined | {name.replace(".encoder_attn.", "."): value for name, value in source.items()}


def _taken(source: dict[str, Tensor], stem: str, parts: str) -> tuple[list[Tensor], list[Tensor]]:
    """Weights and biases of some projections, taken out of `source`."""
    weights = [source.pop(f"{stem}.{part}_proj.weight") for part in parts]
    empty = weights[0].new_zeros(len(weights[0]))
    biases = [empty if part == "k" else source.pop(f"{stem}.{part}_proj.bias") for part in parts]
    return weights, biases
