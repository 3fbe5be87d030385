"""The licensing service over a real Redis, with the real issuer behind a server with switches."""

import asyncio
import contextlib
import json
import logging
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from licensing.issuer import Issuer, write_key
from licensing.jobs import Licensing, read_file, read_keys
from licensing.license import iso_time
from licensing.minting import SigningKey, Terms, mint
from licensing.settings import LicensingSettings
from licensing.trust import seal
from tests.vendors import Vendor
from wire import metrics
from wire.accounts import Accounts
from wire.entries import Billing, LicenseState
from wire.errors import LicenseError, SettingsError
from wire.service import Probe

KEY = SigningKey.generate()
READY, CONNECTED, TRUSTED, FAILED = LicenseState


@pytest.fixture
def issuer(tmp_path: Path) -> Issuer:
    return Issuer(tmp_path / "book", KEY)


@pytest.fixture
def vendor(issuer: Issuer) -> Iterator[Vendor]:
    with Vendor(issuer.respond) as server:
        yield server


@pytest.fixture
def settings(
    tmp_path: Path, issuer: Issuer, vendor: Vendor, redis_url: str, namespace: str
) -> LicensingSettings:
    """Of a service whose licence checks in every second and is trusted for three."""
    write_key(KEY, tmp_path / "private.pem", tmp_path / "keys.json")
    settings = LicensingSettings(
        license_file_path=tmp_path / "license.jwt",
        license_keys_path=tmp_path / "keys.json",
        redis_url=redis_url,
        namespace=namespace,
        checkin_timeout_s=0.5,
    )
    deliver(settings, issuer.mint(terms(vendor)).token)
    return settings


def terms(vendor: Vendor, **other: Any) -> Terms:
    given = {"checkin_url": vendor.url, "checkin_s": 1, "trust_s": 3, **other}
    return Terms("Acme", 1, ("english",), 7, "usage", **given)


def deliver(settings: LicensingSettings, token: str) -> None:
    """Put a licence in its place, at once and whole."""
    new = settings.license_file_path.with_suffix(".new")
    new.write_text(token)
    new.replace(settings.license_file_path)


@contextlib.asynccontextmanager
async def serving(settings: LicensingSettings, **clocks: Any) -> AsyncIterator[Any]:
    drain = asyncio.Event()
    service = Licensing(settings, **clocks)
    with Probe("127.0.0.1", 0, "licensing", status=service.page) as probe:
        service.probe = probe  # type: ignore[attr-defined]
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(service.run(drain, probe))
            try:
                yield service
            finally:
                drain.set()


def changes(state: str) -> float:
    return metrics.REGISTRY.get_sample_value("steno_license_changes_total", {"state": state}) or 0.0


async def state_of(bus) -> LicenseState | None:
    status = await Accounts(bus).status()
    return status.state if status else None


# ---------------------------------------------------------------------------------------------------------------------
# at the start


def test_no_file(settings):
    settings.license_file_path.unlink()
    with pytest.raises(LicenseError, match=r"license.jwt cannot be read .*LICENSE_FILE_PATH"):
        Licensing(settings)


@pytest.mark.parametrize(
    "text,reason",
    [
        ("", "unreadable"),
        ("nonsense", "unreadable"),
        (
            mint(SigningKey.generate(), "steno", "id", Terms("Acme", 1), 2e9),
            "not by a key that this stack trusts",
        ),
        (mint(KEY, "other", "id", Terms("Acme", 1), 1e9), "foreign"),
        (mint(KEY, "steno", "id", Terms("Acme", 1), 1e9), "has expired"),
        (mint(KEY, "steno", "id", Terms("Acme", 1), 9e9), "not valid before"),
    ],
)
def test_a_licence_that_is_none_says_which_file_and_why(settings, text: str, reason: str):
    deliver(settings, text)
    with pytest.raises(LicenseError, match=f"license.jwt: .*{reason}"):
        Licensing(settings)


def test_a_file_that_is_no_text(settings):
    settings.license_file_path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(LicenseError, match="not text"):
        Licensing(settings)


