"""`steno transcribe`: a sound file through a running server, as if it were being spoken."""

import asyncio
import contextlib
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from cli import audio_file, client, display
from cli.latencies import Latencies, summary

#: Length of a message's audio: what the protocol's own clients send (protocol 3.1).
CHUNK_MS = 100


def run(
    path: Path, request: client.Request, fast: bool, as_json: bool, output: Console, notes: Console
) -> None:
    """Transcripts go to `output`, everything about them to `notes`.

    Raises audio_file.AudioFileError and client.SessionFailed.
    """
    source = audio_file.describe(path)
    if output.is_terminal and not as_json:
        notes.print(_about(source, fast), highlight=False)
    started_s = time.monotonic()
    session = asyncio.run(_session(path, request, fast, as_json, output, notes))
    if as_json:
        return
    if fast:
        notes.print(_speed(session.audio_s, time.monotonic() - started_s), highlight=False)
    else:
        print_delays(session.latencies, notes)


async def _session(
    path: Path, request: client.Request, fast: bool, as_json: bool, output: Console, notes: Console
) -> client.Session:
    chunks = audio_file.chunks(path, CHUNK_MS)
    with client.stop_on_interrupt() as stop, listening(as_json, output) as listener:
        audio = client.unpaced(chunks) if fast else client.paced(chunks, request.sample_rate)
        return await client.converse(
            request, client.until(stop, audio), listener, noting(as_json, output, notes)
        )


def noting(as_json: bool, output: Console, notes: Console) -> Callable[[str], None]:
    """One dim line for each thing that happens to the connection. Where the text is drawn again and again, it must go
    the same way: another line would be written into it.
    """
    where = output if output.is_terminal and not as_json else notes
    return lambda text: where.print(f"[dim]{text}[/]", highlight=False)


@contextlib.contextmanager
def listening(as_json: bool, output: Console):  # type: ignore[no-untyped-def]
    """The display that suits the output, open."""
    if as_json:
        yield display.JsonLines(output)
    elif output.is_terminal:
        with display.LiveDisplay(output) as live:
            yield live
    else:
        yield display.FinalLines(output)


def print_delays(latencies: Latencies, notes: Console) -> None:
    """What the session's delays were, in three lines."""
    begin = "-" if latencies.begin_ms is None else f"{latencies.begin_ms:.0f} ms"
    notes.print(f"[dim]Begin after           [/]{begin}", highlight=False)
    notes.print(f"[dim]first words after     [/]{summary(latencies.first_partial_ms)}", highlight=False)
    notes.print(f"[dim]final after last word [/]{summary(latencies.final_ms)}", highlight=False)


def _about(source: audio_file.AudioFile, fast: bool) -> str:
    how = "as fast as the server takes it" if fast else "as it would be spoken"
    return (
        f"[dim]{source.path.name}: {source.duration_s:.1f} s of {source.kind}, {how}; Ctrl-C ends it early[/]"
    )


def _speed(audio_s: float, wall_s: float) -> str:
    return (
        f"[dim]{audio_s:.1f} s of audio in {wall_s:.1f} s: {audio_s / wall_s:.1f} times as fast as spoken[/]"
    )
