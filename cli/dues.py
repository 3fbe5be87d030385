"""Licensing and usage on the command line: the two services, and the vendor's desk with its reference servers.

steno licensing     the service: checks the licence, tells the others what it is worth
steno license       keygen, issue, show, verify: keys and licences as files
steno issuer        the vendor's server for check-ins; mint, revoke, reinstate, list in its book
steno usage         the service: reports usage; `report` shows what Redis knows
steno tracker       the vendor's server that counts usage; `report` shows its totals
"""

import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from licensing.issuer import Issuer
    from licensing.minting import Terms
    from licensing.settings import IssuerSettings
    from usage.settings import TrackerSettings
    from usage.tracker import Tracker
    from wire.service import ServiceSettings
    from wire.web import Ask, Tell


def _group(text: str, serves: bool) -> typer.Typer:
    return typer.Typer(
        help=text, no_args_is_help=not serves, invoke_without_command=serves, rich_markup_mode="rich"
    )


def _example(*lines: str) -> str:
    return "\n".join(("[bold]Examples[/]", *(f"  [cyan]{line}[/]" for line in lines)))


ShowSettings = Annotated[
    bool,
    typer.Option("--settings", help="Print every environment variable, its default and meaning, and exit."),
]
WithParent = Annotated[
    bool, typer.Option("--with-parent", hidden=True, help="Stop when standard input ends.")
]

license_app = _group("Licences as files: make keys, issue, show, verify.", serves=False)
issuer_app = _group("The reference issuer: run it; mint, revoke, reinstate and list licences.", serves=True)
usage_app = _group("Run the usage service; report what Redis knows.", serves=True)
tracker_app = _group("The reference tracker: run it; report what it has counted.", serves=True)


# ---------------------------------------------------------------------------------------------------------------------
# services


LICENSING_EXAMPLES = _example(
    "steno licensing --settings",
    "LICENSE_FILE_PATH=license.jwt LICENSE_KEYS_PATH=steno-keys.json steno licensing",
)


def licensing(settings: ShowSettings = False, with_parent: WithParent = False) -> None:
    """Run the licensing service: it checks the licence and tells the other services what it is worth.

    /v1/status, /health and /metrics are on PROBE_PORT (8082). Configured by environment variables only.
    """
    from licensing.settings import LicensingSettings

    if settings:
        return _show(LicensingSettings)
    from licensing.jobs import Licensing
    from wire import service

    _watch_parent(with_parent)
    loaded = service.load(LicensingSettings)
    service.configure_logging(loaded.logging_level, loaded.use_structured_logging)
    desk = Licensing(loaded)
    with service.Probe(loaded.probe_host, loaded.probe_port, "licensing", desk.page) as probe:
        raise typer.Exit(service.run(lambda drain: desk.run(drain, probe)))


@usage_app.callback(
    epilog=_example(
        "steno usage --settings",
        "USAGE_TRACKER_URL=https://tracker.example steno usage",
        "steno usage report",
    )
)
def usage(context: typer.Context, settings: ShowSettings = False, with_parent: WithParent = False) -> None:
    """Run the usage service: it reports what sessions have used to the vendor's tracker.

    With a licence of flat billing it tracks nothing. Configured by environment variables only.
    """
    from usage.settings import UsageSettings

    if settings:
        return _show(UsageSettings)
    if context.invoked_subcommand:
        return None
    from usage.jobs import Usage
    from wire import service

    _watch_parent(with_parent)
    loaded = service.load(UsageSettings)
    service.configure_logging(loaded.logging_level, loaded.use_structured_logging)
    with service.Probe(loaded.probe_host, loaded.probe_port, "usage") as probe:
        raise typer.Exit(service.run(lambda drain: Usage(loaded).run(drain, probe)))


@usage_app.command("report", epilog=_example("steno usage report"))
def usage_report() -> None:
    """Show, as CSV, what Redis knows of usage: sessions that run, and those not yet counted by the tracker."""
    import asyncio
    import csv
    import sys

    from usage.settings import UsageSettings
    from wire import service
    from wire.accounts import Accounts
    from wire.keys import Keys
    from wire.streams import Bus

    loaded = service.load(UsageSettings)

    async def read() -> list[list[object]]:
        bus = Bus(loaded.redis_url, Keys(loaded.namespace))
        try:
            records = await Accounts(bus).usage_records()
        finally:
            await bus.close()
        return [
            [
                r.session,
                r.pool,
                r.model,
                r.lap,
                r.audio_ms,
                r.session_ms,
                r.started_ms,
                r.ended_ms if r.over else "",
            ]
            for r in sorted(records, key=lambda record: (record.started_ms, record.session))
        ]

    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["session", "pool", "model", "lap", "audio_ms", "session_ms", "started_ms", "ended_ms"])
    writer.writerows(asyncio.run(read()))


# ---------------------------------------------------------------------------------------------------------------------
# licences as files

