"""The clients of `cli/bench_soak.py`, in a process of their own: real speech in real time, and what may happen."""

import asyncio
import json
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from cli import bench_churn

#: Kinds of sessions besides those of `cli/bench_churn.py`.
KINDS = ("speaking", "updating", "forcing", "breaking off", "coming back", "staying away")
#: Audio of a session, in s: most are short, so that there are many.
SECONDS = (0.2, 3.0)
CHUNK_S = 0.05
_CHUNK = int(32_000 * CHUNK_S)
#: A session in which nothing happens for so long hangs.
PATIENCE_S = 120.0
#: How often a client that comes back is told «not now» before it gives up, and how long it waits in between.
TRIES, PAUSE_S = 40, 0.25
_NOT_NOW = 3005
TERMINATE, FORCE = '{"type": "Terminate"}', '{"type": "ForceEndpoint"}'

_Lost = (OSError, TimeoutError, InvalidHandshake)


@dataclass(frozen=True)
class Crowd:
    """`sessions` of every kind, `at_once` at a time, at these nodes in turn; each says a piece of `speech`."""

    urls: tuple[str, ...]
    speech: bytes
    sessions: int
    at_once: int
    seed: int = 0


def run(crowd: Crowd) -> dict[str, int]:
    """Kind and how it ended (a close code, or what the client did) -> how often."""
    return asyncio.run(_all(crowd))


async def _all(crowd: Crowd) -> dict[str, int]:
    chance, outcomes = random.Random(crowd.seed), Counter[str]()
    kinds = [chance.choice((*KINDS, *bench_churn.KINDS)) for _ in range(crowd.sessions)]
    waiting = iter(kinds)

    async def one_after_another(number: int) -> None:
        chance = random.Random(f"{crowd.seed} {number}")
        for kind in waiting:
            outcomes[f"{kind}: {await _session(crowd, kind, chance)}"] += 1

    async with asyncio.TaskGroup() as tasks:
        for number in range(crowd.at_once):
            tasks.create_task(one_after_another(number))
    return dict(sorted(outcomes.items()))


async def _session(crowd: Crowd, kind: str, chance: random.Random) -> str:
    urls = chance.sample(crowd.urls, len(crowd.urls))
    try:
        async with asyncio.timeout(PATIENCE_S):
            if kind in bench_churn.KINDS:
                return await bench_churn.session(urls[0], kind)
            return await _Speaker(urls, kind, _piece(crowd.speech, chance)).speak()
    except TimeoutError:
        return "hung"
    except ConnectionClosed as closed:
        return _how(closed)


def _piece(speech: bytes, chance: random.Random) -> list[bytes]:
    """Chunks of a place and a length at random; the short are many."""
    least, most = SECONDS
    count = round(least * (most / least) ** chance.random() / CHUNK_S)
    at = _CHUNK * chance.randrange(len(speech) // _CHUNK - count)
    return [speech[place : place + _CHUNK] for place in range(at, at + count * _CHUNK, _CHUNK)]


def _how(closed: ConnectionClosed) -> str:
    return str(closed.rcvd.code if closed.rcvd else "lost")


class _Speaker:
    """One session: its nodes, the one it begins with first, and all it has sent."""

    def __init__(self, urls: list[str], kind: str, audio: list[bytes]) -> None:
        self._urls, self._kind, self._audio = urls, kind, audio
        self._sent: list[bytes | str] = []
        self._connection: ClientConnection

    async def speak(self) -> str:
        resumable = self._kind in ("coming back", "staying away")
        query = {"sample_rate": "16000", "resumable": str(resumable).lower(), "max_turn_silence": "400"}
        try:
            self._connection = await _connect(self._urls[0], query)
        except _Lost as error:
            return f"not connected, {type(error).__name__}"
        try:
            begin = json.loads(await self._connection.recv())
            if begin["type"] != "Begin":
                return str(begin["error_code"])
            return await self._converse(begin)
        finally:
            self._connection.transport.abort()

    async def _converse(self, begin: dict[str, Any]) -> str:
        for number, chunk in enumerate(self._audio):
            if number == len(self._audio) // 2 and (end := await self._at_half(begin)):
                return end
            await self._send(chunk)
            await asyncio.sleep(CHUNK_S)
        if self._kind == "breaking off":
            return "broke off"
        await self._send(TERMINATE)
        while True:
            await self._connection.recv()

    async def _at_half(self, begin: dict[str, Any]) -> str:
        """What happens in the middle; how the session has ended, if it has."""
        match self._kind:
            case "updating":
                change = {"keyterms_prompt": ["fail better"], "max_turn_silence": 800}
                await self._send(json.dumps({"type": "UpdateConfiguration", **change}))
            case "forcing":
                await self._send(FORCE)
            case "staying away":
                return "stayed away"
            case "coming back":
                self._connection.transport.abort()
                return await self._come_back(begin)
        return ""

    async def _come_back(self, begin: dict[str, Any]) -> str:
        token = begin["configuration"]["resume_token"]
        query = {"session_id": begin["id"], "resume_token": token, "last_sequence": "1"}
        for _ in range(TRIES):
            try:
                self._connection = await _connect(self._urls[-1], query)
                told = json.loads(await self._connection.recv())
            except (*_Lost, ConnectionClosed):
                told = {"error_code": _NOT_NOW}
            if told.get("type") == "Resumed":
                missing, self._sent = (
                    self._sent[told["messages_received"] :],
                    self._sent[: told["messages_received"]],
                )
                for message in missing:
                    await self._send(message)
                return ""
            if told.get("error_code") != _NOT_NOW:
                return f"not resumed, {told.get('error_code')}"
            await asyncio.sleep(PAUSE_S)
        return "not resumed"

    async def _send(self, message: bytes | str) -> None:
        self._sent.append(message)
        await self._connection.send(message)


async def _connect(url: str, query: dict[str, str]) -> ClientConnection:
    return await connect(
        f"{url}/?{urlencode(query)}",
        additional_headers={"Authorization": "bench"},
        compression=None,
        proxy=None,
        ping_interval=None,
    )


def kinds() -> Iterator[str]:
    """Of all sessions."""
    yield from (*KINDS, *bench_churn.KINDS)
