"""report.json of a run, and the table that it ends in: paper / ours / ceiling."""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import jax

from dpm_jax import units
from dpm_jax.core.chain import Chain
from dpm_jax.core.model import Model
from dpm_jax.core.schedule import Schedule
from dpm_jax.likelihood import Evaluation
from dpm_jax.runs import plots
from dpm_jax.runs import workdir as workdirs
from dpm_jax.runs.experiment import Config, Experiment, Problem, Row
from dpm_jax.training import TrainState


def table(rows: list[Row]) -> str:
    """Rows of text as an aligned table; the first row is the heading."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:]))]
        lines.append("  ".join(cells).rstrip())
    lines.insert(1, "-" * max(map(len, lines)))
    return "\n".join(lines)


def of_training(state: TrainState, seconds: float) -> dict[str, Any]:
    """What report.json says of the training and of the machine."""
    return {
        "seconds": round(seconds, 1),
        "train_steps": int(state.step),
        "skipped_updates": int(state.skipped),
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        "devices": jax.device_count(),
        "processes": jax.process_count(),
        "backend": jax.default_backend(),
        "jax": jax.__version__,
    }


def of_bound(result: Evaluation) -> dict[str, Any]:
    """What report.json says of K, in bits per example."""
    return {
        "K_bits": units.bits(result.K),
        "K_standard_error_bits": units.bits(result.K_error),
        "K_minus_L_null_bits": units.bits(result.K_minus_L_null),
        "K_minus_L_null_standard_error_bits": units.bits(result.K_minus_L_null_error),
        "L_null_bits": units.bits(result.L_null),
        "examples": result.examples,
    }


def schedule_of(model: Model, params) -> Schedule:
    """The β_t of a model, by one compiled function where each operation would be one."""
    return jax.device_get(_schedule(model.make)(params))


@lru_cache(maxsize=4)
def _schedule(make: Callable[..., Chain]):
    return jax.jit(lambda params: make(params, None).schedule)


def content(
    experiment: Experiment, config: Config, problem: Problem, params, bound: Evaluation
) -> tuple[dict[str, Any], list[Row]]:
    """What report.json says of an experiment: K beside its ceiling and the paper's, in bits."""
    ceiling = problem.exact.ceiling(config["seed"] + 1, None)
    facts, rows = experiment.measures(problem, bound, ceiling)
    return {
        "experiment": experiment.name,
        "preset": config["preset"],
        **of_bound(bound),
        "ceiling_bits": None if ceiling is None else units.bits(ceiling),
        "paper_K_bits": experiment.paper_K_bits,
        "paper_K_minus_L_null_bits": experiment.paper_gain_bits,
        "paper_error_bits": experiment.paper_error_bits,
        "unit": experiment.unit,
        "beta_1": float(schedule_of(problem.model, params).beta[1]),
        "last_step": config["last_step"],
        "config": {name: value for name, value in config.items() if name not in workdirs.PLACES},
        **problem.facts,
        **facts,
    }, rows


def text(experiment: Experiment, bound: Evaluation, content, rows: list[Row], workdir: Path) -> str:
    """The final table, with what was asked and what was written."""
    bits, number, unit = units.bits, units.number, experiment.unit
    ceiling, null = content["ceiling_bits"], content["L_null_bits"]
    # Of images the paper's numbers stand in the rows of its unit, bits/pixel.
    said = {} if "pixels" in content else content
    error, highest = content["paper_error_bits"], None if ceiling is None else ceiling - null
    first = (
        ("K", "paper_K_bits", bound.K, bound.K_error, ceiling),
        (
            "K − L_null", "paper_K_minus_L_null_bits",
            bound.K_minus_L_null, bound.K_minus_L_null_error, highest,
        ),
    )  # fmt: skip
    lines = [
        ("", "paper", "ours", "ceiling", "unit"),
        *(
            (name, number(said.get(key), error), number(bits(K), bits(e)), number(most), unit)
            for name, key, K, e, most in first
        ),
        *rows,
    ]
    files: list[str | Path] = ["report.json"]
    for figure in content["figures"].values():
        files += plots.written(figure)
    names = ["ceiling_kind"] * (ceiling is not None) + ["paper_note", "parzen_note", "figure5_note"]
    notes = [f"{n.split('_')[0]}: {content[n]}" for n in names if n in content]
    wrote = [f"wrote {workdir / file}" for file in files]
    return "\n".join(["", _title(experiment, content), table(lines), *notes, "", *wrote])


def _title(experiment: Experiment, content: dict[str, Any]) -> str:
    preset, config = experiment.presets[content["preset"]], content["config"]
    differ = [f"{n}={v}" for n, v in config.items() if preset.get(n, v) != v and n != "seed"]
    changed = f" with {', '.join(differ)}" if differ else ""
    return (
        f"{experiment.name}, preset {content['preset']}{changed}, β_1 = {content['beta_1']:.3g},"
        f" last step {content['last_step']}, seed {config['seed']};"
        f" ± one standard error over {content['examples']} examples (ceilings and counts have none)"
    )
