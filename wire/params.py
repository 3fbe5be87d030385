"""A session's parameters: query string or `UpdateConfiguration` -> one validated, frozen value (protocol 2).

Unknown names are ignored; a known name with a bad value is refused with the text of protocol 2. What a parameter
means to a model is the worker's matter; here are its name, type, default and range.
"""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
)
from pydantic_core import PydanticKnownError

from wire.errors import ClientError, invalid_parameter

#: `speech_model` value -> pool that serves it (protocol 7.1).
POOL_OF_MODEL: Mapping[str, str] = {"universal-streaming-english": "english"}
DEFAULT_MODEL = "universal-streaming-english"

#: Silence settings are clamped to this range (protocol 2.2).
SILENCE_RANGE_MS = (50, 10_000)


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


def _clamp_silence(value: int) -> int:
    low, high = SILENCE_RANGE_MS
    return min(max(value, low), high)


Integer = Annotated[int, BeforeValidator(_integer)]
Probability = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False), BeforeValidator(_number)]


class SessionParams(BaseModel):
    """What one session asked for, with the defaults of the US family. Frozen; change it with `updated`."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    sample_rate: Integer = 16_000
    encoding: Literal["pcm_s16le"] = "pcm_s16le"
    speech_model: str = DEFAULT_MODEL
    format_turns: bool = False
    end_of_turn_confidence_threshold: Probability = 0.4
    min_turn_silence: Integer = Field(
        400, validation_alias=AliasChoices("min_turn_silence", "min_end_of_turn_silence_when_confident")
    )
    max_turn_silence: Integer = 1280
    vad_threshold: Probability = 0.4

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
        if value != "pcm_s16le":
            raise ValueError(f"'{str(value)[:40]}' is not a valid Encoding")
        return value

    @field_validator("speech_model")
    @classmethod
    def _model(cls, value: str) -> str:
        if value not in POOL_OF_MODEL:
            raise ValueError(
                f"'{value[:80]}' is not served here. Expected one of: {', '.join(POOL_OF_MODEL)}"
            )
        return value

    @field_validator("min_turn_silence", "max_turn_silence")
    @classmethod
    def _silence(cls, value: int) -> int:
        return _clamp_silence(value)

    @property
    def pool(self) -> str:
        """The pool that serves `speech_model`."""
        return POOL_OF_MODEL[self.speech_model]

    def updated(self, fields: Mapping[str, Any]) -> "SessionParams":
        """These parameters after an `UpdateConfiguration` with `fields`.

        Names that cannot change are ignored, and so is null: clients leave out what they do not set.
        Raises ClientError 3006.
        """
        changes = {name: value for name, value in fields.items() if name in _UPDATABLE and value is not None}
        changed = {_UPDATABLE[name] for name in changes}
        kept = {name: value for name, value in self.model_dump().items() if name not in changed}
        return _validated(kept | changes)


#: Names that `UpdateConfiguration` may carry -> field they set (protocol 3.2); the rest is fixed at connect.
_UPDATABLE = {
    "format_turns": "format_turns",
    "end_of_turn_confidence_threshold": "end_of_turn_confidence_threshold",
    "min_turn_silence": "min_turn_silence",
    "min_end_of_turn_silence_when_confident": "min_turn_silence",
    "max_turn_silence": "max_turn_silence",
    "vad_threshold": "vad_threshold",
}


def _validated(values: Mapping[str, Any]) -> SessionParams:
    try:
        return SessionParams.model_validate(values)
    except ValidationError as error:
        raise _client_error(error) from None


def _client_error(error: ValidationError) -> ClientError:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    name = str(first["loc"][0]) if first["loc"] else "configuration"
    return invalid_parameter(name, str(first["msg"]))


def parse_query(pairs: Iterable[tuple[str, str]]) -> SessionParams:
    """Parameters from decoded query pairs; the last of a repeated name wins, unknown names are ignored.

    Raises ClientError 3006 for the first invalid value.
    """
    return _validated(dict(pairs))
