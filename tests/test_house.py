"""The rules of the house, enforced: who may import whom, what pure files may not do, and that tests mirror sources.

Three kinds of files. A *pure* file decides and touches nothing: no loop, clock, log, randomness, environment or file. A
*tensor* file computes: torch and numpy, nothing of the wire. All others are *edges*, which act. To add a file, put it
into `PURE` or `TENSORS` if it is one; to add a dependency, give it a door in `DOORS`.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Container, Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("cli", "console", "ingress", "licensing", "usage", "wire", "workers")

PURE = {
    "wire/acl.py",
    "wire/clock.py",
    "wire/entries.py",
    "wire/errors.py",
    "wire/keys.py",
    "wire/messages.py",
    "wire/params.py",
    "wire/recorded.py",
    "wire/recordings.py",
    "wire/speech_models.py",
    "wire/strides.py",
    "wire/webhook_url.py",
    "ingress/audio.py",
    "ingress/carried.py",
    "ingress/consent.py",
    "ingress/decoding.py",
    "ingress/framing.py",
    "ingress/giveway.py",
    "ingress/credentials.py",
    "ingress/handshake.py",
    "ingress/laps.py",
    "ingress/ledger.py",
    "ingress/license.py",
    "ingress/pools.py",
    "ingress/replay.py",
    "ingress/restarts.py",
    "ingress/session.py",
    "ingress/tape.py",
    "ingress/tokens.py",
    "licensing/license.py",
    "licensing/trust.py",
    "usage/batch.py",
    "workers/bpe.py",
    "workers/completeness.py",
    "workers/convert_moonshine.py",
    "workers/convert_whisper.py",
    "workers/ct2_format.py",
    "workers/endpointing.py",
    "workers/feeders.py",
    "workers/language.py",
    "workers/memory.py",
    "workers/onnx_format.py",
    "workers/ort_format.py",
    "workers/overload.py",
    "workers/profanity.py",
    "workers/recognizer.py",
    "workers/seat.py",
    "workers/leftover.py",
    "workers/slots.py",
    "workers/tags.py",
    "workers/telling.py",
    "workers/turns.py",
    "workers/window.py",
    "workers/words.py",
    "workers/u3pro/prompt.py",
    "cli/bench_capacity.py",
    "cli/bench_model.py",
    "cli/bench_plan.py",
    "cli/bench_reach.py",
    "cli/latencies.py",
    "cli/resuming.py",
    "console/door.py",
    "console/drawing.py",
    "console/markup.py",
    "console/measured.py",
    "console/retold.py",
    "console/score.py",
    "cli/replay_diff.py",
    "wire/delays.py",
}
TENSORS = {
    "workers/biasing.py",
    "workers/boosting.py",
    "workers/drafting.py",
    "workers/dummy.py",
    "workers/features.py",
    "workers/int8.py",
    "workers/listening.py",
    "workers/native.py",
    "workers/redecode.py",
    "workers/stream.py",
    "workers/streaming.py",
    "workers/transducer.py",
    "workers/vad.py",
    "workers/models/decoder.py",
    "workers/models/fastconformer.py",
    "workers/models/moonshine.py",
    "workers/models/whisper.py",
    "workers/english/recognizer.py",
    "workers/multilang/recognizer.py",
    "workers/u3pro/recognizer.py",
}

#: Room -> rooms it may import, itself apart. Services meet only in Redis.
ARROWS: dict[str, set[str]] = {
    "wire": set(),
    "ingress": {"wire"},
    "workers": {"wire"},
    "licensing": {"wire"},
    "usage": {"wire"},
    "console": {"wire"},
    "cli": {"wire", "console", "ingress", "workers", "licensing", "usage"},
}
#: File or folder -> modules of ours that it may not import, whatever its room may.
CLOSED = {
    "wire/streams.py": ("wire.service", "wire.metrics"),
    "wire/metrics.py": ("wire.service", "wire.streams"),
    "wire/service.py": ("wire.streams",),
    "workers/engine.py": ("workers.english", "workers.models", "workers.redecode", "workers.vad"),
    "workers/pool.py": ("workers.english", "workers.models", "workers.redecode", "workers.vad"),
    "workers/models/": ("workers.english", "workers.redecode", "workers.recognizer"),
}
#: Third-party module -> the files (or folders) that may import it.
DOORS = {
    "redis": {
        "wire/line.py",
        "wire/servers.py",
        "wire/streams.py",
        "wire/ticks.py",
        "cli/redis_server.py",
        "cli/redis_fleet.py",
    },
    "hiredis": {"wire/line.py"},
    "arq": {"wire/ticks.py"},
    "httpx": {"wire/outbound.py"},
    "jwt": {"ingress/tokens.py", "licensing/license.py", "licensing/minting.py"},
    "cryptography": {"licensing/minting.py", "wire/sealing.py"},
    "msgpack": {"wire/entries.py"},
    "prometheus_client": {"wire/metrics.py", "wire/service.py"},
    "uvloop": {"wire/service.py"},
    "websockets": {
        "ingress/connection.py",
        "ingress/front.py",
        "cli/bench_bare.py",
        "cli/bench_churn.py",
        "cli/bench_soak_crowd.py",
        "cli/client.py",
        "cli/replay_play.py",
        "console/live.py",
    },
    "starlette": {"console/live.py", "console/site.py"},
    "uvicorn": {"console/server.py"},
    "pydantic": {
        "wire/params.py",
        "wire/sealing.py",
        "wire/service.py",
        "ingress/settings.py",
        "ingress/tokens.py",
        "workers/settings.py",
        "licensing/settings.py",
        "usage/settings.py",
        "console/settings.py",
    },
    "pydantic_core": {"wire/params.py"},
    "pydantic_settings": {"wire/service.py"},
    "numpy": {
        "ingress/audio.py",
        "ingress/decoding.py",
        "workers/",
        "cli/",
        "console/drawing.py",
        "console/sound.py",
    },
    "av": {"ingress/decoding.py"},
    "h11": {"ingress/webhook.py"},
    "soxr": {"ingress/audio.py", "cli/audio_file.py"},
    "torch": {"workers/", "cli/bench_transducer.py"},
    "flatbuffers": {"workers/ort_format.py"},
    "requests": {"workers/wheels.py"},
    "platformdirs": {"workers/wheels.py"},
    "soundfile": {"cli/audio_file.py", "cli/replay_files.py", "console/sound.py"},
    "sounddevice": {"cli/mic.py"},
    "typer": {"cli/"},
    "rich": {"cli/"},
}

_ACTING = (
    "asyncio concurrent io logging os pathlib random secrets shutil socket subprocess tempfile threading uuid"
)
FORBIDDEN_MODULES = {
    *_ACTING.split(),
    "time",
    "urllib.request",
    "contextvars",
    "signal",
    "multiprocessing",
    "queue",
}
FORBIDDEN_CALLS = re.compile(
    r"^(print|open|input|exec|eval)$|\bdatetime\.(now|utcnow|today)$|\b(np|numpy)\.random\b|\b(torch|np)\.(load|save)$"
)

#: Sources without a test file of their own. May only shrink.
UNTESTED: set[str] = set()
#: Tests of the whole rather than of one file.
WHOLE = (
    "tests/compose/",
    "tests/conformance/",
    "tests/golden/",
    "tests/system/",
    "tests/test_house.py",
)
#: Who may sleep in tests: what waits for conditions, what plays a partner, who speaks in real time.
SLEEPERS = ("tests/conftest.py", "tests/fakes.py", "tests/conformance/")
#: Names that say nothing.
EMPTY_NAMES = {"utils", "util", "helpers", "helper", "common", "base", "manager", "misc", "data", "info"}

#: The page of all limits, and what is looked for on it.
BOUNDS = (ROOT / "docs/bounds.md").read_text()
QUEUES = re.compile(r"(^|\.)(deque|Queue|LifoQueue|PriorityQueue|SimpleQueue)(\[.*\])?$")

SOURCES = {
    path.relative_to(ROOT).as_posix(): ast.parse(path.read_text())
    for room in ROOMS
    for path in sorted((ROOT / room).rglob("*.py"))
}
TESTS = {path.relative_to(ROOT).as_posix(): path for path in sorted((ROOT / "tests").rglob("*.py"))}


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, dotted module) of every import; `from a import b` counts as `a` and as `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, node.module or ""
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def within(module: str, names: Container[str]) -> bool:
    """Whether `module` is one of `names`, or inside one."""
    parts = module.split(".")
    return any(".".join(parts[: end + 1]) in names for end in range(len(parts)))


def covered(path: str, places: Iterable[str]) -> bool:
    """Whether `path` is one of `places`, or lies in a folder among them (those end in a slash)."""
    return any(path == place or (place.endswith("/") and path.startswith(place)) for place in places)


def calls(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, what is called) as written."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield node.lineno, ast.unparse(node.func)


def texts(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, text) of every literal that is not a docstring."""
    documentation = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
        if node.body and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and id(node) not in documentation:
            if isinstance(node.value, str):
                yield node.lineno, node.value
            elif isinstance(node.value, bytes):
                yield node.lineno, node.value.decode("latin-1")


