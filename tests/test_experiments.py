"""Experiments end to end in a few steps: what a work directory holds, and what it does not lose."""

import csv
import dataclasses
import gzip
import json
import shutil

import jax
import matplotlib.image
import numpy as np
import pytest

from dpm_jax import units
from dpm_jax.data import cache
from dpm_jax.experiments import heartbeat, mnist, swiss_roll
from dpm_jax.runs import Invalid, execution
from dpm_jax.runs import workdir as workdirs
from dpm_jax.training.checkpoint import CheckpointError

KEYS = (
    "experiment",
    "preset",
    "K_bits",
    "K_standard_error_bits",
    "K_minus_L_null_bits",
    "L_null_bits",
    "ceiling_bits",
    "paper_K_bits",
    "unit",
    "seconds",
    "config",
)
STEPS = 6


def configure(experiment, workdir, **sizes):
    """The flags of the paper's preset, with sizes for a test."""
    config = {"experiment": experiment.name, "preset": "paper", "workdir": str(workdir)}
    shared = {
        "num_steps": STEPS,
        "batch_size": 4 * jax.local_device_count(),
        "num_eval": 30,
        "log_every": 2,
        "checkpoint_every": 2,
    }
    return config | experiment.presets["paper"] | shared | sizes


def tiny_roll(workdir, **sizes):
    few = {"T": 5, "num_t": -1, "warmup": 0}
    return configure(swiss_roll.EXPERIMENT, workdir, **few | sizes)


def read(workdir):
    return json.loads((workdir / "report.json").read_text(encoding="utf-8"))


