"""The usage service over a real Redis, with the real tracker behind a server with switches."""

import asyncio
import contextlib
import dataclasses
import logging
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from tests.vendors import Vendor
from usage.jobs import Usage
from usage.settings import UsageSettings
from usage.tracker import Tracker as ReferenceTracker
from wire import metrics
from wire.accounts import Accounts
from wire.entries import Billing, LicenseState, LicenseStatus, UsageRecord, pack_license
from wire.errors import GaveUp, SettingsError
from wire.service import Probe

STATUS = LicenseStatus(LicenseState.CONNECTED, "license-1", Billing.USAGE, ("*",), 0, 1, 2, 3)


@pytest.fixture
def reference(tmp_path: Path) -> ReferenceTracker:
    return ReferenceTracker(tmp_path / "book", ["hunter2"])


@pytest.fixture
def vendor(reference) -> Iterator[Vendor]:
    with Vendor(reference.respond) as server:
        yield server


@pytest.fixture
def settings(vendor, redis_url: str, namespace: str) -> UsageSettings:
    return UsageSettings(
        redis_url=redis_url,
        namespace=namespace,
        usage_tracking_api_key=SecretStr("hunter2"),
        usage_tracker_url=vendor.url,
        consumer="one",
        flush_s=0,
        report_timeout_s=0.5,
    )


def lap(session: str, number: int = 1, over: bool = False) -> UsageRecord:
    ms, started_ms = 1000 * number, 1_700_000_000_000
    return UsageRecord(session, number, ms, ms, "english", "m", started_ms, started_ms + ms if over else -1)


async def license_says(bus, keys, status: LicenseStatus = STATUS) -> None:
    """What licensing would publish every second, for long enough for a test."""
    await bus.execute(lambda pipe: pipe.set(keys.license_status(), pack_license(status), ex=60))


@contextlib.asynccontextmanager
async def serving(settings: UsageSettings, **clock: Any) -> AsyncIterator[Any]:
    drain, service = asyncio.Event(), Usage(settings, **clock)
    probe = Probe("127.0.0.1", 0)
    service.probe = probe  # type: ignore[attr-defined]
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(service.run(drain, probe))
        try:
            yield service
        finally:
            drain.set()


def counted(reference: ReferenceTracker) -> int:
    return sum(total.audio_ms for total in reference.totals())


def failures() -> float:
    return metrics.REGISTRY.get_sample_value("steno_usage_failures_total") or 0.0


async def waiting(bus) -> int:
    return (await Accounts(bus).waiting_usage()).count


def test_records_are_counted_and_leave_redis(run, bus, keys, settings, reference, vendor, wait_until):
    async def scenario() -> None:
        await license_says(bus, keys)
        accounts = Accounts(bus)
        await accounts.append_usage([lap("a", 1), lap("a", 2), lap("b", 1, over=True)])
        async with serving(settings) as service:
            await wait_until(lambda: counted(reference) == 3000)
            await accounts.append_usage([lap("a", 5, over=True)])
            await wait_until(lambda: counted(reference) == 6000)
            await wait_until(lambda: service.probe.ready)
        assert await waiting(bus) == 0
        assert [total.over for total in reference.totals()] == [2]
        assert {total.license for total in reference.totals()} == {"license-1"}

    run(scenario())


def test_nothing_is_sent_or_taken_under_flat_billing(run, bus, keys, settings, vendor, wait_until, caplog):
    async def scenario() -> None:
        await license_says(bus, keys, dataclasses.replace(STATUS, billing=Billing.FLAT))
        await Accounts(bus).append_usage([lap("a")])
        async with serving(settings.model_copy(update={"usage_tracking_api_key": SecretStr("")})) as service:
            await wait_until(lambda: service.probe.ready)
        assert await waiting(bus) == 1

    with caplog.at_level(logging.INFO):
        run(scenario())
    assert vendor.seen == []
    assert caplog.text.count("Billing is flat") == 1


