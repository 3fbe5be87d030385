"""`steno mic`: the microphone through a running server, until Ctrl-C."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import ModuleType
from typing import Any

from rich.console import Console

from cli import client, transcribe
from wire.errors import StackError

CHUNK_MS = 50
#: Audio that may wait for the network before the newest is dropped, in chunks: while a connection is lost recording
#: goes on, for half as long again as a server waits (docs/resume.md).
WAITING_CHUNKS = 1_800
#: Rates that the server takes (protocol 2.1).
_LOWEST_HZ, _HIGHEST_HZ = 8_000, 96_000


class MicrophoneError(StackError):
    """There is no microphone, or nothing to read it with; the message says what to do."""


def run(request: client.Request, device: str | None, as_json: bool, output: Console, notes: Console) -> None:
    """Transcripts go to `output`, everything about them to `notes`.

    Raises MicrophoneError and client.SessionFailed.
    """
    library = _library()
    found = _find(library, device)
    request = replace(request, sample_rate=found.sample_rate)
    if output.is_terminal and not as_json:
        notes.print(f"[dim]listening to {found.name}; Ctrl-C ends[/]", highlight=False)
    session = asyncio.run(_session(library, found, request, as_json, output, notes))
    if not as_json:
        transcribe.print_delays(session.latencies, notes)


class Microphone:
    """A device and the rate it records at, in Hz."""

    def __init__(self, index: int, name: str, sample_rate: int) -> None:
        self.index = index
        self.name = name
        self.sample_rate = sample_rate


class Recording:
    """Chunks from the thread that records to the loop that sends. `lost`: chunks dropped, for nobody fetched them;
    `notify` is told of it, once for all that are lost in a row.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, notify: Callable[[str], None] = lambda _: None
    ) -> None:
        self._loop = loop
        self._notify = notify
        self._chunks: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.lost = 0
        self._losing = False

    def put(self, chunk: bytes | None) -> None:
        """Called by the recording thread; None ends the recording."""
        self._loop.call_soon_threadsafe(self._accept, chunk)

    def _accept(self, chunk: bytes | None) -> None:
        if chunk is not None and self._chunks.qsize() >= WAITING_CHUNKS:
            self.lost += 1
            if not self._losing:
                waiting_s = WAITING_CHUNKS * CHUNK_MS // 1000
                self._notify(f"{waiting_s} s of speech wait for the server: what is said now is lost")
            self._losing = True
        else:
            self._losing = False
            self._chunks.put_nowait(chunk)

    async def chunks(self, stop: asyncio.Event) -> AsyncIterator[bytes]:
        """Until the recording ends, or until `stop` is set and nothing waits any more."""
        while not (stop.is_set() and self._chunks.empty()):
            chunk = await self._chunks.get()
            if chunk is None:
                return
            yield chunk


async def _session(
    library: ModuleType,
    microphone: Microphone,
    request: client.Request,
    as_json: bool,
    output: Console,
    notes: Console,
) -> client.Session:
    notify = transcribe.noting(as_json, output, notes)
    recording = Recording(asyncio.get_running_loop(), notify)
    with (
        client.stop_on_interrupt() as stop,
        _recorded(library, microphone, recording),
        transcribe.listening(as_json, output) as listener,
    ):
        return await client.converse(request, recording.chunks(stop), listener, notify)


@contextmanager
def _recorded(library: ModuleType, microphone: Microphone, recording: Recording) -> Iterator[None]:
    """The device recording into `recording`."""

    def arrived(data: Any, frames: int, at: Any, status: Any) -> None:  # noqa: ARG001 the library's signature
        recording.put(bytes(data))

    try:
        with library.RawInputStream(
            device=microphone.index,
            samplerate=microphone.sample_rate,
            blocksize=microphone.sample_rate * CHUNK_MS // 1000,
            channels=1,
            dtype="int16",
            callback=arrived,
        ):
            yield
    except library.PortAudioError as error:
        raise MicrophoneError(f"cannot record from {microphone.name}: {error}") from None


def _library() -> ModuleType:
    """sounddevice, an optional dependency. Raises MicrophoneError."""
    try:
        import sounddevice
    except ImportError:
        raise MicrophoneError("steno mic needs one more package; run: pip install sounddevice") from None
    except OSError as error:
        raise MicrophoneError(
            f"the PortAudio library is missing ({error}); install it, for example with: apt install libportaudio2"
        ) from None
    library: ModuleType = sounddevice
    return library


def _find(library: ModuleType, device: str | None) -> Microphone:
    """The named (or numbered) device, else the system's default input. Raises MicrophoneError."""
    wanted = int(device) if device and device.isdecimal() else device
    try:
        found = library.query_devices(wanted, kind="input")
    except (library.PortAudioError, ValueError) as error:
        names = [each["name"] for each in library.query_devices() if each["max_input_channels"]]
        there_are = f"there are: {', '.join(names)}" if names else "no device on this machine records sound"
        raise MicrophoneError(f"no microphone ({error}); {there_are}") from None
    rate = min(max(int(found["default_samplerate"]), _LOWEST_HZ), _HIGHEST_HZ)
    return Microphone(found["index"], found["name"], rate)
