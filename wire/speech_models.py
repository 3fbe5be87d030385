"""The models a client may name, the pool that serves each, and the defaults that follow (protocol 2.2, 5.3, 7).

Clients name models of the mirrored product; a pool answers for every name of its family with the weights it has.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from types import MappingProxyType
from typing import Any


class Family(Enum):
    """How turns behave: word by word and final (US), or the whole turn rewritten by every partial (U3)."""

    US = "us"
    U3 = "u3"


@dataclass(frozen=True)
class SpeechModel:
    """One name. `modes`: whether the presets of protocol 5.3 apply; `defaults`: field of SessionParams -> value.

    `patient`: in mode `max_accuracy` it waits as 3.6 does (protocol 5.2, rule 4).
    """

    pool: str
    family: Family
    defaults: Mapping[str, Any]
    modes: bool = False
    patient: bool = False


#: mode -> field -> value (protocol 5.3).
PRESETS: Mapping[str, Mapping[str, int]] = {
    "min_latency": {"min_turn_silence": 128, "max_turn_silence": 640, "interruption_delay": 0},
    "balanced": {"min_turn_silence": 128, "max_turn_silence": 1280, "interruption_delay": 500},
    "max_accuracy": {"min_turn_silence": 512, "max_turn_silence": 2560, "interruption_delay": 500},
}
DEFAULT_MODE = "balanced"

_US = {"min_turn_silence": 400, "max_turn_silence": 1280, "vad_threshold": 0.4}
_U3 = {"min_turn_silence": 100, "max_turn_silence": 1000, "vad_threshold": 0.3, "mode": DEFAULT_MODE}
_UNIVERSAL_3 = SpeechModel("u3pro", Family.U3, {"vad_threshold": 0.2, "mode": DEFAULT_MODE}, modes=True)
_UNIVERSAL_3_6 = replace(_UNIVERSAL_3, patient=True)
_U3_RT_PRO = SpeechModel("u3pro", Family.U3, _U3)
_MULTILINGUAL = SpeechModel("multilang", Family.US, _US)

DEFAULT_MODEL = "universal-streaming-english"

#: `speech_model` -> what it is (protocol 7.1). `u3-pro` is refused there as well.
MODELS: Mapping[str, SpeechModel] = MappingProxyType(
    {
        DEFAULT_MODEL: SpeechModel("english", Family.US, _US),
        "universal-streaming-multilingual": _MULTILINGUAL,
        "whisper-rt": _MULTILINGUAL,
        "u3-rt-pro": _U3_RT_PRO,
        "u3-rt-pro-beta-1": _U3_RT_PRO,
        "u3-rt-agent": _U3_RT_PRO,
        "universal-3-5-pro": _UNIVERSAL_3,
        "universal-3-6-pro": _UNIVERSAL_3_6,
        "universal-3-6": _UNIVERSAL_3_6,
    }
)

#: Every pool that a model names, in the order of the table.
POOLS = tuple(dict.fromkeys(model.pool for model in MODELS.values()))

#: Header `X-Model-Version` -> `speech_model` (protocol 7.3).
MODEL_OF_VERSION: Mapping[str, str] = {
    "en-default": DEFAULT_MODEL,
    "ml-default": "universal-streaming-multilingual",
    "u3-pro": "u3-rt-pro",
    "universal-3-5-pro": "universal-3-5-pro",
    "universal-3-6-pro": "universal-3-6-pro",
}

#: What `language_codes` may hold, besides `multi` (protocol 2.3).
LANGUAGES = frozenset(
    {"en", "es", "de", "fr", "it", "pt", "tr", "nl", "sv", "no", "da", "fi", "hi", "vi", "ar", "he"}
    | {"ja", "ur", "zh", "ru", "ko", "ca", "gl", "ro", "et", "fa", "yue", "af", "mr", "zu", "xh", "nn"}
)
MULTI = "multi"


def choose(query: Mapping[str, Any], version: str | None = None, default: str = DEFAULT_MODEL) -> str:
    """The model a session asks for. The first of these that says anything decides (protocol 7.3):

    `speech_model`, the header `X-Model-Version`, `language` (`en`, or anything else: multilingual), `language_code` or
    `language_codes` of `multi`, and then `default`. What `speech_model` says is not checked here; an unknown version
    is ignored, as the mirrored load balancer does.
    """
    if asked := query.get("speech_model"):
        return str(asked)
    if asked := MODEL_OF_VERSION.get(version or ""):
        return asked
    if language := query.get("language"):
        return DEFAULT_MODEL if str(language).lower() == "en" else "universal-streaming-multilingual"
    codes = query.get("language_codes") or query.get("language_code")
    if str(codes).strip("[]\"' ").lower() == MULTI:
        return "universal-streaming-multilingual"
    return default


def defaults(model: str, mode: str | None = None) -> Mapping[str, Any]:
    """Fields of SessionParams that differ by model and, where the model has presets, by `mode`."""
    facts = MODELS.get(model)
    if facts is None:
        return {}
    preset = PRESETS.get(mode or DEFAULT_MODE, {}) if facts.modes else {}
    return {**facts.defaults, **preset}