# ---------------------------------------------------------------------------------------------------------------------
# arrows and doors


def test_the_lists_name_files_that_exist():
    named = PURE | TENSORS | UNTESTED | {place for places in DOORS.values() for place in places} | set(CLOSED)
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []
    assert not PURE & TENSORS


@pytest.mark.parametrize("path", SOURCES)
def test_arrows_between_rooms(path: str):
    room = path.split("/", maxsplit=1)[0]
    closed = next((modules for place, modules in CLOSED.items() if covered(path, [place])), ())
    for line, module in imports(SOURCES[path]):
        other = module.split(".")[0]
        assert other not in ROOMS or other == room or other in ARROWS[room], f"{path}:{line} imports {module}"
        assert not within(module, closed), f"{path}:{line} imports {module}"


@pytest.mark.parametrize("path", SOURCES)
def test_each_dependency_has_its_door(path: str):
    for line, module in imports(SOURCES[path]):
        top = module.split(".")[0]
        if top not in ROOMS and top not in sys.stdlib_module_names:
            assert top in DOORS, f"{path}:{line} imports {top}, which has no door"
            assert covered(path, DOORS[top]), f"{path}:{line} imports {top}"


def test_a_service_without_a_model_runs_where_torch_is_not_installed():
    modules = [
        path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for path in SOURCES
        if path.startswith(("wire/", "ingress/", "licensing/", "usage/", "console/"))
    ]
    code = f"""
import importlib, importlib.abc, sys
class NoTorch(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.split(".")[0] in ("torch", "transformers"):
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, NoTorch())
for module in {modules} + ["cli.main"]:
    importlib.import_module(module)
"""
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr


# ---------------------------------------------------------------------------------------------------------------------
# pure files and tensor files


@pytest.mark.parametrize("path", sorted(PURE | TENSORS))
def test_what_decides_or_computes_does_not_act(path: str):
    for line, module in imports(SOURCES[path]):
        assert not within(module, FORBIDDEN_MODULES), f"{path}:{line} imports {module}"
        file = module.replace(".", "/") + ".py"
        assert file not in SOURCES or file in PURE | TENSORS, f"{path}:{line} imports {module}, an edge"
    for line, call in calls(SOURCES[path]):
        assert not FORBIDDEN_CALLS.search(call), f"{path}:{line} calls {call}"


@pytest.mark.parametrize("path", sorted(PURE))
def test_pure_files_know_no_tensors(path: str):
    for line, module in imports(SOURCES[path]):
        assert not within(module, {"torch"}), f"{path}:{line} imports {module}"
        assert module.replace(".", "/") + ".py" not in TENSORS, f"{path}:{line} imports {module}"


@pytest.mark.parametrize("path", sorted(TENSORS))
def test_tensor_files_know_no_wire(path: str):
    for line, module in imports(SOURCES[path]):
        assert not within(module, {"wire"}), f"{path}:{line} imports {module}"


@pytest.mark.parametrize("path", SOURCES)
def test_only_tensor_files_define_modules(path: str):
    """An edge may hold torch to load weights and to step a model; it builds no layer."""
    if path not in TENSORS:
        classes = [node for node in ast.walk(SOURCES[path]) if isinstance(node, ast.ClassDef)]
        modules = [node.name for node in classes for base in node.bases if "nn.Module" in ast.unparse(base)]
        assert not modules, f"{path} defines {modules}"


# ---------------------------------------------------------------------------------------------------------------------
# habits


@pytest.mark.parametrize("path", [path for path in SOURCES if path != "wire/keys.py"])
def test_keys_are_built_in_one_place(path: str):
    for line, text in texts(SOURCES[path]):
        assert not re.search(
            r"(^|:)(offers|pool|session|ingress|places|usage|license|recording):(?!\s)", text
        ), f"{path}:{line} {text}"
        assert not re.search(r":(audio|events|state|inbox|workers)$", text), f"{path}:{line} {text}"