def test_keys_are_named_once(settings, tmp_path):
    text = (tmp_path / "keys.json").read_text()
    inline = settings.model_copy(update={"license_keys": text, "license_keys_path": None})
    assert read_file(inline, read_keys(inline), inline_now()).customer == "Acme"
    for update in ({"license_keys": text}, {"license_keys_path": None}):
        with pytest.raises(SettingsError, match="LICENSE_KEYS"):
            read_keys(settings.model_copy(update=update))
    with pytest.raises(SettingsError, match="LICENSE_KEYS_PATH"):
        read_keys(settings.model_copy(update={"license_keys_path": tmp_path / "none.json"}))


def inline_now() -> float:
    import time

    return time.time()


# ---------------------------------------------------------------------------------------------------------------------
# life


def test_it_checks_in_and_tells_everybody(run, bus, settings, vendor, wait_until):
    async def scenario() -> None:
        before = changes("Connected")
        async with serving(settings) as service:
            await wait_until(lambda: service.page()["state"] == "Connected")
            status = await Accounts(bus).status()
            assert status is not None
            assert (status.state, status.license) == (CONNECTED, service.window.license.id)
            assert (status.pools, status.max_sessions, status.billing) == (("english",), 7, Billing.USAGE)
            assert status.trust_until_ms - status.last_checkin_ms == 3000
            await wait_until(lambda: service.probe.ready)
            with await asyncio.to_thread(
                urllib.request.urlopen, f"http://127.0.0.1:{service.probe.port}/v1/status"
            ) as answer:
                page = json.load(answer)
            assert set(page) == {"state", "last_successful_checkin", "trust_expiration"}
            assert all(page[name].endswith("Z") and len(page[name]) == 27 for name in list(page)[1:])
            assert metrics.REGISTRY.get_sample_value("steno_license_state", {"state": "Connected"}) == 1
            assert metrics.REGISTRY.get_sample_value("steno_license_state", {"state": "Ready"}) == 0
            assert changes("Connected") == before + 1
        assert {seen.path for seen in vendor.seen} == {"/v1/checkin"}

    run(scenario())


def test_before_the_first_answer_it_is_ready_with_nulls(run, bus, settings, vendor, wait_until):
    vendor.fault = "500"

    async def scenario() -> None:
        async with serving(settings) as service:
            await wait_until(lambda: state_of(bus))
            assert service.page() == {
                "state": "Ready",
                "last_successful_checkin": None,
                "trust_expiration": None,
            }
            await wait_until(lambda: service.window.state.tries >= 2)
            assert await state_of(bus) is READY

    run(scenario())


def test_an_outage_is_trusted_for_a_while_then_fails_then_mends(
    run, bus, settings, vendor, wait_until, caplog
):
    async def scenario() -> None:
        async with serving(settings) as service:
            for fault, state in (
                ("", "Connected"),
                ("500", "TrustBased"),
                ("500", "Failed"),
                ("", "Connected"),
            ):
                vendor.fault = fault
                await wait_until(lambda state=state: service.page()["state"] == state)
            assert service.page()["last_successful_checkin"] is not None

    with caplog.at_level(logging.INFO):
        run(scenario())
    told = [
        (record.state, record.levelname) for record in caplog.records if record.message == "License state"
    ]
    assert told[-4:] == [
        ("Connected", "INFO"),
        ("TrustBased", "WARNING"),
        ("Failed", "CRITICAL"),
        ("Connected", "INFO"),
    ]


def test_a_revoked_licence_fails_at_the_next_check_and_the_reason_is_told(
    run, bus, settings, issuer, wait_until
):
    async def scenario() -> None:
        async with serving(settings) as service:
            await wait_until(lambda: service.page()["state"] == "Connected")
            issuer.revoke(service.window.license.id, "not paid")
            await wait_until(lambda: service.page()["state"] == "Failed")
            status = await Accounts(bus).status()
            assert status is not None
            assert "not paid" in status.reason

    run(scenario())


@pytest.mark.parametrize("fault", ["garbage", "half", "redirect", "huge", "slow", "replay", "cut"])
def test_nothing_but_the_issuer_s_answer_keeps_the_trust_up(run, settings, vendor, wait_until, fault: str):
    async def scenario() -> None:
        async with serving(settings) as service:
            await wait_until(lambda: service.page()["state"] == "Connected")
            vendor.fault = fault
            await wait_until(lambda: service.page()["state"] == "Failed")

    run(scenario())


