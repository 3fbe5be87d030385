"""The command `steno`: every subcommand, its options and its help.

Help must come at once, so nothing heavy is imported before a command needs it: a command's function here imports the
module that does the work.

Exit codes: 0 well, 1 failed, 2 wrong usage or settings, 3 weights are missing, 4 no licence to
run on, 75 a server of the vendor's was away for too long (start again); 130 on Ctrl-C.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import bench, dues, replay

if TYPE_CHECKING:
    from rich.console import Console

    from cli.client import Request
    from wire.service import ServiceSettings

EXIT_FAILED, EXIT_SETTINGS, EXIT_WEIGHTS, EXIT_LICENSE, EXIT_INTERRUPTED = 1, 2, 3, 4, 130

CLIENTS, SERVERS, STOCK, DUES = "Speak to a server", "Run a server", "Models", "Licences and usage"


def _example(*lines: str) -> str:
    """An epilog that teaches by example."""
    return "\n".join(("[bold]Examples[/]", *(f"  [cyan]{line}[/]" for line in lines)))


app = typer.Typer(
    name="steno",
    help="Real-time speech to text on your own machines.\n\nBegin with [bold]steno demo[/], or start a server with "
    "[bold]steno up[/] and speak to it with [bold]steno mic[/].",
    no_args_is_help=True,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,  # `main` tells what users can mend in one line; the rest is a traceback
)
models_app = typer.Typer(
    help="Model weights on this machine: list, fetch, remove; and what a server has deployed: served.",
    epilog=_example("steno models list", "steno models fetch whisper-base", "steno models served"),
    no_args_is_help=True,
    rich_markup_mode="rich",
)
app.add_typer(models_app, name="models", rich_help_panel=STOCK)
app.add_typer(replay.app, name="replay", rich_help_panel=SERVERS)
app.add_typer(bench.app, name="bench", rich_help_panel=STOCK)
app.command("licensing", rich_help_panel=DUES, epilog=dues.LICENSING_EXAMPLES)(dues.licensing)
app.add_typer(dues.license_app, name="license", rich_help_panel=DUES)
app.add_typer(dues.issuer_app, name="issuer", rich_help_panel=DUES)
app.add_typer(dues.usage_app, name="usage", rich_help_panel=DUES)
app.add_typer(dues.tracker_app, name="tracker", rich_help_panel=DUES)


def _version(wanted: bool) -> None:
    if wanted:
        from wire.release import software

        typer.echo(f"steno {software()}")
        raise typer.Exit


@app.callback()
def steno(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """The options of `steno` itself; its help is the app's."""


# ---------------------------------------------------------------------------------------------------------------------
# clients

Endpoint = Annotated[
    str,
    typer.Option(metavar="URL", envvar="STENO_ENDPOINT", help="Server to speak to: ws://... or wss://..."),
]
ApiKey = Annotated[
    str, typer.Option(metavar="KEY", envvar="STENO_API_KEY", help="What to send as Authorization header.")
]
SpeechModel = Annotated[
    str | None, typer.Option(metavar="NAME", help="Model to ask for; without it the server chooses.")
]
Language = Annotated[
    str | None,
    typer.Option(
        metavar="CODE", help="What is spoken, such as fr; without a model it chooses one that knows it."
    ),
]
Prompt = Annotated[
    str | None,
    typer.Option(
        metavar="TEXT", help="What the speech is about; for models that take one, such as universal-3-5-pro."
    ),
]
Keyterms = Annotated[
    list[str] | None,
    typer.Option("--keyterm", metavar="TERM", help="A word or name that may come up; may be repeated."),
]
Json = Annotated[bool, typer.Option("--json", help="Print each server message as a line of JSON.")]
Format = Annotated[
    bool, typer.Option("--format/--no-format", help="Ask for finished turns with punctuation and capitals.")
]
GoOn = Annotated[
    bool, typer.Option("--resume/--no-resume", help="Go on when the connection was lost, if the server can.")
]


