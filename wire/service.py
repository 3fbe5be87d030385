"""How a process lives: settings from the environment, logging, a probe, and running until it is signalled.

A service's entry is four lines, in this order:

    settings = load(IngressSettings)
    configure_logging(settings.logging_level, settings.use_structured_logging)
    with Probe(settings.probe_host, settings.probe_port, "ingress") as probe:
        return run(lambda drain: serve(settings, drain, probe))
"""

import asyncio
import contextlib
import gc
import json
import logging
import os
import re
import resource
import signal
import socket
import socketserver
import sys
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

import pydantic_settings
from prometheus_client import make_wsgi_app
from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, SettingsConfigDict

from wire import metrics, servers
from wire.errors import GaveUp, LicenseError, SettingsError, WeightsError

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

uvloop: ModuleType | None
try:
    import uvloop
except ImportError:  # not built for this platform: the standard loop is slower and otherwise the same
    uvloop = None

logger = logging.getLogger(__name__)

# ---------------------------------------------------------------------------------------------------------------------
# settings


class ServiceSettings(BaseSettings):
    """What every service is told. A field's variable is its name in capitals; an alias is another stack's name for it.

    Frozen. Construct it with keywords in tests, with `load` in a process. An empty variable counts as unset.
    """

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", env_ignore_empty=True, validate_default=True, hide_input_in_errors=True
    )

    redis_url: str = Field(
        "redis://localhost:6379/0",
        description="Redis that the processes share: redis://, rediss:// or "
        "unix:// for one server, redis+sentinel://HOST:PORT,HOST:PORT/SERVICE, or redis+cluster://HOST:PORT,HOST:PORT.",
    )
    namespace: str = Field(
        "steno", min_length=1, description="First part of every Redis key, so that stacks can share a server."
    )
    logging_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO",
        validation_alias=AliasChoices("logging_level", "aai_log_level"),
        description="Least severe log records to write: DEBUG, INFO, WARNING or ERROR.",
    )
    use_structured_logging: bool = Field(
        False,
        validation_alias=AliasChoices("use_structured_logging", "aai_use_structured_logging"),
        description="Write logs as one JSON object per line instead of text.",
    )
    probe_host: str = Field("127.0.0.1", description="Address that serves /health and /metrics.")
    probe_port: int = Field(
        0, ge=0, le=65535, description="Port that serves /health and /metrics; 0 is any free one."
    )

    @field_validator("redis_url")
    @classmethod
    def _redis_url(cls, value: str) -> str:
        servers.parse(value)
        return value

    @field_validator("logging_level", mode="before")
    @classmethod
    def _level(cls, value: Any) -> Any:
        return value.upper() if isinstance(value, str) else value


S = TypeVar("S", bound=ServiceSettings)


def load(cls: type[S]) -> S:
    """The settings that the environment asks for. Raises SettingsError, with every fault on a line of its own."""
    try:
        return cls()
    except ValidationError as error:
        faults = error.errors(include_url=False, include_context=False)
        raise SettingsError("\n".join(_fault(cls, fault["loc"], fault["msg"]) for fault in faults)) from None
    except pydantic_settings.SettingsError as error:  # a list or an object that is not JSON
        raise SettingsError(str(error)) from None


def describe(cls: type[ServiceSettings]) -> list[tuple[str, str, str]]:
    """Every setting as (variable names joined by ", ", default, meaning), in the order of declaration."""
    return [
        (", ".join(_variables(name, field)), _default(field), field.description or "")
        for name, field in cls.model_fields.items()
    ]


def _variables(name: str, field: FieldInfo) -> list[str]:
    alias = field.validation_alias
    names = alias.choices if isinstance(alias, AliasChoices) else [alias or name]
    return [str(choice).upper() for choice in names]


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "(required)"
    value = field.get_default(call_default_factory=True, validated_data={})
    return "" if value is None or isinstance(value, SecretStr) else redact(str(value))


def _fault(cls: type[ServiceSettings], place: tuple[int | str, ...], message: str) -> str:
    """One line naming the variable that the operator wrote, or, if none was written, the setting's first name."""
    for name, field in cls.model_fields.items():
        variables = _variables(name, field)
        if place and str(place[0]).upper() in (name.upper(), *variables):
            given = next((variable for variable in variables if os.environ.get(variable)), None)
            return f"{given or variables[0]}: {message}{_given(field, given)}"
    return ": ".join((*map(str, place), message))