PrivateKey = Annotated[Path, typer.Option("--key", metavar="FILE", help="The private key that signs.")]
Customer = Annotated[str, typer.Option(help="For whom.")]
Days = Annotated[float, typer.Option(min=0.001, help="Valid for so many days.")]
Pools = Annotated[
    str, typer.Option(metavar="POOL,...", help="Pools allowed, with commas between them; * is all.")
]
Sessions = Annotated[int, typer.Option(min=0, help="Most sessions at once on all nodes; 0 is no limit.")]
BillingKind = Annotated[str, typer.Option(metavar="flat|usage", help="How it is paid.")]
CheckinUrl = Annotated[
    str | None, typer.Option(metavar="URL", help="Where it checks in; without one it is offline.")
]
CheckinS = Annotated[float, typer.Option(min=1, help="Seconds between two check-ins.")]
TrustS = Annotated[float, typer.Option(min=1, help="Seconds that one check-in is good for.")]


@license_app.command(
    "keygen", epilog=_example("steno license keygen", "steno license keygen --algorithm RS256")
)
def keygen(
    private: Annotated[Path, typer.Option(metavar="FILE", help="Where the private key goes.")] = Path(
        "steno-private.pem"
    ),
    public: Annotated[Path, typer.Option(metavar="FILE", help="Where the public keys go.")] = Path(
        "steno-keys.json"
    ),
    algorithm: Annotated[str, typer.Option(metavar="EdDSA|RS256", help="What it signs with.")] = "EdDSA",
) -> None:
    """Make a key pair. The private one signs licences and stays with you; the public one goes to LICENSE_KEYS_PATH."""
    from licensing.issuer import write_key
    from licensing.minting import SigningKey

    write_key(SigningKey.generate(algorithm), private, public)
    typer.echo(f"private key (keep it): {private}\npublic keys: {public}")


@license_app.command(
    "issue",
    epilog=_example(
        "steno license issue --customer Acme --days 365 > license.jwt",
        "steno license issue --customer Acme --billing usage --max-sessions 100 --pools english",
    ),
)
def issue(
    customer: Customer,
    key: PrivateKey = Path("steno-private.pem"),
    issuer: Annotated[str, typer.Option(help="Whose licence it is: LICENSE_ISSUER of the stack.")] = "steno",
    days: Days = 365,
    pools: Pools = "*",
    max_sessions: Sessions = 0,
    billing: BillingKind = "flat",
) -> None:
    """Print an offline licence, signed. For one that checks in, and can be revoked, see [bold]steno issuer mint[/]."""
    from licensing.issuer import load_key
    from licensing.minting import mint

    terms = _terms(customer, days, pools, max_sessions, billing, None)
    typer.echo(mint(load_key(key), issuer, str(uuid.uuid4()), terms, time.time()))