def test_an_offline_licence_asks_nobody(run, bus, settings, vendor, wait_until):
    token = mint(KEY, "steno", "offline", Terms("Acme", 1), inline_now())
    deliver(settings, token)

    async def scenario() -> None:
        async with serving(settings) as service:
            await wait_until(lambda: state_of(bus))
            page = service.page()
            assert (page["state"], page["last_successful_checkin"]) == ("Connected", None)
            assert page["trust_expiration"] == iso_time(service.window.license.expires_s)

    run(scenario())
    assert vendor.seen == []


def test_a_licence_that_expires_fails_within_a_second(run, bus, settings, vendor, clock, wait_until):
    clock.now_s = inline_now()

    async def scenario() -> None:
        async with serving(settings, wall=clock) as service:
            await wait_until(lambda: service.page()["state"] == "Connected")
            clock.now_s = service.window.license.expires_s
            await wait_until(lambda: service.page()["state"] == "Failed")
            status = await Accounts(bus).status()
            assert status is not None
            assert "expired" in status.reason

    run(scenario())


# ---------------------------------------------------------------------------------------------------------------------
# restarts, Redis, clocks


def test_trust_survives_a_restart_without_the_issuer(run, bus, settings, vendor, wait_until):
    deliver_longer(settings, vendor)

    async def scenario() -> None:
        async with serving(settings) as service:
            await wait_until(lambda: service.page()["state"] == "Connected")
            vendor.fault = "500"
            await wait_until(lambda: service.page()["state"] == "TrustBased")
            before = service.page()
        async with serving(settings) as service:
            await wait_until(lambda: service.page()["state"] == "TrustBased")
            assert service.page() == before

    run(scenario())


def deliver_longer(settings: LicensingSettings, vendor: Vendor, **other: Any) -> None:
    """A licence that is trusted for a minute; the issuer's book is behind `vendor`."""
    issuer: Issuer = vendor.respond.__self__  # type: ignore[attr-defined]
    deliver(settings, issuer.mint(terms(vendor, **{"trust_s": 60, **other})).token)


def test_what_somebody_wrote_into_redis_is_worth_nothing(run, bus, settings, vendor, wait_until):
    deliver_longer(settings, vendor)

    async def scenario() -> None:
        accounts = Accounts(bus)
        async with serving(settings) as service:
            await wait_until(lambda: service.page()["state"] == "Connected")
        record = await accounts.trust()
        assert record is not None
        vendor.fault = "500"
        import dataclasses

        await accounts.save_trust(dataclasses.replace(record, mark_ms=0))
        async with serving(settings) as service:
            await wait_until(lambda: service.window.state.tries >= 1)
            assert await state_of(bus) is READY

    run(scenario())


def test_an_unreadable_record_is_passed_over(run, bus, keys, settings, vendor, wait_until):
    async def scenario() -> None:
        await bus.execute(lambda pipe: pipe.set(keys.license_trust(), b"\xc1nonsense", ex=60))
        async with serving(settings) as service:
            await wait_until(lambda: service.page()["state"] == "Connected")

    run(scenario())


def test_what_redis_has_lost_is_written_again(run, bus, keys, settings, vendor, wait_until):
    deliver_longer(settings, vendor, checkin_s=600)

    async def scenario() -> None:
        async with serving(settings) as service:
            await wait_until(lambda: service.page()["state"] == "Connected")
            asked = len(vendor.seen)
            await bus.execute(lambda pipe: pipe.delete(keys.license_trust(), keys.license_status()))
            await wait_until(lambda: state_of(bus))
            assert await state_of(bus) is CONNECTED
            assert len(vendor.seen) == asked

    run(scenario())


def test_a_clock_set_back_buys_no_time(run, settings, vendor, clock, wait_until):
    clock.now_s = inline_now()

    async def scenario() -> None:
        async with serving(settings, wall=clock) as service:
            await wait_until(lambda: service.page()["state"] == "Connected")
            vendor.fault = "500"
            clock.advance(-86_400 * 365)
            await wait_until(lambda: service.page()["state"] == "Failed")  # the monotonic clock goes on

    run(scenario())