def rows(workdir):
    with (workdir / "metrics.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def check_report(experiment, workdir, config):
    """What every report.json holds, against what else is known of the run."""
    report = read(workdir)
    assert set(KEYS) <= set(report)
    assert report["experiment"] == experiment.name and report["preset"] == "paper"
    assert report["unit"] == experiment.unit and report["paper_K_bits"] == experiment.paper_K_bits
    gain = report["K_bits"] - report["L_null_bits"]
    assert report["K_minus_L_null_bits"] == pytest.approx(gain, rel=1e-5, abs=1e-4)
    assert report["K_standard_error_bits"] > 0 and report["seconds"] > 0
    assert report["K_bits"] < report["ceiling_bits"] + 5 * report["K_standard_error_bits"]
    assert report["config"]["T"] == config["T"]
    assert report["train_steps"] == config["num_steps"] and report["skipped_updates"] == 0
    assert report["devices"] == jax.local_device_count()
    for path in report["figures"].values():
        pixels = matplotlib.image.imread(workdir / path)
        assert min(pixels.shape[:2]) > 100
        assert pixels[..., :3].std() > 0.02 and len(np.unique(pixels)) > 10
    return report


@pytest.fixture(scope="module")
def roll(tmp_path_factory):
    """A finished run: configuration, work directory, printed table."""
    workdir = tmp_path_factory.mktemp("swiss_roll") / "deep" / "run"
    config = tiny_roll(workdir)
    return config, workdir, execution.execute(swiss_roll.EXPERIMENT, config)[1]


@pytest.fixture
def copy_of_run(roll, tmp_path):
    """A copy of that run to do things to."""
    config, workdir, _ = roll
    shutil.copytree(workdir, tmp_path / "run")
    return {**config, "workdir": str(tmp_path / "run")}, tmp_path / "run"


@pytest.fixture
def plain(monkeypatch):
    """The experiment without its figures, which take most of the time of a second run."""
    monkeypatch.setattr(execution, "_draw_bound_terms", lambda *args: args[-1] / "none.png")
    return dataclasses.replace(swiss_roll.EXPERIMENT, figures=lambda *args: ({}, {}, []))


def test_swiss_roll(roll):
    config, workdir, printed = roll
    report = check_report(swiss_roll.EXPERIMENT, workdir, config)
    assert set(report["figures"]) >= {"figure1"}
    lines = printed.splitlines()
    assert units.number(report["K_bits"]) in printed
    assert units.number(report["ceiling_bits"]) in printed
    assert "2.350" in printed and "6.450" in printed  # the paper's
    assert any(line.split() == ["paper", "ours", "ceiling", "unit"] for line in lines)
    for path in ("report.json", *report["figures"].values()):
        assert f"wrote {workdir / path}" in lines


def test_swiss_roll_leaves_its_files(roll):
    config, workdir, _ = roll
    assert [row["step"] for row in rows(workdir)] == ["2", "4", "6"]
    assert set(rows(workdir)[0]) == {"step", "seconds", "K_bits", "grad_norm", "skipped"}
    assert all(np.isfinite(float(value)) for row in rows(workdir) for value in row.values())
    events = list((workdir / "tensorboard").glob("events.out.tfevents.*"))
    assert len(events) == 1
    assert all(name in events[0].read_bytes() for name in (b"K_bits", b"grad_norm", b"skipped"))
    held = json.loads((workdir / "config.json").read_text(encoding="utf-8"))
    assert held == {name: value for name, value in config.items() if name not in workdirs.FREE}
    assert sorted(p.name for p in (workdir / "checkpoints").iterdir()) == ["2", "4", "6"]
    assert not list(workdir.rglob("*.partial"))


def test_same_command_again_does_not_train_again(copy_of_run, plain, monkeypatch):
    config, workdir = copy_of_run
    before, first = contents(workdir), read(workdir)
    monkeypatch.setattr(
        "dpm_jax.training.loop.make_dispatch", lambda *a, **k: pytest.fail("trains again")
    )
    execution.execute(plain, config)
    again = read(workdir)
    assert again["seconds"] == pytest.approx(first["seconds"], rel=0.2)  # of training, all runs
    for name in set(first) - {"figures", "seconds"}:
        assert again[name] == first[name], name
    after = contents(workdir)
    kept = [p for p in before if "figures" not in p.parts and p.name != "report.json"]
    assert {p: after[p] for p in kept} == {p: before[p] for p in kept}


def test_damaged_newest_checkpoint_costs_its_steps_only(copy_of_run, plain, caplog):
    config, workdir = copy_of_run
    first = read(workdir)
    newest = workdir / "checkpoints" / str(STEPS)
    largest = max((p for p in newest.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    with largest.open("r+b") as file:
        file.truncate(largest.stat().st_size // 2)
    with caplog.at_level("WARNING"):
        execution.execute(plain, config)
    said = " ".join(record.getMessage() for record in caplog.records)
    assert f"step {STEPS}" in said and f"Falling back to step {STEPS - 2}" in said
    assert str(workdir) in said
    again = read(workdir)
    assert again["K_bits"] == first["K_bits"]  # the same steps, to the bit
    assert [row["step"] for row in rows(workdir)] == ["2", "4", "6"]
    names = {p.name for p in (workdir / "checkpoints").iterdir()}
    assert names == {"2", "4", "6", f"damaged-{STEPS}"}


def test_all_checkpoints_damaged_says_so_and_keeps_them(copy_of_run):
    config, workdir = copy_of_run
    for path in (workdir / "checkpoints").glob("*/checksums.json"):
        path.write_text("{")
    before = contents(workdir)
    with pytest.raises(CheckpointError, match=r"every checkpoint in .*damaged"):
        execution.execute(swiss_roll.EXPERIMENT, config)
    assert contents(workdir) == before


def refused(experiment, config, *parts):
    """execute() says no in one line with these parts, and touches nothing."""
    with pytest.raises(Invalid) as error:
        execution.execute(experiment, config)
    message = str(error.value)
    assert message.startswith("--workdir: ") and "\n" not in message
    for part in parts:
        assert part in message


def test_another_seed_is_another_run(copy_of_run):
    config, workdir = copy_of_run
    before = contents(workdir)
    parts = (str(workdir), "seed = 0 there, 7 here")
    refused(swiss_roll.EXPERIMENT, {**config, "seed": 7}, *parts)
    both = {**config, "beta_1": 0.5, "T": 9}
    refused(swiss_roll.EXPERIMENT, both, "beta_1 = 0.001 there, 0.5 here", "T = 5 there, 9 here")
    assert contents(workdir) == before


def test_workdir_of_another_experiment(copy_of_run):
    _, workdir = copy_of_run
    before = contents(workdir)
    config = configure(heartbeat.EXPERIMENT, workdir, T=20)
    parts = (str(workdir), "experiment = swiss_roll there, heartbeat here")
    refused(heartbeat.EXPERIMENT, config, *parts)
    assert contents(workdir) == before


@pytest.mark.parametrize("name", ["report.json", "metrics.csv", "checkpoints", "figures"])
def test_files_of_others_are_not_overwritten(tmp_path, name):
    path = tmp_path / name
    path = path if "." in name else path / "file"
    path.parent.mkdir(exist_ok=True)
    path.write_text("somebody's")
    refused(swiss_roll.EXPERIMENT, tiny_roll(tmp_path), str(tmp_path), name)
    assert list(contents(tmp_path).values()) == [b"somebody's"]


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "\x00\xff"])
def test_damaged_config_is_named(tmp_path, text):
    (tmp_path / "config.json").write_text(text, encoding="latin1")
    refused(swiss_roll.EXPERIMENT, tiny_roll(tmp_path), str(tmp_path / "config.json"))
    assert (tmp_path / "config.json").read_text(encoding="latin1") == text


def test_heartbeat(tmp_path):
    sizes = {"T": 20, "beta_1": 0.05, "width": 8, "depth": 1, "num_t": -1, "checkpoint_every": 6}
    config = configure(heartbeat.EXPERIMENT, tmp_path / "run", **sizes)
    printed = execution.execute(heartbeat.EXPERIMENT, config)[1]
    report = check_report(heartbeat.EXPERIMENT, tmp_path / "run", config)
    assert set(report["figures"]) >= {"figure2"}
    assert report["true_bits"] == pytest.approx(-2.3219, abs=1e-4)
    assert report["ceiling_bits"] < report["negative_entropy_X1_bits"] < report["true_bits"]
    assert report["samples"] == 10_000 and 0 <= report["valid_samples"] <= 1
    assert "−2.322" in printed and "valid samples" in printed


def idx(path):
    """The images of an original MNIST file, (n, 28, 28, 1) uint8."""
    return np.frombuffer(gzip.open(path).read(), np.uint8, offset=16).reshape(-1, 28, 28, 1)


def test_mnist(tmp_path, dpm_data):
    folder = dpm_data / "mnist"
    files = {"train": "train-images-idx3-ubyte.gz", "test": "t10k-images-idx3-ubyte.gz"}
    if not all((folder / name).is_file() for name in files.values()):
        pytest.skip(f"no MNIST in {folder}")
    for split, name in files.items():  # as the first call leaves them: test_images.py makes that
        x = idx(folder / name)
        pieces = cache.Pieces(x.shape, x.dtype, [x])
        cache.write(tmp_path / "data" / "dpm_jax" / f"mnist_{split}.npy", pieces)
    devices = jax.local_device_count()
    sizes = {"T": 20, "width": 16, "depth": 1, "num_t": 2, "batch_size": 8 * devices}
    sizes |= {"num_steps": 2, "sample_steps": 5, "num_samples": 12, "passes": 2, "num_eval": 400}
    sizes |= {"data_dir": str(tmp_path / "data"), "manual_dir": str(folder)}
    config = configure(mnist.EXPERIMENT, tmp_path / "run", **sizes)
    printed = execution.execute(mnist.EXPERIMENT, config)[1]
    report = check_report(mnist.EXPERIMENT, tmp_path / "run", config)
    assert set(report["figures"]) >= {"figure_app1"}
    assert report["dims"] == 784 and report["scale_levels"] == pytest.approx(78.6, abs=0.05)
    assert report["K_bits_per_dim"] == pytest.approx(report["K_bits"] / 784)
    code = np.log2(report["scale_levels"]) - report["K_bits_per_dim"]
    assert report["bits_per_dim_8bit"] == pytest.approx(code, rel=1e-6)
    gain_ceiling = (report["ceiling_bits"] - report["L_null_bits"]) / 784
    assert gain_ceiling == pytest.approx(4.48, abs=0.1)
    assert report["samples"] == 12 and report["non_finite_samples"] == 0
    assert (
        "non finite samples" in printed
        and units.number(report["K_bits_per_dim"], digits=4) in printed
    )
    assert report["parzen_bits"] == pytest.approx(report["parzen_nats"] / np.log(2))
    # Twelve images as kernels are poor ones, and an untrained model's are worse.
    assert report["parzen_bits"] < report["parzen_perfect_model_bits"] < 349
    assert "training images as samples (12)" in printed and "Theis" in printed
    held = json.loads((tmp_path / "run" / "config.json").read_text(encoding="utf-8"))
    assert "data_dir" not in held and "manual_dir" not in held
    assert report["config"]["final_ratio"] == 100
