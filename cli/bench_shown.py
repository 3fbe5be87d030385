"""What all commands of `steno bench` share: options, a line that moves while measuring, tables, JSON."""

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer


def _pools() -> list[str]:
    from workers.entry import POOLS

    return list(POOLS)


OfPool = Annotated[
    str, typer.Option(metavar="POOL", autocompletion=_pools, help="Which pool; it is run alone.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Out = Annotated[
    Path, typer.Option(metavar="DIR", file_okay=False, help="Where JSON and picture are written.")
]
Tls = Annotated[bool, typer.Option("--tls", help="Over wss://, with a certificate made for the run.")]
Quick = Annotated[
    bool, typer.Option("--short", "--quick", help="A minute's look; too short for figures to quote.")
]
Tell = Callable[[str], None]
RESULTS = Path("bench-results")
#: Between two lines about how far a benchmark is, where no terminal shows it.
LINES_S = 20.0


def counts(text: str) -> list[int]:
    """The numbers of `--sessions`. Raises BadParameter."""
    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError:
        counts = []
    if not counts or min(counts) < 1:
        raise typer.BadParameter(
            "numbers of sessions with commas between, such as 1,4,8", param_hint="--sessions"
        )
    return counts


def capacity(results: Path, sizes: Sequence[int]) -> str:
    """The page of `steno bench capacity` from the results in this folder. Raises BadParameter without any."""
    from cli import bench_capacity

    found = {path.stem: json.loads(path.read_text()) for path in sorted(results.glob("*.json"))}
    if not found:
        raise typer.BadParameter(
            f"no results in {results}: run `steno bench ingress` and `steno bench worker` first",
            param_hint="--results",
        )
    return bench_capacity.page(found, str(results), sizes)


@contextlib.contextmanager
def measuring(quiet: bool, pools: Sequence[str] = ("english",)) -> Iterator[Tell]:
    """Tools, and the weights of these pools, at hand; a line that moves while measuring; where no terminal shows
    it, one every LINES_S.
    """
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from cli import up
    from cli.bench_machine import tool

    for name in ("psutil", "matplotlib"):
        tool(name)  # missing: say so before measuring for minutes
    notes = Console(stderr=True)
    if pools:
        up.fetch_weights(notes, pools=pools)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    if not notes.is_terminal:
        with up.signals_as_ctrl_c():
            yield (lambda _: None) if quiet else _lines(notes.print)
        return
    with up.signals_as_ctrl_c(), Progress(*columns, console=notes, transient=True, disable=quiet) as progress:
        task = progress.add_task("measuring")
        yield lambda text: progress.update(task, description=text)


def _lines(write: Callable[[str], None]) -> Tell:
    """Written down to be read later: not every step."""
    started_s = next_s = time.monotonic()

    def tell(text: str) -> None:
        nonlocal next_s
        if (now_s := time.monotonic()) >= next_s:
            next_s = now_s + LINES_S
            write(f"{now_s - started_s:6.0f} s  {text}")

    return tell


def described(name: str, measured: dict[str, Any], quick: bool) -> dict[str, Any]:
    """The whole result: what was measured, on what, by which versions."""
    from cli import bench_machine

    return {"bench": name, "quick": quick, **bench_machine.describe(), **measured}


def write(result: dict[str, Any], out: Path, draw: Callable[[Path], None] | None) -> None:
    """JSON and picture, named after the benchmark; without `draw` no picture."""
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{result['bench']}.json").write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    kinds = ["json"]
    if draw is not None:
        draw(out / f"{result['bench']}.png")
        kinds.append("png")
    result["written"] = [str(out / f"{result['bench']}.{kind}") for kind in kinds]


def title(result: dict[str, Any]) -> str:
    """What a picture or a table is of."""
    machine, versions = result["machine"], result["versions"]
    return (
        f"steno bench {result['bench']}: {machine['processor']}, {machine['cores']} cores; steno {versions['steno']} "
        f"({result['commit']}), torch {versions['torch']}"
    )


def show(result: dict[str, Any], header: tuple[str, ...], rows: list[tuple[Any, ...]], as_json: bool) -> None:
    """As a table, with what it was measured on and how; or as JSON on one line."""
    from rich.table import Table

    if as_json:
        typer.echo(json.dumps(result, ensure_ascii=False))
        return
    table = Table(*header, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*("-" if cell is None else str(cell) for cell in row))
    say(title(result))
    for line in (result["machine"], result["versions"], result["settings"]):
        say("[dim]" + ", ".join(f"{name} {value}" for name, value in line.items()) + "[/]")
    say(f"[dim]{result['method']}[/]\n")
    say(table)
    say("\n[dim]written: " + ", ".join(result["written"]) + "[/]")


def show_levels(result: dict[str, Any], parts: dict[str, str], as_json: bool) -> None:
    """A row for each level: these of its figures, named so, then cores of each service, and whether it holds."""
    services = list(result["levels"][0]["cores"])
    rows = [
        (
            *(level[part] for part in parts),
            *(f"{level['cores'][name]:.2f}" for name in services),
            "yes" if level["holds"] else ", ".join(level["falls_short"]),
        )
        for level in result["levels"]
    ]
    show(result, (*parts.values(), *services, "holds"), rows, as_json)


def say(what: Any) -> None:
    """To standard output, with rich's markup."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console = Console(width=200)  # a file has no width
    console.print(what, highlight=False)
