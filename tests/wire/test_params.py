"""A session's parameters: defaults, ranges and refusals in the words of protocol 2."""

import math
from typing import Any
from urllib.parse import parse_qsl, urlencode

import pytest
from assemblyai.streaming.v3 import RealTimeParameters, RealTimeSessionParameters, SpeechModel
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from wire.errors import ClientError, Close
from wire.params import POOL_OF_MODEL, SILENCE_RANGE_MS, SessionParams, parse_query

DEFAULTS = SessionParams()


def query(**values: str) -> SessionParams:
    return parse_query(values.items())


def refusal(**values: str) -> str:
    with pytest.raises(ClientError) as caught:
        query(**values)
    assert caught.value.code is Close.INVALID_INPUT
    return caught.value.text


def test_defaults_are_those_of_the_us_models():
    assert parse_query([]) == DEFAULTS
    assert DEFAULTS.model_dump() == {
        "sample_rate": 16_000,
        "encoding": "pcm_s16le",
        "speech_model": "universal-streaming-english",
        "format_turns": False,
        "end_of_turn_confidence_threshold": 0.4,
        "min_turn_silence": 400,
        "max_turn_silence": 1280,
        "vad_threshold": 0.4,
    }


def test_parameters_are_frozen():
    with pytest.raises(ValidationError):
        DEFAULTS.sample_rate = 8_000  # type: ignore[misc]


def test_every_model_has_a_pool():
    for model, pool in POOL_OF_MODEL.items():
        assert query(speech_model=model).pool == pool


@pytest.mark.parametrize(
    "name,value,meaning",
    [
        ("sample_rate", "8000", 8_000),
        ("sample_rate", "96000", 96_000),
        ("sample_rate", "44100", 44_100),
        ("encoding", "pcm_s16le", "pcm_s16le"),
        ("speech_model", "universal-streaming-english", "universal-streaming-english"),
        ("format_turns", "true", True),
        ("format_turns", "True", True),
        ("format_turns", "TRUE", True),
        ("format_turns", "false", False),
        ("format_turns", "False", False),
        ("end_of_turn_confidence_threshold", "0", 0.0),
        ("end_of_turn_confidence_threshold", "1.0", 1.0),
        ("vad_threshold", "0.25", 0.25),
        ("min_turn_silence", "160", 160),
        ("max_turn_silence", "2400", 2_400),
    ],
)
def test_values(name: str, value: str, meaning: Any):
    got = getattr(query(**{name: value}), name)
    assert (got, type(got)) == (meaning, type(meaning))


@pytest.mark.parametrize(
    "name,value,message",
    [
        ("sample_rate", "4000", "Value error, sample_rate must be at least 8,000 Hz"),
        ("sample_rate", "7999", "Value error, sample_rate must be at least 8,000 Hz"),
        ("sample_rate", "-16000", "Value error, sample_rate must be at least 8,000 Hz"),
        ("sample_rate", "96001", "Value error, sample_rate must be at most 96,000 Hz"),
        ("sample_rate", "160.0", "Input should be a valid integer, unable to parse string as an integer"),
        ("sample_rate", "16000.0", "Input should be a valid integer, unable to parse string as an integer"),
        ("sample_rate", "16k", "Input should be a valid integer, unable to parse string as an integer"),
        ("sample_rate", "16_000", "Input should be a valid integer, unable to parse string as an integer"),
        ("sample_rate", "", "Input should be a valid integer, unable to parse string as an integer"),
        ("sample_rate", "1e4", "Input should be a valid integer, unable to parse string as an integer"),
        ("sample_rate", "9" * 5_000, "Unable to parse input string as an integer, exceeded maximum size"),
        ("encoding", "flac", "Value error, 'flac' is not a valid Encoding"),
        ("encoding", "", "Value error, '' is not a valid Encoding"),
        (
            "speech_model",
            "u3-pro",
            "Value error, 'u3-pro' is not served here. Expected one of: universal-streaming-english",
        ),
        ("format_turns", "maybe", "Input should be a valid boolean, unable to interpret input"),
        (
            "min_turn_silence",
            "160.0",
            "Input should be a valid integer, unable to parse string as an integer",
        ),
        ("max_turn_silence", "long", "Input should be a valid integer, unable to parse string as an integer"),
        ("vad_threshold", "1.01", "Input should be less than or equal to 1"),
        ("vad_threshold", "-0.1", "Input should be greater than or equal to 0"),
        ("vad_threshold", "nan", "Input should be a finite number"),
        ("vad_threshold", "inf", "Input should be a finite number"),
        ("vad_threshold", "loud", "Input should be a valid number, unable to parse string as a number"),
        ("end_of_turn_confidence_threshold", "2", "Input should be less than or equal to 1"),
        ("end_of_turn_confidence_threshold", "NaN", "Input should be a finite number"),
    ],
)
def test_refusals(name: str, value: str, message: str):
    assert refusal(**{name: value}) == f"User Input Validation Error: Invalid '{name}': {message}"


def test_a_refusal_names_the_parameter_as_the_client_wrote_it():
    assert "'min_end_of_turn_silence_when_confident'" in refusal(min_end_of_turn_silence_when_confident="x")


def test_a_long_value_is_not_sent_back():
    assert len(refusal(encoding="x" * 10_000)) < 200
    assert len(refusal(speech_model="x" * 10_000)) < 300


@pytest.mark.parametrize(
    "name", ["min_turn_silence", "max_turn_silence", "min_end_of_turn_silence_when_confident"]
)
@pytest.mark.parametrize(
    "value,meaning", [("49", 50), ("50", 50), ("10000", 10_000), ("10001", 10_000), ("-5", 50)]
)
def test_silences_are_clamped(name: str, value: str, meaning: int):
    field = "max_turn_silence" if name == "max_turn_silence" else "min_turn_silence"
    assert getattr(query(**{name: value}), field) == meaning


