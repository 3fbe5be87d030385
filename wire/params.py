"""A session's parameters: query string or `UpdateConfiguration` -> one validated, frozen value (protocol 2).

Unknown names are ignored; a known name with a bad value is refused with the text of protocol 2. A valid value that
means nothing to the chosen model is kept and has no effect. What a parameter means to a model is the worker's matter;
here are its name, type, default and range.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticKnownError

from wire import strides
from wire.errors import ClientError, invalid_parameter
from wire.messages import encodable
from wire.speech_models import DEFAULT_MODEL, LANGUAGES, MODELS, MULTI, Family, SpeechModel, choose, defaults
from wire.webhook_url import check_header_name, check_header_value, check_url

#: Silence settings are clamped to this range (protocol 2.2).
SILENCE_RANGE_MS = (50, 10_000)
MAX_KEYTERMS, MAX_KEYTERM_CHARACTERS = 100, 500
MAX_PROMPT_CHARACTERS = 1750
MAX_LANGUAGES = 10

ENCODINGS = ("pcm_s16le", "pcm_mulaw", "opus", "ogg_opus", "aac")
#: Encodings whose stream tells its own rate: `sample_rate` is ignored (protocol 2.1).
SELF_TIMED = frozenset({"opus", "ogg_opus", "aac"})


# ---------------------------------------------------------------------------------------------------------------------
# values as clients write them


def _integer(value: Any) -> Any:
    """Plain integer literals only: `160.0` is refused (protocol 2, general rules), and so is `true`."""
    if isinstance(value, str) and not value.strip().lstrip("+-").isdecimal():
        raise PydanticKnownError("int_parsing")
    if isinstance(value, (bool, float)):
        raise PydanticKnownError("int_type")
    return value


def _number(value: Any) -> Any:
    if isinstance(value, bool):
        raise PydanticKnownError("float_type")
    return value


def _listed(value: Any) -> Any:
    """JSON array text, with or without spaces (protocol 0.3, item 10); in a message, an array."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            value = None
    if not isinstance(value, (list, tuple)) or not encodable(value):
        raise ValueError("Invalid JSON array")
    return tuple(value)


def _listed_or_csv(value: Any) -> Any:
    if isinstance(value, str) and not value.lstrip().startswith("["):
        return tuple(item.strip() for item in value.split(",") if item.strip())
    return _listed(value)


def _object(value: Any) -> Any:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            value = None
    if not isinstance(value, dict) or not encodable(value):
        raise ValueError("Invalid JSON object")
    return value


Integer = Annotated[int, BeforeValidator(_integer)]
Number = Annotated[float, Field(allow_inf_nan=False), BeforeValidator(_number)]
Probability = Annotated[Number, Field(ge=0, le=1)]
Strings = Annotated[tuple[str, ...], BeforeValidator(_listed)]


# ---------------------------------------------------------------------------------------------------------------------
# the value


