"""Nonequilibrium work: the estimators that serve eq. 9, and Jarzynski 1997, from which it comes.

* estimators  Jarzynski, Bennett, Crooks: from works to a free energy
* systems     a ring of states and a Brownian trap, on which they are exact
"""

from dpm_jax import later

with later.imports(globals()):
    from dpm_jax.thermodynamics.estimators import (
        Crossing,
        Difference,
        Estimate,
        bennett,
        crooks,
        jarzynski,
    )
    from dpm_jax.thermodynamics.systems import (
        WorkMoments,
        free_energy,
        master_equation,
        metropolis,
        trap_free_energy,
        trap_mean_work,
        trap_work,
    )

__all__ = [
    "Crossing",
    "Difference",
    "Estimate",
    "WorkMoments",
    "bennett",
    "crooks",
    "free_energy",
    "jarzynski",
    "master_equation",
    "metropolis",
    "trap_free_energy",
    "trap_mean_work",
    "trap_work",
]
