"""`cli.main`: the command as a user runs it, in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
import soundfile
from typer.testing import CliRunner

from cli.main import app

DATA = Path(__file__).parent.parent / "data"
COMMANDS = ("transcribe", "mic", "demo", "up", "ingress", "worker", "models")


def steno(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cli.main", *words],
        capture_output=True,
        text=True,
        timeout=50,
        env={**os.environ, "COLUMNS": "120", "TERM": "dumb", **env},
        check=False,
    )


def test_help_names_every_command() -> None:
    found = steno("--help")
    assert found.returncode == 0
    assert all(f" {command} " in found.stdout for command in COMMANDS)


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from cli.main import app\n"
        "try: app(['--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'numpy', 'redis', 'pydantic', 'websockets', 'soundfile'} & set(sys.modules)))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True
    )
    assert found.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("command", COMMANDS)
def test_each_help_has_a_meaning_and_an_example(command) -> None:
    found = CliRunner().invoke(app, [command, "--help"])
    assert found.exit_code == 0
    assert "Examples" in found.output
    assert f"steno {command}" in found.output


def test_the_help_of_models_teaches_every_one_of_its_commands() -> None:
    found = CliRunner().invoke(app, ["models", "--help"])
    assert all(f" {command} " in found.output for command in ("list", "fetch", "served", "remove"))
    found = CliRunner().invoke(app, ["models", "served", "--help"])
    assert "steno models served --url" in found.output


def test_version() -> None:
    found = steno("--version")
    assert (found.returncode, found.stdout.split()[0]) == (0, "steno")


@pytest.mark.parametrize(
    "words",
    [
        ["--nonsense"],
        ["frobnicate"],
        ["transcribe"],
        ["transcribe", "no-such-file.wav"],
        ["up", "--port", "70000"],
        ["up", "--pools", "klingon"],
        ["up", "--pools", ","],
        ["worker", "klingon"],
        ["worker"],
        ["models", "remove", "no-such-model"],
    ],
)
def test_wrong_usage_exits_with_2_and_no_traceback(words) -> None:
    found = steno(*words)
    assert found.returncode == 2
    assert found.stderr.strip()
    assert "Traceback" not in found.stderr


@pytest.mark.parametrize("words", [["ingress", "--settings"], ["worker", "english", "--settings"]])
def test_services_tell_their_settings(words) -> None:
    found = steno(*words)
    assert found.returncode == 0
    assert all(word in found.stdout for word in ("REDIS_URL", "redis://localhost:6379/0", "PROBE_PORT"))
    assert ("MAX_OPEN_STREAMS" if "worker" in words else "AAI_WSS_PORT") in found.stdout


@pytest.mark.parametrize("words", [["ingress"], ["worker", "english"]])
def test_faulty_settings_exit_with_2_and_name_each_variable(words) -> None:
    found = steno(*words, REDIS_URL="http://nowhere", PROBE_PORT="many")
    assert found.returncode == 2
    assert "REDIS_URL" in found.stderr
    assert "PROBE_PORT" in found.stderr
    assert "Traceback" not in found.stderr


def test_missing_weights_exit_with_3_and_tell_what_to_run(tmp_path) -> None:
    found = steno("worker", "english", STENO_CACHE=str(tmp_path))
    assert found.returncode == 3
    assert "steno models fetch" in found.stderr
    assert "Traceback" not in found.stderr


def test_no_server_exits_with_1_and_tells_what_to_run(free_port) -> None:
    found = steno("transcribe", str(DATA / "hello_world.wav"), "--endpoint", f"ws://127.0.0.1:{free_port()}")
    assert found.returncode == 1
    assert "steno up" in found.stderr
    assert "Traceback" not in found.stderr


def test_no_server_to_ask_exits_with_1_and_tells_what_to_run(free_port) -> None:
    found = steno("models", "served", "--url", f"ws://127.0.0.1:{free_port()}")
    assert found.returncode == 1
    assert "steno up" in found.stderr
    assert "Traceback" not in found.stderr


def test_a_refusal_exits_with_1_and_tells_the_server_s_words(partner, scripts) -> None:
    server = partner(scripts.refusal)
    found = steno("transcribe", str(DATA / "hello_world.wav"), "--endpoint", server.url)
    assert found.returncode == 1
    assert "Invalid 'speech_model': no such [model] (code 3006)" in found.stderr


def test_an_unreadable_file_exits_with_1(tmp_path) -> None:
    (tmp_path / "talk.wav").write_text("not a sound")
    found = steno("transcribe", str(tmp_path / "talk.wav"))
    assert found.returncode == 1
    assert "cannot read" in found.stderr


def test_options_reach_the_server(partner, scripts, tmp_path) -> None:
    server = partner(scripts.two_turns)
    soundfile.write(tmp_path / "clip.wav", [0.0] * 4_410, 44_100)
    words = ["--fast", "--json", "--no-format", "--api-key", "k", "--speech-model", "some-model"]
    words += ["--prompt", "About ships", "--keyterm", "Ada Lovelace", "--keyterm", "Rue"]
    found = steno("transcribe", str(tmp_path / "clip.wav"), *words, STENO_ENDPOINT=server.url)
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout.splitlines()[-1])["type"] == "Termination"
    assert "format_turns=false" in server.path
    query = parse_qs(urlsplit(server.path).query)
    assert (query["speech_model"], query["prompt"]) == (["some-model"], ["About ships"])
    assert json.loads(query["keyterms_prompt"][0]) == ["Ada Lovelace", "Rue"]
    assert server.headers["Authorization"] == "k"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_can_be_taught_to_complete(shell) -> None:
    variables = {"_STENO_COMPLETE": f"source_{shell}"}
    found = steno(**variables)
    assert found.returncode == 0
    assert "_STENO_COMPLETE" in found.stdout


@pytest.mark.parametrize("typed,offered", [("steno tr", "transcribe"), ("steno worker en", "english")])
def test_completion_offers_commands_and_pools(typed, offered) -> None:
    words = typed.split()
    variables = {"COMP_WORDS": typed, "COMP_CWORD": str(len(words) - 1), "_STENO_COMPLETE": "complete_bash"}
    assert offered in steno(**variables).stdout.split()
