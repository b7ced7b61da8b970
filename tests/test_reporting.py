"""The table of a run, where its bound is spent, and its metrics.csv after a kill."""

import numpy as np
import pytest

from dpm_jax.core import schedule
from dpm_jax.runs import plots, report
from dpm_jax.runs.metrics import MetricsFile

ROW = {"seconds": 1.5, "K_bits": -2.25, "grad_norm": 0.5, "skipped": 0}


def steps(metrics):
    return [row["step"] for row in metrics.rows]


def test_metrics_file_appends_and_resumes_without_repeating_rows(tmp_path):
    path = tmp_path / "metrics.csv"
    first = MetricsFile(path, 0)
    assert first.rows == []
    first.append(step=10, **ROW)
    first.append(step=20, **{**ROW, "seconds": 3.0})
    resumed = MetricsFile(path, 20)
    assert steps(resumed) == ["10", "20"]
    resumed.append(step=30, **ROW)
    assert steps(resumed) == steps(MetricsFile(path, 30)) == ["10", "20", "30"]
    assert path.read_text().splitlines()[0] == "step,seconds,K_bits,grad_norm,skipped"
    assert (resumed.seconds_at(9), resumed.seconds_at(10), resumed.seconds_at(25)) == (0, 1.5, 3.0)


@pytest.mark.parametrize("missing", [1, 2, 3, 7, 12, 16])
def test_metrics_file_after_a_kill_in_the_middle_of_a_line(tmp_path, missing):
    """Wherever the last line was cut: whole rows stay, the cut one is dropped and written anew."""
    path = tmp_path / "metrics.csv"
    metrics = MetricsFile(path, 0)
    metrics.append(step=10, **ROW)
    metrics.append(step=20, **ROW)
    path.write_bytes(path.read_bytes()[:-missing])
    resumed = MetricsFile(path, 10)
    assert resumed.rows == metrics.rows[:1]
    resumed.append(step=20, **ROW)
    resumed.append(step=30, **ROW)
    assert resumed.rows == [*metrics.rows, {**metrics.rows[0], "step": "30"}]
    assert MetricsFile(path, 30).rows == resumed.rows


@pytest.mark.parametrize("kept", [0, 1, 20])
def test_metrics_file_after_a_kill_in_its_heading(tmp_path, kept):
    path = tmp_path / "metrics.csv"
    MetricsFile(path, 0)
    path.write_bytes(path.read_bytes()[:kept])
    metrics = MetricsFile(path, 0)
    metrics.append(step=10, **ROW)
    assert steps(metrics) == steps(MetricsFile(path, 10)) == ["10"]


def test_table_is_aligned():
    text = report.table([("model", "K"), ("paper", "−2.414"), ("ours, T = 5", "−2.3")])
    assert text.splitlines() == [
        "model             K",
        "-------------------",
        "paper        −2.414",
        "ours, T = 5    −2.3",
    ]


@pytest.mark.parametrize("T", [2, 3, 62, 20_000])
def test_bits_an_e_fold_of_noise_have_the_sum_of_the_terms_as_their_area(T, tmp_path, monkeypatch):
    kl = np.random.default_rng(0).exponential(size=T - 1)
    drawn = {}
    monkeypatch.setattr(plots, "save", lambda figure, path: drawn.update(figure=figure))
    log_snr = np.asarray(schedule.constant_fraction(T).log_snr)[1:]
    plots.bound_terms(tmp_path / "x.png", kl, log_snr)
    by_t, by_noise, sums = drawn["figure"].axes
    plots.plt.close(drawn["figure"])
    assert sums.lines[0].get_ydata()[-1] == pytest.approx(kl.sum())
    bars = by_noise.patches[0].get_data()
    area = -np.sum(bars.values * np.diff(bars.edges))
    assert area == pytest.approx(0.998 * kl.sum(), rel=2e-3)
    assert bars.edges[0] <= log_snr[0] and bars.edges[-1] >= log_snr[-1]
    if T > 62:  # means of neighbours add up to the same
        width = (T - 1) / len(by_t.lines[1].get_ydata())
        assert width * by_t.lines[1].get_ydata().sum() == pytest.approx(kl.sum(), rel=1e-3)


@pytest.mark.parametrize("kl", [np.zeros(9), np.array([1.0, np.inf, 2.0, np.nan]), np.zeros(99)])
def test_terms_that_are_0_or_not_finite_are_drawn_without_a_warning(kl, tmp_path):
    log_snr = np.asarray(schedule.geometric(len(kl) + 1).log_snr)[1:]
    assert plots.bound_terms(tmp_path / "x.png", kl, log_snr).stat().st_size > 10_000


@pytest.mark.parametrize("place", ["right", "bottom"])
def test_arrows_have_one_length_and_the_colour_of_their_own(place):
    figure, axis = plots.plt.subplots()
    arrows = np.array([[3.0, 0.0, -1.0], [4.0, 0.0, 0.0]])
    plots.quiver(axis, np.zeros((2, 3)), arrows, "$|a|$", place)
    plots.plt.close(figure)
    drawn = axis.collections[0]
    assert drawn.get_array().tolist() == [5, 0, 1]
    np.testing.assert_allclose(np.hypot(drawn.U, drawn.V), [1, 0, 1])
    label = figure.axes[1].get_ylabel() if place == "right" else figure.axes[1].get_xlabel()
    assert label == "colour: length $|a|$"
