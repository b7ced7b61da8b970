"""MCGSM: a mixture of conditional Gaussian scale mixtures (Theis, Hosseini & Bethge 2012).

The model that Table 2 sets beside the diffusion on dead leaves. A pixel x given its causal window c

    p(x|c) = Σ_ks p(k,s|c) N(x; a_k·c + m_k, e^−α_ks),
    p(k,s|c) ∝ exp(η_ks − e^α_ks Σ_f β_kf² (b_f·c)²/2),

components k, each a linear predictor, of scales s: the window chooses which edge it is on, and how
sharp. Our own fit, by Adam in JAX, in float32: on random pixels it goes further in seconds than
L-BFGS on all of them in minutes. The windows and the border are those of causal.py.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from dpm_jax.baselines import causal, checks
from dpm_jax.units import LOG_2PI

_BLOCK = 1024  # pixels whose gates are held at once
_FLAT = 1e-6  # least rms error of the linear prediction, where all pixels are equal
_BATCH = 500  # pixels of a step
_RATE = 0.01  # of Adam, at most
_PART = 200  # steps from one look at held-out pixels to the next
_SHORTER = 8  # so many times fewer steps from a start that is given, and
_VIEWS = 8  # then no pixel more often than so: on those of few images the fit learns them by heart


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
        extra = -len(target) % _BLOCK  # one shape for all, so that nothing compiles twice
        c, x = self.white(context, target)
        c, x = np.pad(c, ((0, extra), (0, 0))), np.pad(x, (0, extra))
        with jax.enable_x64(True):
            parts = [
                _each(self.parameters, c[i : i + _BLOCK], x[i : i + _BLOCK])
                for i in range(0, len(x), _BLOCK)
            ]
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

    def white(self, context: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What the parameters are of: whitened contexts, errors of the linear prediction."""
        c = (context - self.mean) @ self.whiten
        return c, (target - c @ self.linear - self.offset) / self.scale


def fit(
    train,
    rows: int = 4,
    columns: int = 4,
    pixels: int = 400_000,
    seed: int = 0,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
    **settings,
) -> causal.Causal:
    """An MCGSM of noised images, one for each case of the border: `causal.fit` of them.

    The case of the most pixels comes first; all others start where it has ended.

    Args:
        train, rows, columns, pixels, seed, progress: as in `causal.fit`.
        settings: of `fit_conditional`; its start is that of the first case.

    Raises:
        ValueError: as `causal.fit` and `fit_conditional`.
    """
    first: list[Parameters] = []

    def fit_one(context, target):
        known = {"start": first[0]} if first else {}
        found = fit_conditional(context, target, **{**settings, **known})
        first.append(found.parameters)
        return found

    return causal.fit(train, fit_one, rows, columns, pixels, seed, progress)


def fit_conditional(
    context: np.ndarray,
    target: np.ndarray,
    components: int = 12,
    scales: int = 6,
    features: int = 40,
    steps: int = 8000,
    seed: int = 0,
    start: Parameters | None = None,
) -> Conditional:
    """The mixture of the largest likelihood on held-out pixels, along a path of Adam.

    Args:
        context: (n, d), absent entries 0.
        target: (n,). The last tenth is held out: of other images, where rows are in their order.
        components, scales, features: K, S, F.
        steps: on 500 pixels each, at a rate that rises and falls to 0.
        seed: of the initial predictors and features, and of the pixels of each step.
        start: parameters of another border: an eighth of the steps, or 8 on each pixel, is enough.

    Raises:
        ValueError: for shapes that do not match, values that are not finite, fewer than 10 pixels,
            a number above that is not at least 1, or a start of other shapes.
    """
    settings = {"components": components, "scales": scales, "features": features, "steps": steps}
    checks.at_least(**{name: (number, 1) for name, number in settings.items()})
    context, target = checks.pixels(context, target)
    if len(target) < 10:
        raise ValueError(f"target: expected at least 10 pixels, got {len(target)}")
    key, key_start = jax.random.split(jax.random.key(seed))
    initial = _initial(key_start, context.shape[1], components, scales, features)
    if start is not None:
        shapes, given = (jax.tree.map(np.shape, p) for p in (initial, Parameters(*start)))
        if given != shapes:
            raise ValueError(f"start: expected shapes {tuple(shapes)}, got {tuple(given)}")
        shorter = min(steps // _SHORTER, _VIEWS * len(target) // _BATCH)
        initial, steps = start, max(1, shorter)
    cut = len(target) - len(target) // 10
    model = _whitened(context[:cut], target[:cut], initial)
    c, x = (jnp.asarray(v, jnp.float32) for v in model.white(context, target))
    return model._replace(
        parameters=_descend(initial, key, (c[:cut], x[:cut]), (c[cut:], x[cut:]), steps)
    )


def _descend(start: Parameters, key: Array, seen, held_out, steps: int) -> Parameters:
    """Adam on pixels seen: of its path, looked at in places, the best on those held out."""
    parameters = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), start)
    state = (parameters, _optimizer(steps).init(parameters))
    best, least = parameters, np.inf
    for number, done in enumerate(range(0, steps, _PART)):
        keys = jax.random.split(jax.random.fold_in(key, number), min(_PART, steps - done))
        state = _part(steps, state, keys, *seen)
        value = float(_loss(state[0], *held_out))
        if value < least:
            best, least = state[0], value
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), best)


def _optimizer(steps: int):
    import optax  # here: it is slow to import

    warmup = min(100, steps // 10)
    rate = optax.warmup_cosine_decay_schedule(0.1 * _RATE, _RATE, warmup, steps)
    return optax.adam(rate, b2=0.99)


@partial(jax.jit, static_argnums=0)
def _part(steps: int, state, keys: Array, c: Array, x: Array):
    """A step for each key, each on pixels of its own; `steps` is the number of all parts."""
    optimizer = _optimizer(steps)

    def step(state, key):
        parameters, moments = state
        chosen = jax.random.randint(key, (_BATCH,), 0, len(x))
        slope = jax.grad(_loss)(parameters, c[chosen], x[chosen])
        with jax.numpy_dtype_promotion("standard"):  # optax's Adam raises floats to integers
            updates, moments = optimizer.update(slope, moments)
        return (jax.tree.map(jnp.add, parameters, updates), moments), None

    return jax.lax.scan(step, state, keys)[0]


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


def _initial(key: Array, d: int, components: int, scales: int, features: int) -> Parameters:
    """Near one linear prediction and gates that hardly choose; errors of e^−5/2 to e^3/2 rms."""
    key_a, key_b, key_beta = jax.random.split(key, 3)
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


@jax.jit
def _loss(p: Parameters, c: Array, x: Array) -> Array:
    """Mean of −log p."""
    return -jnp.mean(_each(p, c, x))
