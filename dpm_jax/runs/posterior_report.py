"""What posterior.py writes and prints: numbers, baselines, figure, arrays."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from dpm_jax import files, units
from dpm_jax.data.streaming import Stream
from dpm_jax.images import dequantisation
from dpm_jax.likelihood import standard_error
from dpm_jax.posterior.particles import ANCESTORS
from dpm_jax.runs import plots, report
from dpm_jax.runs.experiment import Config, Problem
from dpm_jax.runs.noise_floor import some_rows
from dpm_jax.runs.observations import Observations
from dpm_jax.runs.run import Run

_TRAINED_ON = 10_000  # training examples for the covariance of the linear baseline
_SHOWN = 8  # problems, in figure and text
_LARGEST = 4096  # elements of an example that this covariance may have


def content(run: Run, seen: Observations, found, held: Config) -> dict[str, Any]:
    """posterior.json: errors in the units of the model, log Z~ in nats."""
    mean = _mean(found)
    result: dict[str, Any] = {
        "experiment": run.config["experiment"],
        "preset": run.config.get("preset"),
        "settings": held,
        "noise": seen.noise,
        "known_elements": int(seen.known.sum()),
        "elements": int(seen.known.size),
    }
    if not seen.noise:
        kept = np.where(seen.known, seen.y, 0)[:, None]
        result["known_part_deviation"] = float(
            np.abs(np.where(seen.known, found.x, 0) - kept).max()
        )
    spread = np.sqrt(np.einsum("nk,nk...->n...", found.weight, (found.x - mean[:, None]) ** 2))
    target = np.ones_like(seen.known) if seen.noise else ~seen.known
    result["posterior_sd"] = float(spread[:, target].mean()) if target.any() else 0.0
    if held["method"] == "particles":
        for name in (
            "log_z",
            "low",
            "high",
            "k_hat",
            "ess",
            "least_ess",
            "ancestors",
        ):  # not finite: null
            key = f"log_z_{name}" if name in ("low", "high") else name
            result[key] = [units.or_null(float(v)) for v in getattr(found, name)]
        result["resampled"] = [int(v) for v in found.resampled]
    if seen.truth is not None:
        result["errors"] = _errors(run.problem, seen, found, mean, target)
    if run.problem.exact.compare is not None:
        rows = zip(seen.y, found.x, found.weight)
        each = [run.problem.exact.compare(y, seen.known, seen.noise, x, w) for y, x, w in rows]
        result["against_exact"] = {n: [float(e[n]) for e in each] for n in each[0]}
    return result


def _mean(found) -> np.ndarray:
    return np.einsum("nk,nk...->n...", found.weight, found.x)


def _errors(problem: Problem, seen, found, mean, target) -> dict[str, Any]:
    """Root mean square error of each estimate over what was to be found; PSNR of images, in dB."""
    guesses = {"posterior mean": mean}
    if seen.noise:
        guesses["observed"] = seen.y
    linear = wiener(problem, seen)
    if linear is not None:
        guesses["linear (Wiener)"] = linear
    images = problem.images

    def square(guess):  # no image has levels outside its range: all guesses are clipped alike
        if images is not None:
            ends = (0.5, images.levels - 0.5)
            guess = np.clip(guess, *((end - images.mean) / images.scale for end in ends))
        return np.mean((guess - seen.truth)[:, target] ** 2, axis=1)

    squares = {name: square(guess) for name, guess in guesses.items()}
    draws = np.stack([square(found.x[:, k]) for k in range(found.x.shape[1])], axis=1)
    squares["one posterior sample"] = np.sum(found.weight * draws, axis=1)  # over all of them
    result = {}
    for name, value in squares.items():
        error = np.sqrt(value)
        result[name] = {"rmse": [float(v) for v in error]}
        if images is not None:
            psnr = 20 * np.log10((images.levels - 1) / (error * images.scale))
            result[name]["psnr"] = [float(v) for v in psnr]
    return result


def wiener(problem, seen) -> np.ndarray | None:
    """The best linear guess of x^0: conditional mean of a Gaussian with the training covariance.

    None for bits, and for examples too large for a covariance.
    """
    size = seen.known.size
    if not problem.model.family.noise.additive or size > _LARGEST or problem.data is None:
        return None
    if problem.draw is not None:
        rows = some_rows(problem, _TRAINED_ON)
        rows = problem.draw(jax.random.key(0), rows, _TRAINED_ON)
    else:
        streams = isinstance(problem.data, Stream)
        rows = problem.data.spread(_TRAINED_ON) if streams else problem.data[:_TRAINED_ON]
    x = np.asarray(rows, np.float64).reshape(len(rows), size)
    mean, known = x.mean(axis=0), seen.known.ravel()
    C = np.cov(x.T) + 1e-6 * np.eye(size)
    S = C[np.ix_(known, known)] + seen.noise * np.eye(int(known.sum()))
    off = seen.y.reshape(len(seen.y), size)[:, known] - mean[known]
    return (mean + np.linalg.solve(S, off.T).T @ C[known]).reshape(seen.y.shape)


def text(content: dict[str, Any]) -> str:
    """The report: one table, mean and standard error over the problems."""
    held, number = content["settings"], units.number
    hidden = content["elements"] - content["known_elements"]
    what = f"{held['mask']}, {hidden} of {content['elements']} hidden"
    if content["noise"]:
        what = f"variance or flip probability {content['noise']:g}"
    title = (
        f"{content['experiment'] or 'own model'}, preset {content['preset'] or '–'}:"
        f" {held['task']} ({what}), method {held['method']}, {held['num_samples']} draws"
        f" for each of {held['problems']} problems,"
        f" seed {held['seed']}; ± one standard error over problems"
    )
    rows: list[tuple[str, ...]] = [("", "mean", "unit")]

    def row(name: str, values, unit: str, digits: int = 3) -> None:
        values = np.asarray(values, np.float64)
        rows.append((name, number(values.mean(), standard_error(values), digits), unit))

    if "known_part_deviation" in content:
        rows.append(("largest deviation of known part", f"{content['known_part_deviation']:g}", ""))
    rows.append(("posterior standard deviation", number(content["posterior_sd"]), "of the data's"))
    for name, error in content.get("errors", {}).items():
        row(f"RMSE, {name}", error["rmse"], "of the data's")
    for name, error in content.get("errors", {}).items():
        if "psnr" in error:
            row(f"PSNR, {name}", error["psnr"], "dB", 2)
    if "log_z" in content:
        values = [high is not None for high in content["log_z_high"]]
        known = f"{sum(values)} of {len(values)} values" if any(values) else "bounds in the mean"
        row(f"log Z~ = log ∫ p r, {known}", np.asarray(content["log_z"]) / units.LN2, "bits")
        row("Pareto shape k̂ of the weights", content["k_hat"], "", 2)
        row("effective particles at the end", content["ess"], f"of {held['num_samples']}", 0)
        row("least effective particles", content["least_ess"], f"of {held['num_samples']}", 0)
        row("effective ancestors at x^T", content["ancestors"], f"of {held['num_samples']}", 0)
    for name, values in content.get("against_exact", {}).items():
        if not name.startswith("phase_"):  # the share of each: in posterior.json
            row(name.replace("_", " "), values, "")
    return "\n".join(["", title, report.table(rows), *_evidence(content)])


def _evidence(content: dict[str, Any]) -> list[str]:
    """log Z~ of each of the first problems, with its interval or the end that it has."""
    if "log_z" not in content:
        return []
    lines = []
    ends = zip(content["log_z"], content["log_z_low"], content["log_z_high"])
    for i, (value, low, high) in enumerate(list(ends)[:_SHOWN]):
        value, low = units.bits(value), units.bits(low)
        said = f"at least {units.number(low)} bits (95 %), in the mean {units.number(value)}"
        if high is not None:
            said = units.bounded(value, low, units.bits(high), "bits")
        lines.append(f"log Z~ of problem {i}: {said}")
    if all(high is None for high in content["log_z_high"]):
        filters = content["settings"].get("filters", 1)
        more = "its value takes --filters=25 or more" if filters < 25 else "more, larger ones?"
        lines.append(f"log Z~ of {filters} filter(s) is a bound here; {more}")
    few = sum(a is None or a < ANCESTORS for a in content["ancestors"])
    if few:
        lines.append(
            f"WARNING: the draws of {few} of {len(content['ancestors'])} problems descend from"
            f" fewer than {ANCESTORS} first particles: they and log Z~ may be far off."
        )
    return lines


def draw(path: Path, run: Run, seen: Observations, found, title: str) -> Path:
    """Before, observed, posterior mean and spread, samples, of at most eight problems."""
    truth = None if seen.truth is None else seen.truth[:_SHOWN]
    seen = seen._replace(y=seen.y[:_SHOWN], truth=truth)
    found = found._replace(x=found.x[:_SHOWN], weight=found.weight[:_SHOWN])
    mean = _mean(found)
    chosen = np.stack([_ordered(w, 4) for w in found.weight])
    samples = np.take_along_axis(
        found.x, chosen.reshape(*chosen.shape, *[1] * (found.x.ndim - 2)), axis=1
    )
    scaling = run.problem.images
    if scaling is not None:

        def levels(x):
            of = (scaling.mean, scaling.scale, scaling.levels)
            return dequantisation.shown(dequantisation.to_levels(x, *of), scaling.levels)

        spread = np.sqrt(np.einsum("nk,nk...->n...", found.weight, (found.x - mean[:, None]) ** 2))
        columns = {} if seen.truth is None else {"x^0": levels(seen.truth)}
        columns["observed"] = np.where(seen.known, levels(seen.y), 110).astype(np.uint8)
        columns["mean"] = levels(mean)
        columns["spread"] = np.clip(255 * spread / max(spread.max(), 1e-9), 0, 255).astype(np.uint8)
        columns |= {f"sample {i + 1}": levels(samples[:, i]) for i in range(4)}
        return plots.image_columns(path, columns, title)
    if seen.known.shape == (2,):
        draws = [x[_ordered(w, 1000)] for x, w in zip(found.x, found.weight)]
        backdrop = np.asarray(seen.y if run.data is None else run.data[:4000])
        return plots.posterior_points(path, backdrop, seen, draws, title)
    shown = [x[_ordered(w, 12)] for x, w in zip(found.x, found.weight)]
    return plots.posterior_rows(path, seen, shown, title)


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
    arrays |= {"mean": _mean(found), "observed": seen.y, "known": seen.known}
    if seen.truth is not None:
        arrays["truth"] = seen.truth
    with files.replacing(path) as temporary:
        np.savez_compressed(temporary, **arrays)
