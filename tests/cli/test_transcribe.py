"""`cli.transcribe`: files through a real WebSocket server."""

import io
import json
import time

import numpy as np
import pytest
import soundfile
from rich.console import Console

from cli import transcribe
from cli.audio_file import AudioFileError
from cli.client import Request, ServerError


@pytest.fixture
def clip(tmp_path):
    """0.55 s of stereo at 22.05 kHz."""
    path = tmp_path / "clip.flac"
    tone = 0.3 * np.sin(np.arange(12_128) / 10)
    soundfile.write(path, np.stack([tone, tone], axis=1), 22_050)
    return path


def run(path, url: str, fast: bool = True, as_json: bool = False, terminal: bool = False) -> tuple[str, str]:
    """What is written to the output and to the notes."""
    output = Console(file=io.StringIO(), width=100, force_terminal=terminal)
    notes = Console(file=io.StringIO(), width=100)
    transcribe.run(path, Request(url), fast, as_json, output, notes)
    assert isinstance(output.file, io.StringIO)
    assert isinstance(notes.file, io.StringIO)
    return output.file.getvalue(), notes.file.getvalue()


def test_the_file_arrives_resampled_and_in_chunks(partner, scripts, clip) -> None:
    server = partner(scripts.two_turns)
    run(clip, server.url)
    assert server.chunk_bytes[:-1] == [3_200] * (len(server.chunk_bytes) - 1)
    assert len(server.audio) / 32_000 == pytest.approx(0.55, abs=0.001)
    assert np.abs(np.frombuffer(server.audio, "<i2")).max() > 8_000


def test_a_pipe_gets_plain_finals_and_the_notes_the_speed(partner, scripts, clip) -> None:
    output, notes = run(clip, partner(scripts.two_turns).url)
    assert output == "Hello world.\nBye.\n"
    assert "times as fast as spoken" in notes


def test_a_terminal_gets_finals_with_times(partner, scripts, clip) -> None:
    output, notes = run(clip, partner(scripts.two_turns).url, terminal=True)
    assert "00:00.1" in output
    assert "Hello world." in output
    assert "clip.flac: 0.6 s of FLAC" in notes


def test_json_gives_each_message_and_nothing_else(partner, scripts, clip) -> None:
    output, notes = run(clip, partner(scripts.two_turns).url, as_json=True)
    kinds = [json.loads(line)["type"] for line in output.splitlines()]
    assert kinds == ["Begin", "Turn", "Turn", "Turn", "Turn", "Termination"]
    assert notes == ""


def test_real_time_takes_as_long_as_speaking_and_tells_delays(partner, scripts, clip) -> None:
    started_s = time.monotonic()
    _, notes = run(clip, partner(scripts.two_turns).url, fast=False)
    assert time.monotonic() - started_s >= 0.54
    assert [line.split("  ")[0].strip() for line in notes.splitlines()] == [
        "Begin after",
        "first words after",
        "final after last word -",  # both finals came after Terminate
    ]


def test_an_error_from_the_server_is_raised_after_it_was_shown_as_json(partner, scripts, clip) -> None:
    output = Console(file=io.StringIO())
    with pytest.raises(ServerError):
        transcribe.run(clip, Request(partner(scripts.refusal).url), True, True, output, Console(quiet=True))
    assert isinstance(output.file, io.StringIO)
    assert json.loads(output.file.getvalue())["error_code"] == 3006


def test_an_unreadable_file_is_told_before_anyone_is_called(tmp_path) -> None:
    (tmp_path / "talk.mp3").write_text("not a sound")
    with pytest.raises(AudioFileError):
        run(tmp_path / "talk.mp3", "ws://127.0.0.1:1")


@pytest.mark.parametrize("terminal,as_json,where", [(True, False, 0), (True, True, 1), (False, False, 1)])
def test_what_happens_to_the_connection_is_told_beside_the_text(terminal, as_json, where) -> None:
    consoles = [Console(file=io.StringIO(), force_terminal=terminal) for _ in range(2)]
    transcribe.noting(as_json, *consoles)("resumed")
    written = ["resumed" in console.file.getvalue() for console in consoles]  # type: ignore[attr-defined]
    assert written == [where == 0, where == 1]
