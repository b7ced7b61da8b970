"""Networks (flax.linen): raw outputs only; they know no family and no schedule.

Each is called for ONE example as ``network(x, t, log_snr)``, with x of the event's shape, t an
int32 scalar in 1..T and log_snr = log ᾱ_t/(1−ᾱ_t), and returns raw outputs (*event, outputs), of
which a readout (dpm_jax/core/readout.py) makes the reverse kernel. The paper's networks look at t
(MultiScaleConv at either, by option), the others at log_snr, which lets one network serve every
respaced schedule.
"""

from dpm_jax import later

with later.imports(globals()):
    from dpm_jax.networks.dense import MLP, ResidualMLP, log_snr_features
    from dpm_jax.networks.multiscale_conv import MultiScaleConv
    from dpm_jax.networks.paper import RBF, BumpDense, SigmoidPerceptron
    from dpm_jax.networks.unet import UNet

__all__ = [
    "MLP",
    "RBF",
    "BumpDense",
    "MultiScaleConv",
    "ResidualMLP",
    "SigmoidPerceptron",
    "UNet",
    "log_snr_features",
]
