"""`steno models served`: what a running server has deployed, and what it holds, as its `/v1/models` tells."""

import json
from collections.abc import Mapping, Sequence
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any
from urllib.parse import urlsplit

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from wire.errors import StackError

PATH = "/v1/models"
TIMEOUT_S = 10.0
#: Languages that are named in a table; beyond them their number says more.
NAMED = 8
#: A page of a few pools is some kilobytes.
MAX_PAGE_BYTES = 2**20
_SCHEMES: dict[str, type[HTTPConnection]] = {
    "ws": HTTPConnection,
    "http": HTTPConnection,
    "wss": HTTPSConnection,
    "https": HTTPSConnection,
}


class NotAnswered(StackError):
    """The server cannot be asked, or does not say; the message is for the user."""


def run(url: str, api_key: str, as_json: bool, console: Console) -> None:
    """Ask and print. Raises NotAnswered."""
    page = ask(url, api_key)
    if as_json:
        console.out(json.dumps(page, ensure_ascii=False), highlight=False)
    else:
        show(page, url, console)


def ask(url: str, api_key: str) -> dict[str, Any]:
    """The page of the server at `url` (ws, wss, http or https; only host and port count). Raises NotAnswered."""
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = -1
    if parts.scheme not in _SCHEMES or not parts.hostname or port == -1:
        raise NotAnswered(f"{url!r} is no server's address; it should look like ws://localhost:8080")
    connection = _SCHEMES[parts.scheme](parts.hostname, port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", PATH, headers={"Authorization": api_key})
        with connection.getresponse() as answer:
            status, body = answer.status, answer.read(MAX_PAGE_BYTES)
    except ConnectionRefusedError:
        raise NotAnswered(f"nothing answers at {url}. Start a server with: steno up") from None
    except (OSError, HTTPException, ValueError) as error:
        raise NotAnswered(f"cannot ask {url}: {str(error) or type(error).__name__}") from None
    finally:
        connection.close()
    return _parsed(url, status, body)


def _parsed(url: str, status: int, body: bytes) -> dict[str, Any]:
    try:
        page = json.loads(body)
    except ValueError:
        page = None
    if not isinstance(page, dict):
        raise NotAnswered(f"{url} answers, but not as a steno server that tells its models (status {status})")
    if status != 200 or not isinstance(page.get("pools"), list):
        raise NotAnswered(f"{url} does not say: {page.get('error', 'no reason told')} (status {status})")
    return page


def show(page: Mapping[str, Any], url: str, console: Console) -> None:
    """A row for each pool; those that nobody serves are dim."""
    table = Table(
        *("Pool", "Ask for (speech_model)", "Model", "Licence", "Languages", "Free", "Waiting", "Workers"),
        box=None,
        pad_edge=False,
        padding=(0, 3, 0, 0),
    )
    for pool in page["pools"]:
        names = _names(pool["speech_models"], page.get("default_speech_model"))
        if pool["deployed"]:
            table.add_row(f"[bold]{escape(pool['pool'])}[/]", names, *_capacity(pool))
        else:
            table.add_row(escape(pool["pool"]), names, "not deployed", style="dim")
    console.print(table)
    console.print(
        f"\n[dim]{escape(url)}, {page['age_s']} s ago; * serves who names no model; free: of all slots[/]",
        highlight=False,
    )


def _names(names: Sequence[str], default: str | None) -> str:
    return "\n".join(f"{escape(name)}{' *' if name == default else ''}" for name in names)


def _capacity(pool: Mapping[str, Any]) -> tuple[str, ...]:
    languages = pool["languages"]
    told = " ".join(languages) if len(languages) <= NAMED else f"{len(languages)}"
    return (
        escape("\n".join(pool["models"])),
        escape("\n".join(pool["licences"])),
        escape(told),
        f"{pool['free']} of {pool['slots']}",
        str(pool["waiting"]),
        str(pool["workers"]),
    )
