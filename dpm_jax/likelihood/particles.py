"""W of N trajectories that are resampled on their way from x^0 to x^T: sequential Monte Carlo.

Particle i goes from x^0 to x^T as its order says (up_down.py, or x^1 ~ q(x^1|x^0) and then up); its
weight g_i is the product of p/q over the steps it has made. At every `every`-th level, where the
effective number of the g_i ψ_t(x_i) is low, parents are drawn in proportion to them, and then

    g_i = (1/N) Σ_j g_j ψ_t(x_j) / ψ_t(x_i)                                                  (1)

with ψ the twist (twist.py). At the end W = −log (1/N) Σ_i g_i π(x_i^T): E e^{−W} = p(x^0) for any
ψ > 0 (Del Moral 2004). For the other side slot 0 holds the trajectory that led the model to x^0,
and parents are drawn given that slot 0 descends from itself (conditional SMC, Andrieu, Doucet &
Holenstein 2010): then E e^{W} = 1/p(x^0).

Parents are drawn systematically from a point that is uniform on the circle, slot i at (U + i/N) mod
1; given slot 0's parent, U is uniform over that parent's arc. Turning all slots changes no law, so
that slot 0 may stand for whichever slot the trajectory is in (Chopin & Singh 2015).

Where x^t is more noise than signal trajectories differ little: there a quarter of them go on, drawn
in the same way. N = 1 is one trajectory, without a twist.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dpm_jax.core import sampling
from dpm_jax.core.chain import Chain
from dpm_jax.core.family import Array, Params
from dpm_jax.core.numerics import exact_sum
from dpm_jax.likelihood import twist, up_down
from dpm_jax.likelihood.proposal import Proposal


class _System(NamedTuple):
    """N particles at one level."""

    x: Array  # (N, *event)
    params: Params  # of p(x^{t-1}|x^t) at each
    log_g: tuple[Array, Array]  # (N,) since they were last resampled, and what rounding took
    log_z: tuple[Array, Array]  # scalar, of the times before


class _Path(NamedTuple):
    """The trajectory that slot 0 holds."""

    up: Array  # (T+1, *event) x^t at t
    down: Array  # (t_1+1, *event) y^s at s


def forward_work(key: Array, chain: Chain, x0: Array, proposal: Proposal) -> Array:
    """W of N trajectories from x^0 (eq. 1), scalar nats: E e^{−W} = p(x^0) (eq. 9).

    A network call a particle and move, T + t_1 moves, and N + 1 where they may be resampled.
    Differentiable where N = 1 and the schedule is known when it is traced.
    """
    return _work(key, chain, x0, proposal, None)


def reverse_work(key: Array, chain: Chain, proposal: Proposal) -> tuple[Array, Array]:
    """A sample x^0 of the model (eq. 5), and W of N trajectories of which one led to it.

    Given x^0, E e^{W} = 1/p(x^0). That trajectory is held whole, T events. The same key gives the
    same x^0 as `sampling.sample`, onto its bin where the last step is discretized.
    """
    key_model, key_work = key, jax.random.fold_in(key, chain.T + 1)

    def body(x: Array, t: Array):
        x_prev = chain.family.sample(jax.random.fold_in(key_model, t), chain.reverse(x, t))
        return x_prev, x_prev

    x_T = sampling.start(key_model, chain)
    x0, lower = jax.lax.scan(body, x_T, jnp.arange(chain.T, 0, -1))
    x0 = chain.draw_last(x0)
    up = jnp.concatenate([x_T[None], lower])[::-1]
    down = up[:2]
    if proposal.order == "up_down":
        down = up_down.between(jax.random.fold_in(key_model, chain.T + 2), chain, up[1], x0)
    return x0, _work(key_work, chain, x0, proposal, _Path(up, down))


def _work(key: Array, chain: Chain, x0: Array, proposal: Proposal, own: _Path | None) -> Array:
    first = up_down.turn(chain) if proposal.order == "up_down" else 1
    key_start, key_late, key_moves = jax.random.split(key, 3)
    system = _start(key_start, chain, x0, proposal, first, own)
    log_psi = _log_twist(chain, x0, proposal, first)
    down, every = first - 1, proposal.every
    moves = down + chain.T - 1  # down and up

    def at(i: Array) -> tuple[Array, Array]:
        """The level of a move, and whether it is up."""
        return jnp.where(i < down, down - i, i - down + 2), i >= down

    def after(blocks: Array | int) -> Array:
        """The level after so many blocks."""
        return at(jnp.minimum(blocks * every, moves) - 1)[0]

    def block(b: Array, system: _System) -> _System:
        def body(system: _System, i: Array):
            moved = _move(jax.random.fold_in(key_moves, i), chain, system, *at(i), own)
            return _where(i < moves, moved, system), None

        system, _ = jax.lax.scan(body, system, b * every + jnp.arange(every))
        N, t = len(system.x), after(b + 1)
        if N == 1:
            return system
        key = jax.random.fold_in(key_moves, moves + b)
        resampled, number = _resample(key, system, log_psi, t, own, N)
        # At 1 the kernel is not the network's, and at T the prior is the twist.
        do = (t > 1) & (t < chain.T) & (number < proposal.threshold * N)
        return _where(do, resampled, system)

    blocks, late = -(-moves // every), proposal.number_late
    turn = _late(chain, down, every, blocks) if late < proposal.particles else blocks
    system = jax.lax.fori_loop(0, turn, block, system)
    if late < proposal.particles:
        system, _ = _resample(key_late, system, log_psi, after(turn), own, late)
        system = jax.lax.fori_loop(turn, blocks, block, system)
    prior = jax.vmap(lambda x: chain.family.log_prob(chain.prior, x))(system.x)
    last = jax.nn.logsumexp(sum(system.log_g) + prior) - np.log(len(system.x))
    value, low = _add(system.log_z, last)
    return -(value + low)


def _late(chain: Chain, down, every: int, blocks) -> Array:
    """After how many blocks x^t is more noise than signal; one at least has gone up."""
    signal = jnp.sum(chain.schedule.log_snr[1:] > 0)  # the last of these levels, on the way up
    return jnp.clip(-(-(down + signal - 1) // every), -(-(down + 1) // every), blocks)


def log_weights(
    key: Array, chain: Chain, x0: Array, proposal: Proposal, levels: tuple[int, ...]
) -> Array:
    """log g_i ψ_t of N trajectories that are not resampled, by level: (2, levels, N) nats.

    The first are on their way down, NaN above t_1 and for the paper's order. At T ψ is the prior,
    so that they are −W there. For N > 1 and a chain with a score.
    """
    first = up_down.turn(chain) if proposal.order == "up_down" else 1
    key_start, key_moves = jax.random.split(key)
    log_psi = _log_twist(chain, x0, proposal, first)
    assert log_psi is not None  # N > 1
    at, last = jnp.asarray(levels), first - 1
    stops = jnp.concatenate([first - jnp.minimum(at, first)[::-1], last + at - 1])

    def body(carry, place: tuple[Array, Array]):
        stop, going_up = place

        def move(i: Array, system: _System) -> _System:
            t, up = jnp.where(i < last, last - i, i - last + 2), i >= last
            return _move(jax.random.fold_in(key_moves, i), chain, system, t, up, None)

        begun, system = carry
        system = jax.lax.fori_loop(begun, stop, move, system)
        t = jnp.where(going_up, stop - last + 1, first - stop)
        prior = jax.vmap(lambda x: chain.family.log_prob(chain.prior, x))(system.x)
        psi = jnp.where(t < chain.T, log_psi(system.x, system.params, t), prior)
        known = (t >= chain.first_t) & (going_up | (proposal.order == "up_down"))
        return (stop, system), jnp.where(known, sum(system.log_g) + psi, jnp.nan)

    system = _start(key_start, chain, x0, proposal, first, None)
    places = stops, jnp.arange(len(stops)) >= len(levels)
    _, found = jax.lax.scan(body, (jnp.zeros_like(stops[0]), system), places)
    down, up = found.reshape(2, len(levels), -1)
    return jnp.stack([jnp.where(at[:, None] > first, jnp.nan, down[::-1]), up])


def _start(key, chain: Chain, x0: Array, proposal: Proposal, first, own: _Path | None) -> _System:
    """The particles at t_1 (or 1), weighed."""
    N, family = proposal.particles, chain.family
    if proposal.order == "up_down":
        law, last = up_down.start(chain, x0)
    else:
        law, last = family.step(x0, chain.schedule.beta[1]), None
    x = jax.vmap(family.sample, (0, None))(jax.random.split(key, N), law)
    if own is not None:
        x = x.at[0].set(own.down[first])
    params = jax.vmap(lambda z: chain.reverse(z, first))(x)
    if last is not None:
        log_g = jax.vmap(lambda z: _log_ratio(chain, last(z), x0, law, z))(x)
    else:
        log_g = jax.vmap(lambda z, p: chain.log_last(p, x0) - family.log_prob(law, z))(x, params)
    nothing = jnp.zeros((), x.dtype)
    return _System(x, params, (log_g, jnp.zeros_like(log_g)), (nothing, nothing))


def _log_twist(chain: Chain, x0: Array, proposal: Proposal, first) -> twist.OfMany | None:
    """log ψ of particles: the caller's, or by the score from x^0 less its noise, if it has any."""
    if proposal.twist is not None:
        given = proposal.twist
        return lambda x, params, t: jax.vmap(lambda z: given(z, t))(x)
    if proposal.particles == 1:
        return None
    return twist.by_score(chain, up_down.denoised(chain, x0) if chain.first_t == 2 else x0)


