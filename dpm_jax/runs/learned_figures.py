"""How the pictures of `learned` are drawn; matplotlib comes through runs.plots alone."""

import math
from pathlib import Path

import numpy as np

from dpm_jax.core import schedule as schedules
from dpm_jax.core.model import Model
from dpm_jax.runs import images as image_runs
from dpm_jax.runs import plots, report
from dpm_jax.runs.run import Run

# Of Okabe and Ito: told apart by all eyes.
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "0.45"


def schedule(path: Path, model: Model, used, curve=None) -> Path:
    """β_t, log-SNR, and where the entropy of the reverse step lies; against t.

    Args:
        path: of the PNG.
        model: whose schedule was fixed or learned.
        used: the Schedule of the run.
        curve: t (m,) and the entropies of eq. 24 in nats a dimension: lower bound, model, upper
            bound, and the true one where it is known, (m, 3) or (m, 4); None: not known.
    """
    learns, T = model.learns_schedule, used.T
    t = np.arange(1, T + 1)
    lines = [("constant fraction, 1/(T − t + 1)", schedules.constant_fraction(T), GREY, "--")]
    if learns:
        lines += [("where learning began", model.parts["schedule"], ORANGE, ":")]
    lines += [("learned" if learns else "this run (fixed)", used, BLUE, "-")]
    rows = 2 if curve is None else 3
    figure, axes = plots.plt.subplots(rows, 1, figsize=(6, 2.9 * rows), layout="constrained")
    marker = {"marker": "o", "ms": 2.5} if T <= 64 else {}
    for name, each, color, style in lines:
        beta, log_a = (np.asarray(v, np.float64)[1:] for v in (each.beta, each.log_alpha_bar))
        log_snr = log_a - np.log(-np.expm1(log_a))
        axes[0].plot(t, beta, c=color, ls=style, lw=1.6, label=name, **marker)
        axes[1].plot(t, log_snr, c=color, ls=style, lw=1.6, **marker)
    what = "learned (Sec. 2.4.1)" if learns else "fixed"
    axes[0].set(yscale="log", ylabel=r"diffusion rate $\beta_t$")
    axes[0].set_title(f"Diffusion rate, {what}, T = {T:,}")
    axes[0].legend(frameon=False, fontsize=9)
    axes[1].set(ylabel=r"log-SNR $\log\,\bar\alpha_t/(1-\bar\alpha_t)$, nats")
    if curve is not None:
        _entropies(axes[2], model, *curve)
    ticks = [v for v in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000) if v < T / 1.5] + [T]
    for axis in axes:
        axis.set(xscale="log", xlim=(1, T))
        axis.set_xticks(ticks, [f"{v:,}" for v in ticks])
        axis.set_xticks([], minor=True)
        axis.grid(alpha=0.25, lw=0.5)
    axes[-1].set_xlabel("step t (1: the data's side, T: noise)")
    return plots.save(figure, path)


def _entropies(axis, model: Model, t, entropies) -> None:
    """The model's reverse step between the bounds of eq. 24: f_Σ/β_t, or of bits the entropy."""
    bits = hasattr(model.family.prior(model.event_shape), "logits")
    lower, ours, upper, *true = entropies.T
    shares = [v / upper if bits else np.exp(2 * (v - upper)) for v in (lower, ours, *true)]
    names = ["lower bound", "$f_b$, mean"] if bits else [r"$\tilde\beta_t$", r"$f_\Sigma$, mean"]
    axis.plot(
        t, np.ones(len(t)), c=GREY, ls="--", lw=1.6, label="upper bound" if bits else r"$\beta_t$"
    )
    styles = zip(
        shares, [*names, "true $H_q(X^{t-1}|X^t)$"], (ORANGE, BLUE, "black"), (":", "-", "-.")
    )
    for share, name, color, style in styles:
        axis.plot(t, share, c=color, ls=style, lw=1.6, label=name)
    what = "entropy / its upper bound" if bits else r"$f_\Sigma\,/\,\beta_t$"
    axis.set(ylabel=what, title="Reverse step between the bounds of eq. 24")
    axis.legend(frameon=False, fontsize=9)


