"""What `steno demo` plays: a scene for each pool. A new pool is a new row of `SCENES`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from cli import models, spoken
from workers.entry import POOLS

#: The model beside whose weights real voices lie, in English.
SAMPLE_MODEL = "moonshine-tiny-en"


@dataclass(frozen=True)
class Scene:
    """One session of the demo.

    `language` and `name` are those of the recording: one beside the default weights where the language is "", else one
    of `cli.spoken`; it is played for at most `seconds`. `asked`: further fields of `cli.client.Request`.
    """

    pool: str
    what: str
    language: str
    name: str
    seconds: float
    asked: Mapping[str, Any] = field(default_factory=dict)

    def recording(self, folder: Path, console: Console) -> Path:
        """The sound file, fetched if need be, in `folder` if it has to be unpacked. Raises WeightsError."""
        if not self.language:
            return models.fetch([SAMPLE_MODEL], console)[0] / "samples" / f"{self.name}.wav"
        with models.progress_bar("recordings", console) as progress:
            spoken.fetch(progress)
        return spoken.read(self.language, self.name).write(folder)


SCENES = (
    Scene("english", "English, word by word", "", "two_cities", 20.9),  # up to a pause
    Scene(
        "multilang",
        "a language that nobody told it",
        "pt",
        "pangrama",
        5.0,
        {"speech_model": "universal-streaming-multilingual", "language_detection": True},
    ),
    Scene(
        "u3pro",
        "English, with a prompt and a key term",
        "",
        "beckett",
        10.0,
        {
            "speech_model": "universal-3-5-pro",
            "prompt": "A reading of Worstward Ho by Samuel Beckett.",
            "keyterms": ("Fail better",),
        },
    ),
)


def of(pools: Sequence[str]) -> list[Scene]:
    """The scenes of these pools, in the order of the table."""
    return [scene for scene in SCENES if scene.pool in pools and scene.pool in POOLS]
