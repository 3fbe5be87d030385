"""Writes `compose/requirements/`: for each image, every package, its version, and the hash of its file.

    python compose/lock.py             (part of `make lock`)

Versions are those of `constraints.txt`. What is chosen is chosen by pip, for Linux on x86_64 and the Python that runs
this, which must be the images'. The CPU image holds the hash of the build of torch that pip is set up for here; the GPU
image is resolved as if pip were not set up at all, which brings the build with CUDA libraries.
"""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "compose" / "requirements"

#: What every process needs.
SERVICE = (
    "arq",
    "cryptography",
    "httpx",
    "msgpack",
    "platformdirs",
    "prometheus-client",
    "pydantic",
    "pydantic-settings",
    "PyJWT",
    "redis",
    "rich",
    "typer",
    "uvloop",
)
INGRESS = (*SERVICE, "av", "h11", "numpy", "soxr", "websockets")
#: What redis-py asks for on a Python before 3.11.3, such as Debian's, and does without on a later one.
OLDER_PYTHON = ("async-timeout",)


def wanted() -> dict[str, list[str]]:
    """Image -> requirements, as the project has them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    named = {
        re.split(r"[\[>=<;]", each)[0].strip().lower(): each for each in project["project"]["dependencies"]
    }
    named["cryptography"] = "cryptography"  # PyJWT's extra, imported by name
    every = [*(each for name, each in named.items() if name != "cryptography"), *OLDER_PYTHON]
    return {
        "build": list(project["build-system"]["requires"]),
        "service": [*(named[name.lower()] for name in SERVICE), *OLDER_PYTHON],
        "ingress": [*(named[name.lower()] for name in INGRESS), *OLDER_PYTHON],
        "worker-cpu": every,
        "worker-gpu": every,
    }


def resolve(requirements: list[str], isolated: bool) -> list[str]:
    """`name==version --hash=sha256:...` of everything that pip would install, in order of names."""
    with TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        pip = [sys.executable, "-m", "pip", *(["--isolated"] if isolated else []), "install", "--quiet"]
        how = ["--disable-pip-version-check", "--dry-run", "--ignore-installed", "--only-binary", ":all:"]
        pins = ["-c", str(ROOT / "constraints.txt"), "--report", str(report)]
        subprocess.run([*pip, *how, *pins, *requirements], check=True)
        return sorted(map(_line, json.loads(report.read_text())["install"]), key=str.lower)


def _line(installed: dict[str, Any]) -> str:
    named, file = installed["metadata"], installed["download_info"]["archive_info"]
    version = named["version"].partition("+")[0]  # a build of torch is chosen by its hash
    return f"{named['name']}=={version} --hash=sha256:{file['hashes']['sha256']}"


def main() -> None:
    for image, requirements in wanted().items():
        lines = resolve(requirements, isolated=image == "worker-gpu")
        head = f"# What the image {image} is made of. Made by `make lock`; change pyproject.toml, not this."
        (FOLDER / f"{image}.txt").write_text("\n".join((head, *lines, "")))
        print(f"compose/requirements/{image}.txt holds {len(lines)} hashes")


if __name__ == "__main__":
    main()
