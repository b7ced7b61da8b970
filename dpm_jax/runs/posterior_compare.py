"""Several methods of posterior.py on the same problems: one table, one figure, compare.json."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dpm_jax import files, units
from dpm_jax.likelihood import standard_error
from dpm_jax.posterior.particles import Particles
from dpm_jax.runs import posterior_figures as figures
from dpm_jax.runs import results
from dpm_jax.runs import workdir as workdirs
from dpm_jax.runs.experiment import Config
from dpm_jax.runs.observations import Observations
from dpm_jax.runs.posterior_report import gain_of
from dpm_jax.runs.run import Run

_BASELINES = ("linear (Wiener)", "observed")


def finished(wrote: list[Path]) -> bool:
    """Whether the answer that these files hold (posterior.json, .npz, figure) is a whole one."""
    if not all(file.exists() for file in wrote[:2]):
        return False
    return "unfinished" not in workdirs.read(wrote[0])


def write(
    wrote: list[Path], run: Run, seen: Observations, held: Config, outs: Mapping[str, Path]
) -> str:
    """The table of what each method's folder holds, as text; written as compare.json and a figure.

    Args:
        wrote: compare.json and the figure.
        run, seen: as in `figures.draw`.
        held: what was asked of all.
        outs: the folder of each method.
    """
    contents = {name: workdirs.read(out / "posterior.json") for name, out in outs.items()}
    found = {name: _draws(out / "posterior.npz") for name, out in outs.items()}
    title = f"{held['task']}: the same problems by several methods"
    drawn = figures.compared(wrote[1], run, seen, found, title)
    table = _table(contents)
    whole: dict[str, Any] = {"settings": held, "table": table}
    whole |= {
        "methods": {n: {k: v for k, v in c.items() if k != "files"} for n, c in contents.items()}
    }
    whole["files"] = results.begin(wrote[0], held, wrote[1:])
    files.write_json(wrote[0], whole)
    lines = [f"wrote {file}" for file in (wrote if drawn else wrote[:1])]
    lines += [f"wrote {out}" for out in outs.values()]
    return "\n".join(["", _title(contents), "", *_markdown(table), "", *lines])


def _draws(path: Path) -> Particles:
    with np.load(path) as held:
        of: tuple[Any, ...] = (held["x"], held["weight"], held["log_z"], *[np.nan] * 2, 0, 0)
        return Particles(*of)


def _title(contents: Mapping[str, Any]) -> str:
    first = next(iter(contents.values()))
    held = first["settings"]
    return (
        f"{first['experiment'] or 'own model'}, preset {first['preset'] or '–'}: {held['task']},"
        f" {held['problems']} problems of {held['num_samples']} draws, seed {held['seed']};"
        " ± one standard error over problems"
    )


def _table(contents: Mapping[str, Any]) -> list[list[str]]:
    """A row for each method, and for each estimate that needs no draws; its heading first."""
    first = next(iter(contents.values()))
    errors = first.get("errors", {})
    kind = "psnr" if "psnr" in errors.get("posterior mean", {}) else "rmse"
    unit = "PSNR, dB" if kind == "psnr" else "RMSE"
    nominal = first.get("coverage", {}).get("nominal", np.nan)
    heading = ["", f"{unit}: mean of draws", "one draw", "above Wiener, paired, dB", "s.d."]
    heading += [f"truths in the interval of {100 * nominal:.1f} %", "\\|y − A x\\|²/(R k)"]
    rows = [[*heading, "total variation", "ancestors", "calls of a draw", "seconds"]]
    for name in _BASELINES:
        if name in errors:
            rows.append([name, _mean(errors[name][kind]), *[""] * (len(rows[0]) - 2)])
    for name, content in contents.items():
        rows.append([name, *_of_method(content, kind)])
    used = [any(row[i] for row in rows[1:]) for i in range(len(rows[0]))]
    used[0] = True
    return [[cell for cell, use in zip(row, used) if use] for row in rows]


def _of_method(content: Mapping[str, Any], kind: str) -> list[str]:
    errors, exact = content.get("errors", {}), content.get("against_exact", {})
    shares = [100 * v for v in content.get("coverage", {}).get("share_as_noisy", [])]
    return [
        *(
            _mean(errors.get(n, {}).get(kind, []))
            for n in ("posterior mean", "one posterior sample")
        ),
        _mean(gain_of(content)),
        units.number(content["posterior_sd"]),
        _mean(shares, 1, " %"),
        _mean(content.get("consistency", [])),
        _mean(exact.get("total_variation", []), 3),
        _mean([v for v in content.get("ancestors", []) if v is not None], 1),
        str(content.get("calls", "")),
        units.number(content["seconds"], digits=0) if "seconds" in content else "",
    ]


def _mean(values, digits: int = 2, unit: str = "") -> str:
    values = np.asarray(values, np.float64)
    if not len(values):
        return ""
    return units.number(values.mean(), standard_error(values), digits) + unit


def _markdown(table: list[list[str]]) -> list[str]:
    lines = ["| " + " | ".join(row) + " |" for row in table]
    return [lines[0], "|---" * len(table[0]) + "|", *lines[1:]]