@app.command(
    rich_help_panel=CLIENTS,
    epilog=_example(
        "steno transcribe talk.mp3",
        "steno transcribe talk.wav --fast > talk.txt",
        "steno transcribe discours.ogg --language fr",
        "steno transcribe call.wav --keyterm Moonshine --keyterm 'Ada Lovelace'",
        "steno transcribe talk.flac --json | jq -r 'select(.end_of_turn) | .transcript'",
    ),
)
def transcribe(  # noqa: PLR0913 each is an option of the command
    file: Annotated[
        Path,
        typer.Argument(
            exists=True, dir_okay=False, readable=True, help="WAV, FLAC, OGG or MP3, at any rate."
        ),
    ],
    endpoint: Endpoint = "ws://localhost:8080",
    api_key: ApiKey = "self-hosted",
    *,
    speech_model: SpeechModel = None,
    language: Language = None,
    prompt: Prompt = None,
    keyterms: Keyterms = None,
    fast: Annotated[
        bool, typer.Option("--fast", help="Send as fast as the server takes it, not as spoken.")
    ] = False,
    as_json: Json = False,
    format_turns: Format = True,
    resume: GoOn = True,
) -> None:
    """Transcribe a sound file, as if it were being spoken.

    On a terminal, words appear as they are heard (dim: may still change) and finished turns stay (bold).
    Elsewhere each finished turn is a line of text.
    """
    from cli import transcribe as command

    hints = _hints(speech_model, language, prompt, keyterms)
    request = _request(endpoint, api_key, format_turns, resume, hints)
    command.run(file, request, fast, as_json, _output(), _notes())


@app.command(rich_help_panel=CLIENTS, epilog=_example("steno mic", "steno mic --device 'USB' --json"))
def mic(  # noqa: PLR0913 each is an option of the command
    endpoint: Endpoint = "ws://localhost:8080",
    api_key: ApiKey = "self-hosted",
    *,
    speech_model: SpeechModel = None,
    language: Language = None,
    prompt: Prompt = None,
    keyterms: Keyterms = None,
    device: Annotated[
        str | None, typer.Option(metavar="NAME", help="Microphone: part of its name, or its number.")
    ] = None,
    as_json: Json = False,
    format_turns: Format = True,
    resume: GoOn = True,
) -> None:
    """Transcribe what the microphone hears, until Ctrl-C.

    Needs the package sounddevice, which is not installed by default.
    """
    from cli import mic as command

    hints = _hints(speech_model, language, prompt, keyterms)
    command.run(
        _request(endpoint, api_key, format_turns, resume, hints),
        device,
        as_json,
        _output(),
        _notes(),
    )


@app.command(
    rich_help_panel=CLIENTS,
    epilog=_example(
        "steno demo", "steno demo --pools english", "steno demo --pools multilang --file discours.ogg"
    ),
)
def demo(
    file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            exists=True,
            dir_okay=False,
            readable=True,
            help="Another recording to play, in english unless --pools says otherwise.",
        ),
    ] = None,
    pools: Annotated[
        str, typer.Option(metavar="POOL,...", show_default="all", help="Pools to show, with commas between.")
    ] = "",
) -> None:
    """Start everything, play a recording into each pool, show the text and the delays, stop everything.

    Fetches the weights first if they are missing. Nothing has to run before, nothing runs afterwards.
    """
    from cli import demo as command

    command.run(file, _names(pools), _output())


# ---------------------------------------------------------------------------------------------------------------------
# servers

ShowSettings = Annotated[
    bool,
    typer.Option("--settings", help="Print every environment variable, its default and meaning, and exit."),
]
WithParent = Annotated[
    bool, typer.Option("--with-parent", hidden=True, help="Stop when standard input ends.")
]


