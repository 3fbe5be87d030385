"""Which release this is."""

from functools import cache
from importlib import metadata


@cache
def software() -> str:
    """The installed version, or a word for a tree that was not installed."""
    try:
        return metadata.version("steno")
    except metadata.PackageNotFoundError:
        return "(not installed)"
