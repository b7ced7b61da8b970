"""The binaries, also as modules: ``python -m dpm_jax.experiments.NAME`` where it is installed."""

from pathlib import Path

WEIGHTS = Path(__file__).with_name("weights")  # trained runs for `runs.load`
