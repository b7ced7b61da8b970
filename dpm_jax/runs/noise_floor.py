"""The noise-floor curve: what one model gives at every noise of the data, beside other densities.

Images of integers, above all with flat regions, have no density of their own: a K is one of the
data with a noise, and models compare only at the same. K' = K − L_null is in bits a pixel, all its
colours together; the isotropic Gaussian is the line K' = 0.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dpm_jax import likelihood, units
from dpm_jax.baselines import blocks, causal, mcgsm
from dpm_jax.data.streaming import Stream
from dpm_jax.images import law as laws
from dpm_jax.likelihood import Rows
from dpm_jax.runs import plots
from dpm_jax.runs.bars import bar, batches
from dpm_jax.runs.config import check_at_least
from dpm_jax.runs.experiment import Config, Problem
from dpm_jax.runs.presets import FEWEST_PATCHES

FLOORS = (0.002, 0.011, 0.041, 0.101)  # variances of noise at which models are compared
BLOCK = 8  # largest side of the blocks with a full covariance


class Curve(NamedTuple):
    """K' of one density at some noises, in bits a pixel."""

    noise: np.ndarray  # (m,) variances
    floor: np.ndarray  # (m,) bool: whether it is the nearest to one of the FLOORS
    gain: np.ndarray  # (m,)
    error: np.ndarray  # (m,) standard errors over the test images
    ceiling: np.ndarray  # (m,) −h of the noise, less L_null of these images
    lead: np.ndarray | None = None  # (m, 2): of the diffusion, and its error in pairs


class Density(NamedTuple):
    """One of the other densities, fitted to training images of one noise."""

    label: str
    model: Any
    log_density: Callable[[Any, Any], np.ndarray]  # of the model and (n, H, W, C); (n,) nats
    sample: Callable[..., np.ndarray] | None = None  # of the model, (H, W), num and seed


def names(config: Config) -> list[str]:
    """The names in --baselines; ValueError for one that is unknown, or too few patches."""
    found = list(dict.fromkeys(name for name in config["baselines"].split(",") if name))
    unknown = [name for name in found if name not in _FITS]
    if unknown:
        raise ValueError(f"baselines: expected names of {tuple(_FITS)}, got {unknown[0]!r}")
    check_at_least(config, baseline_patches=FEWEST_PATCHES)
    return found


def some_rows(problem, num: int):
    """The data for `problem.draw`; only `num` of them, evenly spread, where they are on disk."""
    data = problem.data
    return jnp.asarray(data.spread(num) if isinstance(data, Stream) else data)


def examples(problem: Problem, num: int):
    """Training examples (num, *event) as a model sees them; None where the run keeps no data."""
    if problem.data is None:
        return None
    if problem.draw is not None:
        return problem.draw(jax.random.key(0), some_rows(problem, num), num)
    return problem.data.spread(num) if isinstance(problem.data, Stream) else problem.data[:num]


def measure(config: Config, problem: Problem, params, folder: Path):
    """The curve as figure, facts and rows of the table; the other densities at the least noise."""
    noise = np.asarray(problem.model.chain(params).schedule.noise)
    wanted = np.union1d(np.geomspace(max(noise[1], 1e-4), 0.5, 9), FLOORS)
    wanted = wanted[wanted >= 0.99 * noise[1]]
    t0 = np.unique([_nearest(noise, v) for v in wanted])
    floor = np.isin(t0, [_nearest(noise, v) for v in FLOORS if v >= 0.99 * noise[1]])
    found = likelihood.evaluate_noise_floor(
        problem.model,
        params,
        problem.test[: config["num_eval"]],
        t0.tolist(),
        4 * config["passes"],
        Rows(config["seed"] + 12, problem.prepare, progress=batches("noise floor")),
    )
    pixels, dims = problem.facts["pixels"], problem.facts["dims"]
    unit = units.LN2 * pixels
    gain, error = found.gain / unit, found.gain_error / unit
    ceiling = -0.5 * dims / pixels * np.log2(2 * np.pi * np.e * found.noise) - found.K / unit + gain
    curves = {"diffusion": Curve(found.noise, floor, gain, error, ceiling)}
    each = found.each[:, floor] / unit
    beside, densities = _beside(config, problem, found.noise[floor], each, ceiling[floor], unit)
    curves |= beside
    per_dim = {
        name: (c.noise, c.gain * pixels / dims, c.error * pixels / dims)
        for name, c in curves.items()
    }
    path = plots.noise_floor(
        folder / "noise_floor.png",
        per_dim,
        dims // pixels,
        ceiling=(found.noise, ceiling * pixels / dims),
    )
    facts = {name: _listed(curve) for name, curve in curves.items()}
    return {"noise_floor": str(path)}, {"noise_floor": facts}, _rows(curves), densities


