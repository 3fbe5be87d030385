"""Production shapes with random weights: what a machine holds can be measured without a checkpoint.

The blank label's bias is sought at which noise makes about as many labels as speech does (five a second). A random
network may still say ten on every frame, or none: a benchmark should tell how many there were.
"""

import torch

from workers.features import HOP, WINDOW, StreamingLogMel
from workers.models.fastconformer import SUBSAMPLING, FastConformer, FastConformerConfig

PREFIX = "dummy:"
#: The class defaults of the published checkpoints.
SHAPES = {
    "nemotron-en": FastConformerConfig(),
    "nemotron-multi": FastConformerConfig(vocab_size=13_088, blank_token_id=13_087, num_prompts=128),
}
#: Labels on a frame of 80 ms: five a second.
LABELS = 0.4
#: Rows and chunks of noise to find that out with.
ROWS, PASSES = 16, 4


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
        model = FastConformer(config, lookahead).to(dtype).eval().ready()
        calibrate(model)
    return model


def calibrate(model: FastConformer) -> None:
    """Spread what the joint hears of noise, then move the blank's bias until greedy search says LABELS on a frame."""
    rows = torch.arange(ROWS)
    device, weight = torch.get_default_device(), model.encoder_projector.weight
    mel, state = StreamingLogMel(model.config.num_mel_bins, device=str(device)), model.state(ROWS)
    samples = HOP * (SUBSAMPLING * model.frames - 1) + WINDOW
    # What is heard drifts while left contexts fill. On a CPU that would take minutes, and is left out.
    for _ in range(model.left // model.frames if device.type == "cuda" else 0):
        model.encode(state, rows, mel(torch.randn(ROWS, samples) * 0.1))
    heard = torch.cat(
        [model.encode(state, rows, mel(torch.randn(ROWS, samples) * 0.1)) for _ in range(PASSES)], 1
    )
    spread, middle = heard.float().std((0, 1)).clamp(min=1e-6), heard.float().mean((0, 1))
    frames = ((heard - middle) / spread).to(weight.dtype)
    bias = model.encoder_projector.bias
    bias.copy_(((bias - middle) / spread).to(bias.dtype))
    weight.div_(spread[:, None])
    low, high = -20.0, 20.0
    for _ in range(12):
        model.joint.head.bias[model.config.blank_token_id] = (low + high) / 2
        model.reset(state, rows)
        at, said = torch.zeros_like(rows), torch.zeros_like(rows)
        labels, _, _ = model.search(state, rows, frames, at, said, 2 * frames.shape[1])
        many = (labels >= 0).sum() > LABELS * at.sum()
        low, high = ((low + high) / 2, high) if many else (low, (low + high) / 2)
