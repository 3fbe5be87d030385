"""Programs that some tests drive and that no Python package brings: Debian's nginx, chromium and the like.

`make tools` installs them where it may; a machine without them passes what it can, and says what it left out.
"""

import shutil

import pytest


def tool(*names: str) -> str:
    """The path of the first of these programs that is installed; skips the test where none is."""
    for name in names:
        if path := shutil.which(name, path=None) or shutil.which(name, path="/usr/sbin:/sbin"):
            return path
    return pytest.skip(f"{' or '.join(names)} is not installed: `make tools`, or your system's package")
