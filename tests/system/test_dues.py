"""What is promised of licences and billing, with real processes over a real Redis: killed, restarted, cut off.

The vendor's side are the reference servers: as processes of their own where they are killed, behind `tests.vendors`
where every byte that leaves is looked at.
"""

import csv
import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import redis

from cli import redis_server
from cli.child import Child
from licensing.minting import Terms
from tests.conversation import Conversation, is_final
from tests.desk import READY_S, ROOT, Desk, answers, page
from tests.speech import LIGHT, clip_pcm
from tests.vendors import Vendor
from wire.entries import UsageRecord
from wire.errors import REASON_SEE_ERROR
from wire.outbound import ALLOWED

pytestmark = pytest.mark.timeout(120)


def lap(session: str, number: int, over: bool = False) -> UsageRecord:
    started_ms = 1_700_000_000_000
    ended_ms = started_ms + number * 5000 if over else -1
    return UsageRecord(session, number, number * 5000, number * 5000, "english", "m", started_ms, ended_ms)


@pytest.fixture
def desk(tmp_path, redis_url, keys, free_port, wait_until_sync) -> Iterator[Desk]:
    site = Desk(tmp_path, redis_url, keys, free_port, wait_until_sync)
    yield site
    for child in site.children.values():
        child.kill()
    site.redis.close()