@license_app.command("show", epilog=_example("steno license show license.jwt"))
def show(file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A licence.")]) -> None:
    """Print what a licence says of itself, believing nothing."""
    import json

    from licensing.license import peek

    typer.echo(json.dumps(peek(file.read_text(errors="replace")), indent=2, ensure_ascii=False))


@license_app.command("verify", epilog=_example("steno license verify license.jwt --keys steno-keys.json"))
def verify(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A licence.")],
    keys: Annotated[Path, typer.Option(exists=True, dir_okay=False, help="The public keys.")] = Path(
        "steno-keys.json"
    ),
    issuer: Annotated[str, typer.Option(help="Whose licence it should be.")] = "steno",
) -> None:
    """Tell whether a stack with these keys would take the licence now; exit 4 with the reason if not."""
    from licensing.jobs import read_file, read_keys
    from licensing.license import iso_time
    from licensing.settings import LicensingSettings

    settings = LicensingSettings(
        license_file_path=file, license_keys_path=keys, license_keys="", license_issuer=issuer
    )
    found = read_file(settings, read_keys(settings), time.time())
    typer.echo(f"good until {iso_time(found.expires_s)}: {found.customer}, pools {', '.join(found.pools)}")


def local_license_variables(env: Mapping[str, str]) -> dict[str, str]:
    """For a stack that licenses itself (`steno up`): a local offline licence, minted on first use, as variables.

    Empty where the operator has named a licence in `env`.
    """
    from licensing.issuer import local_license
    from workers import wheels

    if env.get("LICENSE_FILE_PATH"):
        return {}
    file, keys = local_license(wheels.cache_dir() / "license")
    return {"LICENSE_FILE_PATH": str(file), "LICENSE_KEYS_PATH": str(keys)}


def _terms(
    customer: str, days: float, pools: str, max_sessions: int, billing: str, url: str | None, *times: float
) -> "Terms":
    from licensing.minting import Terms

    names = tuple(name.strip() for name in pools.split(",") if name.strip())
    return Terms(customer, days, names, max_sessions, billing, url, *times)


# ---------------------------------------------------------------------------------------------------------------------
# the vendor's servers


@issuer_app.callback(
    epilog=_example("steno issuer", "steno issuer mint --customer Acme --checkin-url https://...")
)
def issuer(context: typer.Context, settings: ShowSettings = False, with_parent: WithParent = False) -> None:
    """Run the reference issuer: it answers the check-ins of licences in its book.

    Plain HTTP, for this machine: put a proxy that ends TLS before it. Configured by environment variables only.
    """
    from licensing.settings import IssuerSettings

    if settings:
        return _show(IssuerSettings)
    if context.invoked_subcommand:
        return None
    loaded, desk = _issuer()
    _watch_parent(with_parent)
    return _serve_web("issuer", loaded, loaded.issuer_host, loaded.issuer_port, desk.respond)


@issuer_app.command(
    "mint", epilog=_example("steno issuer mint --customer Acme --checkin-url https://l.example > license.jwt")
)
def issuer_mint(
    customer: Customer,
    checkin_url: CheckinUrl = None,
    checkin_s: CheckinS = 3600,
    trust_s: TrustS = 259_200,
    days: Days = 365,
    pools: Pools = "*",
    max_sessions: Sessions = 0,
    billing: BillingKind = "flat",
) -> None:
    """Enter a new licence in the book, and print it."""
    terms = _terms(customer, days, pools, max_sessions, billing, checkin_url, checkin_s, trust_s)
    typer.echo(_issuer()[1].mint(terms).token)


LicenseId = Annotated[str, typer.Argument(metavar="ID", help="The licence's id, as `list` shows it.")]


@issuer_app.command("revoke", epilog=_example("steno issuer revoke ID --reason 'not paid'"))
def issuer_revoke(
    license_id: LicenseId, reason: Annotated[str, typer.Option(help="What the customer is told.")] = "revoked"
) -> None:
    """Refuse the licence from its next check-in on."""
    _issuer()[1].revoke(license_id, reason)


@issuer_app.command("reinstate", epilog=_example("steno issuer reinstate ID"))
def issuer_reinstate(license_id: LicenseId) -> None:
    """Take a revocation back."""
    _issuer()[1].reinstate(license_id)


@issuer_app.command("list", epilog=_example("steno issuer list"))
def issuer_list() -> None:
    """Every licence in the book, as CSV."""
    from licensing.license import iso_time

    rows = [
        [
            entry.id,
            entry.customer,
            iso_time(entry.expires_s),
            entry.revoked or "",
            iso_time(entry.last_checkin_s) if entry.last_checkin_s else "",
        ]
        for entry in _issuer()[1].entries()
    ]
    _print_csv(["license", "customer", "expires", "revoked", "last_checkin"], rows)


@tracker_app.callback(epilog=_example("TRACKER_API_KEYS=key1,key2 steno tracker", "steno tracker report"))
def tracker(context: typer.Context, settings: ShowSettings = False, with_parent: WithParent = False) -> None:
    """Run the reference tracker: it counts what stacks report, each session once.

    Plain HTTP, for this machine: put a proxy that ends TLS before it. Configured by environment variables only.
    """
    from usage.settings import TrackerSettings

    if settings:
        return _show(TrackerSettings)
    if context.invoked_subcommand:
        return None
    loaded, desk = _tracker()
    _watch_parent(with_parent)
    return _serve_web("tracker", loaded, loaded.tracker_host, loaded.tracker_port, desk.respond)


@tracker_app.command("report", epilog=_example("steno tracker report > totals.csv"))
def tracker_report() -> None:
    """Totals by licence, day and pool, as CSV."""
    from usage.tracker import as_csv

    typer.echo(as_csv(_tracker()[1].totals()), nl=False)


def _issuer() -> "tuple[IssuerSettings, Issuer]":
    from licensing.issuer import Issuer, load_key
    from licensing.settings import IssuerSettings
    from wire import service

    loaded = service.load(IssuerSettings)
    return loaded, Issuer(loaded.issuer_book, load_key(loaded.issuer_key_path), loaded.issuer_name)


def _tracker() -> "tuple[TrackerSettings, Tracker]":
    from usage.settings import TrackerSettings
    from usage.tracker import Tracker
    from wire import service

    loaded = service.load(TrackerSettings)
    keys = loaded.tracker_api_keys.get_secret_value().split(",")
    return loaded, Tracker(loaded.tracker_book, keys)


def _serve_web(
    name: str, settings: "ServiceSettings", host: str, port: int, respond: "Callable[[Ask], Tell]"
) -> None:
    """Serve until SIGTERM or Ctrl-C. A request that is cut off is in the book as a whole, or not at all."""
    import asyncio
    import logging

    from wire import service
    from wire.web import WebServer

    service.configure_logging(settings.logging_level, settings.use_structured_logging)

    async def until(drain: asyncio.Event) -> None:
        with WebServer(host, port, respond) as web:
            logging.getLogger(f"steno.{name}").info("Listening", extra={"url": web.url})
            await drain.wait()

    raise typer.Exit(service.run(until))


def _print_csv(head: list[str], rows: Iterable[Iterable[object]]) -> None:
    import csv
    import sys

    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)


def _show(cls: "type[ServiceSettings]") -> None:
    from cli.main import show_settings

    show_settings(cls)


def _watch_parent(wanted: bool) -> None:
    if wanted:
        from cli.child import exit_with_parent

        exit_with_parent()