def test_what_was_used_before_billing_became_flat_is_still_told(
    run, bus, keys, settings, reference, wait_until
):
    async def scenario() -> None:
        await license_says(bus, keys)
        async with serving(settings) as service:
            await wait_until(lambda: service.probe.ready)
            await license_says(bus, keys, dataclasses.replace(STATUS, billing=Billing.FLAT))
            await Accounts(bus).append_usage([lap("a", over=True)])
            await wait_until(lambda: counted(reference) == 1000)

    run(scenario())


def test_without_licensing_it_waits_and_is_not_ready(run, bus, keys, settings, vendor, wait_until, caplog):
    async def scenario() -> None:
        async with serving(settings) as service:
            await wait_until(lambda: "Waiting for the licensing service" in caplog.text)
            assert not service.probe.ready
            await license_says(bus, keys)
            await wait_until(lambda: service.probe.ready)

    with caplog.at_level(logging.INFO):
        run(scenario())
    assert [seen.path for seen in vendor.seen] == ["/v1/register"]


@pytest.mark.parametrize(
    "key,fault,error,reason",
    [
        ("hunter2", "500", GaveUp, "cannot register .*500"),
        ("wrong", "", SettingsError, "USAGE_TRACKING_API_KEY"),
        ("", "", SettingsError, "USAGE_TRACKING_API_KEY is not set"),
    ],
)
def test_a_registration_that_fails_ends_it(run, bus, keys, settings, vendor, *, key, fault, error, reason):
    vendor.fault = fault

    async def scenario() -> None:
        await license_says(bus, keys)
        service = Usage(settings.model_copy(update={"usage_tracking_api_key": SecretStr(key)}))
        await service.run(asyncio.Event(), Probe("127.0.0.1", 0))

    with pytest.raises(error, match=reason):
        run(scenario())


def test_giving_up_leaves_every_record_to_the_next(
    run, bus, keys, settings, reference, vendor, clock, wait_until
):
    async def scenario() -> None:
        await license_says(bus, keys)
        accounts = Accounts(bus)
        await accounts.append_usage([lap(session) for session in "abc"])

        async def give_up() -> None:
            async with serving(settings, monotonic=clock):
                await wait_until(lambda: any(seen.path == "/v1/register" for seen in vendor.seen))
                vendor.fault = "lost answer"  # the worst: counted, and nobody heard of it
                before = failures()
                await wait_until(lambda: failures() == before + 1)
                clock.advance(settings.give_up_s - 1)
                await wait_until(lambda: failures() == before + 2)
                clock.advance(1)
                await asyncio.Event().wait()  # ended by the service

        with pytest.raises(ExceptionGroup) as caught:
            await give_up()
        assert caught.group_contains(GaveUp, match="1800 seconds")
        assert await waiting(bus) == 3
        vendor.fault = ""
        async with serving(settings.model_copy(update={"consumer": "two"})):
            await wait_until(waiting_is(bus, 0))
        assert counted(reference) == 3000

    run(scenario())


def waiting_is(bus, count: int):
    async def is_so() -> bool:
        return await waiting(bus) == count

    return is_so


@pytest.mark.parametrize(
    "fault", ["500", "slow", "half", "cut", "lost answer", "redirect", "huge", "garbage"]
)
def test_totals_are_exact_after_any_fault(
    run, bus, keys, settings, reference, vendor, wait_until, fault: str
):
    async def scenario() -> None:
        await license_says(bus, keys)
        accounts = Accounts(bus)
        before = failures()
        async with serving(settings):
            await wait_until(lambda: any(seen.path == "/v1/register" for seen in vendor.seen))
            vendor.fault = fault
            await accounts.append_usage([lap("a", 1), lap("b", 2)])
            await wait_until(lambda: failures() > before)
            await accounts.append_usage([lap("a", 3, over=True), lap("c", 1)])
            vendor.fault = ""
            await wait_until(waiting_is(bus, 0))
        assert counted(reference) == 3000 + 2000 + 1000

    run(scenario())


