"""The ablation as a picture: each change beside its error, the largest first."""

from pathlib import Path

import numpy as np

from dpm_jax.reproduction.ablation import Ablation
from dpm_jax.runs import plots

_TICKS = (-100, -1, -0.01, 0, 0.01, 1)
_LINEAR = 0.002  # bits a dimension around 0 that the axis shows as they are


def draw(path: Path, found: Ablation) -> Path:
    """Changes of K by data set, on an axis that is logarithmic away from 0."""
    sets = list(dict.fromkeys(sorted(e.data for e in found.effects)))
    most = max(sum(e.data == data for e in found.effects) for data in sets)
    columns = min(2, len(sets))
    rows = -(-len(sets) // columns)
    size = (6 * columns, rows * (1 + 0.24 * most))
    figure = plots.plt.figure(figsize=size, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat[len(sets) :]:
        axis.set_visible(False)
    for axis, data in zip(axes.flat, sets):
        effects = sorted((e for e in found.effects if e.data == data), key=lambda e: -e.delta)
        y = np.arange(len(effects))
        for told, colour in ((True, "tab:blue"), (False, "0.6")):
            those = [i for i, e in enumerate(effects) if e.told == told]
            axis.errorbar(
                [effects[i].delta for i in those], y[those], xerr=[effects[i].error for i in those],
                fmt="o", ms=4, capsize=2, color=colour,
                label="told from none" if told else "not told from none",
            )  # fmt: skip
        axis.axvline(0, color="black", lw=0.8)
        axis.set_xscale("symlog", linthresh=_LINEAR)
        low, high = axis.get_xlim()
        axis.set_xticks([v for v in _TICKS if low <= v <= high], minor=False)
        axis.xaxis.set_major_formatter("{x:g}")
        axis.set_yticks(y, [f"{e.module}: {e.change}" for e in effects], fontsize=7)
        axis.invert_yaxis()
        axis.set(title=data, xlabel="ΔK, bits a dimension (right: better)")
        axis.grid(axis="x", lw=0.3)
    axes[0, 0].legend(fontsize=7)
    return plots.save(figure, path)
