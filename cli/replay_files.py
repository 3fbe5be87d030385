"""A recording as a folder: `session.json`, `messages.jsonl`, `audio.flac` (docs/replay.md).

The folder holds what people said: it is made for its owner's eyes alone.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from wire.entries import SAMPLE_RATE
from wire.errors import EntryError, StackError
from wire.recordings import Recording, from_exported, message_fields, session_fields

SESSION, MESSAGES, AUDIO = "session.json", "messages.jsonl", "audio.flac"

#: Makes one more file of a recording, into the folder.
Extra = Callable[[Recording, Path], None]


class FolderError(StackError):
    """A folder that cannot be written, or holds no recording; the message names it."""


def write(recording: Recording, folder: Path, extras: tuple[Extra, ...] = ()) -> None:
    """Into a folder that is new, or empty. Raises FolderError."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise FolderError(f"{folder} is not empty: name a new folder")
        _write(folder / SESSION, json.dumps(session_fields(recording), ensure_ascii=False, indent=1) + "\n")
        lines = (json.dumps(line, ensure_ascii=False) for line in message_fields(recording))
        _write(folder / MESSAGES, "".join(f"{line}\n" for line in lines))
        samples = np.frombuffer(recording.pcm, "<i2")
        soundfile.write(folder / AUDIO, samples, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
        (folder / AUDIO).chmod(0o600)
        for extra in extras:
            extra(recording, folder)
    except (OSError, soundfile.LibsndfileError) as error:
        raise FolderError(f"cannot write {folder}: {error}") from None


def _write(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text, encoding="utf-8")


def read(folder: Path) -> Recording:
    """Raises FolderError, EntryError, TooNew; what can be read of a damaged one is there, and its faults are told."""
    try:
        session = json.loads((folder / SESSION).read_text("utf-8"))
        lines = (folder / MESSAGES).read_bytes().splitlines()
    except (OSError, ValueError) as error:
        raise FolderError(f"{folder} holds no exported recording: {error}") from None
    if not isinstance(session, dict):
        raise FolderError(f"{folder / SESSION} is not an object of JSON")
    pcm, fault = _audio(folder / AUDIO)
    if fault:
        session["faults"] = [*(session.get("faults") or ()), fault]
    try:
        return from_exported(session, _objects(lines), pcm)
    except EntryError as error:
        raise type(error)(f"{folder}: {error}") from None


def _audio(path: Path) -> tuple[bytes, str]:
    """The samples, and what is wrong with the file."""
    try:
        samples, rate = soundfile.read(path, dtype="int16", always_2d=True)
    except (OSError, soundfile.LibsndfileError) as error:
        return b"", f"{path.name} cannot be read: {error}"
    if rate != SAMPLE_RATE or samples.shape[1] != 1:
        return b"", f"{path.name} was changed: it is not mono at {SAMPLE_RATE} Hz any more"
    return samples.astype("<i2").tobytes(), ""


def _objects(lines: list[bytes]) -> Iterator[Mapping[str, Any]]:
    """One for each line; an empty one, which is no item, where a line is broken."""
    for line in lines:
        try:
            value = json.loads(line)
        except ValueError:
            value = None
        yield value if isinstance(value, dict) else {}