def _nearest(noise: np.ndarray, variance: float) -> int:
    return int(np.argmin(abs(np.log(noise[1:] / variance)))) + 1


def _beside(config, problem, noise, ours, ceiling, unit: float):
    """Other densities, fitted at each noise to training images that have it: by label, by name.

    They are tested on one noised copy of the test images, while K is an average over such copies:
    the lead of the diffusion is taken image by image. Those returned are of the least noise.
    """
    keys = jax.random.split(jax.random.key(config["seed"] + 13), 4)
    num = patches(config["baseline_patches"], problem.facts["pixels"])
    train = _Noised(keys[0], problem.draw(keys[1], some_rows(problem, num), num))
    rows = jnp.asarray(problem.test[: config["num_eval"]])
    test = _Noised(keys[2], problem.prepare(keys[3], rows))
    work = [(name, i) for i in range(len(noise)) for name in names(config)]
    values: dict[str, list] = {}
    least: dict[str, Density] = {}
    for name, i in bar(work, "other densities"):
        x = test.at(noise[i])
        fitted = _FITS[name](train.at(noise[i]))
        least.setdefault(name, fitted)
        gain = (fitted.log_density(fitted.model, x) - blocks.isotropic(x)) / unit
        pair = [(v.mean(), likelihood.standard_error(v)) for v in (gain, ours[:, i] - gain)]
        values.setdefault(fitted.label, []).append(pair)
    found = {label: np.array(pairs) for label, pairs in values.items()}
    floor = np.ones(len(noise), bool)
    curves = {
        label: Curve(noise, floor, pairs[:, 0, 0], pairs[:, 0, 1], ceiling, pairs[:, 1])
        for label, pairs in found.items()
    }
    return curves, least


def patches(num: int, pixels: int) -> int:
    """So many patches of 32×32, or as many pixels of larger ones; at least FEWEST_PATCHES."""
    return max(min(num, FEWEST_PATCHES), num * 1024 // max(1024, pixels))


class _Noised:
    """Images with the noise of any variance, always the same draw of it."""

    def __init__(self, key, x0):
        self.x0, self.epsilon = x0, jax.random.normal(key, x0.shape)

    def at(self, variance: float) -> np.ndarray:
        v = float(variance)
        return np.asarray(np.sqrt(1 - v) * self.x0 + np.sqrt(v) * self.epsilon)


def _dct(train) -> Density:
    density = jax.jit(jax.vmap(laws.log_density, (None, 0)))
    return Density(
        "Gaussian, DCT",
        laws.fit(train),
        lambda law, x: np.asarray(density(law, jnp.asarray(x)), np.float64),
    )


def _blocks(train) -> Density:
    sides = train.shape[1:3]
    block = max(b for b in range(1, BLOCK + 1) if not any(side % b for side in sides))
    model = blocks.fit(train, block)
    return Density(f"Gaussian, {block}×{block} blocks", model, blocks.log_density)


def _causal(train) -> Density:
    model = causal.fit(train, progress=_cases)
    return Density("causal scale mixture", model, causal.log_density, causal.sample)


def _mcgsm(train) -> Density:
    model = mcgsm.fit(train, progress=_cases)
    return Density("MCGSM", model, causal.log_density, causal.sample)


def _cases(cases):
    return bar(cases, "borders", "case")


_FITS = {"dct": _dct, "blocks": _blocks, "causal": _causal, "mcgsm": _mcgsm}


def _listed(curve: Curve) -> dict[str, list]:
    facts = {
        "noise_variance": curve.noise.tolist(),
        "K_minus_L_null_bits_per_pixel": curve.gain.tolist(),
        "standard_error_bits_per_pixel": curve.error.tolist(),
        "ceiling_bits_per_pixel": curve.ceiling.tolist(),
    }
    if curve.lead is not None:
        facts["lead_of_diffusion_bits_per_pixel"] = curve.lead[:, 0].tolist()
        facts["lead_standard_error_bits_per_pixel"] = curve.lead[:, 1].tolist()
    return facts


def _rows(curves: dict[str, Curve]):
    """Rows of the final table: K' at the FLOORS, always a density, and its ceiling."""
    number, rows = units.number, []
    for name, curve in curves.items():
        for i, v in enumerate(curve.noise):
            if not curve.floor[i]:
                continue
            what = f"K − L_null at noise variance {v:.4f}, {name}"
            if curve.lead is not None:
                what += f" (diffusion ahead by {number(*curve.lead[i])})"
            ours, ceiling = number(curve.gain[i], curve.error[i]), number(curve.ceiling[i])
            rows.append((what, "–", ours, ceiling, "bits/pixel"))
    return rows
