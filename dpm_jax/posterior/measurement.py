"""Measurements y = A x^0 + ε of any linear A as tilts: exact products (eq. 22), or through x̂^0."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from dpm_jax import units
from dpm_jax.core.chain import Chain
from dpm_jax.core.denoising import x0_hat
from dpm_jax.core.family import Array, numbers
from dpm_jax.core.gaussian import Normal
from dpm_jax.core.readout import check_name
from dpm_jax.posterior import linear
from dpm_jax.posterior.guide import Felt, Guide, Product, Step
from dpm_jax.posterior.linear import Linear
from dpm_jax.posterior.product import exact, log_normal
from dpm_jax.posterior.tilt import R_T, Tilt, guided
from dpm_jax.units import LOG_2PI

THROUGH = ("dps", "pigdm", "mmps")  # names of r(x^t) through the network
_DENSE = 16  # rows of A up to which mmps forms S whole


def measure(
    chain: Chain,
    A: Linear | ArrayLike | Callable[[Array], Array],
    y: ArrayLike,
    noise: ArrayLike,
    r_t: str = "mmps",
    products: int | None = None,
    error: ArrayLike | None = None,
) -> Tilt:
    """r = N(y; A x^0, noise I) of any linear A (Sec. 2.5), as the named r(x^t) at t > 0.

    "constant", "annealed", "noised" are exact products with the kernel (eq. 22), as `denoise` has
    them; "dps", "pigdm", "mmps" go through the network (guide.py), for images and `particles`.

    Args:
        chain: that will be sampled, of Gaussians.
        A: a Linear (linear.py has mask, block_mean, blur, channels, projection); or a matrix (m,
            elements of x) or linear function x -> y, of which a singular value decomposition is
            made.
        y: of the shape of A x.
        noise: variance R of each element of y, above 0.
        r_t: name of r(x^t).
        products: of "mmps", vector products through the network in a step, by which S is inverted:
            so many turns of conjugate gradients. By default S is formed whole where A has up to 16
            rows, and 1 elsewhere.
        error: of "pigdm", variances of x^0 − x̂^0 by t, (T+1,) as `errors` measures them, or of
            the coordinates of A by t, (T+1, rank), in the place of 1 − ᾱ_t.

    Raises:
        ValueError: for a chain of bits, an A that is not linear, y of another shape, not finite, or
            outside the range of A by more than its noise, noise not above 0, an unknown name, or
            an argument of another r(x^t).
    """
    if not isinstance(chain.prior, Normal):
        raise ValueError(f"chain: expected one of Gaussians, got {chain!r}; of bits: denoise")
    check_name("r_t", r_t, (*R_T, *THROUGH))
    _only(r_t, products=products, error=error)
    A = A if isinstance(A, Linear) else linear.dense(A, chain.shape)
    R = _variance(noise)
    z, apart = _coordinates(chain, A, y, R)
    if r_t in R_T:
        return exact(chain, A, z, R, apart, r_t)
    felt = {
        "dps": partial(_by_rows, A, R, jnp.zeros(chain.T + 1)),
        "pigdm": partial(_by_rows, A, R, _errors(chain, A, error)),
        "mmps": partial(_mmps, A, R, _products(A, products), chain.schedule.noise),
    }[r_t]

    def log_r0(x0: Array) -> Array:
        return apart + log_normal(z - A.singular * A.rows(x0), jnp.broadcast_to(R, z.shape))

    def feel(x0: Array, product: Product, params: Normal, step: Step) -> Felt:
        found = felt(z - A.singular * A.rows(x0), product, params, step)
        kept = _kept(A, R, params, step)
        return found._replace(log_r=found.log_r + apart, kept=kept)

    return guided(chain, Guide(feel, log_r0, A.rows, A.back))


def errors(key: Array, chain: Chain, x0: ArrayLike, A: Linear | None = None) -> Array:
    """Mean square error of x̂^0 by t, (T+1,), over examples noised to each t: the `error` of pigdm.

    1 − ᾱ_t is what x^0 − x̂^0 could be; where the network knows more, steps by what it is are
    longer and better aimed. T calls of the network for each example.

    Args:
        key: typed PRNG key.
        chain: of Gaussians.
        x0: (n, *event); some dozens, of the data or samples of the model.
        A: whose rows the error is taken along; of all elements where none is given. Errors of
            neighbours go together: along means of them it is larger than along each.
    """
    rows, schedule = jnp.asarray(chain.checked("x0", x0, many=True)), chain.schedule

    def one(key: Array, x: Array, t: Array) -> Array:
        xt = chain.family.sample(key, chain.family.marginal(x, schedule.log_alpha_bar[t]))
        params = chain.reverse(xt, t)
        off = x0_hat(params.mean + params.low, xt, schedule, t) - x
        return jnp.mean((off if A is None else A.rows(off)) ** 2)

    def at(t: Array) -> Array:
        keys = jax.random.split(jax.random.fold_in(key, t), len(rows))
        return jnp.mean(jax.vmap(lambda k, x: one(k, x, t))(keys, rows))

    found = jax.lax.map(at, jnp.arange(1, chain.T + 1))
    return jnp.concatenate([jnp.zeros_like(found[:1]), found])


# --- through the network ------------------------------------------------------------------------


def _by_rows(
    A: Linear, R: Array, error: Array, e: Array, product: Product, params: Normal, step: Step
) -> Felt:
    """S = R + s² V, with V by t, of all rows of A or of each."""
    V = jnp.where(step.t == 1, A.spread(params.variance), error[step.t])
    S = R + A.singular**2 * V
    return Felt(log_normal(e, S), product(A.back(A.singular * e / S)))


def _mmps(
    A: Linear,
    R: Array,
    products: int | None,
    noise: Array,
    e: Array,
    product: Product,
    params: Normal,
    step: Step,
) -> Felt:
    if products is None:
        return _whole(A, R, e, product)
    return _krylov(A, R, products, noise[step.t], e, product)


def _whole(A: Linear, R: Array, e: Array, product: Product) -> Felt:
    """S by a vector product for each row; where V of a network is negative, its size is its error.

    Nothing is pulled along such a direction: with S = R, which may be tiny, it would be anywhere.
    """
    s = A.singular
    each = jax.vmap(lambda row: product(A.back(s * row)))(jnp.eye(len(s), dtype=e.dtype))
    V = jax.vmap(lambda x: s * A.rows(x))(each)
    value, vector = jnp.linalg.eigh((V + V.T) / 2)
    S = R + jnp.abs(value)
    along = vector.T @ e
    pull = jnp.where(value > 0, along / S, 0.0)
    return Felt(log_normal(along, S), jnp.tensordot(vector @ pull, each, 1))


def _krylov(A: Linear, R: Array, products: int, noise: Array, e: Array, product: Product) -> Felt:
    """S⁻¹ e by conjugate gradients, preconditioned by P = R + s² (1 − ᾱ_t), the S of ΠGDM.

    No product is spent but on S: V Aᵀ S⁻¹ e is a sum of theirs. The determinant is that of P: what
    so few products say of it varies with e, and particles would chase that at every resampling.
    """
    s, P = A.singular, R + A.singular**2 * noise
    w, least = 1 / jnp.sqrt(P), jnp.finfo(e.dtype).tiny
    residual = direction = w * e
    size = jnp.maximum(residual @ residual, least)
    pull, square = jnp.zeros(A.shape, e.dtype), jnp.zeros((), e.dtype)
    for _ in range(products):
        moved = product(A.back(s * w * direction))
        image = R * w**2 * direction + w * s * A.rows(moved)
        # V of a network may have negative directions: R is the least that S has in any.
        curved = jnp.maximum(jnp.abs(direction @ image), R * jnp.sum((w * direction) ** 2))
        step = size / jnp.maximum(curved, least)
        pull, square = pull + step * moved, square + step * size
        residual = residual - step * image
        after = jnp.maximum(residual @ residual, least)
        direction, size = residual + after / size * direction, after
    return Felt(-0.5 * (square + jnp.sum(jnp.log(P) + LOG_2PI)), pull)


def _kept(A: Linear, R: Array, params: Normal, step: Step) -> Array:
    """g of eq. 5 by row of A."""
    sigma = A.spread(params.variance)
    v = A.spread(jnp.maximum(params.variance - step.bridge, 0.0)) / step.a**2
    left = sigma - step.a**2 * v  # β̃_t, or all of Σ where that is less
    return (R * sigma + v * A.singular**2 * left) / ((R + v * A.singular**2) * sigma)


# --- what is given ------------------------------------------------------------------------------


def _variance(noise: ArrayLike) -> Array:
    found: Any = numbers("noise", noise)
    if jnp.shape(found) != ():
        raise ValueError(f"noise: expected one variance, got shape {jnp.shape(found)}")
    if not isinstance(found, jax.core.Tracer) and not 0 < float(found) < np.inf:
        raise ValueError(f"noise: expected a variance in (0, inf), got {found}")
    return jnp.asarray(found, jnp.result_type(float))


def _coordinates(chain: Chain, A: Linear, y: ArrayLike, R: Array) -> tuple[Array, Array]:
    """Uᵀ y, and log N of what of y lies outside the range of A, where there is only noise."""
    if A.shape != chain.shape:
        raise ValueError(f"A: expected one of events of shape {chain.shape}, got {A.shape}")
    y = numbers("y", y)
    if jnp.shape(y) != A.out:
        raise ValueError(f"y: expected the shape of A x, {A.out}, got {jnp.shape(y)}")
    z = A.seen(jnp.asarray(y, jnp.result_type(float)))
    free = int(np.prod(A.out)) - len(A.singular)
    known = not any(isinstance(value, jax.core.Tracer) for value in (y, z, R))
    if known and not np.all(np.isfinite(y)):
        raise ValueError("y: expected finite values, got NaN or infinite ones")
    if not free:
        return z, jnp.zeros((), z.dtype)
    left = jnp.asarray(y, z.dtype) - A.apply(A.back(z / A.singular))  # y − U Uᵀ y
    outside: Any = jnp.sum(left**2)
    if known:
        outside = float(outside)
        rounding = 1e-5 * float(jnp.sum(jnp.asarray(y) ** 2))  # of a y measured in float32
        if outside - rounding > float(R) * (free + 10 * (2 * free) ** 0.5):
            far, noise = outside**0.5, float(R * free) ** 0.5
            raise ValueError(
                f"y: expected one within the range of A and noise, got one {far:.3g} away in {free}"
                f" directions that no x reaches, where the noise has {noise:.3g}"
            )
    return z, -0.5 * (outside / R + free * (LOG_2PI + jnp.log(R)))


def _only(r_t: str, **of_others: Any) -> None:
    """ValueError for an argument of another r(x^t)."""
    owner = {"products": "mmps", "error": "pigdm"}
    for name, value in of_others.items():
        if value is not None and r_t != owner[name]:
            raise ValueError(f"{name}: expected none but with r_t={owner[name]!r}, got r_t={r_t!r}")


def _products(A: Linear, products: int | None) -> int | None:
    if products is None:
        return None if len(A.singular) <= _DENSE else 1
    return units.whole("products", products, 1, len(A.singular))


def _errors(chain: Chain, A: Linear, error: ArrayLike | None) -> Array:
    if error is None:
        return chain.schedule.noise
    error = jnp.asarray(numbers("error", error), jnp.result_type(float))
    if error.shape not in ((chain.T + 1,), (chain.T + 1, len(A.singular))):
        expected = f"({chain.T + 1},) or {(chain.T + 1, len(A.singular))}"
        raise ValueError(f"error: expected variances by t, of shape {expected}, got {error.shape}")
    if not isinstance(error, jax.core.Tracer) and not bool(jnp.all(error >= 0)):
        raise ValueError("error: expected variances, of at least 0, got lower or NaN ones")
    return error
