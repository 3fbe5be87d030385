import numpy as np
import pytest
import torch

from tests.gpu import on_gpu
from workers.biasing import Path, Terms, Vocabulary
from workers.boosting import Boost
from workers.bpe import Encoder
from workers.models.fastconformer import FastConformer, FastConformerConfig
from workers.streaming import Stepper

SMALL = FastConformerConfig(
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=64,
    subsampling_conv_channels=8,
    decoder_hidden_size=16,
    vocab_size=20,
    blank_token_id=19,
    sliding_window=15,
)


def stepper(
    slots: int, lookahead: int = 1, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> Stepper:
    torch.manual_seed(5)
    model = FastConformer(SMALL, lookahead)
    with torch.no_grad():
        model.joint.head.weight.normal_(0, 3)
    return Stepper(model.to(device, dtype).eval().ready(), slots)


def labels(found) -> list[list[tuple[int, int]]]:
    return [
        [(int(label), int(frame)) for label, frame in zip(tokens, frames, strict=True) if label >= 0]
        for tokens, frames in zip(found.token, found.frame, strict=True)
    ]


def test_any_pace_and_any_company_give_the_words_of_a_session_alone():
    random = np.random.default_rng(1)
    crowd, one = stepper(4), stepper(1)
    audio = random.normal(0, 0.3, (4, 12, one.width)).astype(np.float32)
    alone = []
    for session in range(4):
        one.reset(np.array([0]))
        alone.append([labels(one.step(np.array([0]), audio[session, step][None]))[0] for step in range(12)])
    heard: list[list] = [[], [], [], []]
    while any(len(told) < 12 for told in heard):
        rows = np.array([s for s in range(4) if len(heard[s]) < 12 and random.random() < 0.6], np.int64)
        if not len(rows):
            continue
        found = crowd.step(rows, np.stack([audio[s, len(heard[s])] for s in rows]))
        for session, told in zip(rows.tolist(), labels(found), strict=True):
            heard[session].append(told)
    assert heard == alone
    assert sum(map(len, alone[0])) > 3


def test_labels_beyond_the_rounds_of_a_step_are_told_all_the_same():
    few, many = stepper(2), stepper(2)
    few.rounds = 1
    few._said, few._host_said = torch.zeros(2, 4), torch.zeros(2, 4)
    audio = np.random.default_rng(2).normal(0, 0.3, (2, few.width)).astype(np.float32)
    rows = np.arange(2)
    assert labels(few.step(rows, audio)) == labels(many.step(rows, audio))


def test_key_terms_of_one_slot_are_none_of_its_neighbours_business():
    audio = np.random.default_rng(4).normal(0, 0.3, (3, 6, stepper(1).width)).astype(np.float32)
    rows = np.arange(3)
    plain, boosted = stepper(3), stepper(3)
    boosted.boost = Boost(3, boosted.device)
    favourite = Path((7, 7))
    boosted.boost.set(1, Terms.of([favourite], Vocabulary([b" a"] * 20, Encoder([]).encode, 19)))
    with torch.no_grad():  # else the network is too sure of itself
        for one in (plain, boosted):
            one.model.joint.head.weight.mul_(0.05)
    said: list[list] = [[], []]
    for step in range(6):
        for told, one in zip(said, (plain, boosted), strict=True):
            told.append(labels(one.step(rows, audio[:, step])))
    for slot in (0, 2):
        assert [step[slot] for step in said[0]] == [step[slot] for step in said[1]]
    mine = [[label for step in one for label, _ in step[1]] for one in said]
    assert mine[1].count(7) > mine[0].count(7)


@on_gpu
@pytest.mark.parametrize("lookahead", [0, 3])
def test_a_captured_step_is_the_eager_one(lookahead: int):
    eager, graph = (stepper(8, lookahead, "cuda") for _ in range(2))
    graph.warm_up()
    random = np.random.default_rng(3)
    for rows in ([0, 1, 2], [2, 5], [7], [0, 1, 2, 3, 4, 5, 6, 7]) * 3:
        audio = random.normal(0, 0.3, (len(rows), eager.width)).astype(np.float32)
        assert labels(eager.step(np.array(rows), audio)) == labels(graph.step(np.array(rows), audio))


@on_gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_close(dtype: torch.dtype):
    exact, half = stepper(2, 1, "cuda"), stepper(2, 1, "cuda", dtype)
    mel, rows = torch.randn(2, 16, 80, device="cuda"), torch.arange(2, device="cuda")
    with torch.inference_mode():
        for _ in range(5):
            want, got = (one.model.encode(one.state, rows, mel) for one in (exact, half))
    torch.testing.assert_close(got.float(), want, rtol=0.1, atol=0.1)
