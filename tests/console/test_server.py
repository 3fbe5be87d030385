"""`console.server`: it listens, it stops, and its log knows no secret."""

import asyncio
import logging
import socket

import pytest

from console.server import serve
from console.settings import ConsoleSettings
from wire.errors import SettingsError
from wire.service import Probe


def test_it_serves_until_it_is_told_to_stop(start):
    console = start()
    assert console.ask("/api/overview").status == 200
    assert console.probe.ready
    console.stop()
    assert not console.probe.ready
    with socket.socket() as free:
        free.bind(("127.0.0.1", console.settings.console_port))


def test_its_log_holds_no_token(start, token, caplog):
    caplog.set_level(logging.DEBUG)
    console = start(console_token=token)
    console.ask("/login", "POST", f"token={token}")
    cookie = (
        console.ask("/login", "POST", f"token={token.replace(' ', '+')}").headers["set-cookie"].split(";")[0]
    )
    console.ask("/api/overview", Authorization=f"Bearer {token}")
    console.ask("/api/overview", Cookie=cookie)
    assert "A wrong token was given" not in caplog.text
    console.ask("/login", "POST", "token=another")
    assert "A wrong token was given" in caplog.text
    assert "another" not in caplog.text.replace("another origin", "")
    for record in caplog.records:
        if not record.name.startswith("asyncio"):
            assert token not in record.getMessage()
            assert token.split()[0] + "+" not in record.getMessage()
            assert cookie.partition("=")[2] not in record.getMessage()


def test_a_taken_port_is_told(run, redis_url):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        settings = ConsoleSettings(redis_url=redis_url, console_port=port)
        with pytest.raises(SettingsError, match=f"CONSOLE_PORT.*{port}"):
            run(serve(settings, asyncio.Event(), Probe("127.0.0.1", 0)))


def test_an_open_door_to_the_world_is_refused(run, redis_url):
    settings = ConsoleSettings(redis_url=redis_url, console_host="0.0.0.0", console_port=0)
    with pytest.raises(SettingsError, match="CONSOLE_TOKEN"):
        run(serve(settings, asyncio.Event(), Probe("127.0.0.1", 0)))
