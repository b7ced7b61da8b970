"""What jarzynski.py says of the works of a driving: estimates of ΔF, warnings, tables, a figure."""

import math
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from dpm_jax import thermodynamics, units
from dpm_jax.runs import plots, report
from dpm_jax.runs.experiment import Config

_REVERSIBLE = 1e-5  # k_B T of dissipation: below, all is rounding


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
    """One row a driving, and below it one of the same driving escorted."""
    heading = ("time", "maps", "⟨W⟩ − ΔF", "exact", "Jarzynski, 95 %", "k̂", "ESS", "Bennett")
    table: list[tuple[str, ...]] = [(*heading, "its ESS", "beyond", "slope", "")]
    for n in rows:
        table.append((f"{n['duration']:g}", "none", *_cells(n)))
        if "escorted" in n:
            table.append(("", n["escorted"]["escort"], *_cells(n["escorted"])))
    title = (
        f"jarzynski, exact ΔF = {delta_F:.4f} k_B T, {config['num_trajectories']} trajectories"
        f" each way, seed {config['seed']}; estimates of ΔF: Jarzynski's with a 95 % interval"
        " or as a bound, Bennett's ± one standard error, with the effective number of works in the"
        " overlap and the shares of W_F and −W_R beyond the range of the other"
    )
    return f"{title}\n{report.table(table)}"


def _cells(n: dict[str, Any]) -> tuple[str, ...]:
    number, digits = units.number, _digits(n["dissipation_error"])
    return (
        number(n["dissipation"], n["dissipation_error"], digits),
        number(n["exact"], digits=digits),
        _jarzynski(n),
        number(n["k_hat"], digits=2),
        number(n["ess"], digits=1),
        number(n["bennett"], n["bennett_error"], _digits(n["bennett_error"])),
        number(n["bennett_ess"], digits=1),
        f"{n['forward_beyond']:.0%}, {n['reverse_beyond']:.0%}",
        number(n["slope"], n["slope_error"]),
        n["warning"],
    )


def _digits(error: float | None) -> int:
    """Digits that show an error, 3 to 6."""
    return min(max(3, -math.floor(math.log10(error))), 6) if error else 3


