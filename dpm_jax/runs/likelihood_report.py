"""What evaluate.py writes and prints: likelihood.json in nats, and its table in nats and bits."""

import math
from typing import Any, NamedTuple

import jax
import numpy as np

from dpm_jax import likelihood, units
from dpm_jax.images import dequantisation
from dpm_jax.likelihood import Evaluation, LogLikelihood, Proposal, Rows, standard_error
from dpm_jax.runs import report
from dpm_jax.runs.run import Run


class Measured(NamedTuple):
    """What was measured of a run; nats."""

    bound: Evaluation  # K
    likelihoods: list[LogLikelihood]  # log p by rising M
    pairs: np.ndarray | None = None  # (n, 2): the sandwich of samples of the model
    total: dict[str, Any] | None = None  # what p sums to
    truth: np.ndarray | None = None  # log p of exact kernels, of the same examples
    ceiling: float | None = None  # of K


def content(run: Run, found: Measured) -> dict[str, Any]:
    """likelihood.json: nats everywhere, as its keys say."""
    return _json(
        {
            "experiment": run.config["experiment"],
            "preset": run.config.get("preset"),
            "unit": "nats per example",
            "train_steps": run.step,
            "beta_1": float(run.model.chain(run.params).schedule.beta[1]),
            "last_step": "discretized" if callable(run.model.last_step) else run.model.last_step,
            "dims": math.prod(run.model.event_shape),
            "scale_levels": run.problem.facts.get("scale_levels"),
            "levels": run.problem.facts.get("levels"),
            "K": found.bound._asdict(),
            "ceiling_of_K": found.ceiling,
            "likelihood": [widened(each, found.pairs)._asdict() for each in found.likelihoods],
            "sandwich": None if found.pairs is None else _sandwich(found.pairs),
            "sum_of_p": found.total,
            "truth": None if found.truth is None else float(found.truth.mean()),
        }
    )


def widened(found: LogLikelihood, pairs: np.ndarray | None) -> LogLikelihood:
    """`found` with the width of the sandwich above it.

    What trajectories of the data never drew, none of them shows; those of samples of the model do.
    By the width, and two standard errors of it, estimates of such samples may be too low.
    """
    if pairs is None:
        return found
    width = pairs[:, 1] - pairs[:, 0]
    known = np.isfinite(width).all()
    most = width.mean() + 2 * standard_error(width) if known else math.inf
    return found._replace(high=found.high + max(0.0, float(most)))


def _sandwich(pairs: np.ndarray) -> dict[str, Any]:
    values = {"lower": pairs[:, 0], "upper": pairs[:, 1], "width": pairs[:, 1] - pairs[:, 0]}
    means = {name: float(value.mean()) for name, value in values.items()}
    errors = {f"{name}_error": standard_error(value) for name, value in values.items()}
    return {**means, **errors, "samples": len(pairs)}


def normalisation(
    run: Run, num: int, n: int, steps: int | None, rows: Rows, proposal: Proposal
) -> dict | None:
    """Σ p(x) over all x, or ∫ p by importance sampling: 1 for a probability, at most 1 for a part.

    The error of each p̂ is that of its trajectories; where the points are random, the spread of
    their terms holds both. None where the experiment knows no such points.
    """
    if run.problem.exact.points is None:
        return None
    x, log_weight, exhaustive = run.problem.exact.points(jax.random.key(rows.seed), n)
    num = num if exhaustive else min(num, 64)
    rows = rows._replace(seed=rows.seed + 1)
    of = (np.asarray(x), num, steps, rows, proposal)
    works = likelihood.evaluate_works(run.model, run.params, *of)
    p = np.exp(np.asarray(log_weight, np.float64)[:, None] - works)
    value = p.mean(axis=1).sum()
    if exhaustive:
        error = np.sqrt((p.var(axis=1, ddof=1) / num).sum()) if num > 1 else float("nan")
        what = f"P of all {len(p)} sequences of the data, at most 1"
    else:
        error = np.std(p.mean(axis=1), ddof=1) * np.sqrt(len(p))
        what = f"∫ p by importance sampling at {len(p)} points, 1 for a probability"
    found = {"value": float(value), "error": float(error), "of": what}
    return found | {"points": len(p), "trajectories": num}


def _json(value):
    """Numbers that are not finite become null, at any depth; -inf is told by `impossible`."""
    if isinstance(value, dict):
        return {name: _json(v) for name, v in value.items()}
    if isinstance(value, list):
        return [_json(v) for v in value]
    return units.or_null(value) if isinstance(value, float) else value


def text(content) -> str:
    """The report: one table, and under it what its words mean and what to beware of."""
    heading = ["", "nats", "bits", "± examples", "± trajectories", "median ESS"]
    scale = content["scale_levels"]
    table = [tuple(heading + (["bits/dim", _code(content)] if scale else []))]
    table += [_row(content, *cells) for cells in _rows(content)]
    steps = content["steps"]
    respaced = f", respaced to {steps} steps: a model of its own" if steps else ""
    title = (
        f"{content['experiment'] or 'own model'}, preset {content['preset'] or '–'},"
        f" β_1 = {content['beta_1']:.3g}, last step {content['last_step']},"
        f" {content['train_steps']} training steps{respaced}; log p by {_works(content)}"
    )
    return "\n".join(["", title, report.table(table), *notes(content)])


