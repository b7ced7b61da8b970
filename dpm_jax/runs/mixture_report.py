"""What mixture.py says of its methods: tables as Markdown, figures of cells and of calls."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dpm_jax import later, units
from dpm_jax.runs.mixture_methods import LABELS, METHODS

with later.imports(globals()):
    import numpy as np

    from dpm_jax.runs import plots

Entry = dict[str, Any]  # dim, measurements, seed, method, calls, sw, log_z_error, ...
Cell = tuple[int, int]  # dim, measurements
_BEST = "dps"  # of all its steps, cell by cell
_PARTS = {  # what each table shows
    "sw": "sliced Wasserstein distance to exact draws of the posterior",
    "excess": "the same less the floor, problem by problem",
    "log_z_error": "error of log Z~, rms, nats",
    "sw_model": "sliced Wasserstein distance to a long run of the same model",
    "log_z_model": "log Z~ less that of the long run, rms, nats",
}


def tables(entries: Sequence[Entry], calls: int) -> str:
    """All tables of one number of calls, one below the other."""
    own = with_best([e for e in entries if e["calls"] == calls])
    found = []
    for part, title in _PARTS.items():
        text = _table(own, part)
        if text:
            found.append(f"**{title}**, {calls} network calls a draw\n\n{text}")
    return "\n\n".join(found)


def with_best(entries: Sequence[Entry]) -> list[Entry]:
    """The entries, and those of the best step of DPS in each cell as a method of its own."""
    found = list(entries)
    for cell in cells(entries):
        steps = {m for m in METHODS if m.startswith(f"{_BEST}_")}
        each = {m: of(entries, cell, m) for m in steps}
        each = {m: own for m, own in each.items() if own}
        if each:
            best = min(each, key=lambda m: float(np.mean([e["sw"] for e in each[m]])))
            found += [e | {"method": _BEST} for e in each[best]]
    return found


def cells(entries: Sequence[Entry]) -> list[Cell]:
    """The (dim, measurements) that were measured, in order."""
    return sorted({(e["dim"], e["measurements"]) for e in entries})


def of(entries: Sequence[Entry], cell: Cell, method: str) -> list[Entry]:
    """Those of one cell and one method, by seed; draws that were not finite have no distance."""
    own = [e for e in entries if e["method"] == method and e["sw"] is not None]
    own = [e for e in own if (e["dim"], e["measurements"]) == cell]
    return sorted(own, key=lambda e: e["seed"])


def excess(entries: Sequence[Entry], cell: Cell, method: str) -> list[float]:
    """Distances less the floor's of the same problem."""
    floor = {e["seed"]: e["sw"] for e in of(entries, cell, "floor")}
    own = of(entries, cell, method)
    return [e["sw"] - floor[e["seed"]] for e in own if e["seed"] in floor]


def _values(entries: Sequence[Entry], cell: Cell, method: str, part: str) -> list[float]:
    if part == "excess":
        return excess(entries, cell, method) if method != "floor" else []
    return [e[part] for e in of(entries, cell, method) if e.get(part) is not None]


def _told(part: str) -> Callable[[list[float]], str]:
    if part.startswith("log_z"):
        return lambda values: units.number(_rms(values), digits=3)
    return lambda values: units.number(*mean_and_error(values), digits=2)


def mean_and_error(values: list[float]) -> tuple[float, float]:
    """Of one value it has no error: NaN."""
    return units.mean_and_error(values) if len(values) > 1 else (values[0], math.nan)


def _rms(values: list[float]) -> float:
    return math.sqrt(sum(v**2 for v in values) / len(values))


def _table(entries: Sequence[Entry], part: str) -> str:
    """Methods by cells, as Markdown; empty where nothing was measured."""
    columns, told = cells(entries), _told(part)
    lines = []
    for method in (*METHODS[:2], _BEST, *METHODS[2:]):
        each = [_values(entries, cell, method, part) for cell in columns]
        if any(each):
            row = [told(values) if values else "–" for values in each]
            lines.append(f"| {label(method)} | {' | '.join(row)} |")
    if not lines:
        return ""
    heading = " | ".join(f"d = {d}, d_y = {m}" for d, m in columns)
    return "\n".join([f"| | {heading} |", "|" + " --- |" * (len(columns) + 1), *lines])