@app.command(
    rich_help_panel=SERVERS,
    epilog=_example(
        "steno up",
        "steno up --port 9000 --workers 2",
        "steno up --pools english,multilang --console",
        "SLOTS=8 steno up --redis-url redis://localhost:6379/0",
    ),
)
def up(
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port that clients connect to; 0 takes any free one.")
    ] = 8080,
    pools: Annotated[
        str, typer.Option(metavar="POOL,...", help="Pools to serve, with commas between them.")
    ] = "english",
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines in.")
    ] = "127.0.0.1",
    redis_url: Annotated[
        str | None, typer.Option(metavar="URL", help="A running Redis to use instead of one of our own.")
    ] = None,
    workers: Annotated[
        int,
        typer.Option(min=1, max=64, help="Worker processes of each pool; on CPUs at most one per core pays."),
    ] = 1,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show the services' logs.")] = False,
    console: Annotated[
        bool, typer.Option("--console", help="Run the web console as well, on http://localhost:8090.")
    ] = False,
) -> None:
    """Run the whole stack on this machine until Ctrl-C.

    Redis, licensing, the workers of each pool and the ingress run as processes of their own. Without a license of yours
    (LICENSE_FILE_PATH) the stack mints a local one, which is plainly called so.
    Settings are variables: see [bold]steno ingress --settings[/], [bold]steno worker english --settings[/].
    """
    from cli import up as command

    command.run(port, _names(pools), host, redis_url, verbose, workers, _output(), console)


@app.command(rich_help_panel=SERVERS, epilog=_example("steno ingress", "steno ingress --settings"))
def ingress(settings: ShowSettings = False, with_parent: WithParent = False) -> None:
    """Run one ingress: clients' WebSockets on one side, Redis on the other.

    Configured by environment variables only.
    """
    from ingress.settings import IngressSettings

    if settings:
        return show_settings(IngressSettings)
    from ingress.server import serve
    from wire import service

    _watch_parent(with_parent)
    loaded = service.load(IngressSettings)
    service.configure_logging(loaded.logging_level, loaded.use_structured_logging)
    with service.Probe(loaded.probe_host, loaded.probe_port, "ingress") as probe:
        raise typer.Exit(service.run(lambda drain: serve(loaded, drain, probe)))


@app.command(
    rich_help_panel=SERVERS,
    epilog=_example(
        "steno console",
        "steno console --settings",
        "CONSOLE_HOST=0.0.0.0 CONSOLE_TOKEN=$(openssl rand -hex 24) steno console",
    ),
)
def console(settings: ShowSettings = False, with_parent: WithParent = False) -> None:
    """Run the web console: pools, sessions, licence and delays in a browser, and a page to try the stack from.

    It changes nothing. http://localhost:8090 for this machine; for others it needs a token. Configured by environment
    variables only.
    """
    from console.settings import ConsoleSettings

    if settings:
        return show_settings(ConsoleSettings)
    from console.server import serve
    from wire import service

    _watch_parent(with_parent)
    loaded = service.load(ConsoleSettings)
    service.configure_logging(loaded.logging_level, loaded.use_structured_logging)
    with service.Probe(loaded.probe_host, loaded.probe_port, "console") as probe:
        raise typer.Exit(service.run(lambda drain: serve(loaded, drain, probe)))


def _pools() -> list[str]:
    from workers.entry import POOLS

    return sorted(POOLS)


@app.command(
    rich_help_panel=SERVERS,
    epilog=_example("steno worker english", "SLOTS=8 REDIS_URL=redis://10.0.0.5:6379/0 steno worker english"),
)
def worker(
    pool: Annotated[
        str,
        typer.Argument(metavar="POOL", help="Which models to serve, such as english.", autocompletion=_pools),
    ],
    settings: ShowSettings = False,
    with_parent: WithParent = False,
) -> None:
    """Run one worker of a pool: it takes sessions and recognises their speech.

    Run as many as you have machines for. Configured by environment variables only.
    """
    from cli.up import check_pools
    from workers.settings import WorkerSettings

    check_pools([pool])
    if settings:
        return show_settings(WorkerSettings)
    from wire import service
    from workers.entry import serve

    _watch_parent(with_parent)
    loaded = service.load(WorkerSettings)
    service.configure_logging(loaded.logging_level, loaded.use_structured_logging)
    with service.Probe(loaded.probe_host, loaded.probe_port, f"worker {pool}") as probe:
        raise typer.Exit(service.run(lambda drain: serve(pool, loaded, drain, probe)))


