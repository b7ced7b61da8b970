"""Posteriors p~(x^0) ∝ p(x^0) r(x^0) (Sec. 2.5, App. C): tilts, particles, replacement."""

from dpm_jax import later

with later.imports(globals()):
    from dpm_jax.posterior import linear, particles, replacement
    from dpm_jax.posterior.correctors import Gibbs, Langevin
    from dpm_jax.posterior.measurement import THROUGH, errors, measure
    from dpm_jax.posterior.r import denoise, inpaint, perturb
    from dpm_jax.posterior.tilt import R_T, REACH, Tilt, compose, curvature, sample, tilted

__all__ = [
    "REACH",
    "R_T",
    "THROUGH",
    "Gibbs",
    "Langevin",
    "Tilt",
    "compose",
    "curvature",
    "denoise",
    "errors",
    "inpaint",
    "linear",
    "measure",
    "particles",
    "perturb",
    "replacement",
    "sample",
    "tilted",
]
