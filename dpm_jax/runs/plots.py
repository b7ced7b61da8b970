"""The paper's figures as PNG files, and as PDF beside them where that is asked for.

matplotlib is imported here and nowhere else.
"""

import contextlib
import os
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path

import numpy as np

from dpm_jax import files, later

os.environ["MPLBACKEND"] = "agg"  # figures are files; a bad value would end the import
with later.imports(globals()):  # which takes as long as half of JAX, and comes after the training
    from matplotlib import pyplot as plt

_PDF = ContextVar("_PDF", default=False)  # whether `save` writes PDF too
_PARTS = 60  # of a curve over many t


@contextlib.contextmanager
def formats(pdf: bool) -> Iterator[None]:
    """In the body `save` writes a PDF of vectors beside each PNG, where `pdf`."""
    before = _PDF.set(pdf)
    try:
        yield
    finally:
        _PDF.reset(before)


def written(path) -> list[Path]:
    """The files that `save` writes here for a PNG of this path."""
    path = Path(path)
    return [path, path.with_suffix(".pdf")] if _PDF.get() else [path]


def save(figure, path) -> Path:
    """Write a figure as PNG (and PDF, `formats`), each whole or not at all, and close it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    for each in written(path):
        # Without a date the same figure is the same PDF, byte by byte.
        more = {"metadata": {"CreationDate": None}} if each.suffix == ".pdf" else {}
        with files.replacing(each) as temporary:
            figure.savefig(temporary, dpi=130, bbox_inches="tight", **more)
    plt.close(figure)
    return path


def quiver(axis, positions, arrows, length: str, place: str = "right") -> None:
    """Arrows drawn all of one length, with their own as colours and a bar that says so.

    Args:
        axis: to draw in.
        positions, arrows: x and y of each, (2, ...).
        length: what their length is called.
        place: of the bar.
    """
    size = np.hypot(*arrows)
    units = arrows / np.maximum(size, 1e-30)
    found = axis.quiver(*positions, *units, size, cmap="viridis", pivot="mid")
    axis.figure.colorbar(found, ax=axis, location=place, label=f"colour: length {length}")


def image_grid(path, images, columns: int, title: str = "") -> Path:
    """Images (n, H, W, 1 or 3) of 8 bits in a grid, e.g. Figure App.1: 100 MNIST samples."""
    n, height, width, channels = images.shape
    columns = min(columns, n)
    rows = -(-n // columns)
    grid = np.zeros((rows * (height + 1) - 1, columns * (width + 1) - 1, channels), np.uint8) + 90
    for i, image in enumerate(images):
        top, left = (i // columns) * (height + 1), (i % columns) * (width + 1)
        grid[top : top + height, left : left + width] = image
    figure, axis = plt.subplots(figsize=(8, 8 * grid.shape[0] / grid.shape[1]))
    axis.imshow(grid.squeeze(), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axis.set(title=title, xticks=[], yticks=[])
    return save(figure, path)


def bound_terms(path, kl_bits, log_snr) -> Path:
    """Where the bound is spent: the KL terms of K (eq. 14) by t, and by log-SNR, which knows no T.

    Args:
        path: of the PNG.
        kl_bits: (T−1,) mean KL_t for t = 2..T, in bits per example; what is not finite is left out.
        log_snr: (T,) log ᾱ_t/(1−ᾱ_t) for t = 1..T, falling.
    """
    kl, log_snr = (np.asarray(v, np.float64) for v in (kl_bits, log_snr))
    t, total = np.arange(1, len(kl) + 2), np.append(0, np.cumsum(np.where(np.isfinite(kl), kl, 0)))
    figure, (by_t, by_noise) = plt.subplots(2, 1, figsize=(6, 6), layout="constrained")
    parts = np.array_split(np.arange(len(kl)), min(len(kl), _PARTS))
    many = len(kl) > _PARTS
    raw = {"lw": 0.6, "alpha": 0.35} if many else {"lw": 1.4, "marker": "o", "ms": 3}
    by_t.plot(t[1:], kl, color="tab:blue", **raw)
    if many:
        means = [(t[1:][part].mean(), kl[part].mean()) for part in parts]
        by_t.plot(*np.transpose(means), color="tab:blue", lw=1.8)
    by_t.set_title(f"Where K is spent: its KL terms (eq. 14), {total[-1]:.4g} bits in all")
    by_t.set(xlabel="step t", yscale="log" if np.any(kl > 0) else "linear")
    dark = f" (dark: means of {_PARTS} parts)" if many else ""
    by_t.set_ylabel(f"KL$_t$, bits{dark}", color="tab:blue")
    sums = by_t.twinx()
    sums.plot(t, total, color="tab:red", lw=1.8, ls="--")
    sums.set_ylabel("sum up to t, bits (dashed)", color="tab:red")
    sums.set_ylim(0, None)
    _by_noise(by_noise, total, log_snr)
    return save(figure, path)


def _by_noise(axis, total, log_snr) -> None:
    """Bits an e-fold of signal to noise, the area under which is their sum, but for 0.2 % of it."""
    first, last = np.interp(total[-1] * np.array([0.001, 0.999]), total, log_snr)
    first, last = (first, last) if first > last else (log_snr[0], log_snr[-1])
    edges = np.linspace(first, last, min(len(total) - 1, _PARTS // 2) + 1)
    spent = np.diff(np.interp(-edges, -log_snr, total)) / -np.diff(edges)
    axis.stairs(spent, edges, fill=True, color="tab:blue", alpha=0.5)
    axis.set(ylabel="bits per e-fold of SNR", xlim=edges[[0, -1]], ylim=(0, None))
    axis.set_xlabel(r"log-SNR $\log\,\bar\alpha_t/(1-\bar\alpha_t)$, from data to noise")
    axis.set_title("the same by noise: the area is the sum", fontsize=10)


def dissipation(path, profile, dims: int, exact=None, losses=None) -> Path:
    """Where K is lost: KL_t, the entropies of eq. 24, the work that accumulates (eq. 9), and why.

    Args:
        path: of the PNG.
        profile: likelihood.Dissipation, (T+1,) nats each.
        dims: elements of an example.
        exact: where known, lower bound, H_q(X^{t-1}|X^t) and upper bound, (T+1,) nats each; bounds
            of bits are otherwise means over draws, noisier than the difference of the two.
        losses: likelihood.Losses, where there are: what is lost in vain, by order.
    """
    bit = np.log(2)
    t = np.arange(2, len(profile.kl))
    grid, size = ((3, 1), (7, 9)) if losses is None else ((2, 2), (12, 7.5))
    figure, axes = plt.subplots(*grid, figsize=size, sharex=True, layout="constrained")
    spent, entropies, work, *lost = axes.ravel()
    spent.plot(t, profile.kl[2:] / bit, color="tab:blue", lw=1)
    of_t = "linear" if losses is None else "log"  # Gaussians lose in the first levels, bits late
    spent.set(xscale=of_t, yscale="log", ylabel="KL$_t$, bits")
    spent.set_title(f"KL terms of K (eq. 14): {np.sum(profile.kl[2:]) / bit:.3f} bits in all")
    _entropies(entropies, t, profile, bit * dims, exact)
    mean = profile.cumulative[2:] / bit
    spread = np.sqrt(profile.variance[2:]) / bit
    work.plot(t, mean, color="tab:blue", lw=1, label=r"mean work from t = 2")
    work.fill_between(t, mean - spread, mean + spread, alpha=0.25, label="± its s.d.")
    work.set(ylabel="cumulative work, bits")
    work.legend(fontsize=8, loc="upper left")
    if losses is not None:
        _losses(lost[0], losses, bit)
    for axis in axes[-1:].ravel():
        axis.set_xlabel("t, from data to noise")
    return save(figure, path)


def _entropies(axis, t, profile, unit: float, exact) -> None:
    """The model's kernel between the entropies of eq. 24, above the lower."""
    curves = [("model's kernel", profile.entropy - profile.lower, "tab:red", "-")]
    if exact is None:
        curves += [("upper bound, eq. 24", profile.upper - profile.lower, "tab:gray", "--")]
    else:
        lower, true, upper = exact
        curves += [("true $H_q(X^{t-1}|X^t)$", true - lower, "black", "-")]
        curves += [("upper bound, eq. 24", upper - lower, "tab:gray", "--")]
    for name, nats, color, style in curves:
        axis.plot(t, nats[2:] / unit, color=color, lw=1, ls=style, label=name)
    axis.axhline(0, color="tab:gray", lw=1, ls=":", label="lower bound, eq. 24")
    axis.set(ylabel="entropy above the lower bound,\nbits per dimension")
    axis.legend(fontsize=8)


