"""Files of `compose/` and the settings of the processes, held against each other: always, with no tool but Python.

Every file parses; every variable that a file hands to a process is one that the process knows; every variable that a
process knows is told of in docs/settings.md (test_pages.py); every variable of a Compose file stands in .env.example,
and the reverse.
"""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from compose.pages import PROCESSES
from ingress.settings import IngressSettings
from wire.service import describe, load
from workers.settings import WorkerSettings

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "compose"
STACKS = ("docker-compose.yml", "docker-compose.u3pro.yml", "docker-compose.monitoring.yml", "common.yml")
#: Variables that are read outside settings.
OTHERS = {"STENO_CACHE"}
#: Service -> whose settings its variables are.
SERVICES = {"licensing": "licensing", "usage": "usage", "streaming-api": "ingress", "worker": "worker"}


def variables(process: str) -> set[str]:
    return {name for names, _, _ in describe(PROCESSES[process]) for name in names.split(", ")}


def services(file: str) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = yaml.safe_load((COMPOSE / file).read_text())["services"]
    return found


def interpolated(text: str) -> set[str]:
    """The names in `${NAME...}`."""
    return set(re.findall(r"\$\{(\w+)", text))


def yaml_files() -> Iterator[Path]:
    for pattern in ("*.yml", "*.yaml"):
        for path in COMPOSE.rglob(pattern):
            if "templates" not in path.parts:  # those are parsed once rendered
                yield path


@pytest.mark.parametrize("path", list(yaml_files()), ids=lambda path: str(path.relative_to(COMPOSE)))
def test_every_yaml_file_parses(path):
    assert list(yaml.safe_load_all(path.read_text()))


def test_every_json_file_parses():
    assert [json.loads(path.read_text()) for path in COMPOSE.rglob("*.json")]


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_is_told_what_its_process_knows(service):
    told = set(services("common.yml")[service].get("environment", {}))
    assert told <= variables(SERVICES[service]) | OTHERS


