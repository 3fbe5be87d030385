"""A draft changes nothing: transcripts are those of plain greedy decoding, token for token; with key terms, those of
plain greedy decoding among tokens and terms."""

from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.noises import pink
from tests.spoken import clip
from workers import checkpoints
from workers.biasing import AHEAD_MS, BACK_MS, Terms, Vocabulary, due, weighed
from workers.biasing import Path as Way
from workers.bpe import Encoder
from workers.drafting import Task, Transcript, transcribe
from workers.models import whisper
from workers.models.decoder import Hint
from workers.models.moonshine import MIN_SAMPLES, Moonshine, MoonshineConfig, frames, fused
from workers.words import goes_on, repeats, token_cap

DATA = Path(__file__).parents[1] / "data"
VOCABULARY = 40


@cache
def tiny(seed: int) -> Moonshine:
    """A small network of random weights, spread widely enough that it says many things."""
    config = MoonshineConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        encoder_num_hidden_layers=1,
        decoder_num_hidden_layers=2,
        num_attention_heads=2,
        alignment_heads=((0, 1), (1, 0)),
    )
    generator = torch.Generator().manual_seed(seed)
    model = Moonshine(config).eval()
    for weight in model.parameters():
        weight.data.normal_(0.0, 0.4, generator=generator)
    return model


def sound(seed: int, samples: int) -> Tensor:
    return torch.randn(samples, generator=torch.Generator().manual_seed(seed)) * 0.3


def greedy(model: Moonshine, task: Task, onward: Tensor | None = None) -> tuple[list[int], float]:
    """The plain way: the whole text again for every token, no cache, no draft. Tokens and the end's probability."""
    tokens: list[int] = []
    with torch.inference_mode():
        samples = torch.tensor([len(task.audio)])
        cross = model.cross(model.encode(task.audio[None], samples), frames(samples))
        while True:
            text = torch.tensor([[model.config.bos_token_id, *task.prefix, *tokens]])
            positions = torch.arange(text.shape[1])[None]
            hidden, _ = model.decode(text, positions, model.cache(1, text.shape[1]), cross)
            scores = model.logits(hidden[0, -1]).float()
            if onward is not None and task.prefix and not tokens:
                scores[onward] = -torch.inf
            chances = scores.softmax(-1)
            token = int(chances.argmax())
            if token == model.config.eos_token_id:
                return tokens, float(chances[token])
            tokens.append(token)
            if (start := repeats(tokens)) is not None:
                return tokens[:start], 0.0
            if len(tokens) >= task.cap:
                return tokens, 0.0


def assert_greedy(model: Moonshine, task: Task, found: Transcript, onward: Tensor | None = None) -> None:
    tokens, end = greedy(model, task, onward)
    assert found.tokens == tokens
    assert found.end == pytest.approx(end, abs=1e-4)
    assert found.probabilities.shape == (len(tokens),)
    assert ((found.probabilities > 0) & (found.probabilities <= 1.00001)).all()
    assert found.attention.shape == (len(task.prefix) + len(tokens), frames(len(task.audio)))
    heads = len(model.config.alignment_heads)
    assert found.attention.sum(1) == pytest.approx(np.full(len(found.attention), heads), abs=1e-3)


# --- key terms, the plain way

#: Every third token is a piece of a word, the others begin one.
PIECES = [b"" if n < 3 else b"x" if n % 3 == 0 else b" y" for n in range(VOCABULARY)]
WORDS = Vocabulary(PIECES, Encoder(PIECES).encode, end_token=2)


def terms_of(*tokens: list[int]) -> Terms:
    return Terms.of([Way(tuple(path), path[0] % 2 == 0, sum(path) % 3 > 0) for path in tokens], WORDS)


@dataclass
class Plainly:
    """Whole texts again for every token and every term: tokens, probabilities, how many terms were said."""

    tokens: list[int] = field(default_factory=list)
    probabilities: list[float] = field(default_factory=list)
    said: int = 0
    weighed: int = 0