class SessionParams(BaseModel):
    """What one session asked for, with the defaults of its model. Frozen; change it with `updated`."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    # protocol 2.1
    sample_rate: Integer = 16_000
    encoding: str = ENCODINGS[0]
    speech_model: str = DEFAULT_MODEL
    format_turns: bool = False
    inactivity_timeout: Integer | None = Field(None, ge=5, le=3600)
    session_heartbeat: bool = False
    acknowledge_silence: bool = False
    include_partial_turns: bool = True
    resumable: bool = False  # ours: docs/resume.md
    record: bool | None = None  # ours, as `replay`: docs/replay.md
    replay: bool = False
    replay_strides: str = ""
    # 2.2
    end_of_turn_confidence_threshold: Probability = 0.4
    min_turn_silence: Integer = Field(
        400, validation_alias=AliasChoices("min_turn_silence", "min_end_of_turn_silence_when_confident")
    )
    max_turn_silence: Integer = 1280
    vad_threshold: Probability = 0.4
    mode: Literal["min_latency", "balanced", "max_accuracy"] | None = None
    interruption_delay: Integer = Field(500, ge=0, le=1000)
    continuous_partials: bool = True
    # 2.3
    keyterms_prompt: Strings = Field((), validation_alias=AliasChoices("keyterms_prompt", "keyterms"))
    prompt: str = ""
    agent_context: str = ""
    previous_context_n_turns: Integer = Field(5, ge=0, le=100)
    language_codes: Strings = ()
    language_detection: bool = False
    # 2.4
    filter_profanity: bool = False
    webhook_url: str = ""
    webhook_auth_header_name: str = ""
    webhook_auth_header_value: str = Field("", repr=False)

    @model_validator(mode="before")
    @classmethod
    def _model_decides(cls, values: Any) -> Any:
        """What is not said follows from the model (protocol 2.2, 5.3)."""
        if not isinstance(values, Mapping):
            return values
        mode = values.get("mode")
        chosen = defaults(
            str(values.get("speech_model", DEFAULT_MODEL)), mode if isinstance(mode, str) else None
        )
        renamed = "min_turn_silence" if "min_end_of_turn_silence_when_confident" in values else ""
        return {**{name: value for name, value in chosen.items() if name != renamed}, **values}

    @field_validator("sample_rate")
    @classmethod
    def _rate(cls, value: int) -> int:
        if value < 8_000:
            raise ValueError("sample_rate must be at least 8,000 Hz")
        if value > 96_000:
            raise ValueError("sample_rate must be at most 96,000 Hz")
        return value

    @field_validator("encoding", mode="before")
    @classmethod
    def _encoding(cls, value: Any) -> Any:
        if value not in ENCODINGS:
            raise ValueError(f"'{str(value)[:40]}' is not a valid Encoding")
        return value

    @field_validator("speech_model")
    @classmethod
    def _model(cls, value: str) -> str:
        if value not in MODELS:
            raise ValueError(
                f"'{value[:80]}' is not a valid SpeechModel. Expected one of: {', '.join(MODELS)}"
            )
        return value

    @field_validator("min_turn_silence", "max_turn_silence")
    @classmethod
    def _silence(cls, value: int) -> int:
        low, high = SILENCE_RANGE_MS
        return min(max(value, low), high)

    @field_validator("keyterms_prompt")
    @classmethod
    def _keyterms(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(value) > MAX_KEYTERMS:
            raise ValueError(f"Max {MAX_KEYTERMS} items")
        if any(len(term) > MAX_KEYTERM_CHARACTERS for term in value):
            raise ValueError(f"Max {MAX_KEYTERM_CHARACTERS} characters per item")
        return tuple(term.strip() for term in value if term.strip())

    @field_validator("prompt", "agent_context")
    @classmethod
    def _text(cls, value: str) -> str:
        if len(value) > MAX_PROMPT_CHARACTERS:
            raise ValueError(
                f"exceeds maximum length of {MAX_PROMPT_CHARACTERS} characters (got {len(value)})"
            )
        return value

    @field_validator("language_codes")
    @classmethod
    def _languages(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        codes = tuple(dict.fromkeys(code.strip().lower() for code in value))
        if len(codes) > MAX_LANGUAGES:
            raise ValueError(f"Max {MAX_LANGUAGES} items")
        if MULTI in codes and len(codes) > 1:
            raise ValueError(f"'{MULTI}' cannot be combined with other language codes")
        for code in codes:
            if code != MULTI and code not in LANGUAGES:
                raise ValueError(f"'{code[:20]}' is not a supported language code")
        return tuple(code for code in codes if code != MULTI)  # any language: no restriction

    @field_validator("replay_strides")
    @classmethod
    def _strides(cls, value: str) -> str:
        if value:
            strides.unpack(value)
        return value

    @field_validator("webhook_url", "webhook_auth_header_name", "webhook_auth_header_value")
    @classmethod
    def _webhook(cls, value: str, info: ValidationInfo) -> str:
        if value:
            _CHECKS[info.field_name or ""](value)
        return value

    @property
    def model(self) -> SpeechModel:
        """What `speech_model` is."""
        return MODELS[self.speech_model]

    @property
    def pool(self) -> str:
        """The pool that serves `speech_model`."""
        return self.model.pool

    @property
    def effective_mode(self) -> str | None:
        """The mode that Begin tells: what was asked for, where the model has modes (protocol 4.1, 5.3)."""
        own: str | None = self.model.defaults.get("mode")
        return self.mode if self.model.modes else own

    @property
    def is_u3(self) -> bool:
        """Whether turns behave as those of the U3 family (protocol 0.2)."""
        return self.model.family is Family.U3

    def for_worker(self) -> dict[str, Any]:
        """What the worker is told, in values that msgpack and JSON carry unchanged."""
        return self.model_dump(mode="json", exclude=_INGRESS_ONLY)

    def updated(self, fields: Mapping[str, Any]) -> "SessionParams":
        """These parameters after an `UpdateConfiguration` with `fields`.

        Names that cannot change, or mean nothing to the model, are ignored, and so is null: clients leave out what they
        do not set. Raises ClientError 3006.
        """
        changes = {name: value for name, value in fields.items() if name in _UPDATABLE and value is not None}
        if not self.is_u3:
            changes.pop("prompt", None)
        changed = {_UPDATABLE[name] for name in changes}
        kept = {name: value for name, value in self.model_dump().items() if name not in changed}
        return _validated(SessionParams, kept | changes)


_CHECKS: Mapping[str, Callable[[str], None]] = {
    "webhook_url": check_url,
    "webhook_auth_header_name": check_header_name,
    "webhook_auth_header_value": check_header_value,
}

#: A secret, and what goes with it, and what concerns the connection only: no worker needs them, so they never reach
#: Redis.
_INGRESS_ONLY = {
    "webhook_url",
    "webhook_auth_header_name",
    "webhook_auth_header_value",
    "resumable",
    "record",
    "replay",
    "replay_strides",
}

#: Names that `UpdateConfiguration` may carry -> field they set (protocol 3.2); the rest is fixed at connect.
_UPDATABLE = {
    "format_turns": "format_turns",
    "end_of_turn_confidence_threshold": "end_of_turn_confidence_threshold",
    "min_turn_silence": "min_turn_silence",
    "min_end_of_turn_silence_when_confident": "min_turn_silence",
    "max_turn_silence": "max_turn_silence",
    "vad_threshold": "vad_threshold",
    "interruption_delay": "interruption_delay",
    "continuous_partials": "continuous_partials",
    "keyterms_prompt": "keyterms_prompt",
    "prompt": "prompt",
    "agent_context": "agent_context",
    "language_codes": "language_codes",
    "filter_profanity": "filter_profanity",
    "session_heartbeat": "session_heartbeat",
    "acknowledge_silence": "acknowledge_silence",
}


# ---------------------------------------------------------------------------------------------------------------------
# what is accepted and has no effect


class Unsupported(BaseModel):
    """Parameters of protocol 2.2 to 2.4 that are checked as the product does, and then change nothing."""

    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)

    turn_left_pad_ms: Integer | None = Field(None, ge=0)
    speaker_labels: bool = False
    max_speakers: Integer | None = Field(None, ge=1, le=10)
    speaker_labels_revision_interval_ms: Integer | None = Field(None, ge=0, le=86_400_000)
    voice_focus: Literal["near-field", "far-field"] | None = Field(
        None, validation_alias=AliasChoices("voice_focus", "noise_suppression_model")
    )
    voice_focus_threshold: Probability | None = Field(
        None, validation_alias=AliasChoices("voice_focus_threshold", "noise_suppression_threshold")
    )
    redact_pii: bool = False
    redact_pii_policies: Annotated[tuple[str, ...], BeforeValidator(_listed_or_csv)] = ()
    redact_pii_sub: Literal["hash", "entity_name"] = "hash"
    llm_gateway: Annotated[dict[str, Any], BeforeValidator(_object)] | None = None
    domain: Literal["medical-v1"] | None = None

    @field_validator("voice_focus_threshold")
    @classmethod
    def _needs_voice_focus(cls, value: float | None, info: Any) -> float | None:
        if value is not None and info.data.get("voice_focus") is None:
            raise ValueError("voice_focus_threshold requires voice_focus")
        return value


# ---------------------------------------------------------------------------------------------------------------------
# parsing

M = TypeVar("M", bound=BaseModel)


def parse_query(
    pairs: Iterable[tuple[str, str]], version: str | None = None, default_model: str = DEFAULT_MODEL
) -> SessionParams:
    """Parameters from decoded query pairs; the last of a repeated name wins, unknown names are ignored.

    `version` is the header `X-Model-Version`; `default_model` serves who names none. Raises ClientError 3006 for the
    first invalid value.
    """
    query: dict[str, Any] = {}
    codes: list[str] = []
    for name, value in pairs:
        if name in ("keyterms_prompt", "keyterms") and name in query:
            raise invalid_parameter(
                name, "Value error, Invalid JSON array"
            )  # protocol 2.3: not by repetition
        if name == "language_codes":
            codes.append(value)
        query[name] = value
    if len(codes) > 1 or (codes and not set(codes[0]) & set("[,")):
        query["language_codes"] = codes  # repeated, be it once only (protocol 2.3)
    if query.get("encoding") in SELF_TIMED:
        query.pop("sample_rate", None)
    query["speech_model"] = choose(query, version, default_model)
    _take_old_language_names(query)
    params = _validated(SessionParams, query)
    if params.prompt and not params.is_u3:
        raise invalid_parameter("prompt", "Value error, prompt is only supported with u3-rt-pro")
    _validated(Unsupported, query)
    return params


def _take_old_language_names(query: dict[str, Any]) -> None:
    """`language_codes` wins over `language_code`, and that over `language` (protocol 2.3); an unknown `language`
    chose the multilingual model and says nothing more (protocol 7.3)."""
    code = query.pop("language_code", None)
    language = str(query.pop("language", "")).lower()
    if "language_codes" in query:
        return
    if code:
        if str(code).strip().lower() not in LANGUAGES | {MULTI}:
            raise invalid_parameter(
                "language_code", f"Value error, '{str(code)[:20]}' is not a supported language code"
            )
        query["language_codes"] = [code]
    elif language in LANGUAGES:
        query["language_codes"] = [language]


def _validated(cls: type[M], values: Mapping[str, Any]) -> M:
    try:
        return cls.model_validate(values)
    except ValidationError as error:
        refusal = _client_error(error)
    # Raised out here, without the ValidationError as its context: that holds our own ValueError, with its traceback and
    # so the connection's frames, where the garbage collector cannot look, and a cycle through it would never be freed.
    raise refusal


def _client_error(error: ValidationError) -> ClientError:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    name = str(first["loc"][0]) if first["loc"] else "configuration"
    return invalid_parameter(name, str(first["msg"]))
