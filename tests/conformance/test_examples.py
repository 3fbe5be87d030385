"""The examples, run as they stand against the real stack."""

import os
import signal
import subprocess
import sys
import wave
from pathlib import Path

import pytest

from cli.child import Child
from tests.clients import SecureStack, node_environment, python_environment
from tests.speech import DATA, FOX, assert_heard, clip_pcm, silence

pytestmark = [pytest.mark.weights, pytest.mark.timeout(120)]

HERE = Path(__file__).parent
EXAMPLES = HERE.parents[1] / "examples"

#: A sound device for the example that listens to one: it plays the file that SPOKEN names, and then is silent.
DEVICE = """
import os, threading, wave

class RawInputStream:
    def __init__(self, samplerate, blocksize, channels, dtype, callback):
        assert (samplerate, channels, dtype) == (16000, 1, "int16")
        self.size, self.callback, self.over = blocksize, callback, threading.Event()

    def __enter__(self):
        threading.Thread(target=self.play, daemon=True).start()

    def __exit__(self, *failed):
        self.over.set()

    def play(self):
        with wave.open(os.environ["SPOKEN"]) as file:
            while not self.over.wait(self.size / 16000):
                self.callback(file.readframes(self.size).ljust(2 * self.size, b"\\0"), self.size, None, None)
"""


@pytest.fixture
def talk(tmp_path: Path) -> Path:
    """The clip, with a pause behind it, as the examples want it."""
    path = tmp_path / "talk.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(clip_pcm(FOX) + silence(2.0))
    return path


def run(program: str | Path, example: Path, *words: str | Path, **env: str) -> str:
    """What it prints. Fails if it does."""
    ended = subprocess.run(
        [program, example, *words],
        capture_output=True,
        text=True,
        timeout=100,
        env=os.environ | {"PYTHONWARNINGS": "ignore"} | env,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def test_the_file(url):
    words = ["--endpoint", url, "--speech-model", "universal-streaming-english"]
    told = run(sys.executable, EXAMPLES / "prerecorded_audio_file.py", "--audio-file", DATA / FOX, *words)
    lines = told.replace("\r\033[K", "\n").splitlines()
    assert lines[0].startswith("session ")
    assert_heard(FOX, lines[-2])
    assert " s of audio in " in lines[-1]


def test_the_file_of_a_model_that_nobody_serves(url):
    words = ["--endpoint", url, "--speech-model", "universal-3-6-pro", "--audio-file", DATA / FOX]
    ended = subprocess.run(
        [sys.executable, EXAMPLES / "prerecorded_audio_file.py", *words],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "refused: " in ended.stderr


@pytest.mark.parametrize(
    "words, why",
    [(["--audio-file", "none.wav"], "none.wav"), (["--endpoint", "ws://127.0.0.1:9"], "connect call failed")],
)
def test_a_mistake_is_told_in_a_line(tmp_path, talk, words, why):
    (tmp_path / "example_audio_file.wav").write_bytes(talk.read_bytes())
    command = [sys.executable, EXAMPLES / "prerecorded_audio_file.py", *words]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert why in ended.stderr.lower()
    assert len(ended.stderr.splitlines()) == 1


def test_the_microphone_until_ctrl_c(url, talk, tmp_path, wait_until_sync):
    (tmp_path / "sounddevice.py").write_text(DEVICE)
    log = tmp_path / "log"
    env = {"PYTHONPATH": str(tmp_path), "SPOKEN": str(talk), "PYTHONUNBUFFERED": "1"}
    listening = Child(
        "microphone", [sys.executable, str(EXAMPLES / "live_microphone.py"), "--endpoint", url], env, log
    )
    try:
        wait_until_sync(lambda: "lazy dog." in log.read_text(), 60)
        os.kill(listening.pid, signal.SIGINT)
        assert listening.wait(30)
    finally:
        listening.kill()
    assert listening.exit_code == 0, log.read_text()
    assert " s of audio in " in log.read_text()


def test_the_python_sdk(url, talk):
    assert_heard(FOX, run(sys.executable, EXAMPLES / "sdk.py", talk, STENO_URL=url))


@pytest.mark.clients
@pytest.mark.slow
def test_the_js_sdk(secure: SecureStack, talk):
    folder = node_environment("js", HERE / "js")
    script = folder / "example.mjs"  # beside node_modules, where its imports are looked for
    script.write_bytes((EXAMPLES / "sdk.mjs").read_bytes())
    env = {"STENO_URL": secure.url, "NODE_EXTRA_CA_CERTS": str(secure.ca_file)}
    assert_heard(FOX, run("node", script, talk, **env))


@pytest.mark.clients
@pytest.mark.slow
@pytest.mark.parametrize("client", ["livekit", "pipecat"])
def test_voice_agents(url, talk, client):
    python = python_environment(client, HERE / client / "requirements.txt")
    assert_heard(FOX, run(python, EXAMPLES / f"{client}_agent.py", talk, STENO_URL=url))