def test_images_set_what_their_processes_know():
    text = (COMPOSE / "Dockerfile").read_text()
    set_there = set(re.findall(r"(\w+)=", "\n".join(re.findall(r"^ENV (.*)$", text, re.MULTILINE))))
    known = set().union(*map(variables, PROCESSES)) | OTHERS
    foreign = {"PATH", "HOME", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE", "RES_OPTIONS"}
    foreign |= {"PIP_DISABLE_PIP_VERSION_CHECK", "PIP_NO_CACHE_DIR"}
    foreign |= {"NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES"}
    assert set_there - foreign <= known


def test_every_variable_of_the_guides_exists():
    known = set().union(*map(variables, PROCESSES)) | OTHERS | example() | DOCUMENTED | WITHOUT_EFFECT
    for page in (*(ROOT / "docs").glob("*.md"), ROOT / "README.md", ROOT / "examples" / "README.md"):
        named = set(re.findall(r"`([A-Z][A-Z0-9]*_[A-Z0-9_]+)(?:=[^`]*)?`", page.read_text()))
        assert named - known == set(), page


#: Of the mirrored stack (protocol 8.2), named in docs/settings.md as such.
WITHOUT_EFFECT = {
    "AAI_ASR_ENDPOINT",
    "AAI_USE_SECURE_CHANNEL_TO_ASR_SERVICE",
    "AAI_LICENSE_AND_USAGE_PROXY_ENDPOINT",
    "AAI_SUPPORTED_ASR_DEPLOYMENTS",
    "VLLM_USE_FLASHINFER_SAMPLER",
    "VLLM_ATTENTION_BACKEND",
}


def test_variables_of_the_mirrored_stack_that_set_nothing_do_no_harm(monkeypatch):
    page = (ROOT / "docs" / "settings.md").read_text()
    for name in WITHOUT_EFFECT:
        assert f"`{name}`" in page
        monkeypatch.setenv(name, "anything")
    for cls in PROCESSES.values():
        load(cls)


#: Of other programs, or of the build.
DOCUMENTED = {
    "COMPOSE_PROFILES",
    "GRAFANA_PASSWORD",
    "REDIS_IMAGE",
    "NGINX_IMAGE",
    "PYTHON_IMAGE",
    "WEIGHTS",
    "STENO_CLIENTS",
    "STENO_URL",
}


def example() -> set[str]:
    text = (COMPOSE / ".env.example").read_text()
    return set(re.findall(r"^#?([A-Z][A-Z0-9_]+)=", text, re.MULTILINE))


def test_the_example_of_env_names_what_the_stacks_ask_for():
    asked = set().union(*(interpolated((COMPOSE / file).read_text()) for file in STACKS))
    assert example() - asked == {"COMPOSE_PROFILES"}
    assert asked - example() == set()


def test_the_defaults_of_the_example_are_those_of_the_stacks():
    text = "\n".join((COMPOSE / file).read_text() for file in STACKS)
    defaults = dict(re.findall(r"\$\{(\w+):?-([^}]*)\}", text))
    given = dict(
        line.split("=", 1) for line in (COMPOSE / ".env.example").read_text().splitlines() if "=" in line
    )
    for name, value in given.items():
        if name in defaults and not name.startswith("#"):
            assert value == defaults[name], name


@pytest.mark.parametrize("file", ["docker-compose.yml", "docker-compose.u3pro.yml"])
def test_a_stack_has_the_names_and_ports_of_the_mirrored_one(file):
    stack, common = services(file), services("common.yml")
    assert {"streaming-api", "streaming-asr-lb", "redis", "licensing", "usage"} <= set(stack)
    pools = {"docker-compose.yml": {"english", "multilang"}, "docker-compose.u3pro.yml": {"u3pro"}}[file]
    assert {f"streaming-asr-{pool}" for pool in pools} <= set(stack)
    published = "\n".join(str(each.get("ports")) for each in common.values())
    for port in ("8080}:8080", "8081}:8081", "8082}:8080"):
        assert port in published


@pytest.mark.parametrize("file", ["docker-compose.yml", "docker-compose.u3pro.yml"])
def test_only_who_must_is_on_the_network_that_leads_outside(file):
    common = services("common.yml")
    leaving = {name for name, service in common.items() if "outside" in (service.get("networks") or {})}
    assert leaving == {"licensing", "usage", "streaming-asr-lb"}
    networks = yaml.safe_load((COMPOSE / file).read_text())["networks"]
    assert networks["streaming-network"] == {"internal": True}


def test_merged_files_agree_on_what_they_share():
    universal, pro = services("docker-compose.yml"), services("docker-compose.u3pro.yml")
    shared = set(universal) & set(pro)
    assert shared == {"redis", "licensing", "usage", "streaming-api", "streaming-asr-lb"}
    assert {name: universal[name] for name in shared} == {name: pro[name] for name in shared}


def test_every_service_is_bounded_hardened_and_comes_back():
    for name, service in services("common.yml").items():
        if "extends" in service:
            continue
        assert service["restart"] == "unless-stopped", name
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["logging"]["options"] == {"max-size": "30m"}, name
        assert service["deploy"]["resources"]["limits"].keys() == {"cpus", "memory"}, name


def test_graces_are_longer_than_what_processes_take():
    common = services("common.yml")
    api = re.search(r"-(\d+)s\}", common["streaming-api"]["stop_grace_period"])
    assert api
    told = re.search(r"-(\d+)\}", common["streaming-api"]["environment"]["DRAIN_S"])
    assert told
    assert int(api[1]) > int(told[1]) + IngressSettings().webhook_grace_s
    worker = common["worker"]["stop_grace_period"]
    assert int(worker.removesuffix("s")) > WorkerSettings().drain_grace_s


def test_every_file_that_is_mounted_is_there():
    operators = {"./license.jwt", "./steno-keys.json"}
    text = "\n".join((COMPOSE / file).read_text() for file in STACKS)
    mounted = set(re.findall(r"-\s+(?:\$\{\w+:-)?(\./[\w./-]+)\}?:/", text))
    assert mounted >= operators
    assert "./redis" in mounted
    assert [path for path in mounted - operators if not (COMPOSE / path).exists()] == []
    assert os.access(COMPOSE / "nginx" / "run.sh", os.R_OK)