def steno(desk: Desk, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cli.main", *words],
        env={**os.environ, **desk.env},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


# ---------------------------------------------------------------------------------------------------------------------
# licensing


def test_a_licence_that_is_none_ends_it_with_4_and_how_to_mend_it(desk, wait_until_sync):
    child = desk.start("licensing", "licensing", ready=False)
    wait_until_sync(lambda: child.exit_code is not None, within_s=READY_S)
    assert child.exit_code == 4
    assert "LICENSE_FILE_PATH" in child.tail()
    assert "Traceback" not in child.tail()


def test_revoked_at_the_vendor_s_desk_failed_here_and_back_again(desk, wait_until_sync):
    port = desk.free_port()
    license_id = desk.license(
        Terms("Acme", 1, checkin_url=f"http://127.0.0.1:{port}", checkin_s=1, trust_s=60)
    )
    desk.vendor("issuer", port)
    desk.start("licensing", "licensing")
    desk.wait_for("Connected")
    assert steno(desk, "issuer", "revoke", license_id, "--reason", "not paid").returncode == 0
    desk.wait_for("Failed")
    [told] = [line for line in desk.logged("licensing") if line.get("state") == "Failed"]
    assert told["level"] == "CRITICAL"
    assert "not paid" in told["reason"]
    assert steno(desk, "issuer", "reinstate", license_id).returncode == 0
    desk.wait_for("Connected")


def test_kill_9_of_issuer_and_licensing_in_turn(desk, wait_until_sync):
    port = desk.free_port()
    desk.license(Terms("Acme", 1, checkin_url=f"http://127.0.0.1:{port}", checkin_s=1, trust_s=8))
    issuer = desk.vendor("issuer", port)
    desk.start("licensing", "licensing")
    desk.wait_for("Connected")
    os.kill(issuer.pid, signal.SIGKILL)
    desk.wait_for("TrustBased")
    until = page(desk.probes["licensing"], "/v1/status")["trust_expiration"]
    os.kill(desk.children["licensing"].pid, signal.SIGKILL)
    desk.children["licensing"].wait(10)
    desk.start("again", "licensing")
    wait_until_sync(lambda: desk.state("again") in ("TrustBased", "Failed"), within_s=READY_S)
    assert page(desk.probes["again"], "/v1/status")["trust_expiration"] == until
    desk.wait_for("Failed", "again")
    desk.vendor("issuer", port)
    desk.wait_for("Connected", "again")


def test_two_replicas_one_of_them_killed(desk, wait_until_sync):
    with Vendor(desk.issuer.respond) as vendor:
        desk.license(Terms("Acme", 1, checkin_url=vendor.url, checkin_s=600, trust_s=3600))
        for name in ("one", "two"):
            desk.start(name, "licensing", CHECKIN_TIMEOUT_S="20")  # a second try would be a second check-in
        for name in ("one", "two"):
            desk.wait_for("Connected", name)
        pages = [page(desk.probes[name], "/v1/status") for name in ("one", "two")]
        assert pages[0] == pages[1]
        assert len(vendor.seen) == 1
        os.kill(desk.children["one"].pid, signal.SIGKILL)
        desk.redis.delete(desk.keys.license_status())
        wait_until_sync(lambda: desk.redis.exists(desk.keys.license_status()), within_s=READY_S)
        assert desk.state("two") == "Connected"
        assert len(vendor.seen) == 1


def test_a_licence_that_expires_while_it_serves(desk, wait_until_sync):
    desk.license(Terms("Acme", 15 / 86_400))
    desk.start("licensing", "licensing")
    desk.wait_for("Connected")
    desk.wait_for("Failed")
    assert "expired" in desk.logged("licensing")[-1]["reason"]
    child = desk.start("again", "licensing", ready=False)
    wait_until_sync(lambda: child.exit_code is not None, within_s=READY_S)
    assert child.exit_code == 4
    assert "has expired" in child.tail()


def test_a_redis_that_comes_back_empty_is_told_everything_again(desk, tmp_path, free_port, wait_until_sync):
    port = free_port()
    command = [
        str(redis_server.find()),
        "--port",
        str(port),
        "--bind",
        "127.0.0.1",
        "--save",
        "",
        "--dir",
        str(tmp_path),
    ]
    url = f"redis://127.0.0.1:{port}/0"
    with Vendor(desk.issuer.respond) as vendor, redis.Redis.from_url(url) as client:
        desk.license(Terms("Acme", 1, checkin_url=vendor.url, checkin_s=600, trust_s=3600))
        first = Child("redis", command, log=tmp_path / "redis.log")
        desk.start("licensing", "licensing", REDIS_URL=url)
        desk.wait_for("Connected")
        first.kill()
        assert first.exit_code is not None
        wait_until_sync(
            lambda: any("away" in line["message"] for line in desk.logged("licensing")), within_s=READY_S
        )
        assert desk.state() == "Connected"
        second = Child("redis", command, log=tmp_path / "redis.log")
        try:
            wait_until_sync(lambda: reached(client, desk.keys.license_status()), within_s=READY_S)
            wait_until_sync(lambda: answers(desk.probes["licensing"]))
            assert desk.state() == "Connected"
            assert len(vendor.seen) == 1
        finally:
            second.kill()


def reached(client: Any, key: bytes) -> bool:
    try:
        return bool(client.exists(key))
    except redis.ConnectionError:
        return False


# ---------------------------------------------------------------------------------------------------------------------
# billing


def test_a_tracker_down_past_the_limit_ends_it_with_75_and_the_next_one_s_totals_are_exact(
    desk, wait_until_sync
):
    port = desk.free_port()
    desk.license(Terms("Acme", 1, billing="usage"))
    where = {"USAGE_TRACKER_URL": f"http://127.0.0.1:{port}", "GIVE_UP_S": "3"}
    desk.start("licensing", "licensing")
    tracker = desk.vendor("tracker", port)
    first = desk.start("usage", "usage", **where)
    desk.uses(lap("a", 1), lap("b", 1), lap("c", 1, over=True))
    wait_until_sync(lambda: desk.waiting() == 0, within_s=READY_S)
    assert desk.counted() == 15_000
    os.kill(tracker.pid, signal.SIGKILL)
    desk.uses(lap("a", 2), lap("b", 2), lap("d", 3, over=True))
    wait_until_sync(lambda: first.exit_code is not None, within_s=READY_S)
    assert first.exit_code == 75
    last = [line for line in desk.logged("usage") if line["level"] == "CRITICAL"][-1]
    assert "out of reach for 3 seconds" in last["message"]
    assert desk.waiting() == 3
    desk.uses(lap("a", 3, over=True))
    desk.vendor("tracker", port)
    desk.start("next", "usage", **where)
    wait_until_sync(lambda: desk.waiting() == 0, within_s=READY_S)
    assert desk.counted() == 1000 * (15 + 10 + 5 + 15)
    [row] = csv.DictReader(io.StringIO(steno(desk, "tracker", "report").stdout))
    assert (row["sessions"], row["over"], row["audio_ms"]) == ("4", "3", "45000")


def test_kill_9_of_either_side_again_and_again_counts_every_second_once(desk, wait_until_sync):
    port = desk.free_port()
    desk.license(Terms("Acme", 1, billing="usage"))
    where = {"USAGE_TRACKER_URL": f"http://127.0.0.1:{port}", "TAKEOVER_S": "1", "GIVE_UP_S": "300"}
    desk.start("licensing", "licensing")
    desk.vendor("tracker", port)
    desk.start("usage-0", "usage", **where)
    sessions = [f"session-{number}" for number in range(20)]
    for round_number in range(1, 4):
        for session in sessions:
            desk.uses(lap(session, round_number, over=round_number == 3))
        wait_until_sync(lambda: desk.counted() > 0, within_s=READY_S)
        os.kill(desk.children[f"usage-{round_number - 1}"].pid, signal.SIGKILL)
        os.kill(desk.children["tracker"].pid, signal.SIGKILL)
        desk.children["tracker"].wait(10)
        desk.vendor("tracker", port)
        desk.start(f"usage-{round_number}", "usage", **where)
    wait_until_sync(lambda: desk.waiting() == 0, within_s=READY_S)
    assert desk.counted() == 20 * 15_000
    [total] = desk.tracker.totals()
    assert (total.sessions, total.over) == (20, 20)


# ---------------------------------------------------------------------------------------------------------------------
# what sessions notice


def audio_ms(pcm: bytes) -> int:
    return len(pcm) // 32  # 16 kHz, 16 bits


@pytest.mark.weights
def test_every_second_is_billed_and_a_revoked_licence_ends_sessions_and_the_node(desk, wait_until_sync):
    pcm = clip_pcm(LIGHT)
    with Vendor(desk.issuer.respond) as issuer, Vendor(desk.tracker.respond) as tracker:
        license_id = desk.license(
            Terms("Acme", 1, ("english",), 2, "usage", issuer.url, checkin_s=1, trust_s=60)
        )
        port = desk.free_port()
        url = f"ws://127.0.0.1:{port}"
        desk.start("licensing", "licensing")
        desk.start("usage", "usage", USAGE_TRACKER_URL=tracker.url)
        desk.start("worker", "worker", "english", THREADS="1")
        node = desk.start("ingress", "ingress", HOST="127.0.0.1", PORT=str(port), LICENSE_GRACE_S="1")
        with Conversation(url) as first, Conversation(url) as second:
            for client in (first, second):
                client.hear()  # Begin: it has its place
            with Conversation(url) as third:
                third.hear_rest()  # the licence is for two
            assert third.messages[-1]["error_code"] == 3009
            assert third.close == (3009, REASON_SEE_ERROR)
            for client in (first, second):
                client.say(pcm)
            first.end()
            wait_until_sync(lambda: desk.counted() >= audio_ms(pcm), within_s=READY_S)
            desk.issuer.revoke(license_id, "not paid")
            second.hear_rest()
            assert second.messages[-1]["error_code"] == 3005
            assert second.close == (3005, REASON_SEE_ERROR)
            assert "license" in second.messages[-1]["error"]
        wait_until_sync(lambda: node.exit_code is not None, within_s=READY_S)
        assert node.exit_code == 4
        assert "not paid" in desk.logged("ingress")[-1]["message"]
        wait_until_sync(lambda: desk.tracker.totals()[0].over == 2, within_s=READY_S)
        [total] = desk.tracker.totals()
        assert (total.sessions, total.pool, total.audio_ms) == (2, "english", 2 * audio_ms(pcm))


# ---------------------------------------------------------------------------------------------------------------------
# what leaves

#: Puts every connection and every look-up of a name that a process makes into a file. uvloop connects in C, unseen by
#: Python's auditing, so the processes under audit run on the standard loop.
AUDIT = """
import os, sys
sys.modules["uvloop"] = None
def hook(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        what = args[1] if event != "socket.getaddrinfo" else args[0]
        place = what if isinstance(what, (str, bytes)) else "%s:%s" % tuple(what[:2])
        file = os.open(os.environ["AUDIT_FILE"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(file, ("%s %s\\n" % (event, place)).encode())
        os.close(file)
sys.addaudithook(hook)
"""


@pytest.fixture
def audited(desk: Desk) -> Callable[..., dict[str, str]]:
    """`audited(name)`: variables for a process whose connections are to be recorded."""
    (desk.folder / "audit").mkdir()
    (desk.folder / "audit" / "sitecustomize.py").write_text(AUDIT)

    def variables(name: str) -> dict[str, str]:
        return {
            "PYTHONPATH": f"{desk.folder / 'audit'}{os.pathsep}{ROOT}",
            "AUDIT_FILE": str(desk.folder / f"{name}.audit"),
        }

    return variables


def connected(desk: Desk, name: str) -> set[str]:
    """Where a process has connected to, or asked the name of; the address of this machine stands for itself."""
    lines = (desk.folder / f"{name}.audit").read_text().splitlines()
    return {line.split(" ", 1)[1] for line in lines} - {"127.0.0.1", "localhost", "None", "0.0.0.0"}


def assert_listed(path: str, body: Mapping[str, Any]) -> None:
    """The body has the fields of the list and no other, and every value is of the kind that a bill needs."""
    fields = ALLOWED[path]
    assert set(body) == set(fields)
    for record in body.get("records", ()):
        assert set(record) == set(fields["records"] or ())
        assert all(isinstance(record[name], int) for name in ("lap", "audio_ms", "session_ms", "started_ms"))
        assert record["ended_ms"] is None or isinstance(record["ended_ms"], int)
        assert all(
            isinstance(record[name], str) and len(record[name]) <= 64 for name in ("session", "pool", "model")
        )


@pytest.mark.weights
def test_nothing_leaves_but_what_is_listed_and_no_other_process_speaks_to_the_outside(
    desk, audited, wait_until_sync
):
    with Vendor(desk.issuer.respond) as issuer, Vendor(desk.tracker.respond) as tracker:
        desk.license(Terms("Acme", 1, billing="usage", checkin_url=issuer.url, checkin_s=1, trust_s=60))
        port = desk.free_port()
        desk.start("licensing", "licensing", **audited("licensing"))
        desk.start("usage", "usage", USAGE_TRACKER_URL=tracker.url, **audited("usage"))
        desk.start("ingress", "ingress", HOST="127.0.0.1", PORT=str(port), **audited("ingress"))
        desk.start("worker", "worker", "english", THREADS="1", **audited("worker"))
        with Conversation(f"ws://127.0.0.1:{port}") as client:
            client.say(clip_pcm(LIGHT))
            client.end()
        assert [turn for turn in client.turns if is_final(turn) and turn["words"]]
        wait_until_sync(lambda: desk.counted() == audio_ms(clip_pcm(LIGHT)), within_s=READY_S)
        wait_until_sync(lambda: len(issuer.seen) >= 2, within_s=READY_S)
        for child in desk.children.values():
            child.stop(20)
        sent = [*issuer.seen, *tracker.seen]
        assert {seen.path for seen in sent} == set(ALLOWED)
        for seen in sent:
            assert_listed(seen.path, seen.body)
            assert ("authorization" in seen.headers) == (seen.path != "/v1/checkin")
            assert set(seen.headers) <= {
                "host",
                "user-agent",
                "accept",
                "accept-encoding",
                "connection",
                "content-type",
                "content-length",
                "authorization",
            }
        redis_only = {desk.env["REDIS_URL"].removeprefix("unix://").split("?")[0]}
        assert connected(desk, "ingress") == redis_only
        assert connected(desk, "worker") == redis_only
        assert connected(desk, "licensing") == redis_only | {issuer.url.removeprefix("http://")}
        assert connected(desk, "usage") == redis_only | {tracker.url.removeprefix("http://")}
