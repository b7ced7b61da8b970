"""Swiss roll: Table 1, row 1, and Figure 1 of Sohl-Dickstein et al. 2015.

    python experiments/swiss_roll.py --workdir=runs/swiss_roll

Gaussian diffusion in 2-D, T = 40, normalised RBF network of 16 units with a readout for each t,
β_2..β_T learned (App. D.1). The paper reports K = 2.35 bits without the noise and the β_1 on which
any such number depends: K is bounded by −h(X_1), the ceiling printed beside it.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

import common
import settings
from dpm_jax import gaussian, model, plots, readout, sampling
from dpm_jax.data import swiss_roll

_SHARED = {
    "seed": 0,
    "noise": 0.0,
    "T": 40,
    "beta_1": 1e-3,
    "schedule": "learned",
    "network": "rbf",
    "width": 16,
    "depth": 1,
    "octaves": 0,
    "readout": "x0",
    "variance": "between",
    "last_step": "fixed",
    "num_steps": 12000,
    "batch_size": 128,
    "learning_rate": 3e-2,
    "lr_schedule": "cosine",
    "warmup": 0,
    "clip_norm": 10.0,
    "ema_decay": 0.999,
    "objective": "bound",
    "num_t": 0,
    "steps_per_dispatch": 0,
    "log_every": 250,
    "checkpoint_every": 2000,
    "num_eval": 10000,
}
_BEST = {
    "T": 200,
    "schedule": "geometric",
    "network": "mlp",
    "width": 128,
    "depth": 3,
    "octaves": 6,
    "readout": "v",
    "num_steps": 20000,
    "batch_size": 512,
    "learning_rate": 2e-3,
    "clip_norm": 1.0,
    "num_t": -1,
}
PRESETS = {"paper": _SHARED, "best": {**_SHARED, **_BEST}}


def setup(config) -> common.Problem:
    """The model, the data and the ceiling for these flags."""
    swiss_roll.moments(config["noise"])
    family = gaussian.family()
    read = readout.by_name(family, config["readout"], config["variance"])
    built = model.build(
        family,
        settings.make_schedule(config),
        settings.make_network(config, read.outputs),
        (2,),
        config["readout"],
        config["variance"],
        config["last_step"],
        learn_schedule=config["schedule"] == "learned",
    )
    key_train, key_test = jax.random.split(jax.random.key(config["seed"] + 5))
    draw = jax.jit(swiss_roll.sample, static_argnums=(1, 2))
    data = draw(key_train, 100_000, config["noise"])
    test = draw(key_test, config["num_eval"], config["noise"])

    def ceiling(seed, steps):
        """−h(X_1); a learned last step bounds the density of X_0 itself: −h(X_0), if it has one."""
        if config["last_step"] == "fixed":
            return swiss_roll.negative_entropy(config["beta_1"], config["noise"])
        return swiss_roll.negative_entropy(0.0, config["noise"]) if config["noise"] else None

    facts = {
        "scale_raw": float(swiss_roll.moments(config["noise"])[1]),
        "ceiling_kind": "-h(X_1) for this noise and beta_1, by quadrature",
        "paper_note": "states neither noise nor beta_1, on which K depends: of another setting",
    }
    return common.Problem(
        built,
        built,
        data,
        None,
        test,
        None,
        ceiling,
        facts,
        {"examples": 1000, "model_samples": 1000, "lanes": 16384},
        points=partial(_points, noise=config["noise"]),
        log_p=_log_p(config),
        compare=partial(_compare, config),
    )


def _log_p(config):
    """log p (n,) nats of points (n, 2) if all kernels were exact; None where it is no density.

    The fixed last step blurs x^1 once more: p(x^0) is then the law of the roll noised by β_1 twice.
    """
    fixed = config["last_step"] == "fixed"
    if not fixed and not config["noise"]:
        return None
    blur = 1 - (1 - config["beta_1"]) ** 2 if fixed else 0.0
    return partial(swiss_roll.log_density, beta_1=blur, noise=config["noise"])


def _compare(config, y, known, noise: float, x, weight) -> dict[str, float]:
    """Total variation between weighted draws and the posterior of the data's density, on a grid.

    Bins of 0.14 in two dimensions, 0.1 in one, over ±2.8. The floor is the mean of as many exact
    draws of equal weight.
    """
    hidden = [i for i in range(2) if noise or not known[i]]
    if not hidden:
        return {}
    bins, fine = (40, 10) if len(hidden) == 2 else (56, 100)
    edges = np.linspace(-2.8, 2.8, bins * fine + 1)
    middle = (edges[1:] + edges[:-1]) / 2
    points = np.array(np.broadcast_to(y, (middle.size ** len(hidden), 2)), np.float64)
    for i, axis in zip(hidden, np.meshgrid(*[middle] * len(hidden), indexing="ij")):
        points[:, i] = axis.ravel()
    blur = 0.0 if config["noise"] else config["beta_1"]  # the bare curve has no density
    log_p = swiss_roll.log_density(points, blur, config["noise"])
    if noise:
        log_p = log_p - 0.5 * np.sum((points - y) ** 2, axis=1) / noise
    p = np.exp(log_p - log_p.max()).reshape((bins, fine) * len(hidden))
    p = p.sum(axis=tuple(range(1, p.ndim, 2))) / p.sum()
    seen, _ = np.histogramdd(x[:, hidden], [edges[::fine]] * len(hidden), weights=weight)
    exact = np.random.default_rng(0).multinomial(len(x), p.ravel(), 200) / len(x)
    floor = 0.5 * np.abs(exact - p.ravel()).sum(axis=1).mean()
    distance = 0.5 * (np.abs(seen - p).sum() + 1 - seen.sum())  # draws outside the grid count
    return {"total_variation": float(distance), "total_variation_floor": float(floor)}


def _points(key, n: int, noise: float):
    """Draws x of a wide law g about the roll, and −log n g: E Σ p/(n g) is the integral of p."""
    key_law, key_roll, key_noise = jax.random.split(key, 3)
    near = jax.random.bernoulli(key_law, 0.9, (n, 1))
    z = jax.random.normal(key_noise, (n, 2))
    roll = np.sqrt(0.9) * swiss_roll.sample(key_roll, n, noise) + np.sqrt(0.1) * z
    x = np.asarray(jnp.where(near, roll, 2 * z), np.float64)
    wide = -np.sum(x**2, axis=1) / 8 - np.log(8 * np.pi)
    log_g = np.logaddexp(np.log(0.9) + swiss_roll.log_density(x, 0.1, noise), np.log(0.1) + wide)
    return x.astype(np.float32), -log_g - np.log(n), False


def figures(config, problem, params, folder):
    """Figure 1: forward and reverse slices and drift at t = 0, T/2, T."""
    key_forward, key_reverse = jax.random.split(jax.random.key(config["seed"] + 2))
    schedule = problem.model.schedule(params)
    reverse = problem.model.reverse(params, schedule)
    times = (0, schedule.T // 2, schedule.T)
    n = 2000
    family = problem.model.family
    x0 = jnp.asarray(problem.data[:n])
    marginals = [x0] + [
        jax.vmap(lambda k, x, t=t: family.sample(k, family.marginal(x, schedule.log_alpha_bar[t])))(
            jax.random.split(jax.random.fold_in(key_forward, t), n), x0
        )
        for t in times[1:]
    ]
    walk = jax.jit(
        jax.vmap(lambda k: sampling.reverse_trajectory(k, family, schedule, reverse, (2,)))
    )
    states = np.asarray(walk(jax.random.split(key_reverse, n)))
    axis = jnp.linspace(-2.6, 2.6, 15)
    grid = jnp.stack(jnp.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    drift = []
    for t in times:
        mean = jax.vmap(reverse, in_axes=(0, None))(grid, jnp.asarray(max(t, 1), jnp.int32)).mean
        drift.append((np.asarray(grid), np.asarray(mean - grid)))
    slices = [np.asarray(m) for m in marginals]
    path = plots.swiss_roll(
        folder / "figure1.png", slices, [states[:, t] for t in times], drift, times, config["noise"]
    )
    return {"figure1": str(path)}, {}, []


def measures(problem, result, ceiling):
    """Nothing beyond K and K − L_null."""
    return {}, []


EXPERIMENT = common.Experiment("swiss_roll", "bits", PRESETS, 2.35, 6.45, setup, figures, measures)

if __name__ == "__main__":
    settings.define_flags(
        PRESETS,
        noise="Noise of the roll in the generator's units (scikit-learn's), at least 0.",
        octaves="Octaves of sines and cosines of x that the mlp sees beside x.",
    )
    common.run(EXPERIMENT)
