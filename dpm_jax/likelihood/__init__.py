"""The probability of data: K (eq. 12–14), log p from work along trajectories (eq. 9), eq. 24.

`bound` and `work` take one example and a chain; `dataset`, `dataset_work` and `dataset_losses` a
whole data set, a model and its parameters, and all devices.
"""

from dpm_jax import later

with later.imports(globals()):
    from dpm_jax.likelihood import bound, discretized, proposal, work
    from dpm_jax.likelihood.dataset import (
        Evaluation,
        NoiseFloor,
        evaluate,
        evaluate_noise_floor,
        evaluate_terms,
    )
    from dpm_jax.likelihood.dataset_losses import Losses, evaluate_losses
    from dpm_jax.likelihood.dataset_work import (
        Dissipation,
        LogLikelihood,
        evaluate_dissipation,
        evaluate_sandwich,
        evaluate_works,
        summarise,
    )
    from dpm_jax.likelihood.proposal import Proposal
    from dpm_jax.likelihood.rows import Rows, over_rows, standard_error
    from dpm_jax.likelihood.work import (
        Profile,
        Sandwich,
        entropy_bounds,
        estimate,
        forward_work,
        forward_works,
        profile,
        reverse_work,
        sandwich,
    )

__all__ = [
    "Dissipation",
    "Evaluation",
    "LogLikelihood",
    "Losses",
    "NoiseFloor",
    "Profile",
    "Proposal",
    "Rows",
    "Sandwich",
    "bound",
    "discretized",
    "entropy_bounds",
    "estimate",
    "evaluate",
    "evaluate_dissipation",
    "evaluate_losses",
    "evaluate_noise_floor",
    "evaluate_sandwich",
    "evaluate_terms",
    "evaluate_works",
    "forward_work",
    "forward_works",
    "over_rows",
    "profile",
    "proposal",
    "reverse_work",
    "sandwich",
    "standard_error",
    "summarise",
    "work",
]
