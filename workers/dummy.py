"""Production shapes with random weights: what a machine holds can be measured without a checkpoint.

The blank label's bias is sought at which sounds make about as many labels as speech does (five a second). Of speech
itself they make 4.7, 6.7 and 4.7 a second at look-aheads 0, 3 and 13 (measured); never more than one on a frame.
"""

import torch
from torch import Tensor

from workers.features import HOP, SAMPLE_RATE, WINDOW, StreamingLogMel
from workers.models.fastconformer import SUBSAMPLING, FastConformer, FastConformerConfig

PREFIX = "dummy:"
#: The class defaults of the published checkpoints; but random weights that say a label would say it again and again.
SHAPES = {
    "nemotron-en": FastConformerConfig(max_symbols_per_step=1),
    "nemotron-multi": FastConformerConfig(
        vocab_size=13_088, blank_token_id=13_087, num_prompts=128, max_symbols_per_step=1
    ),
}
#: Labels on a frame of 80 ms: five a second.
LABELS = 0.4
#: Rows of sounds to find that out with, chunks after their left contexts are full, directions of drift.
ROWS, PASSES, DRIFTS = 8, 4, 8


def is_dummy(reference: str) -> bool:
    """Whether a model reference asks for random weights."""
    return reference.startswith(PREFIX)


def check(reference: str) -> None:
    """Raises ValueError for a name that is none."""
    if not is_dummy(reference) or reference.removeprefix(PREFIX) not in SHAPES:
        raise ValueError(
            f"no shapes called {reference}; there are: {', '.join(PREFIX + name for name in SHAPES)}"
        )


def pieces(config: FastConformerConfig) -> list[bytes]:
    """A vocabulary of syllables, every third one at the begin of a word."""
    syllables = [first + vowel for vowel in "aeiou" for first in "bdfgklmnprstvz"]
    spelled = [
        (" " if number % 3 == 0 else "") + syllables[number % len(syllables)]
        for number in range(config.vocab_size)
    ]
    spelled[config.blank_token_id] = ""
    return [text.encode() for text in spelled]


@torch.inference_mode()
def build(
    name: str, lookahead: int, device: str = "cpu", dtype: torch.dtype = torch.float32, seed: int = 0
) -> FastConformer:
    """`name` like `dummy:nemotron-en`. Raises ValueError for a name that is none."""
    check(name)
    config = SHAPES[name.removeprefix(PREFIX)]
    torch.manual_seed(seed)
    with torch.device(device):
        model = FastConformer(config, lookahead).to(dtype).eval()
        # What was said before has no say: a random predictor would go on with whatever it began with.
        for part in (model.decoder.decoder_projector.weight, model.decoder.decoder_projector.bias):
            part.zero_()
        calibrate(model.ready())
    return model


def calibrate(model: FastConformer) -> None:
    """Spread what the joint hears of sounds, then move the blank's bias until greedy search says LABELS on a frame.

    What is heard drifts for as long as left contexts fill, more than it follows the sound: directions of drift are
    taken out, or each stream would say much at its begin and nothing later.
    """
    rows = torch.arange(ROWS)
    device, weight = torch.get_default_device(), model.encoder_projector.weight
    mel, state = StreamingLogMel(model.config.num_mel_bins, device=str(device)), model.state(ROWS)
    advance, passes = HOP * SUBSAMPLING * model.frames, model.left // model.frames + PASSES
    width = advance - HOP + WINDOW
    audio = sounds(ROWS, advance * passes + width)
    chunks = [
        model.encode(state, rows, mel(audio[:, at : at + width]))
        for at in range(0, advance * passes, advance)
    ]
    heard, bias = torch.cat(chunks, 1).float(), model.encoder_projector.bias
    moves = heard.mean(0) - heard.mean((0, 1))
    # Small enough for a processor, which finds the same everywhere.
    drift = torch.linalg.svd(moves.cpu(), full_matrices=False)[2][:DRIFTS].to(heard)
    heard, steady = heard - heard @ drift.t() @ drift, weight.float() - drift.t() @ (drift @ weight.float())
    spread, middle = heard.std((0, 1)).clamp(min=1e-6), heard.mean((0, 1))
    frames = ((heard - middle) / spread).to(weight.dtype)
    weight.copy_(steady / spread[:, None])
    bias.copy_((bias.float() - drift.t() @ (drift @ bias.float()) - middle) / spread)
    low, high = -20.0, 20.0
    for _ in range(12):
        model.joint.head.bias[model.config.blank_token_id] = (low + high) / 2
        model.reset(state, rows)
        at, said = torch.zeros_like(rows), torch.zeros_like(rows)
        labels, _, _ = model.search(state, rows, frames, at, said, 2 * frames.shape[1])
        many = (labels >= 0).sum() > LABELS * at.sum()
        low, high = ((low + high) / 2, high) if many else (low, (low + high) / 2)


def sounds(rows: int, samples: int) -> Tensor:
    """[rows, samples]: noise as loud, as coloured and as restless as voices are, each row in a way of its own.

    Between -60 and -10 dB loud, falling by 3 to 12 dB an octave from 200 Hz on, in syllables of 3 to 6 Hz.
    """
    hertz = torch.fft.rfftfreq(samples, 1 / SAMPLE_RATE)
    falling = 3 + 9 * torch.rand(rows, 1)
    colour = 10 ** (-falling / 20 * torch.log2((hertz / 200).clamp(min=1.0)))
    noise = torch.fft.irfft(torch.fft.rfft(torch.randn(rows, samples)) * colour, samples)
    loud = 10 ** (-0.5 - 2.5 * torch.rand(rows, 1)) / noise.std(1, keepdim=True)
    turns = (3 + 3 * torch.rand(rows, 1)) * torch.arange(samples) / SAMPLE_RATE + torch.rand(rows, 1)
    found: Tensor = noise * loud * (0.55 + 0.45 * torch.sin(2 * torch.pi * turns))
    return found
