"""Time for the slow services: a coroutine called once a second, by arq over Redis. The only file that knows arq.

With one queue for all processes of a service, each second's call is made by one of them; with a queue for each process,
by each. A process that begins calls at once besides. arq keeps nothing but the time: a job has no arguments and no
result, and what it does lies in the service.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from datetime import UTC
from typing import Any

from arq import cron
from arq.connections import ArqRedis
from arq.constants import in_progress_key_prefix, job_key_prefix, retry_key_prefix
from arq.worker import Worker
from redis.exceptions import RedisClusterException, RedisError

from wire.entries import pack_job, unpack_job
from wire.servers import close, is_lost, parse, pool_for
from wire.tasks import end

logger = logging.getLogger(__name__)

#: A queue that nobody serves any more is gone after this.
QUEUE_TTL_S = 3600
#: Longest call; then it is cancelled, and the next one comes.
CALL_TIMEOUT_S = 60
_POLL_S = 0.25
_PAUSE_S = 0.5


async def every_second(
    redis_url: str,
    queue: bytes,
    call: Callable[[], Awaitable[None]],
    drain: asyncio.Event,
    missed: Callable[[Exception], None],
) -> None:
    """Call `call` at once, then once a second until `drain`, one call at a time in this process.

    Raises what `call` raises.

    While Redis is away nothing is called; `missed` is told of each failed try.
    """
    # arq logs two lines for each job, which here would be two a second.
    logging.getLogger("arq").setLevel(logging.ERROR)
    while not drain.is_set():
        try:
            await _work(redis_url, queue.decode(), call, drain)
        except (RedisError, RedisClusterException, OSError, TimeoutError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and not is_lost(error):
                raise
            missed(error)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_PAUSE_S):
                    await drain.wait()


class _Worker(Worker):
    """arq's, whose queue expires. A queue that ran empty is gone, and its expiry with it: so it is set each time."""

    async def heart_beat(self) -> None:
        await super().heart_beat()  # adds the next second to the queue
        await self.pool.expire(self.queue_name, QUEUE_TTL_S)

    async def finish_job(
        self,
        job_id: str,
        finish: bool,
        result_data: bytes | None,  # noqa: ARG002 arq passes it; our jobs have no results
        result_timeout_s: float | None,  # noqa: ARG002
        keep_result_forever: bool,  # noqa: ARG002
        incr_score: int | None,
        keep_in_progress: float | None,
    ) -> None:
        """As arq's, but for its list of aborted jobs: a key without a name, in another slot of a cluster than ours."""
        async with self.pool.pipeline(transaction=True) as pipe:
            running = in_progress_key_prefix + job_id
            if keep_in_progress is None:
                pipe.delete(running)
            else:
                pipe.pexpire(running, round(1000 * keep_in_progress))
            if finish:
                pipe.delete(retry_key_prefix + job_id, job_key_prefix + job_id)
                pipe.zrem(self.queue_name, job_id)
            elif incr_score:
                pipe.zincrby(self.queue_name, incr_score, job_id)
            await pipe.execute()

    async def finish_failed_job(self, job_id: str, result_data: bytes | None) -> None:  # noqa: ARG002
        async with self.pool.pipeline(transaction=True) as pipe:
            pipe.delete(
                *(prefix + job_id for prefix in (retry_key_prefix, in_progress_key_prefix, job_key_prefix))
            )
            pipe.zrem(self.queue_name, job_id)
            await pipe.execute()


async def _work(
    redis_url: str, queue: str, call: Callable[[], Awaitable[None]], drain: asyncio.Event
) -> None:
    """One arq worker until `drain`, until `call` raises, or until Redis is lost."""
    failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    busy = asyncio.Lock()

    async def tick(ctx: dict[str, Any]) -> None:  # noqa: ARG001 arq passes it
        if busy.locked() or failed.done():
            return  # the last second's call takes longer
        async with busy:
            try:
                await call()
            except Exception as error:  # noqa: BLE001 arq would only log it; it belongs to the service
                failed.set_exception(error)

    # In a cluster, all keys of a queue are in one slot (its name has a hash tag), so one server is all that arq needs.
    redis = ArqRedis(connection_pool=await pool_for(parse(redis_url), queue.encode(), 5.0))
    redis.job_serializer, redis.job_deserializer = pack_job, unpack_job
    # arq's own keys know no namespace; a name with ours in it keeps two stacks on one server apart.
    name = f"{queue}:tick"
    worker = _Worker(
        cron_jobs=[
            cron(
                tick,
                name=name,
                second=set(range(60)),
                microsecond=0,
                run_at_startup=True,  # else a service waits for most of two seconds before it is ready
                unique=True,
                timeout=CALL_TIMEOUT_S,
                keep_result=0,
                max_tries=1,
            )
        ],
        queue_name=queue,
        redis_pool=redis,
        handle_signals=False,
        poll_delay=_POLL_S,
        keep_result=0,
        max_tries=1,
        job_serializer=pack_job,
        job_deserializer=unpack_job,
        expires_extra_ms=60_000,
        health_check_interval=QUEUE_TTL_S,
        timezone=UTC,
        log_results=False,
    )
    try:
        async with asyncio.TaskGroup() as tasks:
            loop, drained = tasks.create_task(worker.async_run()), tasks.create_task(drain.wait())
            waited: list[asyncio.Future[Any]] = [loop, drained, failed]
            try:
                await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            finally:
                # Here, since the group cancels once only, and only its own.
                drained.cancel()
                worker.allow_pick_jobs = False
                await _let_go(worker, loop, redis)
            if failed.done():
                failed.result()
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from None


async def _let_go(worker: Worker, loop: "asyncio.Task[None]", redis: ArqRedis) -> None:
    """End arq's loop, wait for the call that is being made, close the connection."""
    if worker.main_task is not None:  # arq's own task, inside `loop`
        await end(worker.main_task)
    await end(loop)
    jobs: list[asyncio.Task[Any]] = list(worker.tasks.values())
    if jobs:
        await asyncio.wait(jobs, timeout=CALL_TIMEOUT_S)
    for task in jobs:
        if task.done() and not task.cancelled():
            task.exception()  # a job whose end could not be told to a lost Redis
    with contextlib.suppress(RedisError, OSError):
        await redis.delete(worker.health_check_key)
        await redis.expire(
            worker.queue_name, QUEUE_TTL_S
        )  # a second added last, and cut off before its expiry
    await close(redis)
