"""The figure of posterior.py, and its arrays."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np

from dpm_jax import files
from dpm_jax.images import dequantisation
from dpm_jax.runs import plots
from dpm_jax.runs.experiment import ImageScale
from dpm_jax.runs.observations import Observations
from dpm_jax.runs.posterior_report import SHOWN, mean_of, spread_of
from dpm_jax.runs.run import Run


def draw(path: Path, run: Run, seen: Observations, found, title: str) -> Path:
    """Before, observed, posterior mean and spread, samples, of at most eight problems."""
    truth = None if seen.truth is None else seen.truth[:SHOWN]
    seen = seen._replace(y=seen.y[:SHOWN], truth=truth)
    found = found._replace(x=found.x[:SHOWN], weight=found.weight[:SHOWN])
    scaling = run.problem.images
    if scaling is not None:
        return plots.image_columns(path, _columns(scaling, seen, found), title)
    if seen.known.shape == (2,):
        draws = [x[_ordered(w, 1000)] for x, w in zip(found.x, found.weight)]
        backdrop = np.asarray(seen.shown if run.data is None else run.data[:4000])
        return plots.posterior_points(path, backdrop, seen, draws, title)
    shown = [x[_ordered(w, 12)] for x, w in zip(found.x, found.weight)]
    return plots.posterior_rows(path, seen, shown, title)


def _columns(scaling: ImageScale, seen: Observations, found) -> dict[str, np.ndarray]:
    columns = _asked(scaling, seen)
    mean = mean_of(found)
    spread = spread_of(found, mean)
    columns["mean"] = _levels(scaling, mean)
    columns["spread"] = np.clip(255 * spread / max(spread.max(), 1e-9), 0, 255).astype(np.uint8)
    chosen = np.stack([_ordered(w, 4) for w in found.weight])
    index = chosen.reshape(*chosen.shape, *[1] * (found.x.ndim - 2))
    samples = np.take_along_axis(found.x, index, axis=1)
    return columns | {f"sample {i + 1}": _levels(scaling, samples[:, i]) for i in range(4)}


def _asked(scaling: ImageScale, seen: Observations) -> dict[str, np.ndarray]:
    """The truth, where it is known, and what was observed; grey where hidden."""
    columns = {} if seen.truth is None else {"x^0": _levels(scaling, seen.truth)}
    grey = (~seen.known) if seen.A is None else np.zeros_like(seen.known)
    columns["observed"] = np.where(grey, 110, _levels(scaling, seen.shown)).astype(np.uint8)
    return columns


def compared(path: Path, run: Run, seen: Observations, found: dict, title: str) -> Path | None:
    """A row for each problem, and of each method its mean and one draw; of images alone."""
    scaling = run.problem.images
    if scaling is None:
        return None
    truth = None if seen.truth is None else seen.truth[:SHOWN]
    columns = _asked(scaling, seen._replace(y=seen.y[:SHOWN], truth=truth))
    for name, each in found.items():
        columns[f"{name}\nmean"] = _levels(scaling, mean_of(each)[:SHOWN])
        one = [x[_ordered(w, 1)[0]] for x, w in zip(each.x[:SHOWN], each.weight)]
        columns[f"{name}\none draw"] = _levels(scaling, np.stack(one))
    return plots.image_columns(path, columns, title)


def _levels(scaling: ImageScale, x: np.ndarray) -> np.ndarray:
    of = (scaling.mean, scaling.scale, scaling.levels)
    return np.asarray(
        dequantisation.shown(dequantisation.to_levels(jnp.asarray(x), *of), scaling.levels)
    )


def _ordered(weight: np.ndarray, num: int) -> np.ndarray:
    """`num` indices in proportion to the weights (systematic), in no order of theirs."""
    rng = np.random.default_rng(0)
    order = rng.permutation(len(weight))
    cumulative = np.cumsum(weight[order]) / weight.sum()
    index = np.searchsorted(cumulative, (np.arange(num) + rng.random()) / num)
    return order[np.minimum(index, len(weight) - 1)]


def save_arrays(path: Path, seen: Observations, found) -> None:
    """posterior.npz: draws and weights, whole or not at all."""
    arrays = {"x": found.x.astype(np.float32), "weight": found.weight, "log_z": found.log_z}
    arrays |= {"mean": mean_of(found), "observed": seen.y, "known": seen.known}
    if seen.truth is not None:
        arrays["truth"] = seen.truth
    with files.replacing(path) as temporary:
        np.savez_compressed(temporary, **arrays)