def test_the_old_name_of_min_turn_silence():
    assert query(min_end_of_turn_silence_when_confident="700").min_turn_silence == 700
    assert query(min_end_of_turn_silence_when_confident="700", min_turn_silence="200").min_turn_silence == 200


def test_unknown_names_are_ignored():
    assert (
        query(formatted_finals="true", word_finalization_max_wait_time="160", token="t", nonsense="")
        == DEFAULTS
    )


def test_the_last_of_a_repeated_name_wins():
    assert parse_query([("sample_rate", "8000"), ("sample_rate", "48000")]).sample_rate == 48_000


@pytest.mark.parametrize("format_turns", [True, False])
def test_what_the_official_client_sends_is_understood(format_turns: bool):
    sent = RealTimeParameters(
        sample_rate=48_000,
        format_turns=format_turns,
        min_turn_silence=200,
        vad_threshold=0.5,
        keyterms_prompt=["steno"],
        speech_model=SpeechModel.universal_streaming_english,
    ).model_dump(exclude_none=True)
    got = parse_query(parse_qsl(urlencode(sent)))
    assert got == SessionParams(
        sample_rate=48_000, format_turns=format_turns, min_turn_silence=200, vad_threshold=0.5
    )


def test_parameters_survive_the_way_through_an_offer():
    asked = query(sample_rate="8000", min_turn_silence="222", format_turns="True")
    assert SessionParams.model_validate(asked.model_dump()) == asked


# ---------------------------------------------------------------------------------------------------------------------
# UpdateConfiguration


def test_an_update_changes_what_it_names():
    got = DEFAULTS.updated({"max_turn_silence": 800, "format_turns": True, "vad_threshold": 1})
    assert got == SessionParams(max_turn_silence=800, format_turns=True, vad_threshold=1.0)
    assert got.updated({}) == got


def test_an_update_from_the_official_client():
    sent = RealTimeSessionParameters(min_turn_silence=320, keyterms_prompt=["a"], language_codes=["en"])
    assert DEFAULTS.updated(sent.model_dump()) == SessionParams(min_turn_silence=320)


@pytest.mark.parametrize(
    "name,value", [("sample_rate", 8_000), ("encoding", "opus"), ("speech_model", "x"), ("x", 1)]
)
def test_what_cannot_change_is_ignored(name: str, value: Any):
    assert DEFAULTS.updated({name: value}) == DEFAULTS


def test_the_old_name_in_an_update():
    assert DEFAULTS.updated({"min_end_of_turn_silence_when_confident": 7_000}).min_turn_silence == 7_000
    both = {"min_turn_silence": 200, "min_end_of_turn_silence_when_confident": 700}
    assert DEFAULTS.updated(both).min_turn_silence == 200
    assert DEFAULTS.updated(dict(reversed(both.items()))).min_turn_silence == 200


@pytest.mark.parametrize(
    "name,value,message",
    [
        ("min_turn_silence", 160.0, "Input should be a valid integer"),
        ("min_turn_silence", True, "Input should be a valid integer"),
        ("min_turn_silence", [160], "Input should be a valid integer"),
        ("min_end_of_turn_silence_when_confident", 1.5, "Input should be a valid integer"),
        ("vad_threshold", math.nan, "Input should be a finite number"),
        ("vad_threshold", True, "Input should be a valid number"),
        ("end_of_turn_confidence_threshold", 1.5, "Input should be less than or equal to 1"),
        ("format_turns", 2, "Input should be a valid boolean, unable to interpret input"),
        ("format_turns", {}, "Input should be a valid boolean"),
    ],
)
def test_refused_updates(name: str, value: Any, message: str):
    with pytest.raises(ClientError) as caught:
        DEFAULTS.updated({name: value})
    assert caught.value.text == f"User Input Validation Error: Invalid '{name}': {message}"
    assert caught.value.code is Close.INVALID_INPUT


def test_a_refused_update_changes_nothing():
    before = SessionParams(min_turn_silence=111)
    with pytest.raises(ClientError):
        before.updated({"min_turn_silence": 222, "vad_threshold": 9})
    assert before == SessionParams(min_turn_silence=111)


names = st.sampled_from([*SessionParams.model_fields, "min_end_of_turn_silence_when_confident"]) | st.text(
    max_size=8
)
values: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=12),
    st.lists(st.integers(), max_size=2),
)


def assert_in_range(params: SessionParams) -> None:
    low, high = SILENCE_RANGE_MS
    assert 8_000 <= params.sample_rate <= 96_000
    assert low <= params.min_turn_silence <= high
    assert low <= params.max_turn_silence <= high
    assert 0 <= params.vad_threshold <= 1
    assert 0 <= params.end_of_turn_confidence_threshold <= 1
    assert type(params.format_turns) is bool


@given(
    st.lists(
        st.tuples(names, st.text(max_size=12) | st.integers().map(str) | st.floats().map(str)), max_size=4
    )
)
def test_any_query_is_within_range_or_refused(pairs: list[tuple[str, str]]):
    try:
        assert_in_range(parse_query(pairs))
    except ClientError as error:
        assert error.code is Close.INVALID_INPUT
        assert len(error.text) < 400


@given(st.dictionaries(names, values, max_size=4))
def test_any_update_is_within_range_or_refused(fields: dict[str, Any]):
    try:
        assert_in_range(DEFAULTS.updated(fields))
    except ClientError as error:
        assert error.code is Close.INVALID_INPUT
        assert len(error.text) < 400