def _losses(axis, losses, bit: float) -> None:
    """The dissipation of each order up to t; that of down before up begins at its t_1."""
    axis.plot(losses.t, losses.paper / bit, "o-", ms=3, lw=1.4, color="tab:blue")
    names = [f"the paper's order: {losses.paper[-1] / bit:.3g} bits in all"]
    if np.isfinite(losses.up).all():
        axis.plot(losses.t, losses.down / bit, "v--", ms=3, lw=1, color="tab:orange")
        axis.plot(losses.t, losses.up / bit, "^-", ms=3, lw=1.4, color="tab:red")
        names += ["down before up, on the way down"]
        names += [f"and then up: {losses.up[-1] / bit:.3g} bits in all"]
    axis.legend(names, fontsize=8)
    axis.set(yscale="log", ylabel="lost up to t: dissipation, bits")
    axis.set_title("What log p loses up to t (eq. 9)")


def image_columns(path, columns, title: str = "", size: float = 1.1) -> Path:
    """Images side by side, one example a row: a dict of heading -> (n, H, W, 1 or 3), 8 bits.

    `size` is the side of an image in inches.
    """
    shown = list(columns.items())
    n = len(shown[0][1])
    height = size * n + 0.6  # the rest holds the title and the headings
    figure, axes = plt.subplots(n, len(shown), figsize=(size * len(shown), height), squeeze=False)
    figure.subplots_adjust(0, 0, 1, 1 - 0.6 / height, wspace=0.04, hspace=0.04)
    for column, (name, images) in enumerate(shown):
        axes[0, column].set_title(name, fontsize=9)
        for row in range(n):
            axis = axes[row, column]
            axis.imshow(images[row].squeeze(), cmap="gray", vmin=0, vmax=255)
            axis.set(xticks=[], yticks=[])
    figure.suptitle(title, fontsize=10, y=1)
    return save(figure, path)


