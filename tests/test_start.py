"""The start of a binary: what it does before JAX is there, and what a second start is spared."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BINARIES = sorted(p.stem for p in (ROOT / "experiments").glob("*.py") if p.stem != "__init__")
HEAVY = ("jax", "numpy", "scipy", "matplotlib", "flax", "optax", "orbax", "tensorflow_datasets")


def imported(name, *argv):
    """Exit code, standard error and the heavy modules that a binary imported."""
    command = [sys.executable, "-X", "importtime", ROOT / "experiments" / f"{name}.py", *argv]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    lines = [line for line in found.stderr.splitlines() if line]
    told = [line for line in lines if not line.startswith("import time:")]
    modules = {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")}
    assert "dpm_jax.runs.binary" in modules  # it is read rightly
    return found.returncode, "\n".join(told), modules & set(HEAVY)


# --- flags are answered without JAX -------------------------------------------------------------


@pytest.mark.parametrize("name", BINARIES)
def test_help_and_bad_flags_import_no_jax(name, tmp_path):
    assert imported(name, "--help") == (0, "", set())
    for flag, line in {
        "--bogus=1": "--bogus: expected a flag that --help lists",
        "--seed=1.5": "--seed: expected a whole number, got '1.5'",
        "--seed=-1": "--seed: expected 0..2147483639, got -1",
        "--process_id=-1": "--process_id: expected at least 0, got -1",
    }.items():
        told = f"{name}.py: {line}"
        assert imported(name, f"--workdir={tmp_path}/run", flag) == (2, told, set())
    assert not list(tmp_path.iterdir())


TOGETHER = [  # values that each flag may have, but not with the others
    ("swiss_roll", [], "workdir: expected a directory for the run, got none"),
    ("cifar10", ["--workdir=run", "--objective=wild"], "objective: expected one of bound, v"),
    ("cifar10", ["--workdir=run", "--network=wild"], "network: expected one of bump_dense, "),
    ("cifar10", ["--workdir=run", "--num_steps=0"], "num_steps: expected at least 1, got 0"),
    ("jarzynski", ["--workdir=run", "--durations=1,x"], "durations: expected numbers"),
    ("evaluate", ["--workdir=run", "--trajectories=x"], "trajectories: expected numbers"),
    ("posterior", ["--workdir=run", "--task=denoise", "--mask=centre"], "mask: expected none"),
    ("posterior", ["--workdir=run", "--method=paper", "--filters=2"], "filters: expected 1"),
]


@pytest.mark.parametrize("name, argv, line", TOGETHER)
def test_values_that_do_not_go_together_import_no_jax(name, argv, line):
    code, told, heavy = imported(name, *argv)
    assert (code, heavy) == (2, set()) and told.startswith(f"{name}.py: --{line}"), told
