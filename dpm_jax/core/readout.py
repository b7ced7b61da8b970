"""From a network's raw output to the parameters of p(x^{t-1} | x^t): eq. 62–65 and alternatives.

The readouts of a family go by name, `family.readout(mean, variance)`; `model.build` takes a name or
a Readout of your own. Gaussian means (gaussian.readout), with z the network's output:

* "eq65"  μ = (x − z)(1 − Σ) + z, the paper's eq. 65
* "code"  μ = x√(1−β) + z√β, the authors' public code
* "x0"    x̂^0 = z, through the exact bridge q(x^{t-1} | x^t, x̂^0)
* "v"     x̂^0 = √ᾱ x − √(1−ᾱ) z, the same way (Salimans & Ho 2022)

Gaussian variances, with z the second output:

* "eq64"       Σ = σ(z + σ^{-1}(β_t)), the paper's eq. 64
* "between"    log Σ between the two entropies of eq. 24, log β̃_t and log β_t, at the fraction σ(z)
* "posterior"  Σ = β̃_t, the variance of q(x^{t-1} | x^t, x^0); nothing is learned

Binomial (binomial.readout), with z the one output a bit:

* "sigmoid"  f_b = σ(z)
* "step"     f_b = σ(z + logit of the forward kernel at x^t), the counterpart of eq. 64
* "x0"       P(x^0 = 1 | x^t) = σ(z), through the exact bridge
* "bayes"    P(x^0 | x^t) ∝ B(x^0; σ(z + logit ρ)) q(x^t | x^0), the same way: each bit's own x^t by
             Bayes' rule, and z what all others say of it; z = 0 is π at every t

Images have one more, on a Gaussian law of their own: `images.kernel.readout`.
"""

from collections.abc import Callable
from typing import NamedTuple

from dpm_jax.core.family import Array, Params
from dpm_jax.core.schedule import Schedule

Range = tuple[float, float] | None  # (low, high) of the data, in the units of the model


class Readout(NamedTuple):
    """How raw outputs (*event, outputs) become the parameters of the reverse kernel."""

    outputs: int  # of the network for each element of what it sees
    apply: Callable[[Array, Array, Schedule, Array, Range], Params]
    # raw, xt, schedule, t, x0_range -> Params; where x0_range is given, x̂^0 is clamped to it
    features: Callable[[Array, Schedule, Array], Array] | None = None
    # xt, schedule, t -> what the network sees in the place of xt
    kl_per_fold: Callable[[Array], Array] | None = None
    # log-SNR -> about how large KL_t is in an e-fold of noise, where that is known beforehand


def check_name(argument: str, name: str, known: tuple[str, ...]) -> None:
    """ValueError naming the argument unless `name` is one of the `known`."""
    if name not in known:
        raise ValueError(f"{argument}: expected one of {known}, got {name!r}")
