"""Floating-point operations of a function: products and convolutions by hand, all by XLA."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax


def by_hand(function: Callable, *args) -> float:
    """Operations of the matrix products and convolutions of a function, on one device.

    Loops of known length count as often as they run, of a `cond` its dearest branch; a `while`
    whose length only the data say counts once.

    Args:
        function: traceable by JAX, at these arguments.
    """
    return _of(jax.make_jaxpr(function)(*args).jaxpr)


def by_xla(function: Callable, *args) -> float | None:
    """All operations as XLA counts them before it optimises; None where it does not.

    The body of a loop may count once: give it one step.
    """
    try:
        found = jax.jit(function).lower(*args).cost_analysis()
    except (NotImplementedError, jax.errors.JaxRuntimeError):  # not of every backend
        return None
    found = found[0] if isinstance(found, (list, tuple)) and found else found
    return None if not found or "flops" not in found else float(found["flops"])


def _of(jaxpr: Any) -> float:
    return sum(_of_equation(equation) for equation in jaxpr.eqns)


def _of_equation(equation: Any) -> float:
    name, parameters = equation.primitive.name, equation.params
    if name == "dot_general":
        return _of_product(equation)
    if name == "conv_general_dilated":
        return _of_convolution(equation)
    if name == "convolve":  # of networks/convolution.py, in whose gradient lax's are
        kernel, result = equation.invars[1].aval, equation.outvars[0].aval
        return 2.0 * math.prod(result.shape) * math.prod(kernel.shape[:3])
    if name == "cond":
        return max(_of(inner) for inner in _inner(parameters))
    times = parameters["length"] if name == "scan" else 1
    return times * sum(_of(inner) for inner in _inner(parameters))


def _of_product(equation: Any) -> float:
    """2 × (elements of the result) × (length of what is summed over)."""
    (summed, _), _ = equation.params["dimension_numbers"]
    left, result = equation.invars[0].aval, equation.outvars[0].aval
    return 2.0 * math.prod(result.shape) * math.prod(left.shape[i] for i in summed)


def _of_convolution(equation: Any) -> float:
    """2 × (elements of the result) × (elements of a kernel), less what dilation makes 0."""
    kernel, result = equation.invars[1].aval, equation.outvars[0].aval
    out_channels = kernel.shape[equation.params["dimension_numbers"].rhs_spec[0]]
    zeros = math.prod(equation.params["lhs_dilation"])
    return 2.0 * math.prod(result.shape) * math.prod(kernel.shape) / out_channels / zeros


def _inner(parameters: dict[str, Any]) -> Iterator[Any]:
    """The jaxprs among the parameters of an equation."""
    for value in parameters.values():
        for each in value if isinstance(value, (list, tuple)) else (value,):
            each = getattr(each, "jaxpr", each)  # of a closed one
            if hasattr(each, "eqns"):
                yield each
