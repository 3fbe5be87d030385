"""What images are made of: hashes for all of it, and all that the processes import."""

import ast
import re
import sys
from pathlib import Path

import pytest

from compose import lock

ROOT = Path(__file__).parents[2]
LINE = re.compile(r"[A-Za-z0-9_.-]+==[^ ]+ --hash=sha256:[0-9a-f]{64}")
#: Module -> the package that brings it, where they are called differently.
PACKAGES = {
    "jwt": "pyjwt",
    "prometheus_client": "prometheus-client",
    "pydantic_settings": "pydantic-settings",
}
ROOMS = {"cli", "console", "ingress", "licensing", "usage", "wire", "workers"}


def pinned(image: str) -> dict[str, str]:
    lines = (lock.FOLDER / f"{image}.txt").read_text().splitlines()[1:]
    assert all(LINE.fullmatch(line) for line in lines)
    return {normal(line.split("==")[0]): line.split("==")[1].split()[0] for line in lines}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("image", lock.wanted())
def test_an_image_is_made_of_what_was_tested(image):
    tested = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line
    )
    versions = {normal(name): version for name, version in tested.items()}
    found = pinned(image)
    assert {name: version for name, version in found.items() if versions.get(name, version) != version} == {}
    named = {normal(re.split(r"[\[>=<;]", each)[0].strip()) for each in lock.wanted()[image]}
    assert named <= set(found)


@pytest.mark.parametrize(
    "image, rooms", [("service", ("wire", "licensing", "usage")), ("ingress", ("wire", "ingress"))]
)
def test_an_image_holds_all_that_its_processes_import(image, rooms):
    """The rest they import they do not need: `cli` asks for it when a command does."""
    wanted = {
        module.split(".")[0]
        for room in rooms
        for file in (ROOT / room).rglob("*.py")
        for module in imported(ast.parse(file.read_text()))
    }
    missing = {
        module
        for module in wanted - ROOMS
        if module in PACKAGES or module not in sys.stdlib_module_names
        if normal(PACKAGES.get(module, module)) not in pinned(image)
    }
    assert missing == set()


def imported(tree: ast.AST) -> list[str]:
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.append(node.module)
    return found


def test_the_gpu_image_differs_from_the_cpu_image_by_torch_and_what_it_brings():
    cpu, gpu = pinned("worker-cpu"), pinned("worker-gpu")
    assert {name for name in cpu if gpu.get(name) != cpu[name]} == set()
    more = set(gpu) - set(cpu)
    assert more
    assert all(name.startswith(("nvidia-", "cuda-", "triton")) for name in more)
    lines = [(lock.FOLDER / f"worker-{kind}.txt").read_text() for kind in ("cpu", "gpu")]
    hashes = {each for text in lines for each in re.findall(r"^torch==.*sha256:(\w+)", text, re.MULTILINE)}
    assert len(hashes) == 2


def test_the_dockerfile_copies_only_what_is_sent_to_the_builder():
    sent = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    text = (ROOT / "compose" / "Dockerfile").read_text()
    for sources in re.findall(r"^COPY (?!--from)(.*) \S+$", text, re.MULTILINE):
        for source in sources.split():
            assert source.startswith(tuple(sent)), source
            assert (ROOT / source).exists(), source


def test_no_image_runs_as_root_and_each_tells_its_health():
    text = (ROOT / "compose" / "Dockerfile").read_text()
    runtime = text[text.index("AS runtime") :]
    assert re.search(r"^USER 10001:10001$", runtime, re.MULTILINE)
    assert "USER root" not in runtime
    assert runtime.count("HEALTHCHECK") == 2
    assert "STOPSIGNAL SIGTERM" in runtime
    for target in ("service", "ingress", "worker-cpu", "worker-gpu"):
        assert re.search(rf"^FROM (runtime|worker) AS {target}$", runtime, re.MULTILINE)