def _given(field: FieldInfo, variable: str | None) -> str:
    if variable is None or "Secret" in str(field.annotation):
        return ""
    return f" (it is {redact(os.environ[variable])[:80]!r})"


# ---------------------------------------------------------------------------------------------------------------------
# logging

#: The session that the current task serves; joins every log record made in its context.
session_id: ContextVar[str] = ContextVar("session_id", default="")

_STANDARD_ATTRIBUTES = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_URL_PASSWORD = re.compile(r"(\w://[^\s/:@]*:)[^\s/]*@")
_QUERY_SECRET = re.compile(r"([?&](?:password|token|api_key)=)[^&\s\"']+", re.IGNORECASE)


def redact(text: str) -> str:
    """`text` with the passwords of URLs, and secrets in their queries, replaced by `***`."""
    return _QUERY_SECRET.sub(r"\1***", _URL_PASSWORD.sub(r"\1***@", text))


def configure_logging(level: str, structured: bool) -> None:
    """Send log records of at least `level` to stderr, as text or as JSON lines. Replaces earlier handlers."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if structured else TextFormatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.captureWarnings(capture=True)


def _extra(record: logging.LogRecord) -> dict[str, Any]:
    """What the record says apart from its message: the session, and whatever came as `extra`."""
    session = {"session": session_id.get()} if session_id.get() else {}
    return session | {name: value for name, value in vars(record).items() if name not in _STANDARD_ATTRIBUTES}


def _time(record: logging.LogRecord) -> str:
    return (
        datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    )


class TextFormatter(logging.Formatter):
    """`2026-01-31T12:00:00.000Z INFO ingress.server: Session opened session=... pool=english`."""

    def format(self, record: logging.LogRecord) -> str:
        fields = "".join(f" {name}={self._value(value)}" for name, value in _extra(record).items())
        line = f"{_time(record)} {record.levelname} {record.name}: {record.getMessage()}{fields}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return redact(line)

    @staticmethod
    def _value(value: Any) -> str:
        text = str(value)
        return text if text.isprintable() and text and not set(text) & set(' "=') else json.dumps(text)


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time, level, logger, message, session, the record's own fields, exception."""

    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "time": _time(record),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **_extra(record),
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return redact(json.dumps(fields, default=str, ensure_ascii=False))


# ---------------------------------------------------------------------------------------------------------------------
# probe