def test_replicas_answer_alike_and_one_of_them_checks_in(run, bus, settings, vendor, wait_until):
    deliver_longer(settings, vendor, checkin_s=600)
    patient = settings.model_copy(
        update={"checkin_timeout_s": 20.0}
    )  # a second try would be a second check-in

    async def scenario() -> None:
        async with serving(patient) as other:
            # Replicas that start together may each check in (DECISIONS.md, "What processes load, and when").
            await wait_until(lambda: other.page()["state"] == "Connected")
            async with serving(patient) as one:
                await wait_until(lambda: one.page()["state"] == "Connected")
                assert one.page() == other.page()
                serial = max(one.window.state.serial, other.window.state.serial)
            # Alone, it has its turn for certain, takes up what was found, and has nothing to ask.
            await wait_until(lambda: other.window.state.serial == serial)
            assert other.page()["state"] == "Connected"
            assert len(vendor.seen) == 1

    run(scenario())


# ---------------------------------------------------------------------------------------------------------------------
# the file changes


def test_a_renewed_licence_is_taken_with_its_trust(run, settings, vendor, wait_until):
    import jwt

    token = settings.license_file_path.read_text()
    claims = jwt.decode(token, options={"verify_signature": False})
    renewed = KEY.sign({**claims, "iat": claims["iat"] + 1, "max_sessions": 99}, "steno-license+jwt")
    earlier = KEY.sign({**claims, "iat": claims["iat"] - 1, "max_sessions": 5}, "steno-license+jwt")

    async def scenario() -> None:
        async with serving(settings) as service:
            await wait_until(lambda: service.page()["state"] == "Connected")
            deliver(settings, renewed)
            await wait_until(lambda: service.window.license.max_sessions == 99)
            assert service.window.state.passed is not None
            stamp = service._stamp
            deliver(settings, earlier)
            await wait_until(lambda: service._stamp != stamp)
            assert service.window.license.max_sessions == 99

    run(scenario())


@pytest.mark.parametrize("text", ["", "nonsense", mint(KEY, "steno", "id", Terms("Acme", 1), 1e9)])
def test_what_is_no_licence_replaces_none(run, settings, vendor, wait_until, caplog, text: str):
    async def scenario() -> None:
        async with serving(settings) as service:
            await wait_until(lambda: service.page()["state"] == "Connected")
            before = service.window.license
            deliver(settings, text)
            await wait_until(lambda: "is not used" in caplog.text)
            settings.license_file_path.unlink()
            await wait_until(lambda: caplog.text.count("is not used") == 2)
            assert service.window.license is before
            assert service.page()["state"] == "Connected"

    run(scenario())


def test_another_online_licence_is_taken_once_its_check_has_passed(run, settings, issuer, vendor, wait_until):
    second = issuer.mint(terms(vendor))

    async def scenario() -> None:
        async with serving(settings) as service:
            await wait_until(lambda: service.page()["state"] == "Connected")
            first = service.window.license.id
            issuer.revoke(second.id, "a mistake")
            deliver(settings, second.token)
            await wait_until(lambda: service.candidate is not None)
            await wait_until(lambda: service.candidate is None)
            assert service.window.license.id == first
            issuer.reinstate(second.id)
            deliver(settings, second.token + "\n")
            await wait_until(lambda: service.window.license.id == second.id)
            await wait_until(lambda: service.page()["state"] == "Connected")

    run(scenario())


def test_a_licence_that_is_worth_nothing_is_replaced_at_once(run, settings, issuer, vendor, wait_until):
    async def scenario() -> None:
        issuer.revoke(issuer.entries()[0].id, "stolen")
        async with serving(settings) as service:
            await wait_until(lambda: service.page()["state"] == "Failed")
            second = issuer.mint(terms(vendor))
            deliver(settings, second.token)
            await wait_until(lambda: service.window.license.id == second.id)
            await wait_until(lambda: service.page()["state"] == "Connected")

    run(scenario())


def test_the_seal_is_that_of_the_licence_in_use(run, bus, settings, wait_until):
    async def scenario() -> None:
        async with serving(settings) as service:
            await wait_until(lambda: service.page()["state"] == "Connected")
            record = await Accounts(bus).trust()
            assert record is not None
            assert record.license == service.window.license.id
            assert record.seal == seal(service.window.license, service.window.state).seal or record.serial > 0

    run(scenario())