def label(method: str) -> str:
    """What a method is called."""
    return "DPS, the best of its steps" if method == _BEST else LABELS[method]


# --- figures ------------------------------------------------------------------------------------


def draw_cells(path: Path, entries: Sequence[Entry], calls: int) -> Path:
    """Dots with errors for each cell and method, and a band where the floor is."""
    own = with_best([e for e in entries if e["calls"] == calls])
    columns = cells(own)
    shown = [m for m in ("prior", _BEST, *METHODS[2:]) if not m.startswith(f"{_BEST}_")]
    shown = [m for m in shown if any(e["method"] == m for e in own)]
    figure, axis = plots.plt.subplots(figsize=(3 + 1.1 * len(columns), 4.6), layout="constrained")
    for at, cell in enumerate(columns):
        floor = _values(own, cell, "floor", "sw")
        if floor:
            mean, error = mean_and_error(floor)
            error = 0.0 if math.isnan(error) else error
            low, high = max(mean - 2 * error, mean / 2), mean + 2 * error
            axis.fill_between([at - 0.45, at + 0.45], low, high, color="0.8", lw=0)
    for i, method in enumerate(shown):
        shift = 0.8 * ((i + 0.5) / len(shown) - 0.5)
        each = [(at, _values(own, cell, method, "sw")) for at, cell in enumerate(columns)]
        points = [(at + shift, *mean_and_error(v)) for at, v in each if v]
        _dots(axis, "o", plots.plt.cm.tab20(i % 20), method, *zip(*points))
    axis.set_xticks(range(len(columns)), [f"d = {d}\n$d_y$ = {m}" for d, m in columns])
    axis.set(yscale="log", ylabel="sliced Wasserstein distance to exact draws")
    axis.set_title(f"{calls} network calls a draw; grey: two exact draws ± 2 errors", fontsize=10)
    figure.legend(loc="outside right upper", fontsize=7)
    return plots.save(figure, path)


def draw_calls(
    path: Path, floor: Sequence[Entry], entries: Sequence[Entry], cell: Cell, methods: Sequence[str]
) -> Path:
    """Error against network calls of one cell, a curve for each method.

    Args:
        path: of the PNG.
        floor: entries of which those of two exact draws are a line.
        entries: of the curves.
        cell: (dim, measurements).
        methods: of which there are curves.
    """
    figure, axis = plots.plt.subplots(figsize=(8.4, 4.4), layout="constrained")
    for i, method in enumerate(methods):
        own = of(entries, cell, method)
        budgets = sorted({e["calls"] for e in own})
        each = [mean_and_error([e["sw"] for e in own if e["calls"] == c]) for c in budgets]
        if each:
            _dots(axis, "o-", plots.plt.cm.tab10(i % 10), method, budgets, *zip(*each))
    exact = [e["sw"] for e in of(floor, cell, "floor")]
    if exact:
        axis.axhline(float(np.mean(exact)), color="black", lw=1, ls="--", label=label("floor"))
    axis.set(xscale="log", yscale="log", xlabel="network calls a draw")
    axis.set(ylabel="sliced Wasserstein distance to exact draws")
    ticks = sorted({e["calls"] for e in entries})
    axis.set_xticks(ticks, [str(c) for c in ticks])
    axis.minorticks_off()
    axis.set_title(f"d = {cell[0]}, $d_y$ = {cell[1]}", fontsize=10)
    if axis.get_legend_handles_labels()[0]:
        figure.legend(loc="outside right upper", fontsize=7)
    return plots.save(figure, path)


def _dots(axis, style: str, colour, method: str, x, mean, error) -> None:
    """A method's means with their errors, where they are known."""
    size = {"ms": 4, "capsize": 2, "lw": 1}
    error = np.nan_to_num(error)
    axis.errorbar(x, mean, error, fmt=style, color=colour, label=label(method), **size)
