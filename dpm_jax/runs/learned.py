"""What a trained run learned, as pictures: β_t, f_μ and f_Σ (or f_b), and the readout by bumps."""

import os
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dpm_jax.core import chunks, sampling
from dpm_jax.core.chain import Chain
from dpm_jax.core.family import Array, Params
from dpm_jax.core.model import Model, at_once
from dpm_jax.runs import learned_figures as figures
from dpm_jax.runs import report
from dpm_jax.runs.run import Run

_VALUES = 16_000  # elements of the examples behind a mean at one t
_TIMES = 40  # t of the curves
SIDE = 3.0  # of the plane: −SIDE..SIDE
_POINTS = 41  # of the plane's grid, a side
_PICTURES = {"plane": figures.plane, "bits": figures.bits, "images": figures.images}


class Kernel(NamedTuple):
    """The reverse kernel at one (x^t, t), beside the forward one; arrays of the event's shape."""

    xt: Array
    drift: Array  # f_μ(x^t, t) − x^t; of bits f_b(x^t, t) less the rate of the forward kernel
    x0: Array  # E(x^0 | x^t) as this kernel has it; of bits P(x^0 = 1 | x^t)
    variance: Array | None  # f_Σ(x^t, t) / β_t; of bits there is none
    entropies: Array  # (3,) nats: of q(x^{t-1}|x^t,x^0), p(x^{t-1}|x^t) and q(x^t|x^{t-1} = x^t)


class Shown(NamedTuple):
    """What a picture of kernels shows: k times of n points."""

    times: np.ndarray  # (k,) t
    points: np.ndarray  # (n, *event)
    drawn: np.ndarray  # (n,) whether the point is an x^0; else it is x^t itself
    kernel: Kernel  # with two first axes (k, n)


class Bumps(NamedTuple):
    """How a network reads out by bumps (eq. 62, 63)."""

    place: np.ndarray  # (T,): t, or log-SNR, of t = 1..T
    unit: str  # which of the two
    g: np.ndarray  # (T, J): g_j there
    centres: np.ndarray  # (J,): τ_j; their spacing is the width of a bump
    sizes: dict[str, np.ndarray]  # (J,): norm of the weights of each bump, by the output they make


def draw(run: Run, folder: Path | None = None) -> dict[str, str]:
    """Draw what a run learned; name -> path of the PNG, relative to the run's directory.

    Of every run `learned_schedule`; of those of an experiment of points in the plane, bits or
    images `learned_kernel`; of networks that read out by bumps `learned_bumps`.

    Args:
        run: a trained run; for kernels its test set must be there.
        folder: where they go; None: figures/ of the run.
    """
    folder = run.workdir / "figures" if folder is None else Path(folder)
    kind, wrote = _kind(run), {}
    curve, picture = (None, None) if not kind else _seen(run, kind)
    wrote["learned_schedule"] = figures.schedule(
        folder / "learned_schedule.png", run.model, report.schedule_of(run.model, run.params), curve
    )
    if picture is not None:
        path = folder / "learned_kernel.png"
        wrote["learned_kernel"] = _PICTURES[kind](path, run, picture)
    found = bumps(run.model, run.params)
    if found is not None:
        wrote["learned_bumps"] = figures.bumps(folder / "learned_bumps.png", found)
    return {name: os.path.relpath(path, run.workdir) for name, path in wrote.items()}


def kernel(chain: Chain, x0: Array, xt: Array, t: Array) -> Kernel:
    """What the chain does at one x^t, noised from x0; t in 2..T.

    q(x^{t-1}|x^t,x^0) has a mean (a rate) that is affine in x^0, so p's mean says which x^0 on
    average the kernel expects, whatever its readout.
    """
    family, schedule = chain.family, chain.schedule
    beta, before = schedule.beta[t], schedule.log_alpha_bar[t - 1]

    def bridge(x: Array) -> Params:
        return family.bridge(x, xt, beta, before)

    reverse, forward = chain.reverse(xt, t), family.step(xt, beta)
    zero, one = bridge(jnp.zeros_like(xt)), bridge(jnp.ones_like(xt))
    bits = hasattr(reverse, "logits")
    drift = _less(reverse, forward) if bits else reverse.mean - xt + reverse.low
    entropies = jnp.stack([family.entropy(law) for law in (bridge(x0), reverse, forward)])
    variance = None if bits else reverse.variance / beta
    return Kernel(xt, drift, _less(reverse, zero) / _less(one, zero), variance, entropies)


def _less(p: Params, q: Params) -> Array:
    """The mean (of bits the rate) of p less that of q, without loss where both are near."""
    if hasattr(p, "logits"):
        above = jax.nn.sigmoid(-q.logits) - jax.nn.sigmoid(-p.logits)
        below = jax.nn.sigmoid(p.logits) - jax.nn.sigmoid(q.logits)
        return jnp.where(p.logits > 0, above, below)
    return p.mean - q.mean + (p.low - q.low)


def kernels(model: Model, params: Any, x0, t, drawn, seed: int = 0) -> Kernel:
    """`kernel` of many rows by one compiled function; NumPy arrays with a first axis n.

    Args:
        model, params: of a run.
        x0: (n, *event) examples.
        t: (n,) in 2..T.
        drawn: (n,) whether x^t is drawn from q(x^t|x^0); else it is x0 itself.
        seed: of these draws.
    """

    @jax.jit
    def every(params, rows) -> Kernel:
        chain = model.chain(params)

        def one(row) -> Kernel:
            key, x0, t, drawn = row
            return kernel(chain, x0, jnp.where(drawn, sampling.noised(key, chain, x0, t), x0), t)

        return chunks.mapped(one, rows, at_once(model, params))

    keys = jax.random.split(jax.random.key(seed), len(x0))
    rows = keys, jnp.asarray(x0), jnp.asarray(t, jnp.int32), jnp.asarray(drawn)
    return jax.device_get(every(params, rows))