def _jarzynski(n: dict[str, Any]) -> str:
    """Jarzynski's estimate of ΔF with its interval; of a bound the end that it has."""
    ends = [n[f"jarzynski{end}"] for end in ("", "_low", "_high")]
    best, low, high = (units.number(v, digits=_digits(n["jarzynski_error"])) for v in ends)
    return f"below {high}" if ends[1] is None else f"{best} in {low} … {high}"


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
        rows: one of each driving, with its `duration`, `exact` ⟨W⟩ − ΔF, and what `measure` found;
            of the same driving escorted too, in `escorted`.
        works: of each driving a list of (W forward (M,), W reverse (M,)): without maps, and with.
        delta_F: ΔF, in k_B T as all.
    """
    order = np.argsort([row["duration"] for row in rows])
    kinds = [("no maps", [rows[i] for i in order])]
    if "escorted" in rows[0]:
        name = rows[0]["escorted"]["escort"]
        kinds.append((f"escorted ({name})", [rows[i]["escorted"] for i in order]))
    time = np.array([rows[i]["duration"] for i in order])
    figure = plots.plt.figure(figsize=(11, 4 + 3 * len(kinds)), layout="constrained")
    grid = figure.add_gridspec(1 + len(kinds), 6, height_ratios=[1.3] + [1] * len(kinds))
    _draw_dissipation(figure.add_subplot(grid[0, :3]), time, kinds)
    _draw_estimates(figure.add_subplot(grid[0, 3:]), time, kinds, delta_F)
    for row, (name, _) in enumerate(kinds):
        for column, at in enumerate((-1, len(order) // 2, 0)):
            axis = figure.add_subplot(grid[1 + row, 2 * column : 2 * column + 2])
            axis.set_title(f"time {time[at]:g}, {name}", fontsize=11)
            forward, reverse = works[order[at]][row]
            _work_histograms(axis, forward, reverse, delta_F)
            # Of the fastest driving without maps: there is room.
            if (row, column) == (0, 2) and axis.patches:
                axis.legend(frameon=False, loc="upper right")
    return plots.save(figure, path)


def _columns(rows: list[dict[str, Any]], *names: str) -> list[np.ndarray]:
    return [np.array([row[name] for row in rows], np.float64) for name in names]  # None: NaN


def _draw_dissipation(axis, time: np.ndarray, kinds: list) -> None:
    """⟨W⟩ − ΔF of each kind: exactly (a line, where it is known) and measured."""
    for (name, rows), colour in zip(kinds, ("black", "tab:green")):
        exact, *found = _columns(rows, "exact", "dissipation", "dissipation_error")
        shown = found[0] > _REVERSIBLE
        label = name if shown.any() else f"{name}: 0 to rounding"
        axis.plot(time, np.where(exact > _REVERSIBLE, exact, np.nan), c=colour, lw=1, alpha=0.6)
        axis.errorbar(time[shown], *(f[shown] for f in found), c=colour, fmt="o", ms=4, label=label)
        if shown.any():
            axis.set_yscale("log")
    axis.set(xscale="log", xlabel="switching time, relaxation times of trap A")
    known = ": measured (points), exact (lines)" if kinds[0][1][0]["exact"] is not None else ""
    axis.set_title(f"dissipated work{known}")
    axis.set_xlim(time[0] / 1.8, 1.8 * time[-1])
    axis.set_ylabel(r"$\langle W\rangle - \Delta F$, $k_BT$")
    axis.legend(frameon=False)


def _draw_estimates(axis, time: np.ndarray, kinds: list, delta_F: float) -> None:
    """ΔF by Bennett and Jarzynski; what is a bound alone, and too high, at the upper edge."""
    axis.axhline(delta_F, color="black", lw=1, ls="--", label=r"exact $\Delta F$")
    bounds: list[tuple[float, float]] = []
    for i, (name, rows) in enumerate(kinds):
        value, error, best, low, high = _columns(
            rows, "bennett", "bennett_error", "jarzynski", "jarzynski_low", "jarzynski_high"
        )
        style = {"fmt": "o", "ms": 4, "mfc": None if i else "white", "capsize": 2}
        blue, red = (1.03 * 1.12**i, 1.03**-1 * 1.12**-i)
        axis.errorbar(
            time * blue, value, 1.96 * error, c="tab:blue", label=f"Bennett, {name}", **style
        )
        known = np.isfinite(low)
        ends = np.maximum([best - low, high - best], 0)[:, known]
        label = f"Jarzynski, {name}"
        axis.errorbar(time[known] * red, best[known], ends, c="tab:red", label=label, **style)
        bounds += zip(time[~known] * red, high[~known])
    low, top = axis.get_ylim()
    low, top = low - 0.25 * (top - low), top + 0.1 * (top - low)  # the legend, a row of bounds
    for at, end in bounds:
        place = (at, top - 0.02 * (top - low))
        axis.annotate(f"< {end:.1f}", place, ha="center", va="top", color="tab:red", size=8)
    axis.set(title=r"estimates of $\Delta F$, 95 %; < is a bound alone", ylim=(low, top))
    axis.set(xscale="log", xlabel="switching time, relaxation times of trap A")
    axis.set_xlim(time[0] / 1.8, 1.8 * time[-1])
    axis.set_ylabel(r"$\Delta F$, $k_BT$")
    axis.legend(frameon=False, fontsize=8, loc="lower right")


def _work_histograms(axis, forward, reverse, free_energy: float) -> None:
    """P_F(W) and P_R(−W), which cross at ΔF (Crooks)."""
    every = np.concatenate([forward, -reverse])
    if np.ptp(every) < 100 * _REVERSIBLE:
        axis.text(0.5, 0.5, r"$W = \Delta F$ of every trajectory", ha="center", size=11)
        axis.set(xticks=[], yticks=[])
        return
    least, most = np.quantile(every, [0.0005, 0.9995])
    edges = np.linspace(least, most, 61).tolist()
    axis.hist(forward, edges, density=True, alpha=0.5, color="tab:red", label="$P_F(W)$")
    axis.hist(-reverse, edges, density=True, alpha=0.5, color="tab:blue", label="$P_R(-W)$")
    axis.axvline(free_energy, color="black", lw=1, ls="--", label=r"$\Delta F$")
    axis.set(xlabel="$W$, $k_BT$", ylabel="density", yticks=[])
