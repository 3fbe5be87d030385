import json
from typing import Any

import numpy as np
import pytest
import torch
from transformers import WhisperConfig, WhisperForConditionalGeneration

from workers import checkpoints
from workers.convert_whisper import OUTER, PARTS, config, state_dict, tokenizer

WIDTH, INNER, VOCABULARY = 4, 6, 12


def small() -> dict[str, np.ndarray]:
    """The variables of one layer each, named and fused as CTranslate2 does; each holds numbers of its own."""
    rng = np.random.default_rng(5)

    def some(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float16)

    shapes: dict[str, tuple[int, ...]] = {
        "encoder/conv1/weight": (WIDTH, 2, 3),
        "encoder/conv2/weight": (WIDTH, WIDTH, 3),
        "encoder/position_encodings/encodings": (10, WIDTH),
        "decoder/position_encodings/encodings": (8, WIDTH),
        "decoder/embeddings/weight": (VOCABULARY, WIDTH),
    }
    found = {name: some(*shape) for name, shape in shapes.items()}
    found |= {f"encoder/conv{n}/bias": some(WIDTH) for n in (1, 2)}
    for room in ("encoder", "decoder"):
        norms = [f"{room}/layer_norm"]
        for part, names in PARTS.items():
            if room == "encoder" and part.startswith("attention"):
                continue
            stem = f"{room}/layer_0/{part}"
            if part.endswith("layer_norm"):
                norms.append(stem)
                continue
            sizes = {"ffn/linear_0": (INNER, WIDTH), "ffn/linear_1": (WIDTH, INNER)}
            rows, columns = sizes.get(part, (len(names) * WIDTH, WIDTH))
            found[f"{stem}/weight"], found[f"{stem}/bias"] = some(rows, columns), some(rows)
        found |= {f"{stem}/{end}": some(WIDTH) for stem in norms for end in ("gamma", "beta")}
        found[f"{room}/num_heads"] = np.array(2, np.int16)
        found[f"{room}/layer_0/self_attention/linear_0/bias"][WIDTH : 2 * WIDTH] = 0
    found["decoder/layer_0/attention/linear_1/bias"][:WIDTH] = 0
    found["decoder/scale_embeddings"] = np.array(0, np.int8)
    return found


def tokens() -> dict[str, Any]:
    names = (
        "endoftext",
        "startoftranscript",
        "en",
        "de",
        "translate",
        "transcribe",
        "startofprev",
        "notimestamps",
    )
    added = [{"id": 4 + n, "content": f"<|{name}|>", "special": True} for n, name in enumerate(names)]
    return {"added_tokens": [*added, {"id": 12, "content": "<|0.00|>", "special": False}]}


THEIRS = {
    "lang_ids": [6, 7],
    "suppress_ids": [1, 5],
    "suppress_ids_begin": [2, 4],
    "alignment_heads": [[0, 1]],
}


def test_what_was_fused_is_taken_apart() -> None:
    variables = small()
    found = state_dict(variables)
    assert list(found) == sorted(found)
    fused = variables["decoder/layer_0/attention/linear_1/weight"]
    layer = "model.decoder.layers.0"
    np.testing.assert_array_equal(found[f"{layer}.encoder_attn.k_proj.weight"], fused[:WIDTH])
    np.testing.assert_array_equal(found[f"{layer}.encoder_attn.v_proj.weight"], fused[WIDTH:])
    assert f"{layer}.encoder_attn.k_proj.bias" not in found
    assert found[f"{layer}.fc1.weight"].shape == (INNER, WIDTH)
    assert set(OUTER.values()) <= {name.rsplit(".", 1)[0] for name in found}


def test_the_librarys_model_takes_all_of_it_and_lacks_nothing() -> None:
    variables = small()
    model = WhisperForConditionalGeneration(WhisperConfig(**config(variables, THEIRS, tokens())))
    state = {name: torch.from_numpy(value.copy()).float() for name, value in state_dict(variables).items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert (missing, unexpected) == (["proj_out.weight"], [])  # tied


def test_keys_with_a_bias_are_no_whispers() -> None:
    variables = small()
    variables["encoder/layer_0/self_attention/linear_0/bias"][WIDTH] = 1
    with pytest.raises(ValueError, match=r"encoder\.layers\.0\.self_attn\.k_proj has a bias"):
        state_dict(variables)


def test_the_config_tells_shape_and_tokens() -> None:
    told = config(small(), THEIRS, tokens())
    shape = ("d_model", "encoder_layers", "decoder_layers", "decoder_ffn_dim", "num_mel_bins", "vocab_size")
    assert [told[key] for key in shape] == [WIDTH, 1, 1, INNER, 2, VOCABULARY]
    assert (told["max_source_positions"], told["max_target_positions"]) == (10, 8)
    assert told["lang_to_id"] == {"<|en|>": 6, "<|de|>": 7}
    assert told["task_to_id"] == {"transcribe": 9, "translate": 8}
    assert (told["eos_token_id"], told["decoder_start_token_id"], told["prev_sot_token_id"]) == (4, 5, 10)
    assert json.loads(json.dumps(told)) == told


def test_timestamps_are_no_text() -> None:
    added = tokenizer(json.dumps(tokens()).encode())["added_tokens"]
    assert all(token["special"] for token in added)


@pytest.mark.weights
def test_the_real_checkpoint_fits_the_librarys_model() -> None:
    told, state = checkpoints.load(checkpoints.fetch("whisper-base"))
    assert {value.dtype for value in state.values()} == {torch.float16}
    assert len(told["lang_to_id"]) == 99
    assert told["alignment_heads"][0] == [3, 1]
    with torch.device("meta"):
        model = WhisperForConditionalGeneration(WhisperConfig(**told))
    theirs = {name: value.shape for name, value in model.state_dict().items() if name != "proj_out.weight"}
    assert {name: value.shape for name, value in state.items()} == theirs