def bumps(model: Model, params: Any) -> Bumps | None:
    """The bumps of a model's readout and the size of each; None for a network without."""
    network, schedule = model.parts["network"], report.schedule_of(model, params)
    weights = params["network"].get("params", {}).get("readout_kernel")
    if weights is None or not hasattr(network, "bumps"):
        return None
    log_snr, t = jnp.asarray(schedule.log_snr)[1:], jnp.asarray(schedule.network_t)[1:]
    g = np.asarray(jax.jit(jax.vmap(network.bumps))(t, log_snr))
    place, unit, (low, high) = t, "t", (0.0, float(network.T))
    if getattr(network, "condition", "t") != "t":
        place, unit, (low, high) = log_snr, "log-SNR, nats", network.log_snr_range
    width = (high - low) / g.shape[1]
    centres = low + width * (np.arange(g.shape[1]) + 0.5)
    sizes = {name: np.sqrt((part**2).sum((1, 2))) for name, part in _outputs(model, weights)}
    return Bumps(np.asarray(place), unit, g, centres, sizes)


def _outputs(model: Model, weights):
    """(name, (J, hidden, values)) of what the readout's weights make: z^μ, and z^Σ if learned."""
    weights = np.asarray(weights, np.float64)
    size, count = model.event_shape[-1], model.parts["network"].outputs
    flat = weights.reshape(*weights.shape[:2], -1, count)
    if (
        count == 1 and weights.shape[-1] == 2 * size and not isinstance(model.parts["readout"], str)
    ):  # images.kernel: F of all colours, then z
        flat = flat.reshape(*weights.shape[:2], 2, size).swapaxes(2, 3)
    names = (r"$z^\mu$", r"$z^\Sigma$") if flat.shape[-1] > 1 else (r"$z^\mu$",)
    return [(name, flat[..., k]) for k, name in enumerate(names)]


def _kind(run: Run) -> str:
    """Which of _PICTURES the kernels of a run take; "" for none."""
    if run.test is None or run.experiment is None:
        return ""
    prior, shape = run.model.family.prior(run.model.event_shape), run.model.event_shape
    if hasattr(prior, "logits"):
        return "bits" if len(shape) == 1 else ""
    if run.problem.images is not None:
        return "images"
    return "plane" if shape == (2,) and hasattr(prior, "variance") else ""


def _seen(run: Run, kind: str):
    """The entropies of the reverse step by t, and what the picture of the kernels shows."""
    data, prepare = run.rows(None)
    size, T = int(np.prod(run.model.event_shape)), run.model.parts["schedule"].T
    rows = data[: max(4, min(1024, _VALUES // size))]
    x0 = np.asarray(rows if prepare is None else prepare(jax.random.key(0), jnp.asarray(rows)))
    spaced = [of(2, T, _TIMES // 2) for of in (np.geomspace, np.linspace)]
    every = np.unique(np.round(spaced).astype(int)) if T > _TIMES else np.arange(2, T + 1)
    times, points, drawn = _shown(run, kind, x0)
    curve = _crossed(every, x0, np.ones(len(x0), bool))
    both = [np.concatenate(pair) for pair in zip(curve, _crossed(times, points, drawn))]
    found = kernels(run.model, run.params, both[0], both[1], both[2])
    split, shape = len(every) * len(x0), (len(times), len(points))
    each = np.asarray(found.entropies[:split]).reshape(len(every), -1, 3)
    entropies = _entropies(run, every, each) / size
    seen = jax.tree.map(lambda a: a[split:].reshape(*shape, *a.shape[1:]), found)
    return (every, entropies), Shown(times, points, drawn, seen)


def _entropies(run: Run, t: np.ndarray, each: np.ndarray) -> np.ndarray:
    """(m, 3) nats at each t: lower bound, model, upper bound of eq. 24; the true one, where known.

    Where the bounds are known the model's lies as far from them as at the points of `each`.
    """
    lower, ours, upper = each.mean(axis=1).T
    exact = run.problem.exact.entropies
    if exact is None:
        return np.stack([lower, ours, upper], axis=1)
    known, true, most = (v[t] for v in exact(report.schedule_of(run.model, run.params)))
    return np.stack([known, known + ours - lower, most, true], axis=1)


def _crossed(times, points, drawn):
    """Each point at each t, as the rows of `kernels`."""
    return (
        np.tile(points, (len(times),) + (1,) * (points.ndim - 1)),
        np.repeat(times, len(points)),
        np.tile(drawn, len(times)),
    )


def _shown(run: Run, kind: str, x0: np.ndarray):
    """t of the picture, its x^0 (or x^t), and which of them are drawn."""
    T = run.model.parts["schedule"].T
    if kind == "plane":
        axis = np.linspace(-SIDE, SIDE, _POINTS, dtype=np.float32)
        grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
        times = (2, T // 4, T // 2, T)  # the step to x^0 is the forward kernel's (App. B.2)
        points = np.concatenate([grid, x0[:400].astype(np.float32)])
        drawn = np.arange(len(points)) >= len(grid)
    else:
        parts = (1, 2, 4, 6) if kind == "bits" else (1, 3, 5, 7)
        times = tuple(T * k // 8 for k in parts)
        points = x0[: 6 if kind == "bits" else 2]
        drawn = np.ones(len(points), bool)
    return np.unique(np.clip(times, 2, T)), points, drawn