def _watch_parent(wanted: bool) -> None:
    if wanted:
        from cli.child import exit_with_parent

        exit_with_parent()


def show_settings(cls: "type[ServiceSettings]") -> None:
    from rich.markup import escape
    from rich.table import Table

    from wire.service import describe

    table = Table("Variable", "Default", "Meaning", box=None, pad_edge=False)
    for names, default, meaning in describe(cls):
        table.add_row(names.replace(", ", "\n"), escape(default), escape(meaning))
    _output().print(table)


# ---------------------------------------------------------------------------------------------------------------------
# models


@models_app.command("list")
def models_list() -> None:
    """List the models that need no Hub: pool, licence, size, and where they lie."""
    from cli import models

    models.show(_output())


@models_app.command(
    "fetch", epilog=_example("steno models fetch", "steno models fetch moonshine-tiny-en silero-vad")
)
def models_fetch(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME]...", help="Models; without any, what this machine's settings need."),
    ] = None,
) -> None:
    """Fetch weights, checked and converted, into the cache.

    A download that broke off is resumed; what is there is not fetched again.
    """
    from cli import models, up

    if names:
        for folder in models.fetch(names, _notes()):
            typer.echo(folder)
    else:
        up.fetch_weights(_notes())


@models_app.command(
    "served",
    epilog=_example(
        "steno models served", "steno models served --url wss://speech.example --api-key KEY --json"
    ),
)
def models_served(
    url: Annotated[
        str,
        typer.Option(
            metavar="URL", envvar="STENO_ENDPOINT", help="Server to ask: ws(s)://... or http(s)://..."
        ),
    ] = "ws://localhost:8080",
    api_key: ApiKey = "self-hosted",
    as_json: Annotated[bool, typer.Option("--json", help="Print what the server says as JSON.")] = False,
) -> None:
    """Ask a running server which pools it has: models, licences, languages, and how many sessions fit.

    Needs a key, where the server has any; a temporary token is not enough.
    """
    from cli import served

    served.run(url, api_key, as_json, _output())


@models_app.command("remove", epilog=_example("steno models remove moonshine-tiny-en"))
def models_remove(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Models to delete.")],
) -> None:
    """Delete weights from the cache."""
    from cli import models

    models.remove(names, _output())


# ---------------------------------------------------------------------------------------------------------------------


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _request(
    endpoint: str, api_key: str, format_turns: bool, resume: bool, hints: dict[str, Any]
) -> "Request":
    from cli.client import Request

    return Request(endpoint, api_key, format_turns=format_turns, resume=resume, **hints)


def _hints(
    speech_model: str | None, language: str | None, prompt: str | None, keyterms: list[str] | None
) -> dict[str, Any]:
    """What helps the server to understand, as fields of a Request."""
    told = {"speech_model": speech_model, "language": language, "prompt": prompt}
    return {**told, "keyterms": tuple(keyterms or ())}


def _output() -> "Console":
    from rich.console import Console

    return Console()


def _notes() -> "Console":
    from rich.console import Console

    return Console(stderr=True)


def main() -> None:
    """The entry of the installed command. What a user can mend is told in a line, the rest is a traceback."""
    from wire.errors import LicenseError, SettingsError, StackError, WeightsError

    try:
        app(prog_name="steno")
    except StackError as error:
        from rich.markup import escape

        _notes().print(f"[red]steno:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        codes = {SettingsError: EXIT_SETTINGS, WeightsError: EXIT_WEIGHTS, LicenseError: EXIT_LICENSE}
        sys.exit(codes.get(type(error), EXIT_FAILED))
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)


if __name__ == "__main__":
    main()
