"""What the u3pro pool serves: multilingual Whisper, prompted, the whole turn transcribed anew by every decode.

A speech LLM that takes its place needs what `SlotOptions` holds and tells what `Hypothesis` holds, no more; the engine
knows nothing of either.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from workers.bpe import Encoder
from workers.models.whisper import BEFORE_SHARE, loaded
from workers.multilang.recognizer import RULES as MULTILANG
from workers.recognizer import SlotOptions
from workers.redecode import Redecoder, spec_of
from workers.u3pro.prompt import before
from workers.vad import SileroVAD

#: News about once a second (protocol 4.3.2). A pause may end a turn after 128 ms, so it is decoded then. Turns up to
#: `window_ms` are transcribed whole; longer ones are stitched at a settled word, far from the model's 30 s.
RULES = replace(
    MULTILANG, whole=True, partial_ms=1_000, pause_ms=128, window_ms=14_000, keep_ms=5_000, limit_ms=20_000
)


def build(  # noqa: PLR0913 every part of a recognizer, by name
    config: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    vad_weights: Mapping[str, Tensor],
    pieces: Sequence[bytes],
    *,
    name: str,
    licence: str,
    slots: int,
    partial_ms: int = RULES.partial_ms,
    precision: str = "float32",
) -> Redecoder:
    """A recognizer from a Whisper checkpoint (`config.json`, state dict, vocabulary) and Silero's state dict.

    `precision`: float32, int8, or auto, which takes int8 where the processor has 8-bit dot products.
    Raises ValueError, KeyError or RuntimeError for a checkpoint of another architecture.
    """
    model = loaded(config, weights, precision)
    encoder, room = Encoder(pieces), model.max_tokens // BEFORE_SHARE - 1

    def context(options: SlotOptions, said: Sequence[str]) -> list[int]:
        return before(options, said, encoder.encode, room)

    spec = replace(spec_of(name, licence, slots), languages=tuple(model.config.languages))
    rules = replace(RULES, partial_ms=partial_ms)
    return Redecoder(spec, model, SileroVAD(vad_weights), pieces, rules, context)
