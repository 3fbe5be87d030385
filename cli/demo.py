"""`steno demo`: everything started, one recording played into it as if spoken, everything stopped; and what it took."""

import asyncio
import itertools
import math
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from cli import audio_file, client, display, models, up
from cli.latencies import summary

CHUNK_MS = 50
#: Silence after the recording, as a microphone would go on: the last turn must end by the pause, not by our leaving.
SILENCE_MS = 1_600
#: The recording that comes with the default weights, up to a pause.
SAMPLE = "samples/two_cities.wav"
SAMPLE_S = 20.9
#: Computing per second of audio above which the delays tell of a busy machine, not of steno.
BUSY_FACTOR = 0.8
SAMPLE_MODEL = "moonshine-tiny-en"

#: A client in six lines, for a 16 kHz mono WAV file (tests/system/test_demo.py runs it).
FIRST_CLIENT = """\
import wave, assemblyai.streaming.v3 as v3
client = v3.StreamingClient(v3.StreamingClientOptions(api_key="self-hosted", api_host="ws://localhost:8080"))
client.on(v3.StreamingEvents.Turn, lambda client, turn: turn.end_of_turn and print(turn.transcript))
client.connect(v3.StreamingParameters(sample_rate=16000, format_turns=True))
client.stream(iter(lambda wav=wave.open("talk.wav"): wav.readframes(1600), b""))
client.disconnect(terminate=True)"""


def run(file: Path | None, console: Console) -> None:
    """Raises StackError."""
    up.fetch_weights(console)
    path = file or sample(console)
    duration_s = min(audio_file.describe(path).duration_s, math.inf if file else SAMPLE_S)
    with up.signals_as_ctrl_c():
        with up.Stack(announce=up.announcer(console)) as stack:
            console.print(f"\nplaying {path.name}, {duration_s:.0f} s of speech\n", highlight=False)
            session = asyncio.run(_play(path, duration_s, stack.url, console))
            factor = computing_s(stack) / session.audio_s
        console.print("[dim]all processes stopped[/]\n")
    print_figures(session, factor, console)
    print_what_next(console)


def sample(console: Console) -> Path:
    """The sample recording, which lies beside the default weights. Raises WeightsError."""
    return models.fetch([SAMPLE_MODEL], console)[0] / SAMPLE


async def _play(path: Path, duration_s: float, url: str, console: Console) -> client.Session:
    audio = client.paced(_chunks(path, duration_s), audio_file.SAMPLE_RATE)
    with client.stop_on_interrupt() as stop:
        heard = client.until(stop, audio)
        if not console.is_terminal:
            return await client.converse(client.Request(url), heard, display.EveryChange(console))
        with display.LiveDisplay(console, delays=True) as live:
            return await client.converse(client.Request(url), heard, live)


def _chunks(path: Path, duration_s: float) -> Iterator[bytes]:
    """So much of the recording, and the silence after it."""
    yield from itertools.islice(audio_file.chunks(path, CHUNK_MS), math.ceil(duration_s * 1000 / CHUNK_MS))
    silence = bytes(2 * audio_file.SAMPLE_RATE * CHUNK_MS // 1000)
    yield from (silence for _ in range(SILENCE_MS // CHUNK_MS))


def computing_s(stack: up.Stack) -> float:
    """Seconds that the workers' models have spent in steps so far, as their metrics have it."""
    return sum(_step_seconds(stack.probe_ports[pool]) for pool in stack.pools)


def _step_seconds(port: int) -> float:
    connection = HTTPConnection(up.LOCAL_HOST, port, timeout=5)
    connection.request("GET", "/metrics")
    page = connection.getresponse().read().decode()
    connection.close()
    return sum(
        float(line.split()[-1]) for line in page.splitlines() if line.startswith("steno_step_seconds_sum")
    )


def print_figures(session: client.Session, factor: float, console: Console) -> None:
    """What was measured, in words that say from when to when. `factor`: computing per second of audio."""
    delays = session.latencies
    rows = (
        ("Begin", f"{delays.begin_ms or 0:.0f} ms", "from connecting to the server's first message"),
        ("first words", summary(delays.first_partial_ms), "from a turn's first sound to its first partial"),
        (
            "final",
            summary(delays.final_ms),
            "from a turn's last sound to its final, closing silence included",
        ),
        ("real-time factor", f"{factor:.2f}", "seconds of computing per second of audio"),
    )
    console.print(
        f"[bold]Measured on this machine[/] [dim](one session, {session.audio_s:.0f} s of audio)[/]"
    )
    for name, value, meaning in rows:
        console.print(f"  {name:<17} [bold]{value:<32}[/] [dim]{meaning}[/]", highlight=False, soft_wrap=True)
    if factor > BUSY_FACTOR:
        console.print(
            "  [yellow]computing could not keep up: is something else using this machine's processors?[/]"
        )


def print_what_next(console: Console) -> None:
    """How to go on."""
    console.print(
        "\n[bold]What next[/]\n"
        "  steno up                [dim]start a server on ws://localhost:8080[/]\n"
        "  steno mic               [dim]speak to it[/]\n"
        "  steno transcribe FILE   [dim]play a recording to it[/]\n\n"
        "  Your own first client, with AssemblyAI's SDK [dim](pip install assemblyai)[/]:\n",
        highlight=False,
    )
    for line in FIRST_CLIENT.splitlines():
        console.print(f"    [cyan]{escape(line)}[/]", highlight=False, soft_wrap=True)
    console.print()
