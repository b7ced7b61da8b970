"""Units by worked numbers, tables, and the files of a run after a kill."""

import json
import math
import os

import pytest

from dpm_jax import reporting
from dpm_jax.reporting import MetricsFile

ROW = {"seconds": 1.5, "K_bits": -2.25, "grad_norm": 0.5, "skipped": 0}


def test_bits():
    assert reporting.bits(math.log(8)) == pytest.approx(3)


def test_the_papers_cifar_number_in_bits_per_dim():
    """5.4 bits a pixel of 3 colours at 64.15 levels is 4.20 bits/dim."""
    K = 5.4 * math.log(2)
    assert reporting.bits_per_dim_8bit(K, 3, 64.15) == pytest.approx(4.203, abs=1e-3)
    # A uniform density over the 256 levels costs 8 bits at any scale.
    for scale in (1.0, 64.15):
        K = -10 * math.log(256 / scale)
        assert reporting.bits_per_dim_8bit(K, 10, scale) == pytest.approx(8)


@pytest.mark.parametrize("scale", [None, 0.0, -1.0, math.nan])
def test_bits_per_dim_needs_a_scale(scale):
    with pytest.raises(ValueError, match=f"scale: expected grey levels above 0, got {scale}"):
        reporting.bits_per_dim_8bit(1.0, 3, scale)


def test_write_json_is_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "report.json"
    reporting.write_json(path, {"K": 1.5})
    assert json.loads(path.read_text()) == {"K": 1.5}
    for bad in (math.nan, math.inf, object()):
        with pytest.raises((ValueError, TypeError)):
            reporting.write_json(path, {"K": bad})

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        reporting.write_json(path, {"K": 2.5})
    assert json.loads(path.read_text()) == {"K": 1.5}
    monkeypatch.undo()
    reporting.write_json(str(path), {"K": 3.5})
    assert json.loads(path.read_text()) == {"K": 3.5}
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]


def test_or_null():
    assert [reporting.or_null(v) for v in (1, None, math.nan, -math.inf)] == [1.0, None, None, None]


def test_metrics_file_appends_and_resumes_without_repeating_rows(tmp_path):
    path = tmp_path / "metrics.csv"
    first = MetricsFile(path)
    assert first.last_step == -1 and first.read() == []
    assert first.append(step=10, **ROW) and first.append(step=20, **{**ROW, "seconds": 3.0})
    assert not first.append(step=20, **ROW)
    resumed = MetricsFile(path)
    assert resumed.last_step == 20
    assert not resumed.append(step=10, **ROW) and resumed.append(step=30, **ROW)
    assert [row["step"] for row in resumed.read()] == ["10", "20", "30"]
    assert path.read_text().splitlines()[0] == "step,seconds,K_bits,grad_norm,skipped"
    assert (resumed.seconds_at(9), resumed.seconds_at(10), resumed.seconds_at(25)) == (0, 1.5, 3.0)


@pytest.mark.parametrize("missing", [1, 2, 3, 7, 12, 16])
def test_metrics_file_after_a_kill_in_the_middle_of_a_line(tmp_path, missing):
    """Wherever the last line was cut: whole rows stay, the cut one is dropped and written anew."""
    path = tmp_path / "metrics.csv"
    file = MetricsFile(path)
    file.append(step=10, **ROW)
    file.append(step=20, **ROW)
    whole = file.read()
    path.write_bytes(path.read_bytes()[:-missing])
    resumed = MetricsFile(path)
    resumed.append(step=20, **ROW)
    resumed.append(step=30, **ROW)
    rows = resumed.read()
    assert rows[:2] == whole
    assert rows[2:] == [{**whole[0], "step": "30"}]
    assert MetricsFile(path).read() == rows


@pytest.mark.parametrize("kept", [0, 1, 20])
def test_metrics_file_after_a_kill_in_its_heading(tmp_path, kept):
    path = tmp_path / "metrics.csv"
    MetricsFile(path)
    path.write_bytes(path.read_bytes()[:kept])
    file = MetricsFile(path)
    file.append(step=10, **ROW)
    assert [row["step"] for row in file.read()] == ["10"]


def test_table_is_aligned():
    text = reporting.table([("model", "K"), ("paper", "−2.414"), ("ours, T = 5", "−2.3")])
    assert text.splitlines() == [
        "model             K",
        "-------------------",
        "paper        −2.414",
        "ours, T = 5    −2.3",
    ]


def test_number():
    number = reporting.number
    assert number(1.23456) == "1.235" and number(-0.5, digits=1) == "-0.5"
    assert number(1.0, 0.25, digits=2) == "1.00 ± 0.25"
    assert number(1.0, math.nan) == "1.000" and number(1.0, None) == "1.000"
    assert number(None) == number(math.nan) == number(math.inf, 1.0) == "–"