def plane(path: Path, run: Run, shown) -> Path:
    """f_μ(x, t) − x as arrows and f_Σ(x, t)/β_t as colours over the plane, the noised data behind.

    Args:
        path: of the PNG.
        run: of points in the plane.
        shown: learned.Shown of a square grid and of data.
    """
    schedule = report.schedule_of(run.model, run.params)
    seen, drawn, rows = shown.kernel, shown.drawn, len(shown.times)
    side = math.isqrt(int((~drawn).sum()))
    x, y = shown.points[~drawn].reshape(side, side, 2).transpose(2, 0, 1)
    figure, axes = plots.plt.subplots(
        rows, 2, figsize=(7, 2.9 * rows), squeeze=False, layout="constrained"
    )
    for row, t in enumerate(shown.times):
        left, right = axes[row]
        part = (slice(1, None, 3),) * 2
        drift = seen.drift[row, ~drawn].reshape(side, side, 2)[part]
        arrows = np.moveaxis(drift, -1, 0)
        plots.quiver(left, (x[part], y[part]), arrows, r"$|f_\mu - x|$")
        ratio = seen.variance[row, ~drawn].mean(axis=-1).reshape(side, side)
        mesh = right.pcolormesh(x, y, ratio, cmap="cividis", shading="gouraud", rasterized=True)
        lower = schedule.noise[t - 1] / schedule.noise[t]
        between = rf"colour: $f_\Sigma/\beta_t$; eq. 24: {lower:.3g} to 1"
        figure.colorbar(mesh, ax=right, label=between)
        cloud = seen.xt[row, drawn].T
        left.scatter(*cloud, s=3, c="0.75", lw=0, zorder=0.5)
        right.scatter(*cloud, s=2, c="white", lw=0)
        left.set(title=rf"t = {t}:  $f_\mu(x, t) - x$", ylabel="$x_2$")
        right.set(title=rf"t = {t}:  $f_\Sigma(x, t)$")
        for axis in (left, right):
            axis.set(xlim=(-3, 3), ylim=(-3, 3), aspect="equal", xticks=[-2, 0, 2])
    for axis in axes[-1]:
        axis.set_xlabel("$x_1$, units of the data's s.d.")
    return plots.save(figure, path)


def bits(path: Path, run: Run, shown) -> Path:
    """x^0, x^t, P(x^0 = 1|x^t) and what f_b adds to the forward kernel's rate; one t a row."""
    schedule = report.schedule_of(run.model, run.params)
    rows, seen = len(shown.times), shown.kernel
    figure, axes = plots.plt.subplots(
        rows, 4, figsize=(6.8, 1.5 * rows + 0.6), squeeze=False, layout="constrained"
    )
    for row, t in enumerate(shown.times):
        added = seen.drift[row] / schedule.beta[t]
        for column, (values, colours, limits) in enumerate((
            (shown.points, "gray_r", (0, 1)),
            (seen.xt[row], "gray_r", (0, 1)),
            (seen.x0[row], "cividis", (0, 1)),
            (added, "PuOr", _balanced(added)),
        )):  # fmt: skip
            _tile(axes[row, column], values, colours, limits, bar=column > 1, aspect="auto")
        axes[row, 0].set_ylabel(f"t = {t}\n" + rf"$1-\bar\alpha_t$ = {schedule.noise[t]:.2g}")
    heads = ("$x^0$, truth", "$x^t$", "$P(x^0 = 1\\,|\\,x^t)$", r"($f_b$ − forward)/$\beta_t$")
    _heads(axes, heads)
    for axis in axes[-1]:
        axis.set_xlabel("time bin")
    figure.suptitle(
        f"Reverse kernel of {seen.xt.shape[1]} sequences, one a row; forward: the rate of"
        r" $q(\cdot|x^t)$",
        fontsize=11,
    )
    return plots.save(figure, path)


