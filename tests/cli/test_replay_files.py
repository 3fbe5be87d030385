"""A recording as a folder, and back."""

import json
import stat

import numpy as np
import pytest
import soundfile

from cli import replay_files
from cli.replay_files import FolderError, read, write
from tests.recorded import EVENTFUL, recording
from wire.errors import EntryError
from wire.recorded import FORMAT, TooNew


@pytest.fixture
def folder(tmp_path):
    found = tmp_path / "tuesday"
    write(recording(more=EVENTFUL), found)
    return found


def test_what_was_exported_is_read_back_as_it_was(folder):
    assert read(folder) == recording(more=EVENTFUL)
    samples, rate = soundfile.read(folder / replay_files.AUDIO, dtype="int16")
    assert rate == 16_000
    assert samples.astype("<i2").tobytes() == recording().pcm


def test_nobody_else_can_look_into_it(folder):
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in [folder, *folder.iterdir()]}
    assert modes == {"tuesday": 0o700, "session.json": 0o600, "messages.jsonl": 0o600, "audio.flac": 0o600}


def test_a_folder_in_use_is_left_alone(folder, tmp_path):
    with pytest.raises(FolderError, match="not empty"):
        write(recording(), folder)
    (tmp_path / "file").touch()
    with pytest.raises(FolderError, match="cannot write"):
        write(recording(), tmp_path / "file")


def test_more_files_can_be_made_of_it(tmp_path):
    write(recording(), tmp_path / "more", (lambda found, into: (into / found.facts.key).touch(),))
    assert (tmp_path / "more" / "alice").exists()


def test_broken_lines_and_broken_audio_leave_the_rest(folder):
    lines = (folder / "messages.jsonl").read_text().splitlines()
    (folder / "messages.jsonl").write_text("\n".join(["{broken", "[]", *lines[1:]]))
    found = read(folder)
    assert found.faults == ("2 lines of messages.jsonl cannot be read",)
    assert len(found.items) == len(lines) - 1
    (folder / "audio.flac").write_bytes(b"no music")
    found = read(folder)
    assert "audio.flac cannot be read" in found.faults[0]
    assert not found.frames
    assert len(found.finals) == 2
    soundfile.write(folder / "audio.flac", np.zeros(100), 8_000)
    assert "was changed" in read(folder).faults[0]


def test_what_is_no_recording_says_so(folder, tmp_path):
    with pytest.raises(FolderError, match="holds no exported recording"):
        read(tmp_path)
    session = json.loads((folder / "session.json").read_text())
    for text, error, why in (
        ("[]", FolderError, "not an object"),
        ("{}", EntryError, "was not written by"),
        (json.dumps(session | {"format": FORMAT + 1}), TooNew, "later release"),
    ):
        (folder / "session.json").write_text(text)
        with pytest.raises(error, match=why):
            read(folder)
