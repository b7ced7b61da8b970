"""What evaluate.py measures where its flags leave that open: as much as the time at hand allows.

The more trajectories a log p is of, the closer to it its lower estimate is; the more examples, the
smaller the error over them. So the number of trajectories is the largest of which a few examples
can be afforded, and the rest of the time goes into examples. Of images they are particles of one
work, where their kernels have a score (twist.py).
"""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dpm_jax import hosts, parallel
from dpm_jax.core.chain import Chain
from dpm_jax.core.model import at_once
from dpm_jax.likelihood import Proposal, proposal, up_down
from dpm_jax.runs.experiment import Config
from dpm_jax.runs.run import Run

NUMBERS = (1, 16, 64, 256)  # of trajectories, to choose among
FEW, LEAST = 4, 2  # examples: that more trajectories must leave, and that an error takes
_VECTOR = [16, 256]  # M of each example that is no image
_SMALL = 64  # elements of an event, up to which it is a vector


class Effort(NamedTuple):
    """How much is measured."""

    proposal: Proposal
    counts: list[int]  # M, rising
    examples: int
    model_samples: int
    lanes: int  # trajectories that a device holds at once
    seconds_a_call: float | None = None  # of the network on one example; None: none was measured

    def __str__(self) -> str:
        what = f"order {self.proposal.order}, M = {', '.join(map(str, self.counts))}"
        if self.proposal.particles > 1:
            what += f" works of N = {self.proposal.particles} particles each"
        what += f"; {self.examples} examples, {self.model_samples} samples of the model"
        if self.seconds_a_call is None:
            return what
        return f"{what} ({1e6 * self.seconds_a_call:.3g} µs a call of the network)"


def choose(config: Config, run: Run, rows: int, counts: list[int] | None, other: bool) -> Effort:
    """What the flags say, and for what they do not say what takes about --minutes.

    Args:
        config: the flags of evaluate.py; None: not given.
        rows: how many examples there are.
        counts: numbers M of trajectories, where given.
        other: whether other data are measured, of which there is no sandwich.

    Raises:
        ValueError: naming the flag, for an order or particles that this run does not have.
    """
    chain, budget = run.model.chain(run.params, config["steps"]), run.problem.budget
    order = config["proposal"] or proposal.default(chain)
    scored = run.model.family.noise.additive
    if (config["particles"] or 1) > 1 and not scored:
        got = config["particles"]
        raise ValueError(f"particles: expected 1 of bits, which have no score; got {got}")
    image = run.problem.images is not None or math.prod(run.model.event_shape) > _SMALL
    options = to_choose(config["particles"], counts, image, scored)
    for num, _ in options:
        proposal.checked(Proposal(order, num), chain)
    most = (rows, rows) if image else (min(rows, budget.examples), budget.model_samples)
    held = at_once(run.model, run.params, config["steps"]) if image else budget.lanes
    given, second = (config["examples"], config["model_samples"]), None
    (N, M), n = options[0], LEAST
    if len(options) > 1 or None in given:
        lanes = min(held, config["lanes"] or held)
        second = hosts.on_first(_seconds_a_call, run, config["steps"], lanes)
        calls = 60 * config["minutes"] * parallel.count() / second

        def cost(option: tuple[int, list[int]]) -> float:
            (num, counts), per_M = option, 1 if other else 2
            return calls_of(chain, Proposal(order, num)) * (per_M * counts[-1] + per_M - 1)

        (N, M), n = fit(calls, cost, options, max(most))
    examples, samples = (size or min(n, cap) for size, cap in zip(given, most))
    lanes = config["lanes"] or max(held, N)
    return Effort(Proposal(order, N), M, examples, samples, lanes, second)


def calls_of(chain: Chain, of: Proposal) -> float:
    """Calls of the network for one work, about (particles.py)."""
    signal = int(np.sum(np.asarray(chain.schedule.log_snr[1:]) > 0))
    down = int(up_down.turn(chain)) if of.order == "up_down" else 1
    moved = of.particles * (down + signal) + of.number_late * (chain.T - signal)
    return moved * (1 + 2 / of.every if of.particles > 1 else 1)


def fit(
    calls: float, cost: Callable[[Any], float], options: Sequence[Any], most: int
) -> tuple[Any, int]:
    """The dearest option of which FEW examples (or `most`) can be had, else the cheapest; how many.

    Args:
        calls: that there is time for.
        cost: an option -> calls of one example.
        options: what there is to choose.
        most: examples that there are.
    """
    dearest = sorted(options, key=cost, reverse=True)
    enough = [each for each in dearest if calls >= min(FEW, most) * cost(each)]
    chosen = (enough or dearest[-1:])[0]
    return chosen, min(max(LEAST, int(calls / cost(chosen))), most)


def told(effort: Effort) -> dict[str, Any]:
    """What likelihood.json says of it."""
    found = {"proposal": effort.proposal.order, "particles": effort.proposal.particles}
    return found | {"seconds_a_call": effort.seconds_a_call}


def to_choose(
    particles: int | None, counts: list[int] | None, image: bool, scored: bool
) -> list[tuple[int, list[int]]]:
    """(N, numbers M) to choose among; None: not given. A given M without N has no particles.

    Args:
        particles: N.
        counts: numbers M of works.
        image: whether an example is one.
        scored: whether its kernels have a score, by which particles are resampled.
    """
    if counts is None and not image:
        counts = _VECTOR
    if particles is None and counts is None and scored:
        return [(num, [1]) for num in NUMBERS]
    particles = particles or 1
    if counts is None:
        return [(1, [num]) for num in NUMBERS] if particles == 1 else [(particles, [1])]
    return [(particles, counts)]


def _seconds_a_call(run: Run, steps: int | None, lanes: int) -> float:
    """Seconds of a call of the network on one of `lanes` examples: the best batch in a second."""

    @jax.jit
    def batch(params, x, t):
        return jax.vmap(run.model.chain(params, steps).reverse, (0, None))(x, t)

    x, t = jnp.zeros((lanes, *run.model.event_shape)), jnp.asarray(2, jnp.int32)
    jax.block_until_ready(batch(run.params, x, t))
    seconds: list[float] = []
    while sum(seconds) < 1 and len(seconds) < 100:
        begun = time.perf_counter()
        jax.block_until_ready(batch(run.params, x, t))
        seconds.append(time.perf_counter() - begun)
    return min(seconds) / lanes