def test_a_silent_process_s_records_go_to_another(run, bus, keys, settings, reference, wait_until):
    async def scenario() -> None:
        await license_says(bus, keys)
        accounts = Accounts(bus)
        await accounts.join_usage()
        await accounts.append_usage([lap("a"), lap("b")])
        taken = await accounts.take_usage("stuck", 10)
        assert len(taken) == 2
        await accounts.give_back_usage("stuck", [entry for entry, _ in taken[:1]])  # as if silent for a day
        async with serving(settings):
            await wait_until(lambda: counted(reference) == 1000)
            await accounts.give_back_usage("stuck", [taken[1][0]])
            await wait_until(lambda: counted(reference) == 2000)

    run(scenario())


def test_two_processes_share_the_work(run, bus, keys, settings, reference, vendor, wait_until):
    async def scenario() -> None:
        await license_says(bus, keys)
        accounts = Accounts(bus)
        two = settings.model_copy(update={"consumer": "two"})
        async with serving(settings), serving(two):
            for number in range(1, 40):
                await accounts.append_usage([lap(f"session-{number}", number, over=True)])
            await wait_until(waiting_is(bus, 0))
        assert counted(reference) == 1000 * sum(range(1, 40))
        [total] = reference.totals()
        assert (total.sessions, total.over) == (39, 39)

    run(scenario())


def test_an_orphan_is_closed_out_and_lives_on_if_it_was_none(
    run, bus, keys, settings, reference, clock, wait_until
):
    quick = settings.model_copy(update={"silence_s": 1.0})

    async def scenario() -> None:
        await license_says(bus, keys)
        accounts = Accounts(bus)
        await accounts.append_usage([lap("a", 3)])
        async with serving(quick):
            await wait_until(lambda: [total.over for total in reference.totals()] == [1])
            assert counted(reference) == 3000
            await accounts.append_usage([lap("a", 4)])
            await wait_until(lambda: counted(reference) == 4000)
            await wait_until(lambda: [total.over for total in reference.totals()] == [1])
            assert counted(reference) == 4000
        assert await accounts.usage_records() == []

    run(scenario())


def test_many_waiting_records_are_warned_of_with_their_number(
    run, bus, keys, settings, vendor, wait_until, caplog
):
    few = settings.model_copy(update={"warn_waiting": 3})

    async def scenario() -> None:
        await license_says(bus, keys)
        async with serving(few) as service:
            await wait_until(lambda: service.probe.ready)
            vendor.fault = "500"
            await Accounts(bus).append_usage([lap(session) for session in "abcd"])
            await wait_until(lambda: "4 usage records wait for the tracker (more than 3)" in caplog.text)
            assert metrics.REGISTRY.get_sample_value("steno_usage_waiting") == 4
            assert (metrics.REGISTRY.get_sample_value("steno_usage_oldest_seconds") or 0) >= 0

    with caplog.at_level(logging.WARNING):
        run(scenario())
    assert caplog.text.count("usage records wait") == 1


def test_a_clock_that_jumps_gives_nothing_up(
    run, bus, keys, settings, reference, vendor, monkeypatch, wait_until
):
    """The patience is measured with a clock that nobody can set."""

    async def scenario() -> None:
        await license_says(bus, keys)
        async with serving(settings):
            await wait_until(lambda: any(seen.path == "/v1/register" for seen in vendor.seen))
            vendor.fault = "500"
            await Accounts(bus).append_usage([lap("a")])
            await wait_until(lambda: sum(seen.path == "/v1/usage" for seen in vendor.seen) >= 1)
            real = time.time
            monkeypatch.setattr(time, "time", lambda: real() + 86_400)
            seen = len(vendor.seen)
            await wait_until(lambda: len(vendor.seen) > seen)
            monkeypatch.setattr(time, "time", real)
            vendor.fault = ""
            await wait_until(waiting_is(bus, 0))
        assert counted(reference) == 1000

    run(scenario())


def test_what_cannot_be_read_stays_for_who_can(run, bus, keys, settings, reference, wait_until):
    async def scenario() -> None:
        await license_says(bus, keys)
        await bus.execute(lambda pipe: pipe.xadd(keys.usage(), {b"e": b"\x92\x63\x07"}))
        await Accounts(bus).append_usage([lap("a")])
        async with serving(settings):
            await wait_until(lambda: counted(reference) == 1000)
            await wait_until(waiting_is(bus, 1))

    run(scenario())
