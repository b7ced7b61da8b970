"""What evaluate.py writes and prints: likelihood.json in nats, and its table in nats and bits."""

import numpy as np

from dpm_jax import evaluation, reporting


def content(experiment, run, problem, state, bound, ceiling, likelihoods, pairs, total, truth):
    """likelihood.json: nats everywhere, as its keys say."""
    width = pairs[:, 1] - pairs[:, 0]
    facts = problem.facts
    beta = problem.evaluated.schedule(state.ema).beta
    found = {
        "experiment": experiment.name,
        "preset": run["preset"],
        "unit": "nats per example",
        "train_steps": int(state.step),
        "beta_1": float(beta[1]),
        "last_step": run["last_step"],
        "dims": int(np.prod(problem.evaluated.event_shape)),
        "scale_levels": facts.get("scale_levels"),
        "K": bound._asdict(),
        "ceiling_of_K": ceiling,
        "likelihood": [found._asdict() for found in likelihoods],
        "sandwich": {
            "lower": float(pairs[:, 0].mean()),
            "lower_error": evaluation.standard_error(pairs[:, 0]),
            "upper": float(pairs[:, 1].mean()),
            "upper_error": evaluation.standard_error(pairs[:, 1]),
            "width": float(width.mean()),
            "width_error": evaluation.standard_error(width),
            "samples": len(pairs),
        },
        "sum_of_p": total,
        "truth": None if truth is None else float(truth.mean()),
    }
    return _json(found)


def _json(value):
    """Numbers that are not finite become null, at any depth; -inf is told by `impossible`."""
    if isinstance(value, dict):
        return {name: _json(v) for name, v in value.items()}
    if isinstance(value, list):
        return [_json(v) for v in value]
    return reporting.or_null(value) if isinstance(value, float) else value


def text(content) -> str:
    """The report: one table, and under it what its words mean and what to beware of."""
    scale, dims = content["scale_levels"], content["dims"]
    heading = ["", "nats", "bits", "± examples", "± trajectories", "median ESS"]
    table = [tuple(heading + (["bits/dim", "8-bit bits/dim"] if scale else []))]

    def row(name, nats, examples=None, noise=None, ess=None, level=True):
        bits = [None if v is None else reporting.bits(v) for v in (nats, examples, noise)]
        number = reporting.number
        cells = [name, number(nats), number(bits[0]), number(bits[1]), number(bits[2]), ess or "–"]
        if scale:
            code = None
            if level and nats is not None:
                code = reporting.bits_per_dim_8bit(nats, dims, scale)
            cells += [number(None if bits[0] is None else bits[0] / dims, digits=4)]
            cells += [number(code, digits=4)]
        table.append(tuple(cells))

    K, many = content["K"], content["likelihood"]
    row(f"K, eq. 14 ({K['examples']} examples)", K["K"], K["K_error"])
    row("K − L_null", K["K_minus_L_null"], K["K_minus_L_null_error"], level=False)
    row("K = −⟨W⟩, examples below", many[-1]["K"])
    for found in many:
        name = f"log p, M = {found['num']} ({found['examples']} examples)"
        value = float("-inf") if found["impossible"] else found["log_p"]
        ess = reporting.number(found["ess"], digits=1)
        row(name, value, found["error"], found["trajectory_error"], ess)
    row("dissipation, log p − K", many[-1]["dissipation"], level=False)
    if content["truth"] is not None:
        row("truth: exact kernels, same examples", content["truth"])
    if content["ceiling_of_K"] is not None:
        row("ceiling of K", content["ceiling_of_K"])
    pair = content["sandwich"]
    name = f"log p of {pair['samples']} model samples, from below"
    row(name, pair["lower"], pair["lower_error"], level=False)
    row("from above", pair["upper"], pair["upper_error"], level=False)
    row("width of the sandwich", pair["width"], pair["width_error"], level=False)
    title = (
        f"{content['experiment']}, preset {content['preset']}, β_1 = {content['beta_1']:.3g},"
        f" last step {content['last_step']}, {content['train_steps']} training steps"
        + (
            f", respaced to {content['steps']} steps: a model of its own"
            if content["steps"]
            else ""
        )
    )
    return "\n".join(["", title, reporting.table(table), *notes(content)])


def notes(content) -> list[str]:
    """What the words of the table mean, and where its numbers are not what they seem."""
    total, best = content["sum_of_p"], content["likelihood"][-1]
    said = [
        "K <= log p: K is the mean of −W (work, in k_B T), log p = log⟨e^−W⟩ (Jarzynski, eq. 9;",
        "annealed importance sampling; IWAE with M samples). ± examples holds ± trajectories.",
    ]
    if total is not None:
        value = reporting.number(total["value"], total["error"], 4)
        said.append(f"{total['of']}, M = {total['trajectories']}: {value}")
    if best["not_a_number"]:
        said.append(f"WARNING: log p is NaN for {best['not_a_number']} examples: not a result.")
    if best["impossible"]:
        said.append(f"{best['impossible']} of {best['examples']} examples have log p = −inf.")
    lost = best["dissipation"]
    if best["poor"] > 0.05 or (lost is not None and lost > np.log(best["num"])):
        said.append(
            f"WARNING: ESS below 2 for {best['poor']:.0%} of the examples, dissipation"
            f" {reporting.number(lost, digits=1)} nats or more against ln M ="
            f" {np.log(best['num']):.1f}: log p is a lower bound and no value, its error too small."
        )
    return said
