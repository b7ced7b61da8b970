"""Runs: a configuration becomes a work directory with checkpoints, metrics, figures and a report.

`load` gives a trained run as an object; `start` trains an experiment as its binary does, `fit` a
model of your own, `save` keeps one, `export` makes a small copy. `register` makes an experiment of
yours known.
"""

from dpm_jax import later

with later.imports(globals()):
    from dpm_jax.runs.config import Invalid
    from dpm_jax.runs.execution import fit, start
    from dpm_jax.runs.experiment import (
        Budget,
        Exact,
        Experiment,
        ImageScale,
        Problem,
        Reported,
        find,
        import_file,
        register,
    )
    from dpm_jax.runs.exported import export
    from dpm_jax.runs.run import Run, load, save

__all__ = [
    "Budget",
    "Exact",
    "Experiment",
    "ImageScale",
    "Invalid",
    "Problem",
    "Reported",
    "Run",
    "export",
    "find",
    "fit",
    "import_file",
    "load",
    "register",
    "save",
    "start",
]
