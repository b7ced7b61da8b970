"""The ablation as a picture: each change beside its error, the largest first."""

from pathlib import Path

import numpy as np

from dpm_jax.reproduction.ablation import Ablation
from dpm_jax.runs import plots

_LINEAR = 0.002  # bits a dimension around 0 that the axis shows as they are


def draw(path: Path, found: Ablation) -> Path:
    """Changes of K by data set, on an axis that is logarithmic away from 0."""
    sets = list(dict.fromkeys(sorted(e.data for e in found.effects)))
    most = max(sum(e.data == data for e in found.effects) for data in sets)
    figure, axes = plots.plt.subplots(
        1,
        len(sets),
        figsize=(5.2 * len(sets), 1 + 0.28 * most),
        squeeze=False,
        layout="constrained",
    )
    for axis, data in zip(axes[0], sets):
        effects = sorted((e for e in found.effects if e.data == data), key=lambda e: -e.delta)
        y = np.arange(len(effects))
        for told, colour in ((True, "tab:blue"), (False, "0.6")):
            rows = [i for i, e in enumerate(effects) if e.told == told]
            axis.errorbar(
                [effects[i].delta for i in rows], y[rows], xerr=[effects[i].error for i in rows],
                fmt="o", ms=4, capsize=2, color=colour,
                label="told from none" if told else "not told from none",
            )  # fmt: skip
        axis.axvline(0, color="black", lw=0.8)
        axis.set_xscale("symlog", linthresh=_LINEAR)
        axis.set_yticks(y, [f"{e.module}: {e.change}" for e in effects], fontsize=7)
        axis.invert_yaxis()
        axis.set(title=data, xlabel="ΔK, bits a dimension (right: better)")
        axis.grid(axis="x", lw=0.3)
    axes[0, 0].legend(fontsize=7)
    return plots.save(figure, path)