def _move(key, chain: Chain, system: _System, t: Array, up: Array, own: _Path | None) -> _System:
    """To level t, from above by the model's kernels or from below by q."""
    family, N = chain.family, len(system.x)
    beta = chain.schedule.beta[jnp.where(up, t, t + 1)]

    def step(x: Array) -> Params:
        return jax.vmap(lambda z: family.step(z, beta))(x)

    law = _where(up, step(system.x), system.params)
    x = jax.vmap(family.sample)(jax.random.split(key, N), law)
    if own is not None:
        below = own.down[jnp.minimum(t, len(own.down) - 1)]
        x = x.at[0].set(jnp.where(up, own.up[t], below))
    params = jax.vmap(lambda z: chain.reverse(z, t))(x)
    lower, upper = jnp.where(up, system.x, x), jnp.where(up, x, system.x)
    p = _where(up, params, system.params)
    ratio = jax.vmap(lambda *at: _log_ratio(chain, *at))(p, lower, step(lower), upper)
    return system._replace(
        x=x, params=params, log_g=_add(system.log_g, jnp.where(up, ratio, -ratio))
    )


def _resample(
    key, system: _System, log_psi, t: Array, own: _Path | None, num: int
) -> tuple[_System, Array]:
    """`num` particles after eq. 1, and how many those before were worth."""
    psi = log_psi(system.x, system.params, t)
    value = sum(system.log_g) + psi
    weight = jax.nn.softmax(value)
    point = jax.random.uniform(key, dtype=weight.dtype)
    point = point if own is None else point * weight[0]
    places = jnp.mod(point + jnp.arange(num, dtype=weight.dtype) / num, 1)
    parents = jnp.searchsorted(jnp.cumsum(weight), places, side="right")
    parents = jnp.minimum(parents, len(psi) - 1)
    parents = parents if own is None else parents.at[0].set(0)
    x, params = jax.tree.map(lambda a: a[parents], (system.x, system.params))
    mean = jax.nn.logsumexp(value) - np.log(len(psi))
    log_g = -psi[parents], jnp.zeros_like(psi[parents])
    return _System(x, params, log_g, _add(system.log_z, mean)), 1 / jnp.sum(weight**2)


def _log_ratio(chain: Chain, p: Params, x: Array, q: Params, y: Array) -> Array:
    """log p(x) − log q(y)."""
    family = chain.family
    if family.log_ratio is not None:
        return family.log_ratio(p, x, q, y)
    return family.log_prob(p, x) - family.log_prob(q, y)


def _where(take: Array, a, b):
    return jax.tree.map(lambda one, other: jnp.where(take, one, other), a, b)


def _add(total: tuple[Array, Array], value: Array) -> tuple[Array, Array]:
    found, lost = exact_sum(total[0], value)
    return found, total[1] + lost
