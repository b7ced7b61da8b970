"""dpm_jax: diffusion probabilistic models as a tractable likelihood, in JAX.

Sohl-Dickstein, Weiss, Maheswaranathan and Ganguli 2015, "Deep Unsupervised Learning using
Nonequilibrium Thermodynamics". Everything is a pure function; conventions are in core/family.py.
Names are imported when they are asked for (later.py): ``import dpm_jax`` costs nothing, not even
JAX. Networks, training, runs, data, baselines and images are packages of their own
(``from dpm_jax import training``).
"""

from dpm_jax import later

with later.imports(globals()):
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
