"""The table of a run, and its metrics.csv after a kill."""

import pytest

from dpm_jax.runs import report
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
