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

from collections.abc import Callable
from functools import partial
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


class Path(NamedTuple):
    """The trajectory that led the model to x^0."""

    up: Array  # (T+1, *event) x^t at t
    down: Array  # (t_1+1, *event) y^s at s
    held: Array | bool = True  # whether slot 0 holds it; False: all are drawn


class _Walk(NamedTuple):
    """From x^0 to x^T in `moves` moves, of which `down` go down."""

    chain: Chain
    x0: Array
    proposal: Proposal
    down: Array | int  # t_1 − 1; 0 of the paper's order
    own: Path | None = None

    @property
    def moves(self) -> Array | int:
        """How many."""
        return self.down + self.chain.T - 1

    def level(self, i: Array) -> tuple[Array, Array]:
        """Where move i goes, and whether it is up."""
        return jnp.where(i < self.down, self.down - i, i - self.down + 2), i >= self.down

    def with_own(self, slots: Array, own: Callable[[Path], Array]) -> Array:
        """(N, ...) of the slots, of slot 0 that of the trajectory which it holds."""
        if self.own is None:
            return slots
        return slots.at[0].set(jnp.where(self.own.held, own(self.own), slots[0]))


def draw(key: Array, chain: Chain, proposal: Proposal) -> tuple[Array, Path]:
    """A sample x^0 of the model (eq. 5) and the trajectory that led to it, T events.

    The same key gives the same x^0 as `sampling.sample`, onto its bin where the last step is
    discretized.
    """

    def body(x: Array, t: Array):
        x_prev = chain.family.sample(jax.random.fold_in(key, t), chain.reverse(x, t))
        return x_prev, x_prev

    x_T = sampling.start(key, chain)
    x0, lower = jax.lax.scan(body, x_T, jnp.arange(chain.T, 0, -1))
    x0 = chain.draw_last(x0)
    up = jnp.concatenate([x_T[None], lower])[::-1]
    down = up[:2]
    if proposal.order == "up_down":
        down = up_down.between(jax.random.fold_in(key, chain.T + 2), chain, up[1], x0)
    return x0, Path(up, down)


def work(key: Array, chain: Chain, x0: Array, proposal: Proposal, own: Path | None = None) -> Array:
    """W of N trajectories from x^0 (eq. 1), scalar nats: E e^{−W} = p(x^0) (eq. 9).

    Where one of them is that which led the model to x^0, given x^0 E e^{W} = 1/p(x^0). A network
    call a particle and move, T + t_1 moves, and two more where it may be resampled. Differentiable
    where N = 1 and the schedule is known when it is traced.
    """
    walk = _walk(chain, x0, proposal)._replace(own=own)
    key_start, key_moves, key_resample = jax.random.split(key, 3)
    system = _start(key_start, walk)
    move = partial(_move, key_moves, walk)
    if proposal.particles == 1:
        system = jax.lax.fori_loop(0, walk.moves, move, system)
    else:
        system = _resampled(key_resample, walk, system, move)
    last = jax.nn.logsumexp(sum(system.log_g) + _log_prior(walk, system)) - np.log(len(system.x))
    value, low = _add(system.log_z, last)
    return -(value + low)


def log_weights(
    key: Array, chain: Chain, x0: Array, proposal: Proposal, levels: tuple[int, ...]
) -> Array:
    """log g_i ψ_t of N trajectories that are not resampled, by level: (2, levels, N) nats.

    The first are on their way down, NaN above t_1 and for the paper's order. At T ψ is the prior,
    so that they are −W there. For N > 1 and a chain with a score.
    """
    walk, (key_start, key_moves) = _walk(chain, x0, proposal), jax.random.split(key)
    log_psi, first, at = _log_twist(walk), walk.down + 1, jnp.asarray(levels)
    key_point = jax.random.fold_in(jax.random.key(0), 0)  # the same of every order

    def gaussian_at(t: Array) -> Array:
        law = chain.family.marginal(x0, chain.schedule.log_alpha_bar[t])
        return chain.family.sample(key_point, law)

    stops = jnp.concatenate([first - jnp.minimum(at, first)[::-1], walk.down + at - 1])

    def body(carry, place: tuple[Array, Array]):
        (begun, system), (stop, going_up) = carry, place
        system = jax.lax.fori_loop(begun, stop, partial(_move, key_moves, walk), system)
        t = jnp.where(going_up, stop - walk.down + 1, first - stop)
        a = gaussian_at(t)
        psi = log_psi(system.x, system.params, t, a, chain.reverse(a, t))
        psi = jnp.where(t < chain.T, psi, _log_prior(walk, system))
        known = (t >= chain.first_t) & (going_up | (proposal.order == "up_down"))
        return (stop, system), jnp.where(known, sum(system.log_g) + psi, jnp.nan)

    system = _start(key_start, walk)
    places = stops, jnp.arange(len(stops)) >= len(levels)
    _, found = jax.lax.scan(body, (jnp.zeros_like(stops[0]), system), places)
    down, up = found.reshape(2, len(levels), -1)
    return jnp.stack([jnp.where(at[:, None] > first, jnp.nan, down[::-1]), up])


def _walk(chain: Chain, x0: Array, proposal: Proposal) -> _Walk:
    down = up_down.turn(chain) - 1 if proposal.order == "up_down" else 0
    return _Walk(chain, x0, proposal, down)