def biased(model: Moonshine, task: Task) -> Plainly:
    """Greedy among tokens and terms, without cache, draft or batch."""
    found = Plainly()
    with torch.inference_mode():
        cross = model.cross(model.encode(task.audio[None], torch.tensor([len(task.audio)])))

        def asked(text: list[int]) -> tuple[Tensor, Tensor]:
            line, positions = torch.tensor([text]), torch.arange(len(text))[None]
            hidden, seen = model.decode(
                line, positions, model.cache(1, len(text)), cross, need_attention=True
            )
            assert seen is not None
            return model.logits(hidden[0]).float(), seen[0]

        while True:
            text = [model.config.bos_token_id, *task.prefix, *found.tokens]
            logits, seen = asked(text)
            last = logits[-1:]
            chances = last[0].softmax(-1)
            chosen, probabilities = [int(last.argmax())], [float(chances.max())]
            best: tuple[bool, float] = (False, 0.0)
            for path, loss in due(last, last.max(-1).values, [(task.terms, text[-1])])[0]:
                found.weighed += 1
                behind, looked = asked([*text, *path.tokens])
                n = len(path.tokens)
                [told] = weighed(behind[-n:], looked[-n:], [path], [seen[-1]], WORDS.closes)
                gain = path.gain(loss, told, (BACK_MS / model.frame_ms, AHEAD_MS / model.frame_ms))
                if gain is not None and (path.given, gain) > best:
                    best, chosen = (path.given, gain), list(path.tokens)
                    probabilities = [float(chances[path.tokens[0]]), *told.chances]
            found.said += best[1] > 0
            for token, probability in zip(chosen, probabilities, strict=True):
                if token == model.config.eos_token_id:
                    return found
                found.tokens.append(token)
                found.probabilities.append(probability)
                if (start := repeats(found.tokens)) is not None:
                    del found.tokens[start:], found.probabilities[start:]
                    return found
                if len(found.tokens) >= task.cap:
                    return found


tokens_of = st.integers(3, VOCABULARY - 1)


@st.composite
def tasks(draw: st.DrawFn, model: Moonshine) -> Task:
    """Any audio and prefix, with a draft that is right, right for a while, wrong, or too long."""
    audio = sound(draw(st.integers(0, 9)), draw(st.integers(MIN_SAMPLES, 6_000)))
    prefix = tuple(draw(st.lists(tokens_of, max_size=4)))
    task = Task(audio, prefix, cap=draw(st.integers(1, 16)))
    right, _ = greedy(model, task)
    kept = draw(st.integers(0, len(right)))
    draft = right[:kept] + draw(st.lists(st.integers(0, VOCABULARY - 1), max_size=6))
    if draw(st.booleans()):
        draft += right[kept:] + draft
    return replace(task, draft=tuple(draft))


@given(st.data(), st.integers(0, 5))
@settings(max_examples=50)
def test_a_draft_changes_no_token(data: st.DataObject, seed: int) -> None:
    model = tiny(seed)
    task = data.draw(tasks(model))
    [found] = transcribe(model, [task])
    assert_greedy(model, task, found)


@given(st.data(), st.integers(0, 5))
@settings(max_examples=20)
def test_rows_of_a_batch_are_independent(data: st.DataObject, seed: int) -> None:
    model = tiny(seed)
    batch = data.draw(st.lists(tasks(model), min_size=2, max_size=4))
    onward = torch.tensor(data.draw(st.lists(st.booleans(), min_size=VOCABULARY, max_size=VOCABULARY)))
    onward[model.config.eos_token_id] = False
    for task, found in zip(batch, transcribe(model, batch, onward), strict=True):
        assert_greedy(model, task, found, onward)
        [alone] = transcribe(model, [task], onward)
        assert found.probabilities == pytest.approx(alone.probabilities, abs=1e-4)
        assert found.attention == pytest.approx(alone.attention, abs=1e-4)


@st.composite
def with_terms(draw: st.DrawFn, model: Moonshine) -> Task:
    """A task with terms that the model would nearly say, and a draft that is right, wrong, or right for a while."""
    task = replace(draw(tasks(model)), draft=())
    said, _ = greedy(model, task)
    terms = []
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(said)))
        near = said[at : at + draw(st.integers(0, 2))]
        terms.append([*near, *draw(st.lists(tokens_of, min_size=0 if near else 1, max_size=2))])
    task = replace(task, terms=terms_of(*terms))
    right = biased(model, task).tokens
    kept = draw(st.integers(0, len(right)))
    draft = draw(st.sampled_from([right, said, right[:kept] + said[kept:], [*right[:kept], 5, 7]]))
    return replace(task, draft=tuple(draft))


def assert_biased(model: Moonshine, task: Task, found: Transcript) -> None:
    plainly = biased(model, task)
    assert found.tokens == plainly.tokens
    assert found.probabilities == pytest.approx(plainly.probabilities, abs=1e-4)
    assert found.attention.shape == (len(task.prefix) + len(found.tokens), frames(len(task.audio)))
    heads = len(model.config.alignment_heads)
    assert found.attention.sum(1) == pytest.approx(np.full(len(found.attention), heads), abs=1e-3)


@given(st.data(), st.integers(0, 5))
@settings(max_examples=60)
def test_with_terms_a_draft_changes_no_token(data: st.DataObject, seed: int) -> None:
    model = tiny(seed)
    task = data.draw(with_terms(model))
    [found] = transcribe(model, [task])
    assert_biased(model, task, found)