def images(path: Path, run: Run, shown) -> Path:
    """x^t, E(x^0|x^t), f_μ − x^t and f_Σ/β_t of held-out images; one t a row."""
    schedule, seen = report.schedule_of(run.model, run.params), shown.kernel
    order = [(i, row) for i in range(len(shown.points)) for row in range(len(shown.times))]
    figure, axes = plots.plt.subplots(
        len(order), 4, figsize=(6.6, 1.45 * len(order)), layout="constrained"
    )
    for line, (i, row) in zip(axes, order):
        t = shown.times[row]
        drift, ratio = (v[row, i].mean(axis=-1) for v in (seen.drift, seen.variance))
        drift = drift / schedule.beta[t]
        for axis, x in zip(line, (seen.xt[row, i], seen.x0[row, i])):
            _tile(axis, image_runs.to_8bit(run.problem, x[None])[0].squeeze(), "gray", (0, 255))
        _tile(line[2], drift, "PuOr", _balanced(drift), bar=True)
        lower = float(schedule.noise[t - 1] / schedule.noise[t])
        _tile(line[3], ratio, "cividis", (min(lower, ratio.min()), max(1, ratio.max())), bar=True)
        line[0].set_ylabel(f"t = {t}\n" + rf"$1-\bar\alpha_t$ = {schedule.noise[t]:.2g}")
    colours = "; right: means of the colours" if shown.points.shape[-1] > 1 else ""
    fixed = all(np.ptp(each) == 0 for each in seen.variance)
    last = r"$f_\Sigma/\beta_t$" + (", not learned" if fixed else "")
    heads = ("$x^t$", "$E(x^0|x^t)$", r"$(f_\mu - x^t)/\beta_t$", last)
    _heads(axes, heads)
    figure.suptitle(f"Reverse kernel of {len(shown.points)} held-out images{colours}", fontsize=11)
    return plots.save(figure, path)


def bumps(path: Path, found) -> Path:
    """g_j (eq. 63), and how large the readout of each bump is, at its centre.

    Args:
        path: of the PNG.
        found: learned.Bumps.
    """
    rows, count = 1 + len(found.sizes), found.g.shape[1]
    width = 0.8 * (found.centres[-1] - found.centres[0]) / max(1, count - 1)
    figure, axes = plots.plt.subplots(
        rows, 1, figsize=(6, 2.4 * rows), sharex=True, layout="constrained"
    )
    colours = plots.plt.colormaps["viridis"](np.linspace(0, 0.92, count))
    for g, colour in zip(found.g.T, colours):
        axes[0].plot(found.place, g, c=colour, lw=1.6)
    axes[0].set(ylabel="$g_j$, their sum is 1", title=f"Bump functions (eq. 63), J = {count}")
    for axis, (name, sizes) in zip(axes[1:], found.sizes.items()):
        axis.bar(found.centres, sizes, width or 0.8, color=colours)
        axis.set(ylabel=f"norm of the weights\nthat make {name}")
    axes[-1].set_xlabel(found.unit)
    if found.place[0] > found.place[-1]:  # t rises from left to right
        axes[-1].invert_xaxis()
    for axis in axes:
        axis.grid(alpha=0.25, lw=0.5)
    return plots.save(figure, path)


def _tile(axis, values, colours: str, limits, bar: bool = False, **more) -> None:
    """One small image, with a bar of its colours where they mean numbers."""
    shown = {"cmap": colours, "vmin": limits[0], "vmax": limits[1], "interpolation": "nearest"}
    found = axis.imshow(values, **shown, **more)
    axis.set(xticks=[], yticks=[])
    if bar:
        middle = 0.5 * (limits[0] + limits[1])
        ticks = (limits[0], middle, limits[1])
        found = axis.figure.colorbar(found, ax=axis, shrink=0.9, ticks=ticks, format="%.4g")
        found.ax.tick_params(labelsize=8)


def _balanced(values) -> tuple[float, float]:
    """Limits of a colour map whose middle is 0."""
    most = float(np.abs(values).max()) or 1.0
    return -most, most


def _heads(axes, names) -> None:
    for axis, name in zip(axes[0], names):
        axis.set_title(name, fontsize=10)
