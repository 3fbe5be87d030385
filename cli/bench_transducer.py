"""How many live sessions a native transducer holds, without Redis: paced sessions that drive its step.

    python -m cli.bench_transducer --model dummy:nemotron-en --lookahead 0 --levels 480,960

What is left out: Redis, the voice activity model and the texts; what is in: features, encoder, search, transfers.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from workers import dummy
from workers.streaming import Stepper

METHOD = (
    "Sessions in real time at random phases, each with a chunk of noise due every 80 ms times (look-ahead + 1). A loop "
    "steps all that are due at once. Lag: from the moment a chunk is due to its labels on the host. A level holds when "
    "p95 of lag is at most one chunk over the second half of the level, where the first half fills left contexts."
)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
KERNELS = 12


def run(
    model: str,
    lookahead: int,
    levels: Sequence[int],
    seconds: float,
    tell: Callable[[str], None],
    *,
    device: str = "",
    precision: str = "",
    budget_s: float = 1e9,
) -> dict[str, Any]:
    """Measure each level in turn until one does not hold, or `budget_s` is spent.

    Raises ValueError for a model that it does not know.
    """
    started = time.perf_counter()
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    precision = precision or ("bfloat16" if device == "cuda" else "float32")
    network = dummy.build(model, lookahead, device, DTYPES[precision])
    stepper = Stepper(network, max(levels))
    loaded = time.perf_counter()
    stepper.warm_up()
    result: dict[str, Any] = {
        "model": model,
        "lookahead": lookahead,
        "chunk_ms": 80 * stepper.frames,
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "torch": torch.__version__,
        "precision": precision,
        "method": METHOD,
        "load_s": round(loaded - started, 2),
        "warm_up_s": round(time.perf_counter() - loaded, 2),
        "state_mb_per_session": round(stepper.state.bytes_per_slot / 1e6, 3),
    }
    tell(json.dumps(result))
    result["steps"] = steps(stepper, tell)
    result["levels"] = []
    for count in levels:
        if time.perf_counter() - started > budget_s:
            tell("out of time")
            break
        level = paced(stepper, count, seconds)
        tell(json.dumps(level))
        result["levels"].append(level)
        if not level["holds"]:
            break
    result["holds"] = max((level["sessions"] for level in result["levels"] if level["holds"]), default=0)
    if device == "cuda":
        result["peak_memory_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
        result["kernels"] = kernels(stepper)
        tell(json.dumps(result["kernels"]))
    return result


def steps(stepper: Stepper, tell: Callable[[str], None], times: int = 10) -> list[dict[str, float]]:
    """Milliseconds of a step with its transfers, by rows in it: median and worst of `times`."""
    found = []
    noise = np.random.default_rng(0).normal(0, 0.1, (stepper.widest, stepper.width)).astype(np.float32)
    for size in stepper.sizes:
        took = []
        for _ in range(times if size > 1 or stepper.device.type == "cuda" else 3):
            before = time.perf_counter()
            stepper.step(np.arange(size), noise[:size])
            took.append((time.perf_counter() - before) * 1e3)
        found.append(
            {"rows": size, "median_ms": round(float(np.median(took)), 2), "worst_ms": round(max(took), 2)}
        )
        tell(json.dumps(found[-1]))
        if found[-1]["median_ms"] > 80 * stepper.frames:
            break  # wider steps could not keep up with real time anyway
    return found


def paced(stepper: Stepper, count: int, seconds: float) -> dict[str, Any]:
    """One level: so many sessions for so long."""
    random = np.random.default_rng(count)
    chunk_s = 0.08 * stepper.frames
    noise = random.normal(0, 0.1, 1_000_000).astype(np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(noise, stepper.width)
    stepper.reset(np.arange(count))
    lags: list[np.ndarray[Any, Any]] = []
    widths: list[int] = []
    spent = labels = 0.0
    start = time.perf_counter()
    due = start + random.uniform(0, chunk_s, count)
    while (now := time.perf_counter()) < start + seconds:
        ready = np.flatnonzero(due <= now)
        if not len(ready):
            time.sleep(max(0.0, min(float(due.min()) - now, 0.002)))
            continue
        said = stepper.step(ready, windows[random.integers(0, len(windows), len(ready))])
        done = time.perf_counter()
        spent += done - now
        if done > start + seconds / 2:
            lags.append(done - due[ready])
            widths.append(len(ready))
            labels += int((said.token >= 0).sum())
        due[ready] += chunk_s
    late = np.concatenate(lags) * 1e3 if lags else np.array([float("inf")])
    p50, p95, p99 = (round(float(np.percentile(late, share)), 2) for share in (50, 95, 99))
    return {
        "sessions": count,
        "lag_p50_ms": p50,
        "lag_p95_ms": p95,
        "lag_p99_ms": p99,
        "rows_mean": round(float(np.mean(widths)), 1) if widths else 0,
        "busy": round(spent / seconds, 3),
        "labels_per_s": round(labels / (seconds / 2) / count, 2),
        "holds": p95 <= chunk_s * 1e3,
    }


def kernels(stepper: Stepper) -> list[tuple[str, float, int]]:
    """Where a step's time goes on the device: kernel, ms, calls; the longest first."""
    size = stepper.sizes[-1]
    noise = np.zeros((size, stepper.width), np.float32)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        stepper.step(np.arange(size), noise)
    spent = [(part.key[:90], part.device_time_total / 1e3, part.count) for part in profile.key_averages()]
    return [(name, round(ms, 3), count) for name, ms, count in sorted(spent, key=lambda part: -part[1])][
        :KERNELS
    ]


def main() -> None:
    """The bench where the rest of the desk is not installed."""
    parser = argparse.ArgumentParser(description=METHOD)
    parser.add_argument("--model", default="dummy:nemotron-en")
    parser.add_argument("--lookahead", type=int, default=6)
    parser.add_argument("--levels", default="1,2,4")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--device", default="")
    parser.add_argument("--precision", default="", choices=["", *DTYPES])
    parser.add_argument(
        "--budget", type=float, default=1e9, help="seconds after which no further level begins"
    )
    parser.add_argument("--out", default="")
    asked = parser.parse_args()
    levels = [int(count) for count in asked.levels.split(",")]

    def tell(text: str) -> None:
        print(text, flush=True)  # noqa: T201 a command's output

    result = run(
        asked.model,
        asked.lookahead,
        levels,
        asked.seconds,
        tell,
        device=asked.device,
        precision=asked.precision,
        budget_s=asked.budget,
    )
    if asked.out:
        Path(asked.out).write_text(json.dumps(result, indent=1), encoding="utf-8")
    tell(f"holds {result['holds']} sessions at {result['chunk_ms']} ms")


if __name__ == "__main__":
    main()