def posterior_points(path, data, seen, draws, title: str = "") -> Path:
    """Posteriors in the plane: the data, what was observed, draws.

    Args:
        path: of the PNG.
        data: (n, 2) of the data, for the backdrop.
        seen: with `shown` (m, 2), `measurement` and truth (m, 2) or None.
        draws: m arrays (k, 2).
        title: of the figure.
    """
    points, A = seen.shown, seen.measurement
    # Of one number is seen the line of all x^0 that have it; of two a point.
    line = (
        np.asarray(A.back(np.ones(1, np.float32)))[::-1] * [-1, 1] if len(A.singular) == 1 else None
    )
    columns = min(4, len(draws))
    rows = -(-len(draws) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(3 * columns, 3 * rows), sharex=True, sharey=True, squeeze=False
    )
    for axis in axes.flat[len(draws) :]:
        axis.set_visible(False)
    for i, (axis, x) in enumerate(zip(axes.flat, draws)):
        axis.scatter(*data.T, s=1, color="0.85", linewidths=0)
        axis.scatter(*x.T, s=2, color="tab:red", linewidths=0)
        if line is None:
            axis.plot(*points[i], "x", color="black", ms=7)
        else:
            axis.axline(points[i], points[i] + line, color="black", lw=0.6)
        if seen.truth is not None:
            axis.plot(*seen.truth[i], "o", color="tab:blue", ms=4)
        axis.set(xlim=(-3, 3), ylim=(-3, 3), aspect="equal")
    what = "cross" if line is None else "line"
    figure.suptitle(f"{title}: data (grey), observed ({what}), truth (blue), draws (red)", y=0.97)
    return save(figure, path)


def posterior_rows(path, seen, draws, title: str = "") -> Path:
    """Posteriors of vectors: observed (hidden part grey) in the first row, draws below, as images.

    Args:
        path: of the PNG.
        seen: with `shown` (m, length), known (length,) bool, A, and truth (m, length) or None.
        draws: m arrays (k, length).
        title: of the figure.
    """
    figure, axes = plt.subplots(1, len(draws), figsize=(2.2 * len(draws), 3.2), squeeze=False)
    low, high = min(x.min() for x in draws), max(x.max() for x in draws)
    for i, (axis, x) in enumerate(zip(axes[0], draws)):
        observed = np.where(seen.known | (seen.A is not None), seen.shown[i], np.nan)
        truth = np.full_like(observed, np.nan) if seen.truth is None else seen.truth[i]
        gap = np.full_like(observed, np.nan)
        colours = plt.colormaps["gray_r"].with_extremes(bad=(0.6, 0.75, 0.95))
        rows = np.stack([truth, gap, observed, gap, *x])
        axis.imshow(rows, cmap=colours, vmin=low, vmax=high, interpolation="nearest")
        axis.set(xticks=[], yticks=[])
    axes[0, 0].set(yticks=[0, 2, 4 + len(draws[0]) // 2], yticklabels=["x⁰", "seen", "draws"])
    axes[0, 0].set_title(f"{title}: one problem a panel, hidden part blue", loc="left", fontsize=10)
    return save(figure, path)


def noise_floor(path, curves, elements: int = 1, title: str = "", ceiling=None) -> Path:
    """K' of data noised to each variance, beside the most that noise leaves: −½ log2 v a dimension.

    Args:
        path: of the PNG.
        curves: name -> (noise variance v = 1 − ᾱ, K' in bits a dimension, its standard error),
            arrays of one length; of data of variance 1.
        elements: dimensions of a pixel: 1 for grey levels, 3 for colours.
        title: of the figure.
        ceiling: (v, K') where the data have not just variance 1, in bits a dimension too.
    """
    figure, axis = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
    seen = np.concatenate([np.asarray(v) for v, _, _ in curves.values()])
    v = np.geomspace(seen.min(), seen.max(), 200)
    label, (v, highest) = "ceiling", ceiling or (v, -0.5 * np.log2(v))
    if ceiling is None:
        label += r", $-½\log_2 v$" + (f" × {elements}" if elements > 1 else "")
    axis.plot(v, np.multiply(highest, elements), "k--", lw=1, label=label)
    for name, (noise, gain, error) in curves.items():
        axis.errorbar(
            noise, np.multiply(gain, elements), np.multiply(error, elements),
            fmt="o-", ms=3, lw=1, capsize=2, label=name,
        )  # fmt: skip
    axis.set(xscale="log", xlabel=r"variance of the noise $v = 1 - \bar\alpha_{t_0}$")
    axis.set(ylabel="$K' = K - L_{null}$, bits per pixel", title=title)
    axis.legend(frameon=False, title="± one standard error")
    return save(figure, path)
