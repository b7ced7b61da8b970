"""Proposal: the law of what eq. 9 is averaged over, a trajectory or a system of N of them.

Whatever it is, it has a work W with E e^{−W} = p(x^0), and under what the model itself would have
drawn E e^{W} = 1/p(x^0); all that estimates log p takes such works and asks for nothing more.

* order "paper": x^1..x^T ~ q(.|x^0), as eq. 9 has it. Where the last step is the network's own this
  is the right one: of a perfect model p(x^{0..T}) = q(x^{0..T}), so that W = −log p(x^0) for every
  trajectory.
* order "up_down" (up_down.py): of the fixed last step, which that does not hold for.
* particles N > 1: trajectories are resampled on their way (particles.py).
"""

from collections.abc import Callable
from typing import NamedTuple

from dpm_jax import units
from dpm_jax.core.chain import Chain
from dpm_jax.core.family import Array
from dpm_jax.core.readout import check_name
from dpm_jax.likelihood import twist

ORDERS = ("paper", "up_down")
LogTwist = Callable[[Array, Array], Array]  # x^t, t -> log ψ_t(x^t), nats


class Proposal(NamedTuple):
    """What W is taken of (eq. 9); the name of an order stands for Proposal(order)."""

    order: str = "paper"  # or "up_down"
    particles: int = 1  # N, trajectories of one W
    every: int = 8  # levels between two where they may be resampled
    threshold: float = 0.5  # they are, where their effective number is below this part of N
    late: int | None = None  # how many of them go on where x^t is more noise than signal; None: N/4
    twist: LogTwist | None = None  # of one x^t, up to a term in t alone; None: by the model's own
    # score (twist.py), of Gaussians

    @property
    def number_late(self) -> int:
        """Trajectories where x^t is more noise than signal."""
        return max(1, self.particles // 4) if self.late is None else self.late


def default(chain: Chain) -> str:
    """The order whose works spread less: "up_down" where the last step is the fixed one."""
    return "up_down" if chain.last_step == "fixed" else "paper"


def checked(proposal: str | Proposal, chain: Chain) -> Proposal:
    """The proposal as a record; ValueError for one that does not exist or not for this chain."""
    if not isinstance(chain, Chain):
        got = type(chain).__name__
        raise TypeError(f"chain: expected one such as model.chain(params), got a {got}")
    found = Proposal(proposal) if isinstance(proposal, str) else proposal
    if not isinstance(found, Proposal):
        raise TypeError(f"proposal: expected one of {ORDERS} or a Proposal, got {proposal!r}")
    check_name("proposal", found.order, ORDERS)
    for name in ("particles", "every"):
        units.whole(f"proposal.{name}", getattr(found, name))
    units.whole("proposal.late", found.number_late, 1, found.particles)
    if not 0 <= found.threshold <= 1:
        raise ValueError(f"proposal.threshold: expected 0 .. 1, got {found.threshold}")
    if found.order == "up_down" and chain.last_step != "fixed":
        raise ValueError(
            f"proposal: expected 'paper' but for the fixed last step, got 'up_down' for {chain!r}"
        )
    if not (found.twist is None or callable(found.twist)):
        raise TypeError(f"proposal.twist: expected a function or None, got {found.twist!r}")
    if found.particles > 1 and found.twist is None:
        twist.check(chain)
    return found
