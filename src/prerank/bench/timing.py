"""Timing ways to answer the same requests in turn, so that whatever disturbs a run disturbs all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

BLOCK = 10
"""Requests that a way answers in a row: a server has one model's weights in its caches, not those of all."""
WARM_UP = 3
FEWEST = 5  # requests of a way that uses up its time at once

Asked = TypeVar("Asked")
Seconds = NDArray[np.float64]


@torch.inference_mode()
def interleaved(
    ways: Mapping[str, Callable[[Asked], Any]], requests: Sequence[Asked], repeats: int, budget: float
) -> dict[str, Seconds]:
    """Seconds of each request by each way, block after block in turn.

    Args:
        ways: by name.
        requests: taken one after the other, and again from the first.
        repeats: requests of each way at most.
        budget: seconds after which a way takes no further part, once it has answered a few requests.

    Returns:
        The times of each way in order.
    """
    for way in ways.values():
        _warm_up(way, requests, budget)
    times: dict[str, list[float]] = {name: [] for name in ways}
    spent = dict.fromkeys(ways, 0.0)
    going = list(ways)
    while going:
        for name in going:
            way, begun = ways[name], len(times[name])
            for number in range(begun, min(begun + BLOCK, repeats)):
                request = requests[number % len(requests)]
                start = time.perf_counter()
                way(request)
                seconds = time.perf_counter() - start
                times[name].append(seconds)
                spent[name] += seconds
                if spent[name] > budget and len(times[name]) >= FEWEST:
                    break
        going = [name for name in going if len(times[name]) < repeats and spent[name] <= budget]
    return {name: np.array(each) for name, each in times.items()}


def quantiles(seconds: Seconds) -> dict[str, Any]:
    """Milliseconds at four quantiles, requests a second one after the other, and how many were timed.

    p10 is what an undisturbed request takes on a machine that is busy with other things.
    """
    shares = {"p10_ms": 0.1, "p50_ms": 0.5, "p90_ms": 0.9, "p99_ms": 0.99}
    return {
        **{name: float(np.quantile(seconds, share)) * 1e3 for name, share in shares.items()},
        "per_second": float(len(seconds) / seconds.sum()),
        "requests": len(seconds),
    }


def _warm_up(way: Callable[[Asked], Any], requests: Sequence[Asked], budget: float) -> None:
    begun = time.perf_counter()
    for request in requests[:WARM_UP]:
        way(request)
        if time.perf_counter() - begun > budget:
            break