class _ProbeServer(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def __init__(self, host: str, port: int) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), _ProbeRequest)

    def server_bind(self) -> None:
        """Bind without the look-up of the host's name, which can take seconds where name service is slow."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]
        self.setup_environ()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 the base calls it so
        logger.debug("Probe request failed", exc_info=sys.exc_info(), extra={"peer": client_address})


class _ProbeRequest(WSGIRequestHandler):
    timeout = 10  # seconds without a byte, then the connection is dropped

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 named by the base class
        logger.debug("Probe request: %s", format % args)


class Probe:
    """A small HTTP server on a thread of its own, for orchestrators and for scrapers.

    /health     200 `{"status": "ready", ...}` once `ready` is set, else 503 `{"status": "starting", ...}`
    /metrics    what `wire/metrics.py` declares, in Prometheus' text format
    /v1/status  what `status()` returns, as JSON; 404 without one
    """

    def __init__(
        self,
        host: str,
        port: int,
        service: str = "steno",
        status: Callable[[], Mapping[str, Any]] | None = None,
    ) -> None:
        self.service = service
        self.ready = False
        self._status = status
        self._host, self._port = host, port
        self._metrics = make_wsgi_app(metrics.REGISTRY)
        self._server: _ProbeServer | None = None
        self._thread: threading.Thread | None = None

    @property
    def port(self) -> int:
        """The port that answers; with port 0, known once started."""
        return self._server.server_port if self._server else self._port

    def start(self) -> Self:
        """Raises SettingsError if the address cannot be had."""
        try:
            self._server = _ProbeServer(self._host, self._port)
        except OSError as error:
            raise SettingsError(
                f"PROBE_PORT: cannot listen on {self._host} port {self._port}: {error.strerror or error}"
            ) from None
        self._server.set_app(self._answer)
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, name="probe", daemon=True
        )
        self._thread.start()
        return self

    def stop(self) -> None:
        """Free the port. Does nothing if never started, or stopped before."""
        if self._server and self._thread:
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()
        self._server = self._thread = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _answer(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            return _json(start_response, "405 Method Not Allowed", {"status": "method not allowed"})
        match environ["PATH_INFO"]:
            case "/metrics":
                return self._metrics(environ, start_response)  # type: ignore[no-any-return]
            case "/health":
                line, status = ("200 OK", "ready") if self.ready else ("503 Service Unavailable", "starting")
                return _json(start_response, line, {"status": status, "service": self.service})
            case "/v1/status" if self._status:
                return _json(start_response, "200 OK", self._status())
            case _:
                return _json(start_response, "404 Not Found", {"status": "not found"})


def _json(start_response: "StartResponse", line: str, fields: Mapping[str, Any]) -> list[bytes]:
    body = json.dumps(fields).encode()
    start_response(line, [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]


# ---------------------------------------------------------------------------------------------------------------------
# run

EXIT_FAILED = 1
EXIT_SETTINGS = 2
EXIT_WEIGHTS = 3
EXIT_LICENSE = 4
EXIT_TRY_AGAIN = 75  # EX_TEMPFAIL: start it again, it goes on where it stopped
EXIT_SIGNALLED_TWICE = 130

_EXIT_CODES = (
    (SettingsError, EXIT_SETTINGS),
    (WeightsError, EXIT_WEIGHTS),
    (LicenseError, EXIT_LICENSE),
    (GaveUp, EXIT_TRY_AGAIN),
)


def run(main: Callable[[asyncio.Event], Awaitable[None]]) -> int:
    """Run `main(drain)` until it returns; the process's exit code.

    The first SIGTERM or SIGINT sets `drain`: stop taking work, end what is open, return. The second ends the process
    at once with 130. Call it from the main thread, once, with logging configured.
    """
    try:
        with few_collections(), asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(_until_signalled(main))
    except Exception as error:  # noqa: BLE001 the end of the process: said here, told by the exit code
        return _exit_code(error)
    return 0


#: Of the garbage collector: so many new objects before a look at the young, such looks before one at the middle-aged,
#: and of those before one at all.
THRESHOLDS = (50_000, 20, 50)


@contextmanager
def few_collections() -> Iterator[None]:
    """Look seldom for garbage that refers to itself, of which services make little: all else is freed without.

    Modules and their classes are never garbage, and are not looked at. A full collection of what 200 sessions hold
    stops all of them for 40 ms, and came every ten seconds where they are recorded; the young are looked through 40
    times in four seconds. Both took 2 to 5 % of an ingress (DECISIONS.md, "What a beat's memory costs").
    """
    before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


def allow_open_files(wanted: int) -> int:
    """Let this process have `wanted` open files, connections among them, as far as the system permits; the limit then.

    Many systems begin at 1,024, for the sake of programs that no longer exist, and permit far more.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    aim = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < aim:
        with contextlib.suppress(ValueError, OSError):  # a limit that is not told in advance, as on macOS
            resource.setrlimit(resource.RLIMIT_NOFILE, (aim, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return wanted if soft == resource.RLIM_INFINITY else soft


def new_event_loop() -> asyncio.AbstractEventLoop:
    """uvloop's loop where there is one, else asyncio's."""
    loop: asyncio.AbstractEventLoop = (uvloop or asyncio).new_event_loop()
    return loop


async def _until_signalled(main: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    drain = asyncio.Event()
    loop = asyncio.get_running_loop()

    def signalled(name: str) -> None:
        if drain.is_set():
            logger.warning("Second signal: quitting now", extra={"signal": name})
            logging.shutdown()
            # Not sys.exit: it would wait for a model's thread, which may be in the midst of a long step.
            os._exit(EXIT_SIGNALLED_TWICE)
        logger.info("Draining", extra={"signal": name})
        drain.set()

    with contextlib.ExitStack() as signals:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, signalled, number.name)
            signals.callback(loop.remove_signal_handler, number)
        await main(drain)


def _exit_code(error: Exception) -> int:
    """Log why the process ends: the message alone where the operator can mend it, a traceback where we must."""
    leaves = list(_leaves(error))
    for kind, code in _EXIT_CODES:
        if all(isinstance(leaf, kind) for leaf in leaves):
            for leaf in leaves:
                logger.critical("%s", leaf)
            return code
    logger.critical("Service failed", exc_info=error)
    return EXIT_FAILED


def _leaves(error: BaseException) -> Iterator[BaseException]:
    """The errors that a task group gathered, or the error itself."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error
