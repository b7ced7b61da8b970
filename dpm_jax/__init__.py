"""dpm_jax: diffusion probabilistic models as a tractable likelihood, in JAX.

Sohl-Dickstein, Weiss, Maheswaranathan and Ganguli 2015, "Deep Unsupervised Learning using
Nonequilibrium Thermodynamics". Everything is a pure function; conventions are in family.py.
Networks, training, checkpoints, data and plots are imported where they are used
(``from dpm_jax import training``), so that ``import dpm_jax`` costs JAX alone.
"""

from dpm_jax import (
    binomial,
    bound,
    family,
    gaussian,
    likelihood,
    model,
    particles,
    posterior,
    readout,
    replacement,
    sampling,
    schedule,
    thermodynamics,
)

__all__ = [
    "binomial",
    "bound",
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
]
