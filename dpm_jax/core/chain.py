"""Chain: a diffusion model with its parameters put in, p(x^{0..T}) = p(x^T) Π_t p(x^{t-1}|x^t).

What the paper calls the reverse process (eq. 4–5), beside the forward process it was made for. All
below this file takes a chain, and what changes one is a function chain -> chain: `respace` and
`fix_last_step` here, `posterior.tilted`. `model.Model.chain` makes it of parameters, `make_chain`
of a reverse kernel of your own.

`last_step` names p(x^0|x^1):

* "fixed" (App. B.2): T_π(x^0|x^1; β_1) = q(x^1|x^0) π(x^0)/π(x^1), the forward kernel.
* "learned": that of the network.
* a function (params, x^0) -> nats: the network's, of which x^0 has this log probability; with
  `discretized.last_step` K and log p are those of integers. Its `draw`, if it has one, makes a draw
  of its own of a draw of the network's.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dpm_jax.core import schedule as schedules
from dpm_jax.core.family import Array, Family, Params, Reverse, checked
from dpm_jax.core.schedule import Schedule

LAST_STEPS = ("fixed", "learned")
LastStep = str | Callable[[Params, Array], Array]  # one of these, or params, x^0 -> nats
Kernel = Callable[[Schedule], Reverse]  # the reverse kernel of any schedule
FoldSize = Callable[[Array], Array]  # log-SNR -> about how large KL_t is in an e-fold of noise


class Chain(NamedTuple):
    """Forward process and reverse kernels of one example; made by `make_chain`.

    Change it by functions chain -> chain: `reverse` and `kernel` hold the schedule they were made
    with, so that `_replace` of one field alone leaves the others behind.
    """

    family: Family
    schedule: Schedule
    reverse: Reverse  # (x^t, t) -> parameters of p(x^{t-1}|x^t), the last step included
    shape: tuple[int, ...]  # of the event
    prior: Params  # p(x^T): π, unless tilted
    last_step: LastStep = "fixed"
    kernel: Kernel | None = None  # makes `reverse` for other schedules, where that is known
    kl_per_fold: FoldSize | None = None  # where it is known beforehand

    def __repr__(self) -> str:
        last = "function" if callable(self.last_step) else self.last_step
        return f"Chain({self.family.name}, T={self.T}, shape={self.shape}, last_step={last})"

    @property
    def T(self) -> int:
        """Number of steps."""
        return self.schedule.T

    @property
    def first_t(self) -> int:
        """The first t whose reverse kernel is the network's: 2 for a "fixed" last step, else 1."""
        return 2 if self.last_step == "fixed" else 1

    def checked(self, argument: str, x0: Any, many: bool = False):
        """An example of this chain, or rows of them, as `family.checked`; as wide as β at least.

        Raises:
            TypeError, ValueError: naming the argument, as there.
        """
        x0 = checked(self.family, self.shape, argument, x0, many)
        dtype = self.schedule.beta.dtype
        return x0.astype(dtype) if jnp.finfo(x0.dtype).bits < jnp.finfo(dtype).bits else x0

    def draw_last(self, x: Array) -> Array:
        """x^0 of this last step from one of the family's p(x^0|x^1).

        Raises:
            ValueError: for a function that does not say how to.
        """
        if not callable(self.last_step):
            return x
        draw = getattr(self.last_step, "draw", None)
        if draw is None:
            raise ValueError("last_step: expected one with `draw` for samples, got a function")
        return draw(x)

    def log_last(self, params: Params, x0: Array) -> Array:
        """log p(x^0|x^1), nats, by the parameters of that kernel."""
        of = self.last_step if callable(self.last_step) else self.family.log_prob
        return of(params, x0)


def make_chain(
    family: Family,
    schedule: Schedule,
    reverse: Reverse,
    shape: tuple[int, ...],
    last_step: LastStep = "fixed",
) -> Chain:
    """The chain of a reverse kernel (eq. 4–5).

    Args:
        family: a column of Table App.1.
        schedule: β_t; gradients flow through x^t(β) with the noise held constant (Sec. 2.4.1).
        reverse: (x_t, t) -> parameters of p(x^{t-1}|x^t).
        shape: of the event.
        last_step: "fixed" puts the forward kernel at t = 1, whatever `reverse` says there.

    Raises:
        ValueError: for an unknown last_step.
    """
    check_last_step(last_step)
    chain = Chain(family, schedule, reverse, tuple(shape), family.prior(tuple(shape)), last_step)
    return fix_last_step(chain) if last_step == "fixed" else chain


def fix_last_step(chain: Chain) -> Chain:
    """The chain with p(x^0|x^1) = T_π(x^0|x^1; β_1) (App. B.2): the forward kernel at t = 1."""

    def fixed(reverse: Reverse, schedule: Schedule) -> Reverse:
        def of(xt: Array, t: Array) -> Params:
            last = chain.family.step(xt, schedule.beta[1])
            return jax.tree.map(lambda a, b: jnp.where(t == 1, a, b), last, reverse(xt, t))

        return of

    reverse = fixed(chain.reverse, chain.schedule)
    make = chain.kernel
    if make is None:
        return chain._replace(reverse=reverse, last_step="fixed")
    return chain._replace(reverse=reverse, kernel=lambda s: fixed(make(s), s), last_step="fixed")


def respace(chain: Chain, steps: int) -> Chain:
    """A chain of `steps` of the t, from t = 1 to t = T: a model of its own (schedule.respace).

    Raises:
        ValueError: for steps outside 2..T, or a chain that is bound to its schedule (tilted, or
            made of a bare reverse kernel).
    """
    if chain.kernel is None:
        raise ValueError(
            "chain: expected one whose kernel takes any schedule (a tilted one: respace before"
            " `tilted`)"
        )
    schedule = schedules.respace(chain.schedule, steps)
    return chain._replace(schedule=schedule, reverse=chain.kernel(schedule))


def check_last_step(last_step: LastStep) -> None:
    """ValueError unless it is one of LAST_STEPS or a function."""
    if not callable(last_step) and last_step not in LAST_STEPS:
        raise ValueError(
            f"last_step: expected one of {LAST_STEPS} or a function, got {last_step!r}"
        )