def _works(content) -> str:
    """What the works are of."""
    order = {"paper": "the paper's order", "up_down": "down before up"}[content["proposal"]]
    N = content["particles"]
    return f"works of {N} resampled trajectories, {order}" if N > 1 else f"trajectories, {order}"


def _rows(content):
    """name, nats, error over examples, error over trajectories, ESS, whether it is a level."""
    K, many, pair = content["K"], content["likelihood"], content["sandwich"]
    yield f"K, eq. 14 ({K['examples']} examples)", K["K"], K["K_error"]
    gain = K["K_minus_L_null"], K["K_minus_L_null_error"]
    yield "K − L_null", *gain, None, None, False
    plain = (content["proposal"], content["particles"]) == ("paper", 1)
    if plain or many[-1]["num"] > 1:  # else it is log p of that one work
        yield f"{'K = ' if plain else ''}−⟨W⟩, examples below", many[-1]["K"]
    for found in many:
        bound = found["high"] is None
        is_bound = ", in the mean a bound" if bound else ""
        name = f"log p, M = {found['num']} ({found['examples']} examples){is_bound}"
        value = float("-inf") if found["impossible"] else found["log_p"]
        ess = units.number(found["ess"], digits=1)
        errors = (found["error"], found["trajectory_error"])
        if bound:  # an error is told of single works alone, of which it is no estimate's
            errors = (errors[0] if found["num"] == 1 else None, None)
        yield name, value, *errors, ess
    if many[-1]["num"] > 1:
        lost = "dissipation, log p − K" if plain else "dissipation, log p + ⟨W⟩"
        yield lost, many[-1]["dissipation"], None, None, None, False
    if content["truth"] is not None:
        yield "truth: exact kernels, same examples", content["truth"]
    if content["ceiling_of_K"] is not None:
        yield "ceiling of K", content["ceiling_of_K"]
    if pair is not None:
        for name, key in (
            (f"log p of {pair['samples']} model samples, from below", "lower"),
            ("from above", "upper"),
            ("width of the sandwich", "width"),
        ):
            yield name, pair[key], pair[f"{key}_error"], None, None, False


def _code(content) -> str:
    """What a code length is called: bits/dim of a level of the run's files."""
    if content["last_step"] == "discretized":
        return "lossless bits/dim"
    return f"{dequantisation.name(content['levels'] or dequantisation.LEVELS)} bits/dim"


def _row(content, name, nats, examples=None, noise=None, ess=None, level=True) -> report.Row:
    scale, dims, number = content["scale_levels"], content["dims"], units.number
    bits = [None if v is None else units.bits(v) for v in (nats, examples, noise)]
    cells = [name, number(nats), number(bits[0]), number(bits[1]), number(bits[2]), ess or "–"]
    if scale:
        known = level and nats is not None
        whole = content["last_step"] == "discretized"  # integers have a probability
        code = None
        if known:
            code = -units.bits(nats) / dims if whole else units.bits_per_dim(nats, dims, scale)
        cells += [number(None if bits[0] is None else bits[0] / dims, digits=4)]
        cells += [number(code, digits=4)]
    return tuple(cells)


def notes(content) -> list[str]:
    """What the words of the table mean, and where its numbers are not what they seem."""
    total, best = content["sum_of_p"], content["likelihood"][-1]
    said = [
        "K <= log p: K is the mean of −W (work, in k_B T) in the paper's order, log p = log⟨e^−W⟩",
        "of any (Jarzynski, eq. 9; annealed importance sampling; IWAE with M samples).",
        "± examples holds ± trajectories.",
    ]
    if content["last_step"] == "discretized":
        said.append("K and log p are those of integers, log probabilities.")
    if total is not None:
        value = units.number(total["value"], total["error"], 4)
        said.append(f"{total['of']}, M = {total['trajectories']}: {value}")
    if best["high"] is not None:
        low, high = (units.number(units.bits(best[end])) for end in ("low", "high"))
        above = ", above with the width of the sandwich" if content["sandwich"] else ""
        said.append(f"log p, M = {best['num']}: 95 % in {low} … {high} bits{above}.")
    if best["num"] == 1:
        said.append(
            "M = 1: no error over trajectories is known, and log p is a lower bound in the mean;"
            " how far below, the width of the sandwich says."
        )
        return said + _broken(best)
    said.append(
        f"{best['values']:.0%} of the estimates are values by the Pareto shape of their largest"
        f" weights (median k̂ {units.number(best['k_hat'], digits=2)}), the others lower bounds."
    )
    said += _broken(best)
    lost = best["dissipation"]
    if best["poor"] > 0.05 or (lost is not None and lost > np.log(best["num"])):
        said.append(
            f"WARNING: ESS below 2 for {best['poor']:.0%} of the examples, dissipation"
            f" {units.number(lost, digits=1)} nats or more against ln M ="
            f" {np.log(best['num']):.1f}: log p is a lower bound and no value, its error too small."
        )
    return said


def _broken(found) -> list[str]:
    """What is said of examples without a log p."""
    if not found["impossible"]:
        return []
    return [f"{found['impossible']} of {found['examples']} examples have log p = −inf."]
