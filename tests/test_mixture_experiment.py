"""mixture.py: a run from end to end, cut off and resumed; what it refuses."""

import json

import numpy as np
import pytest

from dpm_jax.experiments import mixture as experiment
from dpm_jax.runs import mixture_methods as methods
from dpm_jax.runs import mixture_report as report

SMALL = {name: flag.default for name, flag in experiment.FLAGS.items()}
SMALL |= {"dims": ["4"], "measurements": ["d/2"], "seeds": 1, "draws": 32, "calls": 6}
SMALL |= {"curve": ["4"], "curve_seeds": 1}
FEW = ["floor", "ddrm", "tilt_mmps", "particles_mmps"]


def entries_of(folder):
    return json.loads((folder / "mixture.json").read_text())["entries"]


def test_every_method_draws_and_those_with_weights_know_the_evidence(tmp_path):
    text = experiment.execute(SMALL | {"workdir": str(tmp_path), "curve": []})
    entries = entries_of(tmp_path)
    assert [e["method"] for e in entries] == list(methods.METHODS)
    assert all(np.isfinite(e["sw"]) and e["calls"] == 6 for e in entries)
    known = {e["method"] for e in entries if e["log_z_error"] is not None}
    assert known == {m for m in methods.METHODS if m.startswith(("particles", "pooled", "mcg"))}
    assert all(f"| {methods.LABELS[m]} | " in text for m in methods.METHODS if "dps_" not in m)
    assert "| DPS, the best of its steps | " in text


def test_a_run_goes_on_where_it_was(tmp_path):
    config = SMALL | {"workdir": str(tmp_path), "methods": FEW}
    experiment.execute(config | {"methods": FEW[:2], "curve": []})
    first = entries_of(tmp_path)
    assert [e["method"] for e in first] == FEW[:2]
    text = experiment.execute(config | {"seeds": 2})
    entries = entries_of(tmp_path)
    assert entries[:2] == first  # what was measured is kept
    keys = [(e["seed"], e["method"], e["calls"]) for e in entries]
    curve = [(0, m, 4) for m in experiment.CURVE if m in FEW]
    assert sorted(keys) == sorted([(s, m, 6) for s in (0, 1) for m in FEW] + curve)
    for name in ("cells", "calls"):
        assert (tmp_path / "figures" / f"{name}.png").read_bytes()[1:4] == b"PNG"
    assert experiment.execute(config | {"seeds": 2}) == text
    with pytest.raises(experiment.Invalid, match=r"^--workdir: .* holds another run \(draws"):
        experiment.execute(config | {"draws": 16})


def test_a_trained_network_is_told_apart_from_the_method(tmp_path):
    config = SMALL | {"workdir": str(tmp_path), "denoiser": "trained", "train_steps": 3}
    config |= {"methods": ["floor", "particles_mmps"], "curve": [], "calls": 100}
    text = experiment.execute(config)
    floor, found = entries_of(tmp_path)
    assert np.isfinite([found["sw_model"], found["log_z_model"]]).all()
    assert floor["log_z_error"] is None and "long run of the same model" in text


def entry(method, seed, sw, cell=(8, 1), calls=100, **more):
    return dict(zip(("dim", "measurements"), cell)) | {
        "seed": seed, "method": method, "calls": calls, "sw": sw, **more,
    }  # fmt: skip


def test_tables_pair_each_method_with_the_floor_of_its_problem():
    entries = [entry("floor", 0, 1.0), entry("floor", 1, 3.0)]
    entries += [entry("tilt_mmps", 0, 1.5), entry("tilt_mmps", 1, 3.7)]
    entries += [entry("particles_mmps", s, 1.0, log_z_error=(-1) ** s * 0.2) for s in (0, 1)]
    entries += [entry("dps_0.1", s, 9.0) for s in (0, 1)] + [entry("dps_1", s, 8.0) for s in (0, 1)]
    assert report.excess(entries, (8, 1), "tilt_mmps") == pytest.approx([0.5, 0.7])
    text = report.tables(entries, 100)
    assert "| tilt mmps | 0.60 ± 0.10 |" in text and "| particles, mmps | 0.200 |" in text
    assert "| DPS, the best of its steps | 8.00 ± 0.00 |" in text
    assert "long run" not in text and report.tables(entries, 50) == ""


@pytest.mark.parametrize("name", methods.METHODS)
@pytest.mark.parametrize("calls", [2, 25, 100, 400, 1000])
def test_no_method_takes_more_calls_than_it_has(name, calls):
    T, more = methods.plan(name, calls)
    assert 2 <= T <= max(calls, 2) and calls * 0.9 - 5 <= T * more <= calls


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("workdir", None, "expected a directory for the run, got none"),
        ("dims", ["7"], "expected even numbers, got 7"),
        ("dims", ["x"], "expected whole numbers in 2..1000000, got 'x'"),
        ("dims", [], "expected even numbers, got none"),
        ("measurements", ["5"], "expected whole numbers in 1..4, got '5'"),
        ("measurements", ["d/0"], "expected whole numbers in 1..4, got '0'"),
        ("measurements", [], "expected numbers, got none"),
        ("methods", ["wild"], "expected some of floor, .*, got wild"),
        ("methods", [], "expected some of floor, .*, got none"),
        ("curve", ["1"], "expected whole numbers in 2..100000, got '1'"),
        ("draws", 15, "expected at least 16, got 15"),
        ("denoiser", "wild", "expected one of exact, trained, got 'wild'"),
        ("seeds", 0, "expected 1..10000, got 0"),
    ],
)
def test_bad_flags_are_named_before_any_work(tmp_path, name, value, message):
    with pytest.raises(experiment.Invalid, match=f"^--{name}: {message}"):
        experiment.execute({**SMALL, "workdir": str(tmp_path / "run"), name: value})
    assert not (tmp_path / "run").exists()
