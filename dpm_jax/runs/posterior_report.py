"""What posterior.py measures and prints: errors, calibration, baselines, evidence."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dpm_jax import units
from dpm_jax.likelihood import standard_error
from dpm_jax.posterior.particles import ANCESTORS
from dpm_jax.runs import report
from dpm_jax.runs.experiment import Config, Problem
from dpm_jax.runs.noise_floor import examples
from dpm_jax.runs.observations import Observations
from dpm_jax.runs.run import Run

COVERS = 0.9  # of the intervals whose coverage is measured
# Of a filter; what is not finite is null.
_OF_FILTERS = ("log_z", "low", "high", "k_hat", "ess", "least_ess", "ancestors", "distinct")
_KEYS = {"low": "log_z_low", "high": "log_z_high"}
_TRAINED_ON = 10_000  # training examples for the covariance of the linear baseline
SHOWN = 8  # problems, in figure and text
_LARGEST = 4096  # elements of an example that this covariance may have


def content(run: Run, seen: Observations, found, held: Config) -> dict[str, Any]:
    """posterior.json: errors in the units of the model, log Z~ in nats."""
    mean = mean_of(found)
    result: dict[str, Any] = {
        "experiment": run.config["experiment"],
        "preset": run.config.get("preset"),
        "settings": held,
        "noise": seen.noise,
        "known_elements": int(seen.known.sum()),
        "elements": int(seen.known.size),
        "measurements": math.prod(seen.measured.shape[1:]),
    }
    if seen.noise:
        if run.model.family.noise.additive:
            result["consistency"] = _consistency(seen, found)
    else:
        kept = np.where(seen.known, seen.y, 0)[:, None]
        off = np.abs(np.where(seen.known, found.x, 0) - kept)
        result["known_part_deviation"] = float(off.max())
    spread, target = spread_of(found, mean), seen.sought
    result["posterior_sd"] = float(spread[:, target].mean()) if target.any() else 0.0
    if held["method"] == "gibbs":
        result["worth"] = [units.or_null(float(v)) for v in found.ess]
    if held["method"] == "particles":
        result |= {
            _KEYS.get(n, n): [units.or_null(float(v)) for v in getattr(found, n)]
            for n in _OF_FILTERS
        }
        result["resampled"] = [int(v) for v in found.resampled]
    if seen.truth is not None:
        result["errors"] = _errors(run.problem, seen, found, mean, target)
        if run.model.family.noise.additive:
            result["coverage"] = coverage(found, seen.truth, target)
            result["coverage"]["share_as_noisy"] = coverage(
                found, _as_drawn(run, seen.truth), target
            )["share"]
    if run.problem.exact.compare is not None and seen.A is None:
        rows = zip(seen.y, found.x, found.weight)
        each = [run.problem.exact.compare(y, seen.known, seen.noise, x, w) for y, x, w in rows]
        result["against_exact"] = {n: [float(e[n]) for e in each] for n in each[0]}
    return result


def mean_of(found) -> np.ndarray:
    """Posterior mean of each problem, (n, *event)."""
    return np.einsum("nk,nk...->n...", found.weight, found.x)


def spread_of(found, mean: np.ndarray) -> np.ndarray:
    """Posterior standard deviation of each element, (n, *event)."""
    return np.sqrt(np.einsum("nk,nk...->n...", found.weight, (found.x - mean[:, None]) ** 2))


def _consistency(seen: Observations, found) -> list[float]:
    """|y − A x|² / (R k) of each problem, mean over draws; about 1 of draws that fit y."""
    A = seen.measurement
    y = np.asarray(jax.vmap(A.seen)(jnp.asarray(seen.measured)))
    rows = jax.jit(jax.vmap(lambda x: A.singular * A.rows(x)))
    off = [np.asarray(rows(jnp.asarray(x, y.dtype))) - one for one, x in zip(y, found.x)]
    each = [w @ np.mean(r**2, axis=1) for w, r in zip(found.weight, off)]
    return [float(value) / seen.noise for value in each]


def coverage(found, truth: np.ndarray, target: np.ndarray) -> dict[str, Any]:
    """How often the truth lies strictly between the k-th lowest and k-th highest of N draws.

    Where the draws are exact the rank of the truth among them is uniform, so that this share is
    (N + 1 − 2k)/(N + 1); k makes it as near to 90 % as N allows. Weighted draws count as N w each.

    Args:
        found: draws x (n, N, *event) and weights (n, N).
        truth: (n, *event).
        target: (*event) bool, the elements that count.

    Returns:
        "share" of each problem, "nominal", "k".
    """
    num = found.weight.shape[1]
    k = max(1, round((num + 1) * (1 - COVERS) / 2))
    shares = []
    for x, weight, true in zip(found.x, found.weight, truth):
        x, true = x[:, target], true[target]
        outside = [num * (weight @ side) < k - 1e-6 for side in (x < true, x > true)]
        shares.append(float(1 - np.mean(outside[0] | outside[1])))
    return {"share": shares, "nominal": (num + 1 - 2 * k) / (num + 1), "k": k}


def _as_drawn(run: Run, truth: np.ndarray) -> np.ndarray:
    """The truth as noisy as draws are: a fixed last step adds the noise of β_1 to that of x^1."""
    if run.model.last_step != "fixed":
        return truth
    family, level = run.model.family, 2 * run.model.chain(run.params).schedule.log_alpha_bar[1]
    return np.asarray(family.sample(jax.random.key(0), family.marginal(jnp.asarray(truth), level)))


def _errors(problem: Problem, seen, found, mean, target) -> dict[str, Any]:
    """Root mean square error of each estimate over what was to be found; PSNR of images, in dB."""
    guesses = {"posterior mean": mean}
    if seen.noise:
        guesses["observed"] = seen.shown
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
    if not problem.model.family.noise.additive or size > _LARGEST:
        return None
    rows = examples(problem, _TRAINED_ON)
    if rows is None:
        return None
    x = np.asarray(rows, np.float64).reshape(len(rows), size)
    if x.shape[1] != size:  # the images of --input are of another size
        return None
    mean, C, A = x.mean(axis=0), np.cov(x.T) + 1e-6 * np.eye(size), seen.measurement
    s = np.asarray(A.singular, np.float64)
    rows = np.asarray(jax.vmap(A.back)(jnp.eye(len(s))), np.float64).reshape(len(s), size)
    M = s[:, None] * rows  # y as A has it, rotated: Uᵀ y = M x + ε
    y = np.asarray(jax.vmap(A.seen)(jnp.asarray(seen.measured)), np.float64)
    S = M @ C @ M.T + seen.noise * np.eye(len(s))
    guess = mean + np.linalg.solve(S, (y - M @ mean).T).T @ (M @ C)
    return guess.reshape(len(y), *seen.known.shape)


def text(content: dict[str, Any]) -> str:
    """The report: one table, mean and standard error over the problems."""
    held, number = content["settings"], units.number
    title = (
        f"{content['experiment'] or 'own model'}, preset {content['preset'] or '–'}:"
        f" {held['task']} ({_asked(content)}), method {held['method']}, {held['num_samples']} draws"
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
    errors = content.get("errors", {})
    for name, error in errors.items():
        row(f"RMSE, {name}", error["rmse"], "of the data's")
    for name, error in errors.items():
        if "psnr" in error:
            row(f"PSNR, {name}", error["psnr"], "dB", 2)
    if len(gain := gain_of(content)):
        row("PSNR, posterior mean above Wiener", gain, "dB, paired", 2)
    _of_draws(content, row)
    for name, values in content.get("against_exact", {}).items():
        if not name.startswith("phase_"):  # the share of each: in posterior.json
            row(name.replace("_", " "), values, "")
    if "calls" in content:
        rows.append(("network calls of a draw", f"{content['calls']}", ""))
        seconds = number(content["seconds"], digits=1)
        rows.append(("seconds for all draws", seconds, "with compiling"))
    return "\n".join(["", title, report.table(rows), *_evidence(content)])


def _asked(content: dict[str, Any]) -> str:
    """The task in numbers: what was seen, and with how much noise."""
    held, hidden = content["settings"], content["elements"] - content["known_elements"]
    if held["task"] == "inpaint":
        return f"{held['mask']}, {hidden} of {content['elements']} hidden"
    if held["task"] == "denoise":
        return f"variance or flip probability {content['noise']:g}"
    measured = f"{content['measurements']} numbers of {content['elements']}"
    return f"{measured}, noise of variance {content['noise']:g}"


def gain_of(content: Mapping[str, Any]) -> np.ndarray:
    """PSNR of the posterior mean above that of the Wiener filter, problem by problem; or none."""
    errors = content.get("errors", {})
    pair = [errors.get(n, {}).get("psnr") for n in ("posterior mean", "linear (Wiener)")]
    return np.zeros(0) if None in pair else np.subtract(*pair)


def _of_draws(content: dict[str, Any], row) -> None:
    """Calibration, fit and weights."""
    held = content["settings"]
    if "coverage" in content:
        found = content["coverage"]
        exact = f"of truths, as noisy as draws; {100 * found['nominal']:.1f} % of exact draws"
        row(f"between the {found['k']} lowest and highest draws", found["share_as_noisy"], exact)
        row("the same", found["share"], "of truths themselves")
    if "consistency" in content:
        row("|y − A x|² / (R k)", content["consistency"], "about 1 of exact draws")
    if "worth" in content:
        row("independent draws that they are worth", content["worth"], "", 1)
    if "log_z" not in content:
        return
    values = [high is not None for high in content["log_z_high"]]
    known = f"{sum(values)} of {len(values)} values" if any(values) else "bounds in the mean"
    row(f"log Z~ = log ∫ p r, {known}", np.asarray(content["log_z"]) / units.LN2, "bits")
    row("Pareto shape k̂ of the weights", content["k_hat"], "", 2)
    row("effective particles at the end", content["ess"], f"of {held['num_samples']}", 0)
    row("least effective particles", content["least_ess"], f"of {held['num_samples']}", 0)
    row("effective ancestors at x^T", content["ancestors"], f"of {held['num_samples']}", 0)


def _evidence(content: dict[str, Any]) -> list[str]:
    """log Z~ of each of the first problems, with its interval or the end that it has."""
    if "log_z" not in content:
        return []
    lines = []
    ends = zip(content["log_z"], content["log_z_low"], content["log_z_high"])
    for i, (value, low, high) in enumerate(list(ends)[:SHOWN]):
        value, low = units.bits(value), units.bits(low)
        said = f"at least {units.number(low)} bits (95 %), in the mean {units.number(value)}"
        if high is not None:
            said = units.bounded(value, low, units.bits(high), "bits")
        lines.append(f"log Z~ of problem {i}: {said}")
    if all(high is None for high in content["log_z_high"]):
        filters = content["settings"].get("filters", 1)
        more = "its value takes --filters=25 or more" if filters < 25 else "more, larger ones?"
        lines.append(f"log Z~ of {filters} filter(s) is a bound here; {more}")
    one = sum(number == 1 for number in content["distinct"])
    if one:
        lines.append(f"one ancestor: all draws of {one} problem(s) descend from one first particle")
    few = sum(a is None or a < ANCESTORS for a in content["ancestors"])
    if few:
        lines.append(
            f"WARNING: the draws of {few} of {len(content['ancestors'])} problems descend from"
            f" fewer than {ANCESTORS} first particles: they and log Z~ may be far off."
        )
    return lines
