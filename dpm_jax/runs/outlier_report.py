"""What outliers.py says of its sets: AUC of each score, a table, a figure."""

from pathlib import Path
from typing import Any

import numpy as np

from dpm_jax import units
from dpm_jax.runs import plots
from dpm_jax.runs.outliers import CHANGES, Measured, Told, auc, gain, scores

REFERENCE = "held out"  # whose means are the typical ones
NAMES = {
    "K": "K",
    "log_p": "log p̂",
    "K_minus_log_p": "K − log p̂",
    "L_null": "L_null",
    "typical_K": "K near typical",
    "typical_log_p": "log p̂ near typical",
    "gain": "log p̂ less that of K",
}
_COLOURS = {
    "K": "tab:blue",
    "log_p": "tab:red",
    "K_minus_log_p": "tab:green",
    "typical_log_p": "tab:orange",
}
_ROW = 0.42  # inches of a set
_STRIPS = {"K": -0.17, "log_p": 0.17}  # and where in the row
_FAR = 3  # widths from the least of the test images to the highest of all


def to_json(found: Measured) -> dict[str, list[float | None]]:
    """Lists of nats; null for what is not finite."""
    return {name: [units.or_null(v) for v in map(float, x)] for name, x in _fields(found)}


def from_json(held: dict[str, list[float | None]]) -> Measured:
    """What `to_json` wrote; NaN for null."""
    return Measured(**{n: np.array(held[n], np.float64) for n in Measured._fields})


def _fields(found: Measured):
    return found._asdict().items()


def tell(sets: dict[str, Measured], against: dict[str, str]) -> dict[str, dict[str, Told]]:
    """How well each score tells a set from the one it is set against, by set and score.

    "gain" is the AUC of log p̂ less that of K.
    """
    told = {}
    for name, other in against.items():
        # Of images with more noise another value is typical.
        typical = sets.get(REFERENCE) if other == "test" else None
        inside, outside = scores(sets[other], typical), scores(sets[name], typical)
        told[name] = {score: auc(inside[score], outside[score]) for score in inside}
        K = inside["K"], outside["K"]
        told[name]["gain"] = gain(inside["log_p"], outside["log_p"], K)
    return told


def content(sets: dict[str, Measured], against: dict[str, str]) -> dict[str, Any]:
    """The numbers for JSON: means in nats with standard errors, AUC."""
    means = {}
    for name, found in sets.items():
        means[name] = {field: _mean(x) for field, x in _fields(found) if field != "K_error"}
    told = {
        name: {score: [units.or_null(v) for v in value] for score, value in each.items()}
        for name, each in tell(sets, against).items()
    }
    return {"means": means, "against": against, "auc": told, "below_intact": below_intact(sets)}


def below_intact(sets: dict[str, Measured]) -> dict[str, dict[str, float]]:
    """The share of test images that score lower changed than as they are, by set and score."""
    own = sets["test"]
    return {
        name: {n: float(np.mean(getattr(found, n) < getattr(own, n))) for n in ("K", "log_p")}
        for name, found in sets.items()
        if name in CHANGES
    }


def _mean(x: np.ndarray) -> list[float | None]:
    error = float(np.std(x, ddof=1) / np.sqrt(len(x)))
    return [units.or_null(float(np.mean(x))), units.or_null(error)]


def text(sets: dict[str, Measured], against: dict[str, str]) -> str:
    """The table in Markdown, in bits. AUC below ½: the set scores above what it is set against."""
    told = tell(sets, against)
    head = ["set", "K", "log p̂", "± of one", "against", *(f"AUC {n}" for n in NAMES.values())]
    rows = [head, ["---"] * len(head)]
    for name, found in sets.items():
        row = [name, _shown(found.K), _shown(found.log_p)]
        spread = np.sqrt(np.mean(found.spread**2)) / units.LN2
        row += [units.number(spread, digits=1), against.get(name, "–")]
        each = told.get(name, {})
        row += [units.number(*each[score], 2) if score in each else "–" for score in NAMES]
        rows.append(row)
    table = [f"| {' | '.join(row)} |" for row in rows]
    pairs = (f"{n} {v['K']:.2f}, {v['log_p']:.2f}" for n, v in below_intact(sets).items())
    said = f"of the images lower than as they are, by K and by log p̂: {'; '.join(pairs) or '–'}"
    return "\n".join([*table, "", said])