def _resampled(key: Array, walk: _Walk, system: _System, move) -> _System:
    """The particles after all moves, in blocks at whose end they may be resampled."""
    chain, proposal, log_psi = walk.chain, walk.proposal, _log_twist(walk)
    every, blocks = proposal.every, -(-walk.moves // proposal.every)

    def after(blocks: Array | int) -> Array:
        return walk.level(jnp.minimum(blocks * every, walk.moves) - 1)[0]

    def block(b: Array, system: _System) -> _System:
        def body(system: _System, i: Array):
            return _where(i < walk.moves, move(i, system), system), None

        system, _ = jax.lax.scan(body, system, b * every + jnp.arange(every))
        N, t = len(system.x), after(b + 1)
        if N == 1:
            return system
        again, number = _resample(jax.random.fold_in(key, b), walk, system, log_psi, t, N)
        # At 1 the kernel is not the network's, and at T the prior is the twist.
        do = (t > 1) & (t < chain.T) & (number < proposal.threshold * N)
        return _where(do, again, system)

    late = proposal.number_late
    if late == proposal.particles:
        return jax.lax.fori_loop(0, blocks, block, system)
    # Levels of more signal than noise, and one at least on the way up.
    signal = jnp.sum(chain.schedule.log_snr[1:] > 0)
    turn = jnp.clip(walk.down + jnp.maximum(signal - 1, 1), 1, walk.moves)
    turn = -(-turn // every)
    system = jax.lax.fori_loop(0, turn, block, system)
    key_late = jax.random.fold_in(key, blocks)
    system, _ = _resample(key_late, walk, system, log_psi, after(turn), late)
    return jax.lax.fori_loop(turn, blocks, block, system)


def _start(key: Array, walk: _Walk) -> _System:
    """The particles at t_1 (or 1), weighed."""
    chain, x0, family, first = walk.chain, walk.x0, walk.chain.family, walk.down + 1
    if walk.proposal.order == "up_down":
        law, last = up_down.start(chain, x0)
    else:
        law, last = family.step(x0, chain.schedule.beta[1]), None
    x = jax.vmap(family.sample, (0, None))(jax.random.split(key, walk.proposal.particles), law)
    x = walk.with_own(x, lambda own: own.down[first])
    params = jax.vmap(lambda z: chain.reverse(z, jnp.asarray(first)))(x)
    if last is not None:
        log_g = jax.vmap(lambda z: _log_ratio(chain, last(z), x0, law, z))(x)
    else:
        log_g = jax.vmap(lambda z, p: chain.log_last(p, x0) - family.log_prob(law, z))(x, params)
    nothing = jnp.zeros((), x.dtype)
    return _System(x, params, (log_g, jnp.zeros_like(log_g)), (nothing, nothing))


def _log_twist(walk: _Walk) -> twist.OfMany:
    """log ψ: the caller's, or by the score from x^0 less its noise, if it has any."""
    chain, given = walk.chain, walk.proposal.twist
    if given is not None:
        return lambda x, params, t, *_: jax.vmap(lambda z: twist.scalar(given(z, t), z))(x)
    clean = up_down.denoised(chain, walk.x0) if chain.first_t == 2 else walk.x0
    return twist.by_score(chain, clean)


def _move(key: Array, walk: _Walk, i: Array, system: _System) -> _System:
    """Move i: from above by the model's kernels, or from below by q."""
    chain, family, (t, up) = walk.chain, walk.chain.family, walk.level(i)
    beta = chain.schedule.beta[jnp.where(up, t, t + 1)]

    def step(x: Array) -> Params:
        return jax.vmap(lambda z: family.step(z, beta))(x)

    law = _where(up, step(system.x), system.params)
    keys = jax.random.split(jax.random.fold_in(key, i), len(system.x))
    x = jax.vmap(family.sample)(keys, law)
    x = walk.with_own(
        x, lambda own: jnp.where(up, own.up[t], own.down[jnp.minimum(t, len(own.down) - 1)])
    )
    params = jax.vmap(lambda z: chain.reverse(z, t))(x)
    lower, upper = jnp.where(up, system.x, x), jnp.where(up, x, system.x)
    p = _where(up, params, system.params)
    ratio = jax.vmap(lambda *at: _log_ratio(chain, *at))(p, lower, step(lower), upper)
    log_g = _add(system.log_g, jnp.where(up, ratio, -ratio))
    return system._replace(x=x, params=params, log_g=log_g)


def _resample(
    key: Array, walk: _Walk, system: _System, log_psi: twist.OfMany, t: Array, num: int
) -> tuple[_System, Array]:
    """`num` particles after eq. 1, and how many those before were worth."""
    key_point, key_one = jax.random.split(key)
    one = jax.random.randint(key_one, (), 0, len(system.x))  # any of them, slot 0 as any other
    at = jax.tree.map(lambda a: a[one], (system.x, system.params))
    psi = log_psi(system.x, system.params, t, *at)
    psi = jnp.where(t < walk.chain.T, psi, _log_prior(walk, system))  # nothing is lost at T
    value = sum(system.log_g) + psi
    weight = jax.nn.softmax(value)
    point = jax.random.uniform(key_point, dtype=weight.dtype)
    if walk.own is not None:
        point = point * jnp.where(walk.own.held, weight[0], 1)
    places = jnp.mod(point + jnp.arange(num, dtype=weight.dtype) / num, 1)
    parents = jnp.searchsorted(jnp.cumsum(weight), places, side="right")
    parents = jnp.minimum(parents, len(psi) - 1)
    parents = walk.with_own(parents, lambda own: jnp.zeros((), parents.dtype))
    x, params = jax.tree.map(lambda a: a[parents], (system.x, system.params))
    mean = jax.nn.logsumexp(value) - np.log(len(psi))
    log_g = -psi[parents], jnp.zeros_like(psi[parents])
    return _System(x, params, log_g, _add(system.log_z, mean)), 1 / jnp.sum(weight**2)


def _log_prior(walk: _Walk, system: _System) -> Array:
    return jax.vmap(lambda x: walk.chain.family.log_prob(walk.chain.prior, x))(system.x)


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
