"""Files that the operator may change while we run: were they?"""

from collections.abc import Sequence
from pathlib import Path


class Watched:
    """Ask `changed` now and then; it looks at times, sizes and identities, so that a replaced file is noticed too.

    Make it before the files are read: what changes during the reading is then found at the next look.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = tuple(paths)
        self._seen = self._look()

    def changed(self) -> bool:
        """Whether anything is different from the last look; a file that has gone, or come back, is."""
        before, self._seen = self._seen, self._look()
        return before != self._seen

    def _look(self) -> list[tuple[int, ...]]:
        return [_signature(path) for path in self._paths]


def _signature(path: Path) -> tuple[int, ...]:
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_mtime_ns, found.st_size, found.st_ino, found.st_dev
