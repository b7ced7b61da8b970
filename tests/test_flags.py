"""Bad input ends within seconds in one line that names the flag, before anything is written."""

import os
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest

from dpm_jax import training
from dpm_jax.experiments import bark, cifar10, dead_leaves, heartbeat, mnist, swiss_roll
from dpm_jax.networks import registry
from dpm_jax.runs import Invalid, execution
from dpm_jax.runs.config import check_at_least, make_schedule, training_options

ROOT = Path(__file__).resolve().parents[1]
DEVICES = jax.local_device_count()
SECONDS = 10  # for an error in this process; a process of its own takes its imports beside that


def run(program, *arguments):
    """Run an experiment as a user does: exit code, standard output, standard error, seconds."""
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, str(ROOT / "experiments" / program), *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    return done.returncode, done.stdout, done.stderr, time.monotonic() - start


@pytest.mark.parametrize(
    "program, argument, parts",
    [
        ("swiss_roll.py", "--bogus=1", ["bogus"]),
        ("swiss_roll.py", "--preset=wild", ["--preset", "paper", "best", "wild"]),
        ("swiss_roll.py", "--T=1", ["--T: expected", "at least 2", "got 1"]),
        ("heartbeat.py", "--batch_size=0", ["--batch_size: expected at least 1, got 0"]),
        ("heartbeat.py", "T=20", ["T=20", "--"]),
    ],
)
def test_last_line_names_the_flag(program, argument, parts, tmp_path):
    code, out, err, seconds = run(program, f"--workdir={tmp_path / 'run'}", argument)
    assert code not in (0, None) and code > 0
    assert "Traceback" not in err and out == ""
    last = err.strip().splitlines()[-1]
    for part in parts:
        assert part in last
    assert last.startswith(program)
    assert not (tmp_path / "run").exists()
    assert seconds < 60


EXPERIMENTS = {
    "swiss_roll": swiss_roll.EXPERIMENT,
    "heartbeat": heartbeat.EXPERIMENT,
    "mnist": mnist.EXPERIMENT,
}
ALL = EXPERIMENTS | {e.EXPERIMENT.name: e.EXPERIMENT for e in (bark, cifar10, dead_leaves)}
BAD = [
    *[
        (name, flag, value)
        for name in ("swiss_roll", "heartbeat")
        for flag, value in (
            ("beta_1", 0.0),
            ("beta_1", 1.0),
            ("beta_1", float("nan")),
            ("T", 1),
            ("T", -3),
            ("schedule", "wild"),
            ("network", "wild"),
            ("network", "unet"),  # takes images only
            ("readout", "wild"),
            ("variance", "wild"),
            ("last_step", "wild"),
            ("objective", "wild"),
            ("lr_schedule", "wild"),
            ("num_steps", 0),
            ("learning_rate", 0.0),
            ("learning_rate", -1.0),
            ("warmup", -1),
            ("clip_norm", 0.0),
            ("ema_decay", 1.0),
            ("steps_per_dispatch", -1),
            ("log_every", 0),
            ("checkpoint_every", 0),
            ("num_eval", 1),
            ("num_t", 3),
            ("width", 0),
            ("depth", 0),
            ("seed", -1),
            ("seed", 2**70),
        )
        if flag in EXPERIMENTS[name].presets["paper"]
    ],
    ("swiss_roll", "noise", -1.0),
    ("swiss_roll", "noise", float("nan")),
    ("swiss_roll", "noise", float("inf")),
    ("swiss_roll", "octaves", -1),
    ("heartbeat", "rate", 0.0),
    ("heartbeat", "rate", 1.0),
    ("heartbeat", "rate", float("nan")),
    ("heartbeat", "schedule", "learned"),
    ("mnist", "num_samples", 0),
    ("mnist", "passes", 0),
    ("mnist", "sample_steps", 1),
    ("mnist", "sample_steps", 1001),
    ("mnist", "network", "rbf"),  # takes vectors only
]


def configure(experiment, workdir, **given):
    config = {"experiment": experiment.name, "preset": "paper", "workdir": workdir}
    return config | experiment.presets["paper"] | given


def refused(experiment, config, flag):
    """The one line with which execute() refuses, soon and before the step is compiled."""
    start = time.monotonic()
    with pytest.raises(Invalid) as error:
        execution.execute(experiment, config)
    assert time.monotonic() - start < SECONDS
    message = str(error.value)
    assert message.startswith(f"--{flag}: ") and "\n" not in message, message
    return message


@pytest.fixture(autouse=True)
def no_training(request, monkeypatch):
    """Fail where an error is found so late that training has begun."""

    def refuse(*args, **kwargs):
        pytest.fail("training began before the error was found")

    monkeypatch.setattr("dpm_jax.training.fit", refuse)
    monkeypatch.setattr("dpm_jax.training.initial_state", refuse)


@pytest.mark.parametrize("name, flag, value", BAD)
def test_bad_value_names_its_flag(name, flag, value, tmp_path):
    workdir = tmp_path / "run"
    experiment = EXPERIMENTS[name]
    message = refused(experiment, configure(experiment, str(workdir), **{flag: value}), flag)
    if not (isinstance(value, str) and value in ("unet", "rbf")):
        assert "expected" in message and str(value) in message
    assert not workdir.exists()


@pytest.mark.skipif(DEVICES < 2, reason="needs two devices")
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_batch_that_the_devices_do_not_divide(name, tmp_path):
    experiment = EXPERIMENTS[name]
    config = configure(experiment, str(tmp_path / "run"), batch_size=DEVICES + 1)
    message = refused(experiment, config, "batch_size")
    assert f"{DEVICES} devices, got {DEVICES + 1}" in message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("workdir", [None, ""])
def test_workdir_is_needed(workdir):
    message = refused(swiss_roll.EXPERIMENT, configure(swiss_roll.EXPERIMENT, workdir), "workdir")
    assert "expected a directory" in message


def test_workdir_that_is_a_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("somebody's")
    for workdir in (path, path / "below"):
        config = configure(swiss_roll.EXPERIMENT, str(workdir))
        assert str(workdir) in refused(swiss_roll.EXPERIMENT, config, "workdir")
    assert path.read_text() == "somebody's"


def test_manual_dir_that_is_missing(tmp_path):
    given = {"manual_dir": str(tmp_path / "absent"), "data_dir": str(tmp_path / "data")}
    config = configure(mnist.EXPERIMENT, str(tmp_path / "run"), **given)
    message = refused(mnist.EXPERIMENT, config, "manual_dir")
    assert str(tmp_path / "absent") in message and "is not a folder" in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("preset", ["paper", "best"])
def test_presets_are_whole(name, preset):
    """Every preset gives every flag a value of the type of the paper's, and trains as it stands."""
    presets = ALL[name].presets
    assert {k: type(v) for k, v in presets[preset].items()} == {
        k: type(v) for k, v in presets["paper"].items()
    }
    config = configure(ALL[name], "run") | presets[preset]
    training.check(training_options(config))
    check_at_least(config, num_eval=2)
    make_schedule(config)
    registry.by_name(config, 2)
