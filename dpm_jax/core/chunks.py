"""How many examples a device works on at once: what its memory holds, or, on CPU, its cache."""

import math
import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

# Of all that one example passes through; a few per cent of it live at one time. Measured on the
# networks for images: 16 examples a core are 1.2 times as fast as 256.
_CACHE = 2**27
_SHARE = 0.25  # of the free memory of an accelerator


def at_once(one: Callable, rows: tuple[Any, ...], shared: tuple[Any, ...] = ()) -> int:
    """How many examples to give `jax.vmap(one)`; a power of 2.

    On CPU as many as stay in the cache of the cores that a device has, on accelerators as many as
    their memory surely holds. What `one` computes does not depend on it. What is made of shared
    arguments alone, once for all examples, does not count.

    Args:
        one: (*rows, *shared) -> anything, of one example; only the shapes are computed.
        rows: its arguments that each example has its own of, or their shapes and types.
        shared: those that are the same for all.
    """

    def made(num: int) -> int:
        many = [jax.ShapeDtypeStruct((num, *row.shape), row.dtype) for row in rows]
        axes = (0,) * len(rows) + (None,) * len(shared)
        return _bytes(jax.make_jaxpr(jax.vmap(one, axes))(*many, *shared))

    each = max(1, made(2) - made(1))
    device = jax.local_devices()[0]
    if device.platform == "cpu":
        room: float = _CACHE * max(1, _cores() // jax.device_count())
    else:
        stats = device.memory_stats() or {}
        room = _SHARE * (stats.get("bytes_limit", 2**33) - stats.get("bytes_in_use", 0))
    return 2 ** int(math.log2(max(1, room // each)))


def mapped(one: Callable, rows: Any, most: int) -> Any:
    """`jax.vmap(one)` over the rows of a pytree, in as few equal parts of `most` or fewer as go.

    Where no such part divides them the last is filled with the last row, and cut again: a part of
    another size would be compiled once more.
    """
    num = len(jax.tree.leaves(rows)[0])
    parts = -(-num // most)
    if parts == 1:
        return jax.vmap(one)(rows)
    size = -(-num // parts)
    if parts * size > num:
        index = np.minimum(np.arange(parts * size), num - 1)
        rows = jax.tree.map(lambda row: row[index], rows)
    found = jax.lax.map(one, rows, batch_size=size)
    return jax.tree.map(lambda row: row[:num], found)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _bytes(jaxpr: Any) -> int:
    """Of all arrays that a computation makes, calls included; a loop counts as one turn of it."""
    found = 0
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        found += sum(v.aval.size * v.aval.dtype.itemsize for v in equation.outvars)
        inner = [p for p in equation.params.values() if hasattr(p, "eqns") or hasattr(p, "jaxpr")]
        found += sum(map(_bytes, inner))
    return found
