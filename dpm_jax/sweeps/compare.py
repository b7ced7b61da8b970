"""Runs side by side: one row for runs that differ in their seed alone, with means and errors."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from dpm_jax import units
from dpm_jax.runs import workdir as workdirs
from dpm_jax.sweeps import jobs

_HEADING = ("run", "seeds", "K", "K − L_null", "ceiling", "gap", "bits/dim", "β_1", "s")

_NAMES = ("experiment", "preset")


def read(place: str | Path) -> dict[str, Any]:
    """report.json of a run, and its "directory"; ValueError for a directory without one."""
    folder = Path(place).expanduser()
    if not (folder / "report.json").is_file():
        raise ValueError(f"runs: expected directories of runs that ended, got {place}")
    try:
        found = jobs.read(folder)
    except ValueError as error:
        raise ValueError(f"runs: {error}") from error
    if "K_bits" not in found:
        raise ValueError(f"runs: expected a report with K, got {folder / 'report.json'}")
    return {**found, "directory": str(place)}


def table(reports: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    """Rows of text, the heading first: each group of runs that differ in their seed alone.

    K and its kin are in bits an example, ± the standard error over seeds; of one seed over the test
    examples, marked by *. A seed that comes again is of a row of its own.
    """
    groups: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for report in reports:
        told, seed = json.dumps(_identity(report), sort_keys=True), report["config"].get("seed")
        again = 0
        while any(r["config"].get("seed") == seed for r in groups.get((told, again), [])):
            again += 1
        groups.setdefault((told, again), []).append(report)
    every = [_identity(found[0]) for found in groups.values()]
    rows = []
    for of, found in zip(every, groups.values()):
        kind = [other for other in every if all(other[n] == of[n] for n in _NAMES)]
        rows.append(_row(found, _varied(kind)))
    names = [row[0] for row in rows]
    for i, found in enumerate(groups.values()):
        if names.count(names[i]) > 1:
            rows[i] = (f"{names[i]} in {found[0].get('directory', 'runs')}", *rows[i][1:])
    return [_HEADING, *rows]


def _identity(report: dict[str, Any]) -> dict[str, Any]:
    """What tells a run from another but its seed: what leaves K as it is does not."""
    measures = set(workdirs.MEASURES) - {"num_eval", "passes"}
    left_out = {*workdirs.PLACES, *measures, "seed"}
    config = {**workdirs.ADDED, **report["config"]}
    kept = {name: value for name, value in config.items() if name not in left_out}
    return {**{n: report.get(n) for n in _NAMES}, **kept}


def _varied(identities: Sequence[dict[str, Any]]) -> list[str]:
    """Names of flags that are not the same in all groups."""
    names = list(dict.fromkeys(name for each in identities for name in each))
    found = [n for n in names if len({json.dumps(each.get(n)) for each in identities}) > 1]
    return [name for name in found if name not in (*_NAMES, "model")]


def _row(reports: list[dict[str, Any]], varied: Iterable[str]) -> tuple[str, ...]:
    first = reports[0]
    of = _identity(first)
    flags = [f"{name}={of[name]}" for name in varied if name in of][:6]
    label = " ".join(
        str(part) for part in (of["experiment"] or "own", of["preset"], *flags) if part
    )
    code = [name for name in first if name.startswith("bits_per_dim_")]
    ceilings = [r["ceiling_bits"] for r in reports if r.get("ceiling_bits") is not None]
    gaps = [c - r["K_bits"] for c, r in zip(ceilings, reports) if r["K_bits"] is not None]
    return (
        label,
        str(len(reports)),
        _told(reports, "K_bits", "K_standard_error_bits"),
        _told(reports, "K_minus_L_null_bits", "K_minus_L_null_standard_error_bits"),
        units.number(statistics.fmean(ceilings)) if ceilings else "–",
        units.number(statistics.fmean(gaps)) if len(gaps) == len(reports) else "–",
        _told(reports, code[0], None, 4) if code else "–",
        "–" if first.get("beta_1") is None else f"{first['beta_1']:.3g}",
        f"{statistics.fmean(r.get('seconds') or 0 for r in reports):.0f}",
    )


def _told(reports: list[dict[str, Any]], name: str, error: str | None, digits: int = 3) -> str:
    values = [report[name] for report in reports if report.get(name) is not None]
    if len(values) < len(reports):
        return "not finite" if name in reports[0] else "–"
    if len(values) > 1:
        return units.number(*units.mean_and_error(values), digits)
    of_one = reports[0].get(error) if error else None
    return units.number(values[0], of_one, digits) + ("*" if of_one is not None else "")


NOTE = "± standard error over seeds, in bits an example; *: of one seed, over its test examples"
