"""A worker process: weights, recognizer, warm-up, engine. The only file that knows the pools."""

import asyncio
import importlib
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from wire.errors import SettingsError, WeightsError
from wire.keys import Keys
from wire.service import Probe
from wire.streams import Bus
from workers.engine import Engine
from workers.pool import Pool
from workers.settings import WorkerSettings

if TYPE_CHECKING:
    from workers.recognizer import Recognizer

logger = logging.getLogger(__name__)

#: Pools of this release; each is a package `workers.<pool>` whose `recognizer` module has `build`.
POOLS = ("english", "multilang", "u3pro")


async def serve(pool: str, settings: WorkerSettings, drain: asyncio.Event, probe: Probe) -> None:
    """Serve `pool` until drained. The probe turns ready after warm-up and the first contact with Redis.

    Raises SettingsError for a pool that does not exist, WeightsError when weights are missing or of another kind.
    """
    if pool not in POOLS:
        raise SettingsError(f"there is no pool {pool!r}; there are: {', '.join(POOLS)}")
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(1, thread_name_prefix="model") as thread:
        recognizer, digest = await loop.run_in_executor(thread, _load, pool, settings)
        bus = Bus(settings.redis_url, Keys(settings.namespace))
        try:
            leases = Pool(bus, pool, settings.worker, settings.lease_s)

            def joined() -> None:
                probe.ready = True
                spec = recognizer.spec
                told = {"pool": pool, "model": spec.model, "licence": spec.licence, "slots": spec.slots}
                logger.info("Ready", extra=told)

            await Engine(settings, bus, leases, recognizer, thread, digest).run(drain, joined)
        finally:
            probe.ready = False
            await bus.close()


def _load(pool: str, settings: WorkerSettings) -> "tuple[Recognizer, str]":
    """Weights to a warm recognizer, and their digest.

    On the model's thread: torch's own threads belong to whoever starts them.
    """
    # Threads of one product that wait for each other must sleep, not spin: ingress, Redis and clients may need the
    # core that the slowest of them has lost. Read once, when torch is loaded; so torch is loaded here.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import torch  # noqa: PLC0415

    from workers import checkpoints  # noqa: PLC0415

    torch.set_num_threads(settings.threads or max(1, (os.cpu_count() or 1) // 2))
    package = importlib.import_module(f"workers.{pool}.recognizer")
    reference = settings.model_of(pool)
    chosen = {"partial_ms": settings.partial_ms} if settings.partial_ms else {}
    try:
        folder = checkpoints.locate(reference)
        config, weights = checkpoints.load(folder)
        _, vad_weights = checkpoints.load(checkpoints.locate(settings.vad))
        recognizer: Recognizer = package.build(
            config,
            weights,
            vad_weights,
            checkpoints.pieces(folder),
            name=reference,
            licence=checkpoints.licence(reference),
            slots=settings.slots,
            precision=settings.precision,
            **chosen,
        )
        digest = checkpoints.digest(reference)
    except (checkpoints.CheckpointError, ValueError, KeyError, RuntimeError) as error:
        raise WeightsError(f"{reference}: {error}") from error
    recognizer.warm_up()
    return recognizer, digest
