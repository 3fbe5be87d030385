"""`steno demo`: everything started, a recording played into each pool as if spoken, everything stopped; its figures."""

import asyncio
import itertools
import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from http.client import HTTPConnection
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from cli import audio_file, client, display, scenes, up
from cli.latencies import summary
from cli.scenes import Scene
from workers.entry import POOLS

CHUNK_MS = 50
#: Silence after the recording, as a microphone would go on: the last turn must end by the pause, not by our leaving.
SILENCE_MS = 1_600
#: Computing per second of audio above which the delays tell of a busy machine, not of steno.
BUSY_FACTOR = 0.8

#: A client in six lines, for a 16 kHz mono WAV file (tests/system/test_demo.py runs it).
FIRST_CLIENT = """\
import wave, assemblyai.streaming.v3 as v3
client = v3.StreamingClient(v3.StreamingClientOptions(api_key="self-hosted", api_host="ws://localhost:8080"))
client.on(v3.StreamingEvents.Turn, lambda client, turn: turn.end_of_turn and print(turn.transcript))
client.connect(v3.StreamingParameters(sample_rate=16000, format_turns=True))
client.stream(iter(lambda wav=wave.open("talk.wav"): wav.readframes(1600), b""))
client.disconnect(terminate=True)"""


@dataclass(frozen=True)
class Played:
    """What one scene showed. `computing_s`: seconds that its pool's model spent in steps meanwhile."""

    scene: Scene
    session: client.Session
    computing_s: float
    interrupted: bool = False

    @property
    def factor(self) -> float:
        """Seconds of computing for a second of audio."""
        return self.computing_s / self.session.audio_s if self.session.audio_s else 0.0


def run(file: Path | None, pools: Sequence[str], console: Console) -> None:
    """Play a scene in each of `pools`, all if there are none; `file` instead of their recordings, and then in english
    alone if there are none. Raises StackError.
    """
    names = list(pools) or (["english"] if file else list(POOLS))
    up.check_pools(names)
    up.fetch_weights(console, pools=names)
    with tempfile.TemporaryDirectory(prefix="steno-demo-") as folder, up.signals_as_ctrl_c():
        scripts = [(scene, file or scene.recording(Path(folder), console)) for scene in scenes.of(names)]
        played = []
        with up.Stack(pools=names, announce=up.announcer(console)) as stack:
            for scene, path in scripts:
                longest_s = math.inf if file else scene.seconds
                played.append(_play(scene, path, longest_s, stack, console))
                if played[-1].interrupted:
                    break
        console.print("[dim]all processes stopped[/]\n")
    for one in played:
        print_figures(one, console)
    print_what_next(console)


def _play(scene: Scene, path: Path, longest_s: float, stack: up.Stack, console: Console) -> Played:
    duration_s = min(audio_file.describe(path).duration_s, longest_s)
    console.print(
        f"\n[bold]{scene.pool}[/]: {scene.what}; playing {escape(path.name)}, {duration_s:.0f} s of speech",
        highlight=False,
        soft_wrap=True,
    )
    for line in _asked(scene):
        console.print(f"[dim]{escape(line)}[/]", highlight=False, soft_wrap=True)
    console.print()
    port = stack.probe_ports[scene.pool]
    before_s = _step_seconds(port)
    request = replace(client.Request(stack.url), **scene.asked)
    session, interrupted = asyncio.run(_session(request, path, duration_s, console))
    return Played(scene, session, _step_seconds(port) - before_s, interrupted)


def _asked(scene: Scene) -> Iterator[str]:
    """What is worth telling of what the session asks for."""
    if prompt := scene.asked.get("prompt"):
        yield f"prompt: {prompt}"
    if keyterms := scene.asked.get("keyterms"):
        yield f"key terms: {', '.join(keyterms)}"


async def _session(
    request: client.Request, path: Path, duration_s: float, console: Console
) -> tuple[client.Session, bool]:
    """The session, and whether Ctrl-C cut it short."""
    audio = client.paced(_chunks(path, duration_s), audio_file.SAMPLE_RATE)
    with client.stop_on_interrupt() as stop:
        heard = client.until(stop, audio)
        if not console.is_terminal:
            return await client.converse(request, heard, display.EveryChange(console)), stop.is_set()
        with display.LiveDisplay(console, delays=True) as live:
            return await client.converse(request, heard, live), stop.is_set()


def _chunks(path: Path, duration_s: float) -> Iterator[bytes]:
    """So much of the recording, and the silence after it."""
    yield from itertools.islice(audio_file.chunks(path, CHUNK_MS), math.ceil(duration_s * 1000 / CHUNK_MS))
    silence = bytes(2 * audio_file.SAMPLE_RATE * CHUNK_MS // 1000)
    yield from (silence for _ in range(SILENCE_MS // CHUNK_MS))


def _step_seconds(port: int) -> float:
    """What a worker's metrics say of the time that its model has spent in steps so far."""
    connection = HTTPConnection(up.LOCAL_HOST, port, timeout=5)
    connection.request("GET", "/metrics")
    page = connection.getresponse().read().decode()
    connection.close()
    return sum(
        float(line.split()[-1]) for line in page.splitlines() if line.startswith("steno_step_seconds_sum")
    )


def print_figures(played: Played, console: Console) -> None:
    """What was measured, in words that say from when to when."""
    session, delays = played.session, played.session.latencies
    rows = (
        ("Begin", f"{delays.begin_ms or 0:.0f} ms", "from connecting to the server's first message"),
        ("first words", summary(delays.first_partial_ms), "from a turn's first sound to its first partial"),
        (
            "final",
            summary(delays.final_ms),
            "from a turn's last sound to its final, closing silence included",
        ),
        ("real-time factor", f"{played.factor:.2f}", "seconds of computing per second of audio"),
    )
    console.print(
        f"[bold]Measured on this machine: {played.scene.pool}[/] "
        f"[dim](one session, {session.audio_s:.0f} s of audio)[/]"
    )
    for name, value, meaning in rows:
        console.print(f"  {name:<17} [bold]{value:<32}[/] [dim]{meaning}[/]", highlight=False, soft_wrap=True)
    if played.factor > BUSY_FACTOR:
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
