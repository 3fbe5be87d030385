"""A task that forgets cancellations is ended all the same."""

import asyncio
import contextlib

from wire.tasks import end


def test_a_task_that_forgets_a_cancellation_ends(run):
    async def scenario() -> None:
        async def forgetful() -> None:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
            await asyncio.Event().wait()

        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(forgetful())
            await asyncio.sleep(0)
            await end(task)
        assert task.cancelled()

    run(scenario())


def test_what_has_ended_is_left_as_it_is(run):
    async def scenario() -> None:
        async def told() -> int:
            return 7

        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(told())
            await asyncio.wait([task])
            await end(task)
        assert task.result() == 7

    run(scenario())
