"""dpm_jax: diffusion probabilistic models as a tractable likelihood, in JAX.

Sohl-Dickstein, Weiss, Maheswaranathan and Ganguli 2015, "Deep Unsupervised Learning using
Nonequilibrium Thermodynamics". Everything is a pure function; conventions are in core/family.py.
Networks, training, runs, data, baselines and images are imported where they are used
(``from dpm_jax import training``), so that ``import dpm_jax`` costs JAX alone.
"""

from dpm_jax import likelihood, posterior, thermodynamics, units
from dpm_jax.core import (
    binomial,
    chain,
    family,
    gaussian,
    model,
    readout,
    sampling,
    schedule,
)
from dpm_jax.likelihood import bound, discretized
from dpm_jax.posterior import particles, replacement

__all__ = [
    "binomial",
    "bound",
    "chain",
    "discretized",
    "family",
    "gaussian",
    "likelihood",
    "model",
    "particles",
    "posterior",
    "readout",
    "replacement",
    "sampling",
    "schedule",
    "thermodynamics",
    "units",
]
