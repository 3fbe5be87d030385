"""A session's parameters: defaults, ranges and refusals in the words of protocol 2."""

import gc
import json
import math
import weakref
from typing import Any
from urllib.parse import parse_qsl, urlencode

import pytest
from assemblyai.streaming.v3 import RealTimeParameters, RealTimeSessionParameters, SpeechModel
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from wire.errors import ClientError, Close
from wire.params import SELF_TIMED, SILENCE_RANGE_MS, SessionParams, Unsupported, parse_query
from wire.speech_models import LANGUAGES, MODELS

DEFAULTS = SessionParams()
NAMES = ", ".join(MODELS)


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
        "inactivity_timeout": None,
        "session_heartbeat": False,
        "acknowledge_silence": False,
        "include_partial_turns": True,
        "resumable": False,
        "record": None,
        "replay": False,
        "replay_strides": "",
        "end_of_turn_confidence_threshold": 0.4,
        "min_turn_silence": 400,
        "max_turn_silence": 1280,
        "vad_threshold": 0.4,
        "mode": None,
        "interruption_delay": 500,
        "continuous_partials": True,
        "keyterms_prompt": (),
        "prompt": "",
        "agent_context": "",
        "previous_context_n_turns": 5,
        "language_codes": (),
        "language_detection": False,
        "filter_profanity": False,
        "webhook_url": "",
        "webhook_auth_header_name": "",
        "webhook_auth_header_value": "",
    }


@pytest.mark.parametrize(
    "model,least,most,vad,mode,interruption",
    [
        ("universal-streaming-english", 400, 1280, 0.4, None, 500),
        ("universal-streaming-multilingual", 400, 1280, 0.4, None, 500),
        ("whisper-rt", 400, 1280, 0.4, None, 500),
        ("u3-rt-pro", 100, 1000, 0.3, "balanced", 500),
        ("universal-3-5-pro", 128, 1280, 0.2, "balanced", 500),
        ("universal-3-6-pro", 128, 1280, 0.2, "balanced", 500),
        ("universal-3-6", 128, 1280, 0.2, "balanced", 500),
    ],
)
def test_defaults_follow_from_the_model(model, least, most, vad, mode, interruption):
    """Protocol 2.2 and 5.3."""
    got = query(speech_model=model)
    assert (got.min_turn_silence, got.max_turn_silence, got.vad_threshold) == (least, most, vad)
    assert (got.mode, got.interruption_delay) == (mode, interruption)


@pytest.mark.parametrize(
    "mode,least,most,interruption",
    [("min_latency", 128, 640, 0), ("balanced", 128, 1280, 500), ("max_accuracy", 512, 2560, 500)],
)
def test_a_mode_is_a_preset_that_explicit_parameters_override(mode, least, most, interruption):
    got = query(speech_model="universal-3-5-pro", mode=mode)
    assert (got.min_turn_silence, got.max_turn_silence, got.interruption_delay) == (least, most, interruption)
    own = query(speech_model="universal-3-5-pro", mode=mode, max_turn_silence="900", interruption_delay="100")
    assert (own.min_turn_silence, own.max_turn_silence, own.interruption_delay) == (least, 900, 100)
    old = query(speech_model="universal-3-5-pro", mode=mode, min_end_of_turn_silence_when_confident="333")
    assert old.min_turn_silence == 333
    assert query(mode=mode).max_turn_silence == 1280, "no presets on the US models"


def test_parameters_are_frozen():
    with pytest.raises(ValidationError):
        DEFAULTS.sample_rate = 8_000  # type: ignore[misc]


def test_every_model_has_a_pool():
    for name, model in MODELS.items():
        assert query(speech_model=name).pool == model.pool