@given(st.data(), st.integers(0, 5))
@settings(max_examples=20)
def test_rows_with_terms_leave_those_without_as_they_are(data: st.DataObject, seed: int) -> None:
    model = tiny(seed)
    batch = data.draw(st.lists(st.one_of(tasks(model), with_terms(model)), min_size=2, max_size=4))
    for task, found in zip(batch, transcribe(model, batch), strict=True):
        if task.terms is None:
            assert_greedy(model, task, found)
        else:
            assert_biased(model, task, found)


def test_the_random_models_say_terms() -> None:
    """Else the properties above would be empty: terms are weighed, and some are said that were not said before."""
    weighings = said = changed = 0
    for seed in range(6):
        for n in range(4):
            task = Task(sound(n, 9_000), cap=16)
            plain, _ = greedy(tiny(seed), task)
            terms = terms_of(*([one, two] for one in range(3, VOCABULARY, 3) for two in (4, 5)))
            plainly = biased(tiny(seed), replace(task, terms=terms))
            weighings, said = weighings + plainly.weighed, said + plainly.said
            changed += plainly.tokens != plain
    assert weighings > 100
    assert said > 10
    assert changed > 5


def test_a_term_is_cut_where_the_cap_is() -> None:
    for seed in range(6):
        task = Task(sound(1, 9_000), cap=20)
        terms = terms_of(*([one, 4, 5] for one in range(3, VOCABULARY)))
        for cap in range(1, 8):
            limited = replace(task, terms=terms, cap=cap)
            [found] = transcribe(tiny(seed), [limited])
            assert len(found.tokens) <= cap
            assert_biased(tiny(seed), limited, found)


def test_the_random_models_say_something() -> None:
    """Else the properties above would be empty."""
    lengths = {
        len(greedy(tiny(seed), Task(sound(n, 9_000), cap=24))[0]) for seed in range(6) for n in range(5)
    }
    assert len(lengths) >= 3
    assert max(lengths) >= 8


def test_the_cap_ends_a_draft_too() -> None:
    model = tiny(0)
    audio = sound(1, 9_000)
    for seed in range(6):
        whole, _ = greedy(tiny(seed), Task(audio, cap=20))
        if len(whole) >= 4:
            model = tiny(seed)
            break
    [found] = transcribe(model, [Task(audio, draft=tuple(whole), cap=3)])
    assert found.tokens == whole[:3]
    assert found.end == 0.0


# --- the real model


@pytest.fixture(scope="module")
def real() -> Moonshine:
    config, weights = checkpoints.load(checkpoints.fetch("moonshine-tiny-en"))
    model = Moonshine(MoonshineConfig.from_dict(config))
    model.load_state_dict(fused(weights))
    return model.eval()


def speech(name: str, seconds: float | None = None) -> Tensor:
    audio, _ = soundfile.read(DATA / name, dtype="float32")
    return torch.from_numpy(audio[: int(seconds * 16_000) if seconds else None])


@pytest.mark.weights
def test_the_real_model_says_the_same_with_yesterdays_words_as_draft(real: Moonshine) -> None:
    """As a session goes: each decode of a little more audio starts from the one before."""
    draft: tuple[int, ...] = ()
    for seconds in (1.0, 1.5, 2.0, 2.5, 2.8):
        audio = speech("quick_brown_fox.wav", seconds)
        task = Task(audio, draft=draft, cap=token_cap(seconds))
        [found] = transcribe(real, [task])
        assert_greedy(real, task, found)
        draft = tuple(found.tokens)
    assert len(draft) >= 9


@pytest.mark.weights
def test_the_real_model_says_the_same_batched_and_after_a_prefix(real: Moonshine) -> None:
    hello, fox = speech("hello_world.wav"), speech("quick_brown_fox.wav")
    [first, whole] = transcribe(real, [Task(hello), Task(fox)])
    batch: list[Any] = [
        Task(fox, prefix=tuple(whole.tokens[:4]), draft=tuple(whole.tokens[4:])),
        Task(hello, draft=tuple(whole.tokens)),  # another speaker's words
        Task(fox, draft=(*whole.tokens[:3], 500, *whole.tokens[4:])),
    ]
    after, other, mended = transcribe(real, batch)
    assert after.tokens == whole.tokens[4:]
    assert other.tokens == first.tokens
    assert mended.tokens == whole.tokens
    for task, found in zip(batch, (after, other, mended), strict=True):
        assert_greedy(real, task, found)


