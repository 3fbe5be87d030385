"""Which model a session gets, and which defaults follow (protocol 7.1 to 7.3)."""

import pytest
from assemblyai.streaming.v3 import SpeechModel

from wire.speech_models import (
    DEFAULT_MODEL,
    MODEL_OF_VERSION,
    MODELS,
    POOLS,
    PRESETS,
    Family,
    choose,
    defaults,
)

ENGLISH, MULTI = "universal-streaming-english", "universal-streaming-multilingual"


def test_every_model_of_the_official_client_is_known_but_the_retired_one():
    assert {model.value for model in SpeechModel} - set(MODELS) <= {"u3-pro"}


def test_pools_and_families():
    assert POOLS == ("english", "multilang", "u3pro")
    assert {name for name, model in MODELS.items() if model.family is Family.U3} == {
        name for name, model in MODELS.items() if model.pool == "u3pro"
    }
    assert set(MODEL_OF_VERSION.values()) <= set(MODELS)


@pytest.mark.parametrize(
    "query,version,model",
    [
        ({}, None, DEFAULT_MODEL),
        ({"speech_model": "u3-rt-pro", "language": "en"}, "ml-default", "u3-rt-pro"),
        ({"speech_model": "nonsense"}, "ml-default", "nonsense"),
        ({"speech_model": ""}, None, DEFAULT_MODEL),
        ({"language": "en"}, "u3-pro", "u3-rt-pro"),
        ({}, "en-default", ENGLISH),
        ({}, "ml-default", MULTI),
        ({}, "universal-3-6-pro", "universal-3-6-pro"),
        ({}, "unheard-of", DEFAULT_MODEL),
        ({"language": "en"}, "unheard-of", ENGLISH),
        ({"language": "EN"}, None, ENGLISH),
        ({"language": "multi"}, None, MULTI),
        ({"language": "pt"}, None, MULTI),
        ({"language_code": "multi"}, None, MULTI),
        ({"language_codes": '["multi"]'}, None, MULTI),
        ({"language_codes": '["en","es"]'}, None, DEFAULT_MODEL),
    ],
)
def test_the_first_that_says_anything_decides(query, version, model):
    assert choose(query, version) == model


def test_the_default_is_the_operator_s():
    assert choose({}, None, "whisper-rt") == "whisper-rt"
    assert choose({"language": "en"}, None, "whisper-rt") == ENGLISH


def test_presets_belong_to_models_that_have_modes():
    assert (
        defaults("universal-3-5-pro", "min_latency")["max_turn_silence"]
        == PRESETS["min_latency"]["max_turn_silence"]
    )
    assert defaults("u3-rt-pro", "min_latency")["max_turn_silence"] == 1000
    assert defaults("nonsense", "min_latency") == {}
