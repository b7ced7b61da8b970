"""What this device does at best: matrix products of each precision, and a copy."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

_SIDE = {"cpu": 1024}  # of the matrices, elsewhere 8192
_COPIED = {"cpu": 2**26}  # bytes of the array, elsewhere 2^30


def make(mode: str) -> tuple[Callable[[int], Any], float]:
    """A function of the repeats, and the operations (of a copy: bytes moved) of one.

    Args:
        mode: one of measure.PEAKS.

    Raises:
        Exception: as JAX has it, for a precision that the device lacks.
    """
    backend = jax.default_backend()
    if mode == "copy":
        x: Any = jnp.zeros(_COPIED.get(backend, 2**30) // 4, jnp.float32)
        copy = jax.jit(lambda x: x + 1)
        return _repeated(copy, x), 2.0 * x.nbytes
    if mode == "tf32" and backend == "cpu":
        raise ValueError("mode: a CPU has no TF32")
    side = _SIDE.get(backend, 8192)
    dtype = jnp.bfloat16 if mode == "bfloat16" else jnp.float32
    precision: Any = {
        "float32 highest": "highest",
        "tf32": jax.lax.DotAlgorithmPreset.TF32_TF32_F32,
    }.get(mode)
    x = (jax.random.normal(jax.random.key(0), (side, side)) / side**0.5).astype(dtype)
    product = jax.jit(lambda x: jnp.matmul(x, x, precision=precision))
    return _repeated(product, x), 2.0 * side**3


def _repeated(function: Callable, x: Any) -> Callable[[int], Any]:
    def run(repeats: int):
        for _ in range(repeats):
            found = function(x)
        return found

    return run
