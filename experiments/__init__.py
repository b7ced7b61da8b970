"""The binaries, also as modules: ``python -m dpm_jax.experiments.NAME`` where it is installed."""
