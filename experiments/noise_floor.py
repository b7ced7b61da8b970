"""The noise-floor curve: what one model gives at every noise of the data, beside other densities.

Images of integers, above all with flat regions, have no density of their own: a K is one of the
data with a noise, and models compare only at the same. K' = K − L_null is in bits a pixel, all its
colours together; the isotropic Gaussian is the line K' = 0.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

import common
from dpm_jax import baselines, evaluation, linear_skip, mcgsm, plots, reporting

FLOORS = (0.002, 0.011, 0.041, 0.101)  # variances of noise at which models are compared
BLOCK = 8  # largest side of the blocks with a full covariance
HELPS = {
    "baselines": "Densities beside K in the noise-floor curve, a list of dct, blocks (8×8),"
    " causal (scale mixture) and mcgsm (an hour), or nothing.",
    "baseline_patches": "Training patches that they are fitted on.",
}


class Curve(NamedTuple):
    """K' of one density at some noises, in bits a pixel."""

    noise: np.ndarray  # (m,) variances
    gain: np.ndarray  # (m,)
    error: np.ndarray  # (m,) standard errors over the test images
    lead: np.ndarray | None = None  # (m, 2): of the diffusion, and its error in pairs


def names(config) -> list[str]:
    """The names in --baselines; ValueError for one that is unknown, or too few patches."""
    found = [name for name in config["baselines"].split(",") if name]
    unknown = [name for name in found if name not in _FITS]
    if unknown:
        raise ValueError(f"baselines: expected names of {tuple(_FITS)}, got {unknown[0]!r}")
    if config["baseline_patches"] < 100:
        got = config["baseline_patches"]
        raise ValueError(f"baseline_patches: expected at least 100, got {got}")
    return found


def measure(config, problem, params, folder):
    """The curve as figure, facts and rows of the table."""
    noise = np.asarray(problem.evaluated.schedule(params).noise)
    wanted = np.union1d(np.geomspace(max(noise[1], 1e-4), 0.5, 9), FLOORS)
    wanted = wanted[wanted >= 0.99 * noise[1]]
    t0 = np.unique([int(np.argmin(abs(np.log(noise[1:] / v)))) + 1 for v in wanted])
    found = evaluation.noise_floor(
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
    curves = {"diffusion": Curve(found.noise, found.gain / unit, found.gain_error / unit)}
    curves |= _beside(config, problem, found.noise, found.each / unit, unit)
    per_dim = {
        name: (c.noise, c.gain * pixels / dims, c.error * pixels / dims)
        for name, c in curves.items()
    }
    path = plots.noise_floor(folder / "noise_floor.png", per_dim, dims // pixels)
    facts = {name: _listed(curve) for name, curve in curves.items()}
    return {"noise_floor": str(path)}, {"noise_floor": facts}, _rows(curves, dims // pixels)


def _beside(config, problem, noise, ours, unit: float) -> dict[str, Curve]:
    """Other densities at the FLOORS, fitted and tested on images with the noise of each.

    Each is fitted to training images as it is tested, on one noised copy of the test images.
    """
    key_test, key_train = jax.random.split(jax.random.key(config["seed"] + 13))
    # As many pixels, whatever the size of a patch: 20,000 of 32×32 are 160 MB a copy.
    num = max(100, config["baseline_patches"] * 1024 // max(1024, problem.facts["pixels"]))
    train = _Noised(key_train, problem.draw(key_train, common.some_rows(problem, num), num))
    rows = jnp.asarray(problem.test[: config["num_eval"]])
    test = _Noised(key_test, problem.draw_test(key_test, rows))
    near = [i for i, v in enumerate(noise) if _is_floor(v)]
    work = [(name, i) for i in near for name in names(config)]
    values: dict[str, list] = {}
    for name, i in tqdm(work, desc="other densities", leave=False):
        x = test.at(noise[i])
        label, density = _FITS[name](train.at(noise[i]))
        gain = (density(x) - baselines.isotropic(x)) / unit
        lead = ours[:, i] - gain
        pair = [(v.mean(), evaluation.standard_error(v)) for v in (gain, lead)]
        values.setdefault(label, []).append(pair)
    found = {label: np.array(pairs) for label, pairs in values.items()}
    return {
        label: Curve(noise[near], pairs[:, 0, 0], pairs[:, 0, 1], pairs[:, 1])
        for label, pairs in found.items()
    }


class _Noised:
    """Images with the noise of any variance, always the same draw of it."""

    def __init__(self, key, x0):
        self.x0 = x0
        self.epsilon = jax.random.normal(jax.random.fold_in(key, 1), x0.shape)

    def at(self, variance: float) -> np.ndarray:
        v = float(variance)
        return np.asarray(np.sqrt(1 - v) * self.x0 + np.sqrt(v) * self.epsilon)


def _dct(train):
    law = linear_skip.fit(train)
    density = jax.jit(jax.vmap(lambda x: linear_skip.log_density(law, x)))
    return "Gaussian, DCT", lambda x: np.asarray(density(jnp.asarray(x)), np.float64)


def _blocks(train):
    sides = train.shape[1:3]
    block = max(b for b in range(1, BLOCK + 1) if not any(side % b for side in sides))
    model = baselines.fit_blocks(train, block)
    return f"Gaussian, {block}×{block} blocks", partial(baselines.log_density, model)


def _causal(train):
    model = baselines.fit_causal(train, progress=_cases)
    return "causal scale mixture", partial(baselines.log_density, model)


def _mcgsm(train):
    return "MCGSM", partial(baselines.log_density, mcgsm.fit(train, progress=_cases))


def _cases(cases):
    return tqdm(cases, desc="borders", unit="case", leave=False)


_FITS = {"dct": _dct, "blocks": _blocks, "causal": _causal, "mcgsm": _mcgsm}


def _is_floor(variance: float) -> bool:
    return bool(min(abs(np.log(np.array(FLOORS) / variance))) < 0.02)


def _listed(curve: Curve) -> dict[str, list]:
    facts = {
        "noise_variance": curve.noise.tolist(),
        "K_minus_L_null_bits_per_pixel": curve.gain.tolist(),
        "standard_error_bits_per_pixel": curve.error.tolist(),
    }
    if curve.lead is not None:
        facts["lead_of_diffusion_bits_per_pixel"] = curve.lead[:, 0].tolist()
        facts["lead_standard_error_bits_per_pixel"] = curve.lead[:, 1].tolist()
    return facts


def _rows(curves: dict[str, Curve], colours: int):
    """Rows of the final table: K' at the FLOORS, and the ceiling −½ log2 v of a pixel."""
    number, rows = reporting.number, []
    for name, curve in curves.items():
        for i, v in enumerate(curve.noise):
            if not _is_floor(v):
                continue
            what = f"K − L_null at noise {v:.4f}, {name}"
            if curve.lead is not None:
                what += f" (diffusion ahead by {number(*curve.lead[i])})"
            most = number(-0.5 * colours * np.log2(v))
            rows.append((what, "–", number(curve.gain[i], curve.error[i]), most, "bits/pixel"))
    return rows
