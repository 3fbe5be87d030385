"""What a pool builds of a native transducer."""

from typing import Any

import pytest
import torch

from tests import digits
from tests.digits import needed
from workers import checkpoints, dummy, native, tags
from workers.models.fastconformer import FastConformerConfig

SMALL = FastConformerConfig(
    hidden_size=32,
    num_hidden_layers=1,
    intermediate_size=32,
    subsampling_conv_channels=4,
    decoder_hidden_size=16,
)
ASKED: dict[str, Any] = {"slots": 3, "lookahead": 1}


@pytest.fixture(scope="module")
def vad() -> dict[str, Any]:
    return checkpoints.load(checkpoints.fetch("silero-vad"))[1]


@pytest.mark.weights
@pytest.mark.parametrize("prompts, languages", [(0, ("en",)), (128, tuple(sorted(tags.PROMPTS)))])
def test_random_weights_are_served_as_any(
    monkeypatch: pytest.MonkeyPatch, vad: dict[str, Any], prompts: int, languages: tuple[str, ...]
) -> None:
    shape = FastConformerConfig(**{**vars(SMALL), "num_prompts": prompts, "prompt_intermediate_size": 16})
    monkeypatch.setitem(dummy.SHAPES, "small", shape)
    recognizer = native.random("dummy:small", vad, **ASKED)
    recognizer.warm_up()
    spec = recognizer.spec
    assert (spec.model, spec.licence, spec.slots, spec.languages) == (
        "dummy:small",
        "random weights",
        3,
        languages,
    )
    assert sorted(recognizer.steppers) == [1, 13]
    assert len({id(stepper.state.keys) for stepper in recognizer.steppers.values()}) == 1


@pytest.mark.parametrize("name", dummy.SHAPES)
def test_a_session_s_state_fits_its_goal(name: str) -> None:
    """At most 10 MB in half precision, computed from the shapes."""
    with torch.device("meta"):
        network = dummy_network(name)
        state = network.state(7)
    assert 4e6 < state.bytes_per_slot <= 10e6


def dummy_network(name: str) -> Any:
    from workers.models.fastconformer import FastConformer

    network = FastConformer(dummy.SHAPES[name], 0).to(torch.bfloat16)
    network._start = tuple(
        torch.zeros(shape, dtype=torch.bfloat16) for shape in ((1, 640), (2, 1, 640), (2, 1, 640))
    )  # type: ignore[assignment]
    return network


def test_numbers_of_a_processor() -> None:
    assert native.chosen("auto", "cpu") is torch.float32
    assert native.chosen("float16", "cuda") is torch.float16
    assert native.chosen("bfloat16", "cpu") is torch.bfloat16
    with pytest.raises(ValueError, match="float32, bfloat16, float16"):
        native.chosen("int8", "cpu")


def test_a_transducer_is_told_from_others() -> None:
    assert native.is_native({"encoder_config": {}, "model_type": "nemotron_asr_streaming"})
    assert not native.is_native({"model_type": "whisper"})


@needed
@pytest.mark.weights
def test_another_architecture_is_refused() -> None:
    parts = digits.checkpoint()
    asked = {"name": "x", "licence": "-", **ASKED}
    with pytest.raises(ValueError, match="no streaming transducer"):
        native.build(**{**parts, "config": {"encoder_config": {"hidden_act": "relu"}}}, **asked)
    with pytest.raises(RuntimeError):
        native.build(**{**parts, "config": {**parts["config"], "vocab_size": 5}}, **asked)
    with pytest.raises(ValueError, match="look-ahead 70"):
        native.build(**parts, **{**asked, "lookahead": 70})
    assert native.build(**parts, **asked, precision="bfloat16").spec.state_bytes < 250_000
