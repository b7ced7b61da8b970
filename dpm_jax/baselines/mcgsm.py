"""MCGSM: a mixture of conditional Gaussian scale mixtures (Theis, Hosseini & Bethge 2012).

The model that Table 2 sets beside the diffusion on dead leaves. A pixel x given its causal window c

    p(x|c) = Σ_ks p(k,s|c) N(x; a_k·c + m_k, e^−α_ks),
    p(k,s|c) ∝ exp(η_ks − e^α_ks Σ_f β_kf² (b_f·c)²/2),

components k, each a linear predictor, of scales s: the window chooses which edge it is on, and how
sharp. Our own fit, by L-BFGS in JAX, in float64: the line search needs the digits. The windows and
the border are those of causal.py.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree

from dpm_jax.baselines import causal, checks
from dpm_jax.units import LOG_2PI

_BLOCK = 1024  # pixels whose gates are held at once
_FLAT = 1e-6  # least rms error of the linear prediction, where all pixels are equal
_PATIENCE = 15  # iterations without a gain on held-out pixels after which to stop


class Parameters(NamedTuple):
    """Of the mixture, for contexts and pixels as `Conditional` has whitened them."""

    a: Array  # (d, K) predictors
    m: Array  # (K,)
    b: Array  # (d, F) features of the gates, shared
    beta: Array  # (F, K)
    eta: Array  # (K, S)
    alpha: Array  # (K, S) log precisions


class Conditional(NamedTuple):
    """p(x|c), on whitened contexts and on the pixel's error of one linear prediction."""

    mean: np.ndarray  # (d,)
    whiten: np.ndarray  # (d, d)
    linear: np.ndarray  # (d,) of the whitened context
    offset: float
    scale: float  # rms error of that prediction
    parameters: Parameters

    def log_prob(self, context: np.ndarray, target: np.ndarray) -> np.ndarray:
        """(n, d) contexts, (n,) pixels -> (n,) nats."""
        with jax.enable_x64(True):
            parts = [_each(self.parameters, c, x) for c, x, _ in self.blocks(context, target)]
        return np.concatenate(parts)[: len(target)] - np.log(self.scale)

    def sample(self, context: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """(n, d) contexts -> a pixel drawn for each, (n,)."""
        c = (context - self.mean) @ self.whiten
        a, m, b, beta, eta, alpha = map(np.asarray, self.parameters)
        gates = eta - 0.5 * np.exp(alpha) * ((c @ b) ** 2 @ beta**2)[..., None]
        # The largest of the gates with Gumbel noise has the probability of its gate.
        chosen = (gates + rng.gumbel(size=gates.shape)).reshape(len(c), -1).argmax(axis=1)
        k, s = np.unravel_index(chosen, alpha.shape)
        x = np.sum(c * a.T[k], axis=1) + m[k]
        x += np.exp(-0.5 * alpha[k, s]) * rng.standard_normal(len(c))
        return self.scale * x + c @ self.linear + self.offset

    def blocks(self, context: np.ndarray, target: np.ndarray) -> list[tuple[Array, Array, Array]]:
        """Whitened contexts, errors, and 1 for a row or 0 for one that fills the last block."""
        c = (context - self.mean) @ self.whiten
        x = (target - c @ self.linear - self.offset) / self.scale
        extra = -len(x) % _BLOCK  # one shape for all, so that nothing compiles twice
        columns = (np.pad(v, (0, extra)) for v in (x, np.ones(len(x))))
        rows, errors, counts = map(jnp.asarray, (np.pad(c, ((0, extra), (0, 0))), *columns))
        parts = (slice(i, i + _BLOCK) for i in range(0, len(errors), _BLOCK))
        return [(rows[part], errors[part], counts[part]) for part in parts]


def fit(
    train,
    rows: int = 4,
    columns: int = 4,
    pixels: int = 100_000,
    seed: int = 0,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
    **settings,
) -> causal.Causal:
    """An MCGSM of noised images, one for each case of the border: `causal.fit` of them.

    20 s of one core for a case of 100,000 pixels with a window of 4 and 4, so 6 minutes for the 45
    cases of 20,000 grey images of 32×32.

    Args:
        train, rows, columns, pixels, seed, progress: as in `causal.fit`.
        settings: of `fit_conditional`.

    Raises:
        ValueError: as `causal.fit` and `fit_conditional`.
    """
    fit_one = partial(fit_conditional, **settings)
    return causal.fit(train, fit_one, rows, columns, pixels, seed, progress)


def fit_conditional(
    context: np.ndarray,
    target: np.ndarray,
    components: int = 12,
    scales: int = 6,
    features: int = 40,
    steps: int = 200,
    seed: int = 0,
) -> Conditional:
    """The mixture of the largest likelihood on held-out pixels, along a path of L-BFGS.

    Args:
        context: (n, d), absent entries 0.
        target: (n,). The last tenth is held out: of other images, where rows are in their order.
        components, scales, features: K, S, F.
        steps: iterations at most; it ends before where held-out pixels have not gained for 15.
        seed: of the initial predictors and features.

    Raises:
        ValueError: for shapes that do not match, values that are not finite, fewer than 10 pixels,
            or a number above that is not at least 1.
    """
    settings = {"components": components, "scales": scales, "features": features, "steps": steps}
    checks.at_least(**{name: (number, 1) for name, number in settings.items()})
    context, target = checks.pixels(context, target)
    if len(target) < 10:
        raise ValueError(f"target: expected at least 10 pixels, got {len(target)}")
    cut = len(target) - len(target) // 10
    with jax.enable_x64(True):
        start = _initial(context.shape[1], components, scales, features, seed)
        model = _whitened(context[:cut], target[:cut], start)
        seen = model.blocks(context[:cut], target[:cut])
        held_out = model.blocks(context[cut:], target[cut:])
        return model._replace(parameters=_descend(start, seen, held_out, steps))


def _descend(start: Parameters, seen: list, held_out: list, steps: int) -> Parameters:
    """L-BFGS on the pixels seen: of its iterations, the best on those held out."""
    from scipy.optimize import minimize

    flat, unravel = ravel_pytree(start)
    best = _Best(np.asarray(flat))

    def slope(x):
        parts = [_slope(unravel, x, *block) for block in seen]
        counts = sum(block[2].sum() for block in seen)
        value = sum(part[0] for part in parts) / counts
        return float(value), np.asarray(sum(part[1] for part in parts) / counts)

    def judge(x):
        best.offer(float(sum(_loss(unravel, x, *block) for block in held_out)), x)

    options = {"maxiter": steps, "maxfun": 10 * steps, "maxcor": 20, "ftol": 1e-9}
    minimize(slope, best.x, jac=True, method="L-BFGS-B", callback=judge, options=options)
    return unravel(jnp.asarray(best.x))


class _Best:
    """The parameters of the smallest loss on held-out pixels so far."""

    def __init__(self, x: np.ndarray):
        self.x, self.value, self.since = x, np.inf, 0

    def offer(self, value: float, x: np.ndarray) -> None:
        self.since += 1
        if value < self.value:
            self.x, self.value, self.since = x.copy(), value, 0
        if self.since >= _PATIENCE:
            raise StopIteration


def _whitened(context: np.ndarray, target: np.ndarray, parameters: Parameters) -> Conditional:
    """With contexts to unit covariance and the linear prediction of these pixels."""
    mean, offset = context.mean(axis=0), float(target.mean())
    centred = context - mean
    powers, axes = np.linalg.eigh(centred.T @ centred / len(centred))
    there = powers > 1e-10 * powers.max(initial=1e-30)  # absent entries have none
    gains = np.where(there, 1 / np.sqrt(np.where(there, powers, 1)), 0)
    whiten = axes * gains @ axes.T  # symmetric: what is absent stays 0, and pixels stay in place
    linear = (centred @ whiten).T @ (target - offset) / len(target)
    error = target - offset - centred @ whiten @ linear
    scale = float(np.sqrt(np.mean(error * error)))
    return Conditional(mean, whiten, linear, offset, max(scale, _FLAT), parameters)


def _initial(d: int, components: int, scales: int, features: int, seed: int) -> Parameters:
    """Near one linear prediction and gates that hardly choose; errors of e^−5/2 to e^3/2 rms."""
    key_a, key_b, key_beta = jax.random.split(jax.random.key(seed), 3)
    alpha = jnp.linspace(-3, 5, scales) if scales > 1 else jnp.zeros(1)
    return Parameters(
        a=0.1 * jax.random.normal(key_a, (d, components)),
        m=jnp.zeros(components),
        b=jax.random.normal(key_b, (d, features)) / max(d, 1) ** 0.5,
        beta=0.1 + 0.5 * jnp.abs(jax.random.normal(key_beta, (features, components))),
        eta=jnp.zeros((components, scales)),
        alpha=jnp.tile(alpha, (components, 1)),
    )


def _log_prob(p: Parameters, c: Array, x: Array) -> Array:
    """log p(x|c) of one pixel: c (d,), x ()."""
    error = x - c @ p.a - p.m
    energy = jnp.square(c @ p.b) @ jnp.square(p.beta)
    precision = jnp.exp(p.alpha)
    gates = p.eta - 0.5 * precision * energy[:, None]
    errors = 0.5 * (p.alpha - LOG_2PI - precision * jnp.square(error)[:, None])
    return jax.nn.logsumexp(gates + errors) - jax.nn.logsumexp(gates)


@jax.jit
def _each(p: Parameters, c: Array, x: Array) -> Array:
    """Log densities (n,) of pixels: c (n, d), x (n,)."""
    return jax.vmap(_log_prob, (None, 0, 0))(p, c, x)


@partial(jax.jit, static_argnums=0)
def _loss(unravel: Callable, flat: Array, c: Array, x: Array, counts: Array) -> Array:
    """Sum of −log p over the rows that count."""
    return -counts @ _each(unravel(flat), c, x)


_slope = jax.jit(jax.value_and_grad(_loss, argnums=1), static_argnums=0)
