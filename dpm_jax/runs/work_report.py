"""What jarzynski.py says of the works of a driving: estimates of ΔF, warnings, tables, a figure."""

import math
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from dpm_jax import thermodynamics, units
from dpm_jax.runs import plots, report
from dpm_jax.runs.experiment import Config


def measure(forward: np.ndarray, reverse: np.ndarray, delta_F: float) -> dict[str, Any]:
    """What the works of one speed say of ΔF, for report, table and figure; None where unknown."""
    W_F, W_R = jnp.asarray(forward), jnp.asarray(reverse)
    there, back = thermodynamics.jarzynski(W_F, W_R), thermodynamics.jarzynski(W_R, W_F)
    bennett = thermodynamics.bennett(forward, reverse)
    crossing = thermodynamics.crooks(forward, reverse)
    numbers = {
        "dissipation": -float(there.K) - delta_F,
        "dissipation_error": float(there.K_error),
        "jarzynski": -float(there.value),
        "jarzynski_error": float(there.error),
        "jarzynski_jackknife": float(there.jackknife),
        "jarzynski_low": -float(there.high),  # 95 %, of ΔF; without a low end it is a bound
        "jarzynski_high": -float(there.low),
        "k_hat": float(there.k_hat),
        "ess": float(there.ess),
        "dissipation_reverse": -float(back.K) + delta_F,
        "jarzynski_reverse": float(back.value),
        "jarzynski_reverse_error": float(back.error),
        "jarzynski_reverse_low": float(back.low),
        "jarzynski_reverse_high": float(back.high),
        "k_hat_reverse": float(back.k_hat),
        "ess_reverse": float(back.ess),
        "bennett": bennett.value,
        "bennett_error": bennett.error,
        "bennett_ess": bennett.ess,
        "forward_beyond": bennett.forward_beyond,
        "reverse_beyond": bennett.reverse_beyond,
        "crossing": crossing.value,
        "crossing_error": crossing.error,
        "slope": crossing.slope,
        "slope_error": crossing.slope_error,
    }
    warning = {"warning": _warning(numbers, len(forward))}
    return {name: units.or_null(value) for name, value in numbers.items()} | warning


def _warning(numbers: dict[str, float], M: int) -> str:
    """What must not be read as a value with an error.

    ⟨e^{−W}⟩ rests on the reverses of typical reverse trajectories: one forward trajectory in e^D,
    with D the dissipation of the reverse process (Jarzynski 2006, Phys. Rev. E 73, 046105). With
    fewer than that, ESS may well be above 2.
    """
    if numbers["bennett_ess"] < 2:
        return "no overlap: ΔF unknown"
    if numbers["jarzynski_low"] == -math.inf:
        k_hat, beyond = units.number(numbers["k_hat"], digits=2), numbers["reverse_beyond"]
        return f"k̂ = {k_hat}, {beyond:.0%} of −W_R beyond W_F: a bound in the mean"
    return "M < e^D: a bound in the mean" if math.log(M) < numbers["dissipation_reverse"] else ""


def trap_table(config: Config, rows: list[dict[str, Any]], delta_F: float) -> str:
    """One row a driving."""
    heading = ("time", "⟨W⟩ − ΔF", "exact", "Jarzynski, 95 %", "k̂", "ESS", "Bennett")
    table: list[tuple[str, ...]] = [(*heading, "crossing", "slope", "")]
    number = units.number
    for n in rows:
        row = [f"{n['duration']:g}", number(n["dissipation"], n["dissipation_error"])]
        row += [number(n["exact"]), _jarzynski(n)]
        row += [number(n["k_hat"], digits=2), number(n["ess"], digits=1)]
        row += [number(n[x], n[f"{x}_error"]) for x in ("bennett", "crossing", "slope")]
        table.append((*row, n["warning"]))
    title = (
        f"jarzynski, exact ΔF = {delta_F:.4f} k_B T, {config['num_trajectories']} trajectories"
        f" each way, seed {config['seed']}; estimates of ΔF: Jarzynski's with a 95 % interval"
        " or as a bound, the others ± one standard error"
    )
    return f"{title}\n{report.table(table)}"


def _jarzynski(n: dict[str, Any]) -> str:
    """Jarzynski's estimate of ΔF with its interval; of a bound the end that it has."""
    number, low = units.number, n["jarzynski_low"]
    if low is None:
        return f"below {number(n['jarzynski_high'])}"
    return f"{number(n['jarzynski'])} in {number(low)} … {number(n['jarzynski_high'])}"


