"""The noise-floor curve: what one model gives at every noise of the data, beside other densities.

Images of integers, above all with flat regions, have no density of their own: a K is one of the
data with a noise, and models compare only at the same. K' = K − L_null is in bits a pixel, all its
colours together.
"""

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from dpm_jax import evaluation, linear_skip, plots, reporting

FLOORS = (0.002, 0.011, 0.041, 0.101)  # variances of noise at which models are compared
_TRAINED_ON = 20_000  # patches that the other densities are fitted on


def measure(config, problem, params, folder, others=None):
    """The curve as figure, facts and rows of the table.

    Args:
        others: (noised test images, variance of the noise) -> {name: (n,) nats}; see `fitted`.
    """
    noise = np.asarray(problem.evaluated.schedule(params).noise)
    wanted = np.union1d(np.geomspace(max(noise[1], 1e-4), 0.5, 9), FLOORS)
    wanted = wanted[wanted >= 0.99 * noise[1]]
    t0 = np.unique([int(np.argmin(abs(np.log(noise[1:] / v)))) + 1 for v in wanted])
    curve = evaluation.noise_floor(
        problem.evaluated,
        params,
        problem.test[: config["num_eval"]],
        t0.tolist(),
        seed=config["seed"] + 12,
        draw=problem.draw_test,
        passes=4 * config["passes"],
        progress=lambda batches: tqdm(batches, desc="noise floor", unit="batch", leave=False),
    )
    pixels, dims = problem.facts["pixels"], problem.facts["dims"]
    unit = reporting.LN2 * pixels
    curves = {"diffusion": (curve.noise, curve.gain / unit, curve.gain_error / unit)}
    if others is not None:
        curves |= _beside(config, problem, others, curve.noise, unit)
    per_dim = {
        name: (v, k * pixels / dims, e * pixels / dims) for name, (v, k, e) in curves.items()
    }
    path = plots.noise_floor(folder / "noise_floor.png", per_dim, dims // pixels)
    facts = {name: [values.tolist() for values in found] for name, found in curves.items()}
    return {"noise_floor": str(path)}, {"noise_floor": facts}, _rows(curves, dims // pixels)


def fitted(config, problem):
    """The Gaussian law in DCT × colour axes, fitted at each noise to training images with it."""
    key, key_noise = jax.random.split(jax.random.key(config["seed"] + 14))
    x0 = problem.draw(key, jnp.asarray(problem.data), _TRAINED_ON)
    epsilon = jax.random.normal(key_noise, x0.shape)

    def densities(images: np.ndarray, variance: float) -> dict[str, np.ndarray]:
        train = np.asarray(np.sqrt(1 - variance) * x0 + np.sqrt(variance) * epsilon, np.float64)
        law = linear_skip.fit(train)
        gaussian = jax.jit(jax.vmap(lambda x: linear_skip.log_density(law, x)))
        found = gaussian(jnp.asarray(images, jnp.float32))
        return {"Gaussian, DCT": np.asarray(found, np.float64)}

    return densities


def _beside(config, problem, others, noise, unit: float):
    """Curves of other densities at the FLOORS, on one noised copy of the same test images."""
    key, key_noise = jax.random.split(jax.random.key(config["seed"] + 13))
    x0 = problem.draw_test(key, jnp.asarray(problem.test[: config["num_eval"]]))
    epsilon = jax.random.normal(key_noise, x0.shape)
    near = [v for v in noise if _is_floor(v)]
    values: dict[str, list] = {}
    for v in tqdm(near, desc="other densities", leave=False):
        x = np.asarray(np.sqrt(1 - v) * x0 + np.sqrt(v) * epsilon, np.float64)
        null = -0.5 * (x**2 + np.log(2 * np.pi)).reshape(len(x), -1).sum(axis=1)
        for name, log_p in others(x, float(v)).items():
            gain = (log_p - null) / unit
            values.setdefault(name, []).append((gain.mean(), evaluation.standard_error(gain)))
    return {name: (np.array(near), *np.array(pairs).T) for name, pairs in values.items()}


def _is_floor(variance: float) -> bool:
    return bool(min(abs(np.log(np.array(FLOORS) / variance))) < 0.02)


def _rows(curves, colours: int):
    """Rows of the final table: K' at the FLOORS, and the ceiling −½ log2 v of a pixel."""
    number, rows = reporting.number, []
    for name, (variance, gain, error) in curves.items():
        for v, k, e in zip(variance, gain, error):
            if _is_floor(v):
                most = number(-0.5 * colours * np.log2(v))
                rows.append((f"K − L_null at noise {v:.4f}, {name}", "–", number(k, e), most))
    return [(*row, "bits/pixel") for row in rows]