@pytest.mark.parametrize("path", SOURCES)
def test_tasks_live_in_groups(path: str):
    for line, call in calls(SOURCES[path]):
        receiver, _, name = call.rpartition(".")
        if name in ("create_task", "ensure_future"):
            grouped = receiver.split(".")[-1].strip("_") in ("tasks", "group") and name == "create_task"
            assert grouped, f"{path}:{line} calls {call}; make tasks of a TaskGroup called `tasks` or `group`"


def boundless(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, name) of each queue without a limit of its own; name: the variable or attribute that holds it."""
    holders = [node for node in ast.walk(tree) if isinstance(node, (ast.Assign, ast.AnnAssign))]
    held = {
        id(inner): ast.unparse(node.targets[0] if isinstance(node, ast.Assign) else node.target).split(".")[
            -1
        ]
        for node in holders
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        made = isinstance(node, ast.Call) and QUEUES.search(ast.unparse(node.func))
        if made and isinstance(node, ast.Call):
            limited = len(node.args) > (1 if "deque" in ast.unparse(node.func) else 0)
            if not limited and not {word.arg for word in node.keywords} & {"maxlen", "maxsize"}:
                yield node.lineno, held.get(id(node), "?")
        elif (
            isinstance(node, ast.keyword)
            and node.arg == "default_factory"
            and QUEUES.search(ast.unparse(node.value))
        ):
            yield node.value.lineno, held.get(id(node), "?")


def test_queues_without_a_limit_are_found():
    found = boundless(
        ast.parse(
            "self._a: deque[int] = deque()\nb = asyncio.Queue()\nc = deque(maxlen=4)\nd = deque([1], 4)\n"
            "e: deque[int] = field(default_factory=deque)\nf = deque[int]()\nreturn_(queue.Queue())\n"
            "g = asyncio.Queue(9)\nh = asyncio.LifoQueue(maxsize=9)\n"
            "i = field(default_factory=lambda: deque(maxlen=2))\n"
        )
    )
    assert sorted(found) == [(1, "_a"), (2, "b"), (5, "e"), (6, "f"), (7, "?")]


@pytest.mark.parametrize("path", [path for path in SOURCES if not path.startswith("cli/")])
def test_what_has_no_limit_of_its_own_is_bounded_otherwise_and_says_by_what(path: str):
    rows = [line for line in BOUNDS.splitlines() if f"`{path}`" in line]
    for line, name in boundless(SOURCES[path]):
        assert any(f"`{name}`" in row for row in rows), (
            f"{path}:{line}: give {name} a limit, or a line in docs/bounds.md"
        )


def test_each_test_of_a_bound_exists():
    named = re.findall(r"`(tests/[^`]+)::(\w+)`", BOUNDS)
    assert len(named) > 40
    assert [
        f"{path}::{name}" for path, name in named if f"def {name}(" not in (ROOT / path).read_text()
    ] == []
    sources = {path for path in re.findall(r"`(\w+/[\w/]+\.\w+)`", BOUNDS) if not path.startswith("tests/")}
    assert [path for path in sorted(sources) if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("path", [path for path in TESTS if not path.startswith(SLEEPERS)])
def test_tests_do_not_sleep(path: str):
    for node in ast.walk(ast.parse(TESTS[path].read_text())):
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "sleep":
            ticks = [ast.unparse(argument) for argument in node.args] == ["0"]  # gives way, waits for nothing
            assert ticks, f"{path}:{node.lineno} sleeps: wait for a condition (`wait_until`)"


def test_tests_mirror_sources():
    wanted = {
        f"tests/{folder}/test_{name}"
        for folder, _, name in (path.rpartition("/") for path in SOURCES if path not in UNTESTED)
        if name != "__init__.py"
    }
    present = {path for path in TESTS if Path(path).name.startswith("test_") and not path.startswith(WHOLE)}
    assert sorted(wanted - present) == [], "sources without a test file"
    assert sorted(present - wanted) == [], "test files without a source"


def test_packages_hold_a_map_and_nothing_else():
    for path, tree in SOURCES.items():
        if path.endswith("__init__.py"):
            assert ast.get_docstring(tree), path
            assert len(tree.body) == 1, path
    folders = {Path(path).parent for path in SOURCES}
    assert [str(folder) for folder in folders if not (ROOT / folder / "__init__.py").exists()] == []
    assert [path for path in TESTS if path.endswith("__init__.py")] == []


def test_every_file_says_what_it_is_for():
    assert [path for path, tree in SOURCES.items() if not ast.get_docstring(tree)] == []
    names = {Path(path).stem for path in (*SOURCES, *TESTS)}
    assert not names & EMPTY_NAMES
