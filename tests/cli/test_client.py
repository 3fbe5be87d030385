"""`cli.client`: against real WebSocket servers that behave well and badly."""

import asyncio
import json
import os
import signal
import socket
import time
from collections.abc import AsyncIterator
from urllib.parse import parse_qs, parse_qsl, urlsplit

import pytest

from cli import client
from cli.client import Received, Request, ServerError, SessionFailed
from cli.resuming import Sent
from wire.params import parse_query

CHUNK = bytes(1_600)  # 50 ms


async def chunks(count: int) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield CHUNK


def converse(url: str, audio: AsyncIterator[bytes] | None = None, **options):
    """One session; what was heard, and the session."""
    heard: list[Received] = []
    session = asyncio.run(client.converse(Request(url, **options), audio or chunks(4), heard.append))
    return heard, session


def test_a_session_from_begin_to_termination(partner, scripts) -> None:
    server = partner(scripts.two_turns)
    heard, session = converse(server.url, speech_model="universal-streaming-english", api_key="secret")
    assert [each.fields["type"] for each in heard] == ["Begin", "Turn", "Turn", "Turn", "Turn", "Termination"]
    assert [json.loads(each.text) for each in heard] == [each.fields for each in heard]
    assert bytes(server.audio) == CHUNK * 4
    assert [json.loads(text) for text in server.texts] == [{"type": "Terminate"}]
    assert session.audio_s == pytest.approx(0.2)
    assert session.latencies.begin_ms is not None
    assert len(session.latencies.first_partial_ms) == 2


def test_what_the_server_is_asked(partner, scripts) -> None:
    server = partner(scripts.two_turns)
    converse(server.url, speech_model="universal-streaming-english", api_key="secret", format_turns=False)
    assert server.headers["Authorization"] == "secret"
    assert "Sec-WebSocket-Extensions" not in server.headers  # no compression of audio
    assert urlsplit(server.path).path == "/"
    assert parse_qs(urlsplit(server.path).query) == {
        "sample_rate": ["16000"],
        "format_turns": ["false"],
        "speech_model": ["universal-streaming-english"],
    }


@pytest.mark.parametrize(
    "model,asked",
    [
        (None, {"language": ["fr"]}),
        ("whisper-rt", {"speech_model": ["whisper-rt"], "language_codes": ['["fr"]']}),
    ],
)
def test_a_language_chooses_the_model_unless_one_is_named(model, asked) -> None:
    query = parse_qs(urlsplit(Request(language="fr", speech_model=model).url()).query)
    assert query == {"sample_rate": ["16000"], "format_turns": ["true"]} | asked


def test_hints_reach_the_server_as_it_reads_them() -> None:
    terms = ("Ada Lovelace", 'a "quoted" one', "Grüße & Co.")
    request = Request(
        speech_model="universal-3-5-pro", prompt="A lecture?", keyterms=terms, language_detection=True
    )
    read = parse_query(parse_qsl(urlsplit(request.url()).query))
    assert (read.prompt, read.keyterms_prompt, read.language_detection) == ("A lecture?", terms, True)
    assert not {"prompt", "keyterms_prompt", "language_detection"} & set(
        parse_qs(urlsplit(Request().url()).query)
    )


@pytest.mark.parametrize(
    "endpoint,url",
    [
        ("ws://localhost:8080", "ws://localhost:8080?sample_rate=16000&format_turns=true"),
        ("wss://a.example/v3/ws", "wss://a.example/v3/ws?sample_rate=16000&format_turns=true"),
        ("ws://h:1/v3/ws?token=t", "ws://h:1/v3/ws?token=t&sample_rate=16000&format_turns=true"),
    ],
)
def test_the_endpoint_keeps_its_path_and_query(endpoint, url) -> None:
    assert Request(endpoint).url() == url