def ring_table(ring: list[dict[str, float]], states: int) -> str:
    """One row a number of steps of the ring."""
    rows: list[tuple[str, ...]] = [("steps", "⟨W⟩ − ΔF", "⟨e^−W⟩e^ΔF − 1")]
    rows += [(str(r["steps"]), f"{r['dissipation']:.5f}", f"{r['error']:.1e}") for r in ring]
    worst = max(abs(r["error"]) for r in ring)
    title = f"master equation, ring of {states} states, float64: max |error| = {worst:.1e}"
    return f"{title}\n{report.table(rows)}"


def draw(path: Path, rows: list[dict[str, Any]], works: list, delta_F: float) -> Path:
    """The figure; histograms of the slowest, the middle and the fastest driving.

    Args:
        path: of the PNG.
        rows: one of each driving, with its `duration`, `exact` ⟨W⟩ − ΔF, and what `measure` found.
        works: (duration, W forward (M,), W reverse (M,)) of each driving.
        delta_F: ΔF, in k_B T as all.
    """
    order = np.argsort([row["duration"] for row in rows])
    names = [name for name in rows[0] if name != "warning"]
    sweep = {name: np.array([rows[i][name] for i in order], np.float64) for name in names}
    shown = [works[order[i]] for i in (-1, len(order) // 2, 0)]
    return _draw(path, sweep, shown, delta_F)


def _draw(path: Path, sweep, works, free_energy: float) -> Path:
    """Work and free energy against the switching time, and the work of three drivings."""
    figure = plots.plt.figure(figsize=(11, 7.5), layout="constrained")
    grid, time = figure.add_gridspec(2, 6), np.asarray(sweep["duration"])
    left, right = figure.add_subplot(grid[0, :3]), figure.add_subplot(grid[0, 3:])
    left.plot(time, sweep["exact"], color="tab:gray", label="exact")
    for axis, name, colour, shift in (
        (left, "dissipation", "black", 1.0),
        (right, "bennett", "tab:blue", 1.04),
    ):
        label = "measured" if name == "dissipation" else name.capitalize()
        axis.errorbar(time * shift, sweep[name], sweep[f"{name}_error"], c=colour, fmt="o", ms=4)
        axis.plot([], [], "o", ms=4, c=colour, label=f"{label}, ± one standard error")
    _draw_intervals(
        right, 0.96 * time, *(sweep[f"jarzynski{end}"] for end in ("", "_low", "_high"))
    )
    right.axhline(free_energy, color="black", lw=1, ls="--", label=r"exact $\Delta F$")
    left.set(title="dissipated work", ylabel=r"$\langle W\rangle - \Delta F$, $k_BT$")
    if np.min(sweep["exact"]) > 0:
        left.set_yscale("log")
    right.set(title="estimates of the free energy", ylabel=r"$\Delta F$, $k_BT$")
    for axis in (left, right):
        axis.set(xscale="log", xlabel="switching time, relaxation times of trap A")
        axis.legend(frameon=False)
    for column, (duration, forward, reverse) in enumerate(works):
        axis = figure.add_subplot(grid[1, 2 * column : 2 * column + 2])
        axis.set_title(f"work, switching time {duration:g}")
        _work_histograms(axis, forward, reverse, free_energy)
    return plots.save(figure, path)


def _draw_intervals(axis, time, value, low, high) -> None:
    """Jarzynski's estimates with their 95 % intervals; of a bound (low is NaN) its end alone."""
    known = np.isfinite(low)
    below, above = (np.maximum(v[known], 0) for v in (value - low, high - value))
    axis.errorbar(time[known], value[known], (below, above), c="tab:red", fmt="o", ms=4)
    axis.plot([], [], "o", ms=4, c="tab:red", label="Jarzynski, 95 %")
    axis.plot(
        time[~known], high[~known], "v", ms=6, c="tab:red", label="Jarzynski, below this, 95 %"
    )


def _work_histograms(axis, forward, reverse, free_energy: float) -> None:
    """P_F(W) and P_R(−W), which cross at ΔF (Crooks)."""
    edges = np.histogram_bin_edges(np.concatenate([forward, -reverse]), 60).tolist()
    axis.hist(forward, edges, density=True, alpha=0.5, color="tab:red", label="$P_F(W)$")
    axis.hist(-reverse, edges, density=True, alpha=0.5, color="tab:blue", label="$P_R(-W)$")
    axis.axvline(free_energy, color="black", lw=1, ls="--", label=r"$\Delta F$")
    axis.set(xlabel="$W$, $k_BT$", ylabel="density", yticks=[])
    axis.legend(frameon=False)
