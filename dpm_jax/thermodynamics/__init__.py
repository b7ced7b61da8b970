"""Nonequilibrium work: the estimators that serve eq. 9, and Jarzynski 1997, from which it comes.

* estimators  Jarzynski, Bennett, Crooks: from works to a free energy
* escort      maps that carry a driven system along: less waste at any speed
* systems     a ring of states and a Brownian trap, on which they are exact
"""

from dpm_jax import later

with later.imports(globals()):
    from dpm_jax.thermodynamics.escort import Escort, carry
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
        fitted_maps,
        free_energy,
        master_equation,
        metropolis,
        trap_energy,
        trap_free_energy,
        trap_mean_work,
        trap_work,
    )

__all__ = [
    "Crossing",
    "Difference",
    "Escort",
    "Estimate",
    "WorkMoments",
    "bennett",
    "carry",
    "crooks",
    "fitted_maps",
    "free_energy",
    "jarzynski",
    "master_equation",
    "metropolis",
    "trap_energy",
    "trap_free_energy",
    "trap_mean_work",
    "trap_work",
]