@pytest.mark.parametrize(
    "endpoint",
    ["http://localhost:8080", "localhost:8080", "", "ws://", "file:///tmp/x", "ws://h:99999", "ws://h:x"],
)
def test_an_endpoint_that_is_none_is_told(endpoint) -> None:
    with pytest.raises(SessionFailed, match="no WebSocket address"):
        Request(endpoint).url()


def test_nobody_there(free_port) -> None:
    for host in ("127.0.0.1", "localhost"):
        with pytest.raises(SessionFailed, match=r"nothing answers at ws://.*: steno up"):
            converse(f"ws://{host}:{free_port()}")


def test_a_host_that_does_not_exist() -> None:
    with pytest.raises(SessionFailed, match=r"cannot connect to ws://no-such-host\.invalid"):
        converse("ws://no-such-host.invalid:8080")


def test_a_server_that_speaks_something_else() -> None:
    async def against_http() -> None:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            await writer.drain()
            writer.close()

        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            await client.converse(Request(f"ws://127.0.0.1:{port}"), chunks(1), print)

    with pytest.raises(SessionFailed, match=r"not as a steno server: .*404"):
        asyncio.run(against_http())


def test_an_error_message_is_shown_and_raised(partner, scripts) -> None:
    heard: list[Received] = []
    endless = client.paced([CHUNK] * 10_000, 16_000)
    with pytest.raises(ServerError, match=r"Invalid 'speech_model'.*3006") as caught:
        asyncio.run(client.converse(Request(partner(scripts.refusal).url), endless, heard.append))
    assert caught.value.code == 3006
    assert caught.value.text.endswith("no such [model]")
    assert [each.fields["type"] for each in heard] == ["Error"]


def test_a_close_without_a_reason_given_before(partner) -> None:
    server = partner(lambda _, connection: connection.close(1012, "moving house"))
    with pytest.raises(SessionFailed, match="code 1012: moving house"):
        converse(server.url)


def test_a_connection_that_breaks(partner) -> None:
    def break_off(partner, connection) -> None:
        partner.begin(connection)
        connection.recv()
        connection.socket.close()

    with pytest.raises(SessionFailed, match="was lost"):
        converse(partner(break_off).url, client.paced([CHUNK] * 100, 16_000))


@pytest.mark.parametrize("text", ["no json", "[]", '{"id": 1}', '{"type": 7}'])
def test_nonsense_from_the_server_is_told(text, partner) -> None:
    server = partner(lambda partner, connection: (connection.send(text), partner.listen(connection)))
    with pytest.raises(SessionFailed, match=r"not JSON|without a type"):
        converse(server.url)


def test_an_error_in_the_audio_is_raised_as_it_is(partner) -> None:
    class Broken(SessionFailed):
        pass

    async def broken() -> AsyncIterator[bytes]:
        yield CHUNK
        raise Broken("the file ends here")

    server = partner(lambda partner, connection: partner.listen(connection))
    with pytest.raises(Broken):
        converse(server.url, broken())


def test_a_bug_in_the_audio_is_raised_as_it_is(partner) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield CHUNK
        raise ZeroDivisionError

    server = partner(lambda partner, connection: partner.listen(connection))
    with pytest.raises(ZeroDivisionError):
        converse(server.url, broken())


def test_an_error_without_a_code_is_shown(partner, scripts) -> None:
    def script(partner, connection) -> None:
        partner.send(connection, error="out of order", type="Error")
        connection.close(3005, "See Error message for details")

    with pytest.raises(ServerError, match="out of order"):
        converse(partner(script).url)


def test_paced_chunks_come_when_they_have_been_spoken() -> None:
    async def play() -> list[float]:
        started_s = time.monotonic()
        return [time.monotonic() - started_s async for _ in client.paced([CHUNK] * 5, 16_000)]

    for number, at_s in enumerate(asyncio.run(play()), start=1):
        assert at_s >= number * 0.05 - 0.002