@pytest.mark.weights
def test_the_real_model_says_a_term_only_where_it_is_heard(real: Moonshine) -> None:
    """Tiny hears "the culinary sun-the-prak smack cluster"; in another recording, the terms change nothing."""
    spelling = checkpoints.pieces(checkpoints.fetch("moonshine-tiny-en"))
    words = Vocabulary(spelling, Encoder(spelling).encode, real.end_token)
    terms = words.compile(["Kubernetes", "Proxmox", "Saskatchewan", "Tchaikovsky"])
    rare, fox = speech("kubernetes.wav"), speech("quick_brown_fox.wav")
    alone = [transcribe(real, [Task(audio, terms=terms)])[0] for audio in (rare, fox)]
    batch = transcribe(real, [Task(rare, terms=terms), Task(fox, terms=terms), Task(fox), Task(rare)])
    text = [b"".join(spelling[token] for token in found.tokens).decode().strip() for found in batch]
    assert text[0] == "We deployed Kubernetes on the Proxmox cluster."
    assert "Kubernetes" not in text[3]
    assert "Proxmox" not in text[3]
    assert text[1] == text[2] == "The quick brown fox jumps over the lazy dog."
    assert [found.tokens for found in batch[:2]] == [found.tokens for found in alone]
    # Each draft may be that of a decode with the terms, or without.
    for draft in (batch[0].tokens, batch[3].tokens):
        [again] = transcribe(real, [Task(rare, draft=tuple(draft), terms=terms)])
        assert again.tokens == batch[0].tokens
        assert again.probabilities == pytest.approx(batch[0].probabilities, abs=1e-3)


@pytest.mark.weights
def test_in_doubt_the_audio_is_asked_alone() -> None:
    """Noise is taken for what was said before; without it, the model believes next to nothing."""
    folder = checkpoints.fetch("whisper-base")
    model = whisper.loaded(*checkpoints.load(folder), "float32")
    before = tuple(Encoder(checkpoints.pieces(folder)).encode(" Try again. Fail again. Fail better."))
    noise = torch.from_numpy(pink(1.0, 0.1))
    doubtful = Task(noise, cap=8, hint=Hint("en", before=before, ask=True), final=True, doubt=0.0)
    alone = replace(doubtful, hint=Hint("en", ask=True))
    told, sure, plain = transcribe(model, [doubtful, replace(doubtful, doubt=1.0), alone])
    assert told.plain is not None
    assert told.plain.tolist() == pytest.approx(plain.probabilities.tolist(), abs=1e-4)
    assert told.tokens == sure.tokens
    assert sure.plain is None
    assert plain.plain is None


@pytest.mark.weights
def test_what_makes_little_sense_in_the_language_before_is_heard_in_its_own() -> None:
    """«Hola mundo» behind an English turn is "the world" for the model, and believed less than in Spanish."""
    folder = checkpoints.fetch("whisper-base")
    model, pieces = whisper.loaded(*checkpoints.load(folder), "float32"), checkpoints.pieces(folder)
    before = tuple(Encoder(pieces).encode(" The quick brown fox jumps over the lazy dog."))
    after_english = Hint(prior={"en": 1.0}, weight=0.8, before=before, ask=True)
    hola = torch.from_numpy(clip("es", "hola_mundo")[0])
    expected = Task(hola, cap=20, hint=after_english, final=True)
    free = replace(expected, trust=0.3)
    noise = replace(free, audio=torch.from_numpy(pink(1.0, 0.1)))
    given = replace(free, hint=replace(after_english, language="en"))
    english, own, none, fixed = transcribe(model, [expected, free, noise, given])
    assert [one.opening.language for one in (english, own, none, fixed)] == ["en", "es", "en", "en"]
    assert b"mundo" not in b"".join(pieces[token] for token in english.tokens)
    assert b"mundo" in b"".join(pieces[token] for token in own.tokens)
    assert own.trust > free.trust
    assert own.opening.languages == english.opening.languages
    assert len(own.attention) == len(own.tokens) == len(own.probabilities)


@pytest.mark.weights
def test_no_token_goes_on_with_a_word_that_stands(real: Moonshine) -> None:
    """Of "Hello, world!", behind a "Hell" that stands: the model would write the rest of the word."""
    pieces = checkpoints.pieces(checkpoints.fetch("moonshine-tiny-en"))
    [hell] = [token for token, piece in enumerate(pieces) if piece == b" Hell"]
    task = Task(speech("hello_world.wav"), prefix=(hell,))
    onward = torch.tensor([goes_on(piece) for piece in pieces])
    [free], [parted] = transcribe(real, [task]), transcribe(real, [task], onward)
    assert goes_on(pieces[free.tokens[0]])
    assert not goes_on(pieces[parted.tokens[0]])
    assert b"world" in b"".join(pieces[token] for token in parted.tokens)
