"""Training: −K as a loss (eq. 15), optimizers, the loop, checkpoints."""

from dpm_jax import later

with later.imports(globals()):
    from dpm_jax.training import checkpoint, objective, optimizers
    from dpm_jax.training.loop import Diverged, fit, initial_state
    from dpm_jax.training.objective import make_loss
    from dpm_jax.training.options import MAX_SEED, Options, check
    from dpm_jax.training.step import DrawBatch, TrainState, draw_rows

__all__ = [
    "MAX_SEED",
    "Diverged",
    "DrawBatch",
    "Options",
    "TrainState",
    "check",
    "checkpoint",
    "draw_rows",
    "fit",
    "initial_state",
    "make_loss",
    "objective",
    "optimizers",
]