@pytest.mark.parametrize(
    "name,value,meaning",
    [
        ("sample_rate", "8000", 8_000),
        ("sample_rate", "96000", 96_000),
        ("sample_rate", "44100", 44_100),
        ("encoding", "pcm_s16le", "pcm_s16le"),
        ("encoding", "pcm_mulaw", "pcm_mulaw"),
        ("encoding", "ogg_opus", "ogg_opus"),
        ("inactivity_timeout", "5", 5),
        ("session_heartbeat", "True", True),
        ("include_partial_turns", "False", False),
        ("keyterms_prompt", '["fox", " lazy dog ", ""]', ("fox", "lazy dog")),
        ("keyterms_prompt", json.dumps(["x" * 200]), ("x" * 200,)),
        ("language_codes", '["en", "ES", "en"]', ("en", "es")),
        ("language_codes", '["multi"]', ()),
        ("speech_model", "", "universal-streaming-english"),
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
            f"Value error, 'u3-pro' is not a valid SpeechModel. Expected one of: {NAMES}",
        ),
        ("mode", "fast", "Input should be 'min_latency', 'balanced' or 'max_accuracy'"),
        ("inactivity_timeout", "4", "Input should be greater than or equal to 5"),
        ("inactivity_timeout", "3601", "Input should be less than or equal to 3600"),
        ("interruption_delay", "1001", "Input should be less than or equal to 1000"),
        ("previous_context_n_turns", "101", "Input should be less than or equal to 100"),
        ("keyterms_prompt", "fox,dog", "Value error, Invalid JSON array"),
        ("keyterms_prompt", json.dumps(["x"] * 101), "Value error, Max 100 items"),
        ("keyterms_prompt", json.dumps(["x" * 501]), "Value error, Max 500 characters per item"),
        ("keyterms", '"fox"', "Value error, Invalid JSON array"),
        ("prompt", "x", "Value error, prompt is only supported with u3-rt-pro"),
        ("agent_context", "x" * 1751, "Value error, exceeds maximum length of 1750 characters (got 1751)"),
        ("language_codes", "en,es", "Value error, Invalid JSON array"),
        (
            "language_codes",
            '["multi","en"]',
            "Value error, 'multi' cannot be combined with other language codes",
        ),
        ("language_codes", '["xx"]', "Value error, 'xx' is not a supported language code"),
        ("language_codes", json.dumps(sorted(LANGUAGES)[:11]), "Value error, Max 10 items"),
        ("language_code", "klingon", "Value error, 'klingon' is not a supported language code"),
        ("max_speakers", "11", "Input should be less than or equal to 10"),
        ("speaker_labels_revision_interval_ms", "86400001", "Input should be less than or equal to 86400000"),
        ("voice_focus", "mid-field", "Input should be 'near-field' or 'far-field'"),
        ("voice_focus_threshold", "0.5", "Value error, voice_focus_threshold requires voice_focus"),
        ("redact_pii_sub", "stars", "Input should be 'hash' or 'entity_name'"),
        ("llm_gateway", "[]", "Value error, Invalid JSON object"),
        ("domain", "legal-v1", "Input should be 'medical-v1'"),
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


def test_a_refusal_keeps_nothing_alive():
    """pydantic holds tracebacks where the garbage collector cannot look: refused clients stayed in memory."""

    class Connection:
        pass

    def handle(connection: Connection) -> ClientError:
        try:
            query(sample_rate="4000")
        except ClientError as error:
            return error
        raise AssertionError

    connection = Connection()
    gone = weakref.ref(connection)
    refused = handle(connection)
    assert refused.__context__ is None
    del connection, refused
    gc.collect()
    assert gone() is None


def test_a_long_value_is_not_sent_back():
    assert len(refusal(encoding="x" * 10_000)) < 200
    assert len(refusal(speech_model="x" * 10_000)) < 400


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
    sent["keyterms_prompt"] = json.dumps(sent["keyterms_prompt"])  # as its `_base.py` does
    got = parse_query(parse_qsl(urlencode(sent)))
    assert got == SessionParams(
        sample_rate=48_000,
        format_turns=format_turns,
        min_turn_silence=200,
        vad_threshold=0.5,
        keyterms_prompt=("steno",),
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
    changed = SessionParams(min_turn_silence=320, keyterms_prompt=("a",), language_codes=("en",))
    assert DEFAULTS.updated(sent.model_dump()) == changed


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


@pytest.mark.parametrize(
    "pairs,codes",
    [
        ([("language_codes", "en"), ("language_codes", "fr")], ("en", "fr")),
        ([("language_codes", "en")], ("en",)),
        ([("language_codes", "multi")], ()),
        ([("language_code", "de")], ("de",)),
        ([("language_code", "de"), ("language_codes", '["it"]')], ("it",)),
        ([("language_code", "multi")], ()),
        ([("language", "es")], ("es",)),
        ([("language", "tlh")], ()),
    ],
)
def test_language_codes_and_their_old_names(pairs, codes):
    assert parse_query(pairs).language_codes == codes


def test_key_terms_are_not_given_by_repetition():
    with pytest.raises(ClientError, match="Invalid 'keyterms_prompt': Value error, Invalid JSON array"):
        parse_query([("keyterms_prompt", '["a"]'), ("keyterms_prompt", '["b"]')])


def test_a_prompt_is_for_the_u3_models_only_and_ignored_mid_session_elsewhere():
    assert query(speech_model="u3-rt-pro", prompt="Names: Anna").prompt == "Names: Anna"
    assert "got 1751" in refusal(speech_model="u3-rt-pro", prompt="x" * 1751)
    assert DEFAULTS.updated({"prompt": "x" * 5_000}) == DEFAULTS
    u3 = query(speech_model="u3-rt-pro", prompt="x")
    assert u3.updated({"prompt": ""}).prompt == ""
    with pytest.raises(ClientError):
        u3.updated({"agent_context": "x" * 1751})


def test_key_terms_and_languages_are_replaced_and_cleared_mid_session():
    asked = query(keyterms_prompt='["fox"]', language_codes='["en"]')
    assert asked.updated({"keyterms_prompt": ["dog"]}).keyterms_prompt == ("dog",)
    assert asked.updated({"keyterms_prompt": []}).keyterms_prompt == ()
    assert asked.updated({"language_codes": []}).language_codes == ()


def test_what_is_not_supported_is_accepted_and_changes_nothing():
    asked = query(
        speaker_labels="true",
        max_speakers="2",
        noise_suppression_model="near-field",
        noise_suppression_threshold="0.5",
        redact_pii="true",
        redact_pii_policies="person_name,date",
        llm_gateway='{"model":"m"}',
        domain="medical-v1",
        turn_left_pad_ms="200",
        customer_support_audio_capture="true",
    )
    assert asked == DEFAULTS
    assert not set(Unsupported.model_fields) & set(SessionParams.model_fields)


def test_what_only_ingress_needs_is_not_told_to_workers_nor_shown():
    secret = SessionParams(webhook_url="https://hooks.example", webhook_auth_header_value="s3cret")
    assert "s3cret" not in repr(secret)
    told = secret.for_worker()
    assert not any(name.startswith("webhook") for name in told)
    assert SessionParams.model_validate(told) == DEFAULTS
    assert json.loads(json.dumps(told)) == told


def test_encodings_that_tell_their_own_rate():
    assert {"opus", "ogg_opus", "aac"} == SELF_TIMED
    assert query(encoding="opus", sample_rate="4000").sample_rate == 16_000, "ignored (protocol 2.1)"
    assert "sample_rate" in refusal(encoding="pcm_mulaw", sample_rate="4000")


@pytest.mark.parametrize("name", ["keyterms_prompt", "keyterms", "language_codes", "redact_pii_policies"])
def test_half_a_character_is_no_text(name: str):
    assert refusal(**{name: '["\\ud800"]'}).endswith("Value error, Invalid JSON array")


@pytest.mark.parametrize(
    "model,asked,told",
    [
        ("universal-streaming-english", "min_latency", None),
        ("u3-rt-pro", "min_latency", "balanced"),
        ("universal-3-5-pro", "min_latency", "min_latency"),
    ],
)
def test_the_mode_that_is_told_is_the_one_that_counts(model: str, asked: str, told: str | None):
    assert query(speech_model=model, mode=asked).effective_mode == told


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