def test_unpaced_chunks_do_not_wait(partner, scripts) -> None:
    server = partner(scripts.two_turns)
    started_s = time.monotonic()
    _, session = converse(server.url, client.unpaced([CHUNK] * 2_400))
    assert session.audio_s == pytest.approx(120)
    assert time.monotonic() - started_s < 60
    assert len(server.audio) == len(CHUNK) * 2_400


def test_a_long_recording_does_not_run_too_far_ahead(partner, scripts, monkeypatch) -> None:
    """A server ends a session with more than five minutes waiting; words that come back let the client go on."""
    monkeypatch.setattr(client, "MAX_AHEAD_S", 2.0)
    stops_ms: list[int] = []

    def script(server, connection) -> None:
        """Says what it has heard only when nothing has come for a while."""
        server.begin(connection)
        while True:
            try:
                message = connection.recv(timeout=0.2)
            except TimeoutError:
                stops_ms.append(len(server.audio) // 32)
                connection.send(json.dumps(scripts.turn(0, [scripts.word("on", 0, stops_ms[-1])])))
                continue
            if isinstance(message, str):
                return server.end(connection)
            server.audio += message

    server = partner(script)
    _, session = converse(server.url, client.unpaced([bytes(16_000)] * 24))
    assert (session.audio_s, len(server.audio)) == (12.0, 24 * 16_000)
    assert 2_000 < stops_ms[0] <= 3_500
    assert len(stops_ms) >= 2


def test_what_was_heard_does_not_go_back(partner, scripts) -> None:
    """A word that is taken back leaves an earlier one last; the audio was heard all the same."""

    def script(server, connection) -> None:
        server.begin(connection)
        server.listen(connection)
        for end_ms in (900, 400):
            connection.send(json.dumps(scripts.turn(0, [scripts.word("on", 0, end_ms)])))
        server.end(connection)

    assert converse(partner(script).url)[1].heard_s == 0.9


def test_ctrl_c_ends_the_audio_and_waits_for_the_rest(partner, scripts) -> None:
    async def interrupted(server_url: str, heard: list[Received]) -> client.Session:
        def listen(received: Received) -> None:
            heard.append(received)
            if received.fields["type"] == "Begin":
                os.kill(os.getpid(), signal.SIGINT)

        with client.stop_on_interrupt() as stop:
            audio = client.until(stop, client.paced([CHUNK] * 10_000, 16_000))
            return await client.converse(Request(server_url), audio, listen)

    heard: list[Received] = []
    session = asyncio.run(interrupted(partner(scripts.two_turns).url, heard))
    assert heard[-1].fields["type"] == "Termination"
    assert session.audio_s < 5


def test_no_proxy_for_our_own_machine(partner, scripts, monkeypatch, free_port) -> None:
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    heard, _ = converse(partner(scripts.two_turns).url)
    assert heard[-1].fields["type"] == "Termination"


# ---------------------------------------------------------------------------------------------------------------------
# connections that are lost (docs/resume.md); with a real server: tests/system/test_resume.py


def resuming(server, scripts, answer=None, window_s: float = 60.0):
    """A script: the first connection takes three messages and breaks off; the second does as told."""

    def script(_server, connection) -> None:
        if "resume_token" not in server.path:
            configuration = {"resume_token": "secret", "resume_window_s": window_s}
            server.send(
                connection, sequence=1, id="5f0c", expires_at=1, configuration=configuration, type="Begin"
            )
            for _ in range(3):
                server.audio += connection.recv()
            connection.socket.shutdown(socket.SHUT_WR)  # not so that what was said is lost, too
        elif answer is not None:
            answer(connection)
        else:
            server.send(
                connection, id="5f0c", messages_received=2, audio_bytes_received=3_200, type="Resumed"
            )
            del server.audio[2 * len(CHUNK) :]  # the third had not arrived after all
            server.listen(connection)
            connection.send(
                json.dumps({"sequence": 2, **scripts.turn(0, [scripts.word("On.", 0, 500)], end=True)})
            )
            server.end(connection)

    return script


def lossy(partner, scripts, answer=None, window_s: float = 60.0):
    """A server whose first connection breaks off; what a client heard, was told, and how it failed."""
    server = partner(lambda *_: None)
    server.script = resuming(server, scripts, answer, window_s)
    heard: list[Received] = []
    notes: list[str] = []
    numbered = [bytes([number]) * len(CHUNK) for number in range(8)]
    request = Request(server.url, resume=True, api_key="mine")
    failure: SessionFailed | None = None
    try:
        asyncio.run(client.converse(request, client.unpaced(numbered), heard.append, notes.append))
    except SessionFailed as error:
        failure = error
    return server, heard, notes, failure


def test_a_lost_connection_is_had_again_and_nothing_is_missing(partner, scripts) -> None:
    server, heard, notes, failure = lossy(partner, scripts)
    assert failure is None
    assert notes == ["connection lost, resuming ...", "resumed"]
    assert bytes(server.audio) == b"".join(bytes([number]) * len(CHUNK) for number in range(8))
    assert [each.fields["type"] for each in heard] == ["Begin", "Resumed", "Turn", "Termination"]
    asked = dict(parse_qsl(urlsplit(server.path).query))
    assert asked == {"session_id": "5f0c", "resume_token": "secret", "last_sequence": "1"}
    assert server.headers["Authorization"] == "mine"


def test_a_server_that_asks_to_come_back_is_come_back_to(partner, scripts) -> None:
    """1012: its node is going; and the next one may be, too."""
    asked = []

    def answer(connection) -> None:
        asked.append(connection)
        if len(asked) == 1:
            connection.close(1012, "Service Restart")
        elif len(asked) == 2:
            connection.send(json.dumps({"error_code": 3005, "error": "not ready", "type": "Error"}))
            connection.close(3005)
        else:
            connection.send(json.dumps({"messages_received": 3, "type": "Resumed"}))
            connection.close(1000, "Session Ended")

    _, heard, notes, failure = lossy(partner, scripts, answer)
    assert (failure, len(asked)) == (None, 3)
    assert notes == ["connection lost, resuming ...", "resumed"]
    assert [each.fields["type"] for each in heard] == ["Begin", "Resumed"]


def test_a_session_that_does_not_go_on_is_told_at_once(partner, scripts) -> None:
    def answer(connection) -> None:
        text = "Unauthorized Connection: Session cannot be resumed"
        connection.send(json.dumps({"error_code": 1008, "error": text, "type": "Error"}))
        connection.close(1008)

    _, _, notes, failure = lossy(partner, scripts, answer)
    assert "the connection was lost, and the session does not go on: Unauthorized" in str(failure)
    assert notes == ["connection lost, resuming ..."]


def test_what_is_not_kept_any_more_cannot_be_sent_again(partner, scripts, monkeypatch) -> None:
    monkeypatch.setattr(client, "Sent", lambda *_: Sent(len(CHUNK)))

    def answer(connection) -> None:
        connection.send(json.dumps({"messages_received": 0, "type": "Resumed"}))
        connection.recv()

    _, _, _, failure = lossy(partner, scripts, answer)
    assert "not kept any more" in str(failure)


def test_who_cannot_come_back_in_time_gives_up(partner, scripts) -> None:
    _, _, _, failure = lossy(partner, scripts, lambda connection: connection.close(1012), window_s=0.05)
    assert str(failure) == "the connection to the server was lost, and not to be had again in 0.05 s"


def test_a_server_that_knows_nothing_of_it_loses_the_session(partner) -> None:
    def script(server, connection) -> None:
        server.begin(connection)
        connection.recv()
        connection.socket.shutdown(socket.SHUT_WR)  # not so that what was said is lost, too

    server = partner(script)
    with pytest.raises(SessionFailed, match="the connection to the server was lost"):
        converse(server.url, chunks(100), resume=True)
    assert parse_qs(urlsplit(server.path).query)["resumable"] == ["true"]