def _shown(nats: np.ndarray) -> str:
    mean, error = _mean(nats / units.LN2)
    return units.number(mean, error, 1)


def draw(
    path: Path,
    sets: dict[str, Measured],
    against: dict[str, str],
    shown: dict[str, np.ndarray],
    title: str,
) -> Path:
    """The figure: an image of each set, K and log p̂ of all, how well each score tells them.

    Args:
        path: of the PNG.
        sets, against: as in `tell`; the first set is the test set.
        shown: an image (H, W, 1 or 3) of 8 bits of each set.
        title: of the figure.
    """
    names = list(sets)
    height = _ROW * len(names) + 1.2
    figure, axes = plots.plt.subplots(
        1, 3, figsize=(9, height), sharey=True, layout="constrained", width_ratios=[_ROW, 4, 3.2]
    )
    _thumbnails(axes[0], names, shown)
    _strips(axes[1], sets)
    _areas(axes[2], names, tell(sets, against))
    axes[0].set(yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.5, -0.5))
    figure.suptitle(title, fontsize=10)
    return plots.save(figure, path)


def _thumbnails(axis, names: list[str], shown: dict[str, np.ndarray]) -> None:
    for row, name in enumerate(names):
        axis.imshow(
            shown[name].squeeze(), cmap="gray", vmin=0, vmax=255, interpolation="nearest",
            extent=(-0.45, 0.45, row + 0.45, row - 0.45),
        )  # fmt: skip
    axis.set(xticks=[], xlim=(-0.5, 0.5), aspect="auto")
    axis.tick_params(left=False)
    for side in axis.spines.values():
        side.set_visible(False)


def _strips(axis, sets: dict[str, Measured]) -> None:
    """K and log p̂ of every image; the bands are those of the test set, what lies far a number."""
    bits = {score: [getattr(x, score) / units.LN2 for x in sets.values()] for score in _STRIPS}
    every = np.concatenate([x for rows in bits.values() for x in rows])
    least = min(rows[0].min() for rows in bits.values())
    right = np.nanmax(every)
    left = max(np.nanmin(every), least - _FAR * (right - least))
    edge = 0.02 * (right - left)
    for score, place in _STRIPS.items():
        test = bits[score][0]
        axis.axvspan(test.min(), test.max(), color=_COLOURS[score], alpha=0.1, lw=0)
        for row, x in enumerate(bits[score]):
            seen = x >= left
            spread = place + 0.12 * np.linspace(-1, 1, len(x))
            axis.scatter(
                x[seen], row + spread[seen], s=5, color=_COLOURS[score], linewidths=0, alpha=0.7,
                label=NAMES[score] if row == 0 else None,
            )  # fmt: skip
            if seen.mean() < 0.5:
                said = f"◂ {np.median(x):,.0f}".replace("-", "−")
                axis.text(
                    left, row + place, said, color=_COLOURS[score], fontsize=7, va="center",
                    bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
                )  # fmt: skip
    axis.set(xlim=(left - edge, right + edge), xlabel="bits an image; bands: test images")
    axis.legend(fontsize=8, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1))


def _areas(axis, names: list[str], told: dict[str, dict[str, Told]]) -> None:
    axis.axvline(0.5, color="black", lw=0.8, ls=":")
    for score, place in zip(_COLOURS, (-0.27, -0.09, 0.09, 0.27)):
        known = [(told[n][score], i) for i, n in enumerate(names) if score in told.get(n, {})]
        axis.errorbar(
            [each.auc for each, _ in known], [i + place for _, i in known],
            xerr=[each.error for each, _ in known], fmt="o", ms=3.5, lw=1, capsize=1.5,
            color=_COLOURS[score], label=NAMES[score],
        )  # fmt: skip
    axis.set(xlim=(-0.04, 1.04), xlabel="AUC; above ½ the set scores lower")
    axis.legend(fontsize=7, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1))
