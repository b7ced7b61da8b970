"""Correctors: network calls spent at a step t, to undo what the kernels of eq. 22 normalise away.

A tilt without weights is biased (tilt.py). At each t a corrector moves x^t towards the law that the
tilt means there, by kernels of the tilted chain alone, so that it serves any tilt:

* Gibbs      x^{t-j} by j steps of p~, x^t anew by q(x^t|x^{t-j}), several times: the resampling of
             RePaint (Lugmayr et al. 2022), for both families
* Langevin   x^t += η (√ᾱ x̂ − x^t) + √(2η (1−ᾱ)) n, with x̂ = E(x^0|x^t, y) as the mean of p~ has it
             (guide.py): (√ᾱ x̂ − x^t)/(1−ᾱ) is the score of the tilted law; Gaussian

Both have errors of their own, of the discretisation, that do not fall with more of them. Neither
touches the steps that end at x^0: a fixed last step adds the noise β_1 (App. B.2), and would again
with every turn.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from dpm_jax import units
from dpm_jax.core import sampling
from dpm_jax.core.chain import Chain
from dpm_jax.core.denoising import x0_hat
from dpm_jax.core.family import Array


class Gibbs(NamedTuple):
    """Every `jump` steps but the last are taken `repeats` times more, q(x^t|x^{t-jump}) between."""

    repeats: int = 1
    jump: int = 1

    def calls(self, T: int) -> int:
        """Network calls of a draw."""
        blocks = -(-T // self.jump)
        return self.jump * (blocks + self.repeats * (blocks - 1))

    def sample(self, key: Array, chain: Chain) -> Array:
        """One draw x^0 of a (tilted) chain, of the event's shape; jumps end at t = 0.

        Raises:
            ValueError: for repeats below 0, or a jump outside 1..T.
        """
        repeats = units.whole("repeats", self.repeats, 0)
        jump, T = units.whole("jump", self.jump, 1, chain.T), chain.T
        level = chain.schedule.log_alpha_bar

        def down(x: Array, t: Array, key: Array) -> Array:  # of a block, that may be cut at t = 0
            def step(i: Array, x: Array) -> Array:
                s = jnp.maximum(t - i, 1)
                drawn = chain.family.sample(jax.random.fold_in(key, i), chain.reverse(x, s))
                return jnp.where(t - i >= 1, drawn, x)

            return jax.lax.fori_loop(0, jump, step, x)

        def block(x: Array, t: Array):
            keys = jax.random.split(jax.random.fold_in(key, t), 2 * repeats + 1)
            beta = -jnp.expm1(level[t] - level[jnp.maximum(t - jump, 0)])

            def again(i: Array, x: Array) -> Array:
                x = down(x, t, keys[2 * i])
                return chain.family.sample(keys[2 * i + 1], chain.family.step(x, beta))

            x = jax.lax.fori_loop(0, jnp.where(t > jump, repeats, 0), again, x)
            return down(x, t, keys[-1]), None

        x0, _ = jax.lax.scan(block, sampling.start(key, chain), jnp.arange(T, 0, -jump))
        return x0


class Langevin(NamedTuple):
    """`repeats` Langevin steps at every t > 1, of size η in units of 1 − ᾱ_t."""

    repeats: int = 1
    size: float = 0.2

    def calls(self, T: int) -> int:
        """Network calls of a draw."""
        return T + (T - 1) * self.repeats

    def sample(self, key: Array, chain: Chain) -> Array:
        """One draw x^0 of a (tilted) Gaussian chain, of the event's shape.

        Raises:
            ValueError: for repeats below 0, a size outside (0, 1], or a chain of bits.
        """
        repeats = units.whole("repeats", self.repeats, 0)
        if not 0 < self.size <= 1:
            raise ValueError(f"size: expected a number in (0, 1], got {self.size}")
        if not hasattr(chain.prior, "mean"):
            raise ValueError(f"chain: expected one of Gaussians, got {chain!r}; of bits: Gibbs")
        schedule, size = chain.schedule, self.size

        def body(x: Array, t: Array):
            def move(i: Array, x: Array) -> Array:
                guess = x0_hat(chain.reverse(x, t).mean, x, schedule, t)
                noise = jax.random.normal(jax.random.fold_in(of_t, i + 1), x.shape, x.dtype)
                drift = jnp.exp(0.5 * schedule.log_alpha_bar[t]) * guess - x
                return x + size * drift + jnp.sqrt(2 * size * schedule.noise[t]) * noise

            of_t = jax.random.fold_in(key, t)
            x = jax.lax.fori_loop(0, jnp.where(t > 1, repeats, 0), move, x)
            last = jax.random.fold_in(of_t, 0)
            return chain.family.sample(last, chain.reverse(x, t)), None

        x0, _ = jax.lax.scan(body, sampling.start(key, chain), jnp.arange(chain.T, 0, -1))
        return x0


Corrector = Gibbs | Langevin
