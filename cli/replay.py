"""`steno replay`: recorded sessions, listed, shown, played, run again, compared, carried elsewhere, erased.

Where a command takes an ID, the first letters of one will do, and so will a folder that `export` wrote. Redis, its
namespace and the key of encrypted recordings are the services' own variables: REDIS_URL, NAMESPACE, RECORD_KEY.
"""

import json
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from wire.archive import Archive
    from wire.entries import SessionEvent
    from wire.recordings import Recording
    from wire.sealing import ArchiveSettings

app = typer.Typer(
    help="Recorded sessions: why was it transcribed wrongly on Tuesday? (docs/replay.md)\n\nAn ID may be its first "
    "letters, or a folder that `export` wrote. Settings are variables: REDIS_URL, NAMESPACE, RECORD_KEY.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

T = TypeVar("T")
#: How often a running session is looked at by `follow`, in seconds.
FOLLOW_S = 0.1
#: Letters of an id that must be given.
LEAST_LETTERS = 4


class Speed(StrEnum):
    """How fast recorded things happen again."""

    REAL = "real"
    FAST = "fast"


Id = Annotated[str, typer.Argument(metavar="ID", help="A recording, or an exported folder.")]
AtSpeed = Annotated[Speed, typer.Option(help="With the recorded pauses, or as fast as it goes.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, one item a line.")]


def _example(*lines: str) -> str:
    return "\n".join(("[bold]Examples[/]", *(f"  [cyan]{line}[/]" for line in lines)))


# ---------------------------------------------------------------------------------------------------------------------
# looking


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """List what is recorded, oldest first: when, who, how large, how long it is still kept."""
    from dataclasses import asdict

    from cli import replay_show

    found = _with_archive(lambda archive, _: archive.listing())
    if as_json:
        for one in found:
            typer.echo(json.dumps(asdict(one), ensure_ascii=False))
    else:
        replay_show.listing(found, _output())


@app.command(
    epilog=_example(
        "steno replay show 3f2a", "steno replay show 3f2a --words", "steno replay show ./tuesday --all"
    )
)
def show(
    recording: Id,
    whole: Annotated[bool, typer.Option("--all", help="Also every frame and every step.")] = False,
    words: Annotated[
        bool, typer.Option("--words", help="Each word, and where the time until it was told went.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show a session as a timeline: messages, turns with their delays, decisions with the rule that fired, workers.

    Times are seconds since the session began.
    """
    from cli import replay_show
    from wire.recordings import message_fields, session_fields

    found = _load(recording)
    if as_json:
        for line in (session_fields(found), *message_fields(found)):
            typer.echo(json.dumps(line, ensure_ascii=False))
    elif words:
        replay_show.word_table(found, _output())
    else:
        replay_show.timeline(found, _output(), whole)


@app.command(epilog=_example("steno replay diff 3f2a 77b0", "steno replay diff ./tuesday 77b0 --check"))
def diff(
    first: Id,
    second: Id,
    check: Annotated[
        bool, typer.Option("--check", help="Exit with 1 unless the finals are identical.")
    ] = False,
) -> None:
    """Compare two transcripts word by word: changed, missing, added, moved in time; error rate and delays."""
    from cli import replay_diff, replay_show

    found = replay_diff.compare(_load(first), _load(second))
    names = (first[: replay_show.SHORT], second[: replay_show.SHORT])
    if Path(first).is_dir() or Path(second).is_dir():
        names = (first, second)
    replay_show.comparison(found, names, _output())
    raise typer.Exit(int(check and not found.identical))


@app.command()
def follow(
    session: Annotated[str, typer.Argument(metavar="ID", help="A session that runs, recorded or not.")],
) -> None:
    """Watch a running session's events without disturbing it, until it ends or Ctrl-C."""
    import asyncio

    console = _output()

    def tell(event: "SessionEvent") -> None:
        what = event.text or event.event.name
        console.out(
            f"{event.generation}-{event.sequence}  {event.audio_ms / 1000:8.2f} s  {what}", highlight=False
        )

    _with_archive(lambda archive, _: archive.follow(session, tell, lambda: asyncio.sleep(FOLLOW_S)))


# ---------------------------------------------------------------------------------------------------------------------
# again


@app.command(
    epilog=_example(
        "steno replay run 3f2a",
        "steno replay run 3f2a --speed fast --model universal-streaming-multilingual",
        "steno replay run 3f2a --set min_turn_silence=200 --set keyterms_prompt='[\"Ada\"]'",
    )
)
def run(  # noqa: PLR0913 each is an option of the command
    recording: Id,
    endpoint: Annotated[
        str,
        typer.Option(
            metavar="URL", envvar="STENO_ENDPOINT", help="Server to run it on: ws://... or wss://..."
        ),
    ] = "ws://localhost:8080",
    api_key: Annotated[
        str, typer.Option(metavar="KEY", envvar="STENO_API_KEY", help="What to send as Authorization header.")
    ] = "self-hosted",
    *,
    pool: Annotated[str | None, typer.Option(metavar="P", help="Another pool, with its first model.")] = None,
    model: Annotated[str | None, typer.Option(metavar="M", help="Another speech_model.")] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Another parameter; may be repeated."),
    ] = None,
    speed: AtSpeed = Speed.REAL,
    record: Annotated[
        bool, typer.Option("--record/--no-record", help="Ask the server to record the run.")
    ] = True,
    check: Annotated[
        bool, typer.Option("--check", help="Exit with 1 unless the finals are identical.")
    ] = False,
    wait_s: Annotated[
        float, typer.Option("--wait", min=0, help="How long to wait for a place, in s.")
    ] = 60.0,
) -> None:
    """Run the recorded audio through a live server, and compare what it says with what it said.

    The server must have REPLAY_SESSIONS (2 unless set); replays wait for, and give way to, live sessions.
    """
    import asyncio

    from cli import replay_diff, replay_run, replay_show
    from cli.transcribe import listening

    found, output, notes = _load(recording), _output(), _notes()
    wanted = replay_run.Wanted(
        endpoint, api_key, pool, model, _changes(changes or []), speed is Speed.REAL, record, wait_s
    )

    async def again() -> "Recording":
        with listening(False, output) as listener:
            return await replay_run.run(found, wanted, listener, notes.print)

    result = asyncio.run(again())
    compared = replay_diff.compare(found, result)
    replay_show.comparison(compared, ("recorded", "now"), notes)
    if name := replay_run.recorded_as(result):
        notes.print(f"[dim]recorded as {name}[/]", highlight=False)
    raise typer.Exit(int(check and not compared.identical))


@app.command(
    epilog=_example("steno replay play 3f2a --port 8081", "steno replay play ./tuesday --speed fast")
)
def play(
    recording: Id,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port that the app connects to; 0: any.")
    ] = 8081,
    speed: AtSpeed = Speed.REAL,
) -> None:
    """Serve the recorded messages with their timing, to any client that connects, until Ctrl-C.

    A developer points an app at it; what the app sends is not looked at, but for Terminate.
    """
    import asyncio

    from cli.client import stop_on_interrupt
    from cli.replay_play import HOST, Player

    console = _output()
    player = Player(_load(recording), speed is Speed.FAST, console.print)

    async def serve() -> None:
        async with await player.listen(port) as server:
            number = next(iter(server.sockets)).getsockname()[1]
            console.print(f"[bold]playing on ws://{HOST}:{number}[/]   Ctrl-C stops", highlight=False)
            with stop_on_interrupt() as stop:
                await stop.wait()

    asyncio.run(serve())


# ---------------------------------------------------------------------------------------------------------------------
# carrying, erasing


@app.command(
    epilog=_example("steno replay export 3f2a ./tuesday", "steno replay export 3f2a ./tuesday --png")
)
def export(
    recording: Id,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder.")],
    png: Annotated[
        bool, typer.Option("--png", help="Also report.png, a picture of the report; needs Chromium.")
    ] = False,
) -> None:
    """Write session.json, messages.jsonl, audio.flac and report.html into a new folder. They are not encrypted."""
    from cli import replay_files, replay_report

    extras = (replay_report.page, *((replay_report.picture,) if png else ()))
    replay_files.write(_load(recording), folder, extras)
    typer.echo(folder)


@app.command("import", epilog=_example("steno replay import ./tuesday"))
def import_(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", exists=True, file_okay=False, help="An exported folder.")
    ],
) -> None:
    """Bring an exported recording into this Redis, to be kept for RECORD_KEEP_S."""
    from cli import replay_files

    found = replay_files.read(folder)
    _with_archive(lambda archive, now: archive.put(found, now.record_keep_s, now.record_session_bytes))
    typer.echo(found.facts.id)


@app.command(epilog=_example("steno replay rm 3f2a", "steno replay rm 3f2a 77b0"))
def rm(
    recordings: Annotated[list[str], typer.Argument(metavar="ID...", help="Recordings to erase.")],
) -> None:
    """Erase recordings, and whatever else of their sessions is left in Redis."""

    async def erase(archive: "Archive", _: "ArchiveSettings") -> list[str]:
        names = [await _whole(archive, name) for name in recordings]
        return [name for name in names if await archive.erase(name)]

    erased = _with_archive(erase)
    for name in erased:
        typer.echo(f"erased {name}")
    if len(erased) < len(recordings):
        _notes().print("[red]steno:[/] not all were there; see: steno replay list")
        raise typer.Exit(1)


# ---------------------------------------------------------------------------------------------------------------------


def _changes(told: list[str]) -> dict[str, str]:
    changes = {}
    for one in told:
        name, equals, value = one.partition("=")
        if not equals or not name:
            raise typer.BadParameter(f"--set {one}: it should look like min_turn_silence=200")
        changes[name.strip()] = value
    return changes


def _load(name: str) -> "Recording":
    """Raises StackError, with what to do about it."""
    if Path(name).is_dir():
        from cli import replay_files

        return replay_files.read(Path(name))

    async def load(archive: "Archive", _: "ArchiveSettings") -> "Recording":
        return await archive.load(await _whole(archive, name))

    return _with_archive(load)


async def _whole(archive: "Archive", name: str) -> str:
    """The id that begins so, if there is one; the name itself otherwise. Raises StackError if there are several."""
    from wire.errors import StackError

    found = [known for known, _ in await archive.index() if known.startswith(name)]
    if name in found or len(name) < LEAST_LETTERS or not found:
        return name
    if len(found) > 1:
        raise StackError(f"several recordings begin with {name}: {', '.join(found)}")
    return found[0]


def _with_archive(act: "Callable[[Archive, ArchiveSettings], Coroutine[Any, Any, T]]") -> T:
    """Do something with the recordings of the Redis that the environment names."""
    import asyncio

    async def acting() -> T:
        async with _opened() as (archive, settings):
            return await act(archive, settings)

    return asyncio.run(acting())


@asynccontextmanager
async def _opened() -> "AsyncIterator[tuple[Archive, ArchiveSettings]]":
    from wire import service
    from wire.archive import Archive
    from wire.errors import BusUnavailable
    from wire.keys import Keys
    from wire.sealing import ArchiveSettings
    from wire.streams import Bus

    settings = service.load(ArchiveSettings)
    bus = Bus(settings.redis_url, Keys(settings.namespace))
    try:
        try:
            await bus.ping()
        except BusUnavailable as error:
            url = service.redact(settings.redis_url)
            raise BusUnavailable(f"{error} (REDIS_URL is {url}; `steno up` shows its own)") from None
        yield Archive(bus, settings.seal_key), settings
    finally:
        await bus.close()


def _output() -> "Console":
    from rich.console import Console

    return Console()


def _notes() -> "Console":
    from rich.console import Console

    return Console(stderr=True)
