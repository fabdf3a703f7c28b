"""The least that FIT's request can take: its products at the speed of this machine's, and one gather of its rows."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode

from prerank.bench.latency_world import Request, scoring
from prerank.models.fit import FIT
from prerank.publish.generation import Generation


class Product(NamedTuple):
    """A matrix product (m, k) x (k, n)."""

    name: str
    m: int
    k: int
    n: int

    @property
    def flops(self) -> int:
        """Multiplications and additions."""
        return 2 * self.m * self.k * self.n


def fit_products(model: FIT, candidates: int, history: int) -> list[Product]:
    """What is left of FIT once everything that no request changes is computed before: every meta query, K candidates.

    The products named attention are those of items that no history had before; a plan may keep what they give.

    Args:
        model: with meta queries, DIN's unit and LSS.
        candidates: K.
        history: L.
    """
    config, queries, width = model.config, model.config.meta_queries, model.behaviour_width
    products = [Product("attention 1", history, width, queries * config.attention[0])]
    layers = [*config.attention, 1]
    for number, (inputs, outputs) in enumerate(pairwise(layers), start=2):
        products.append(Product(f"attention {number}", queries * history, inputs, outputs))
    products.append(Product("interest", queries, history, width))
    products.append(Product("tower 1, user fields", 1, model.user_width, config.tower[0]))
    products.append(Product("tower 1, interest", queries, width, config.tower[0]))
    for number, (inputs, outputs) in enumerate(pairwise(config.tower), start=2):
        products.append(Product(f"tower {number}", queries, inputs, outputs))
    heads, items, size = config.user_heads, config.item_heads, config.head_width
    products.append(Product("heads", queries, config.tower[-1], heads * size))
    products.append(Product("similarities", candidates, heads * size, items))
    hidden = config.embedding
    products.append(Product("LSS rows", candidates * heads, items, hidden))
    products.append(Product("LSS columns", candidates * hidden, heads, hidden))
    products.append(Product("LSS projection", candidates, hidden * hidden, 1))
    return products


def counted(generation: Generation, request: Request) -> int:
    """FLOPs of a generation's products as PyTorch counts them while it answers; for the model's own functions."""
    with FlopCounterMode(display=False) as counter:
        scoring(generation)(request)
    return int(counter.get_total_flops())


def ceilings(generation: Generation, products: list[Product]) -> dict[str, Callable[[Request], Any]]:
    """Functions to be timed in the run: the four largest products, each alone, and the gather of a request's rows."""
    functions: dict[str, Callable[[Request], Any]] = {}
    for product in sorted(products, key=lambda product: -product.flops)[:4]:
        if product.flops:
            functions[product.name] = _product(product)
    rows = torch.from_numpy(generation.store.floats(np.zeros(1, dtype=np.int64))[0])

    def gather(request: Request) -> torch.Tensor:
        return rows.index_select(0, torch.from_numpy(request.positions))

    return {**functions, "gather": gather}


def floor(
    generation: Generation, products: list[Product], candidates: int, times: dict[str, NDArray[np.float64]]
) -> dict[str, Any]:
    """The floor of what was counted, from the seconds of ``ceilings``.

    The products are all taken to run as fast as the fastest of those measured.
    """
    flops = sum(product.flops for product in products)
    kept = sum(product.flops for product in products if product.name.startswith("attention"))
    by_name = {product.name: product for product in products}
    rates = {name: by_name[name].flops / float(np.median(times[name])) for name in times if name in by_name}
    gathered = candidates * generation.store.rows.nbytes // len(generation.store)
    speed = gathered / float(np.median(times["gather"]))
    ceiling = max(rates.values())
    return {
        "flops": flops,
        "flops_of_attention": kept,
        "bytes_gathered": gathered,
        "gflops_per_second": ceiling / 1e9,
        "gflops_per_second_of": {name: rate / 1e9 for name, rate in rates.items()},
        "gather_gb_per_second": speed / 1e9,
        "products_ms": 1e3 * flops / ceiling,
        "gather_ms": 1e3 * gathered / speed,
        "floor_ms": 1e3 * (flops / ceiling + gathered / speed),
        "floor_of_met_items_ms": 1e3 * ((flops - kept) / ceiling + gathered / speed),
        "flops_of": {product.name: product.flops for product in products},
    }


def _product(product: Product) -> Callable[[Request], Any]:
    generator = torch.Generator().manual_seed(0)
    a = torch.randn((product.m, product.k), generator=generator)
    b = torch.randn((product.k, product.n), generator=generator)
    out = torch.empty((product.m, product.n))

    def multiply(request: Request) -> torch.Tensor:
        del request
        return torch.mm(a, b, out=out)

    return multiply
