import math
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    Nemotron3_5AsrConfig,
    Nemotron3_5AsrForRNNT,
    NemotronAsrStreamingConfig,
    NemotronAsrStreamingForRNNT,
)

from workers.models.fastconformer import FastConformer, FastConformerConfig, fused

ENCODER = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "subsampling_conv_channels": 8,
    "num_mel_bins": 16,
    "sliding_window": 15,
    "conv_kernel_size": 5,
}
LOOKAHEADS = (0, 1, 3, 6, 13)


def theirs(multilingual: bool) -> Any:
    torch.manual_seed(3)
    kind: Any
    network: Any
    kind, network = (
        (Nemotron3_5AsrConfig, Nemotron3_5AsrForRNNT)
        if multilingual
        else (NemotronAsrStreamingConfig, NemotronAsrStreamingForRNNT)
    )
    encoder = {"model_type": "nemotron_asr_streaming_encoder", **ENCODER}
    config = kind(
        encoder_config=encoder,
        vocab_size=31,
        blank_token_id=30,
        decoder_hidden_size=24,
        max_symbols_per_step=3,
    )
    model: Any = network(config).eval()
    model.generation_config.decoder_start_token_id = model.generation_config.bos_token_id = 30
    model.generation_config.pad_token_id = 0
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(1.0 if weight.dim() == 1 else 0.0, 0.2)
        model.joint.head.bias[30] += 2.0
    return model


def ours(reference, lookahead: int) -> FastConformer:
    model = FastConformer(FastConformerConfig.from_dict(reference.config.to_dict()), lookahead)
    model.load_state_dict(fused(reference.state_dict()))
    return model.eval().ready()


def chunks(mel: Tensor, frames: int) -> list[Tensor]:
    """Chunks of a recording, the 7 frames that do not exist in front."""
    whole = torch.cat([torch.full((1, 7, mel.shape[2]), 9.0), mel], 1)
    return list(whole.split(8 * frames, 1))


@pytest.mark.parametrize("multilingual", [False, True])
@pytest.mark.parametrize("lookahead", LOOKAHEADS)
def test_streamed_among_strangers_is_what_the_library_makes_of_the_whole(lookahead: int, multilingual: bool):
    reference = theirs(multilingual)
    model = ours(reference, lookahead)
    frames = lookahead + 1
    mel = torch.randn(1, 8 * frames * math.ceil(30 / frames) - 7, 16)
    with torch.inference_mode():
        prompt = {"prompt_ids": torch.tensor([4])} if multilingual else {}
        expected = reference.get_audio_features(mel, num_lookahead_tokens=lookahead, **prompt).pooler_output
        state, got = model.state(5), []
        state.prompt[2] = 4 if multilingual else 0
        for number, chunk in enumerate(chunks(mel, frames)):
            strangers = [row for row in (4, 0, 3) if number % (row + 1) == 0]
            rows = torch.tensor([*strangers, 2])
            batch = torch.cat([torch.randn(len(strangers), *chunk.shape[1:]), chunk])
            got.append(model.encode(state, rows, batch)[-1:])
    torch.testing.assert_close(torch.cat(got, 1), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("lookahead", [0, 3])
@pytest.mark.parametrize("rounds", [2, 7])
def test_greedy_search_says_what_the_library_generates(lookahead: int, rounds: int):
    reference = theirs(False)
    model = ours(reference, lookahead)
    frames = lookahead + 1
    mel = torch.randn(1, 8 * frames * math.ceil(20 / frames) - 7, 16)
    with torch.inference_mode():
        whole = reference.generate(input_features=mel, num_lookahead_tokens=lookahead, max_new_tokens=500)
        expected = [label for label in whole.sequences[0].tolist() if label not in (30, 0)]
        state, rows, got = model.state(1), torch.tensor([0]), []
        for chunk in chunks(mel, frames):
            encoded = model.encode(state, rows, chunk)
            at, said = torch.zeros_like(rows), torch.zeros_like(rows)
            while at.item() < frames:
                labels, _, odds = model.search(state, rows, encoded, at, said, rounds)
                got += [label for label in labels[0].tolist() if label > 0]
                assert ((odds > 0) & (odds <= 1)).all()
    assert got == expected
    assert got, "nothing was said, so nothing was tested"


def test_a_reset_slot_is_a_new_one_and_its_neighbour_does_not_notice():
    model = ours(theirs(False), 1)
    used, new = model.state(2), model.state(2)
    mel = torch.randn(2, 16, 16)
    with torch.inference_mode():
        both = torch.tensor([0, 1])
        for state in (used, new):
            model.encode(state, torch.tensor([1]), mel[1:])
        model.encode(used, torch.tensor([0]), mel[:1])
        at = torch.zeros(1, dtype=torch.long)
        model.search(used, torch.tensor([0]), torch.randn(1, 2, 24), at, at.clone(), 9)
        model.reset(used, torch.tensor([0]))
        assert torch.equal(model.encode(used, both, mel), model.encode(new, both, mel))
    assert torch.equal(used.hidden, new.hidden)
    assert torch.equal(used.predicted, new.predicted)


def test_a_checkpoint_of_another_kind_is_refused():
    with pytest.raises(ValueError, match="no streaming transducer"):
        FastConformerConfig.from_dict({"model_type": "whisper"})
    with pytest.raises(ValueError, match="look-ahead 70"):
        FastConformerConfig().left(70)
