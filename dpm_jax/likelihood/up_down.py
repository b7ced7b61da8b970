"""Trajectories of eq. 9 that go down before they go up: a proposal for Gaussians, and its work.

The fixed last step T_π(x^0|x^1; β_1) is one more step of the forward kernel (App. B.2). So where
the model is right up to x^1, its x^0 has the law of the level t' with

    ᾱ_{t'} = ᾱ_1²,                                                                          (1)

more noise than x^1 has; but the paper's order draws x^1 ~ q(x^1|x^0), which adds noise where the
model has taken some away. Of images that is most of what eq. 9 loses. Here x^0 is taken for what it
is, y^{t'} = x^0, and goes down to y^1 = x^1 by the model's kernels, from the last t_1 above t'
(ᾱ_{t_1} > ᾱ_{t'}), then up to x^T by q:

    y^{t_1} ~ ρ(·|x^0);  y^{s-1} ~ p(·|y^s), s = t_1..2;  x^t ~ q(·|x^{t-1}), t = 2..T.     (2)

To weigh it, the y are given a law as well, that of the forward process between its ends:

    q(y^{2..t_1}|x^1, y^{t'} = x^0)
        = Π_{s=2}^{t_1} q(y^s|y^{s-1}) q(x^0|y^{t_1}) / q(x^0|x^1)                            (3)

with q(x^0|y^{t_1}) the kernel of β' = 1 − ᾱ_{t'}/ᾱ_{t_1}. By eq. 1 the last factor is the kernel of
β_1 from x^1, p(x^0|x^1) itself. It cancels in p(x^{0..T}) times eq. 3 over eq. 2:

    −W = log π(x^T) + Σ_{t=2}^T log [p(x^{t-1}|x^t) / q(x^t|x^{t-1})]
       + Σ_{s=2}^{t_1} log [q(y^s|y^{s-1}) / p(y^{s-1}|y^s)]
       + log [q(x^0|y^{t_1}) / ρ(y^{t_1}|x^0)]                                              (4)

and E e^{−W} = p(x^0) exactly, whatever the network is. ρ is q(y^{t_1}|y^{t'} = x^0, x̂^0), with the
network's x̂^0. Given x^0, the model's own x^{1..T} with y from eq. 3 are a draw of the target, under
which E e^{W} = 1/p(x^0).
"""

import jax
import jax.numpy as jnp
import numpy as np

from dpm_jax.core import gaussian, sampling
from dpm_jax.core.chain import Chain
from dpm_jax.core.denoising import x0_hat
from dpm_jax.core.family import Array
from dpm_jax.core.gaussian import Normal
from dpm_jax.core.numerics import exact_sum


def check(chain: Chain) -> None:
    """ValueError for a chain that has no such trajectories."""
    if not isinstance(chain.prior, Normal) or chain.last_step != "fixed":
        raise ValueError(
            "proposal: expected 'paper' but for Gaussians with the fixed last step, got 'up_down'"
            f" for {chain!r}"
        )


def forward_work(key: Array, chain: Chain, x0: Array) -> Array:
    """W (eq. 4) of one trajectory down from x^0 and up, scalar nats: E e^{−W} = p(x^0) (eq. 9).

    T + t_1 calls of the network. Differentiable where the schedule is known when it is traced.

    Raises:
        ValueError: for bits, and for another last step than the fixed one.
    """
    check(chain)
    first, law, beta = _start(chain, x0)
    key_start, key_down, key_up = jax.random.split(key, 3)

    def down(i: Array, carry):
        y, total = carry
        s = first - i
        p = chain.reverse(y, s)
        y_prev = gaussian.sample(jax.random.fold_in(key_down, s), p)
        return y_prev, _add(total, -_log_ratio(chain, p, y_prev, y, s))

    def up(carry, t: Array):
        x_prev, total = carry
        q = gaussian.step(x_prev, chain.schedule.beta[t])
        x = gaussian.sample(jax.random.fold_in(key_up, t), q)
        return (x, _add(total, _log_ratio(chain, chain.reverse(x, t), x_prev, x, t))), None

    y = gaussian.sample(key_start, law)
    total = _log_start(x0, y, law, beta), jnp.zeros_like(beta)
    x_1, total = jax.lax.fori_loop(0, first - 1, down, (y, total))
    (x_T, total), _ = jax.lax.scan(up, (x_1, total), jnp.arange(2, chain.T + 1))
    value, low = _add(total, gaussian.log_prob(chain.prior, x_T))
    return -(value + low)


def reverse_work(key: Array, chain: Chain) -> tuple[Array, Array]:
    """A sample x^0 of the model (eq. 5) and W (eq. 4) of a trajectory that the target draws for it.

    x^1..x^T are those that led to it, y is drawn by eq. 3. Given x^0, E e^{W} = 1/p(x^0). The same
    key gives the same x^0 as `sampling.sample`.

    Raises:
        ValueError: for bits, and for another last step than the fixed one.
    """
    check(chain)

    def model(carry, t: Array):
        x, total = carry
        p = chain.reverse(x, t)
        x_prev = gaussian.sample(jax.random.fold_in(key, t), p)
        return (x_prev, _add(total, _log_ratio(chain, p, x_prev, x, t))), None

    x_T = sampling.start(key, chain)
    total = gaussian.log_prob(chain.prior, x_T), jnp.zeros((), x_T.dtype)
    (x_1, total), _ = jax.lax.scan(model, (x_T, total), jnp.arange(chain.T, 1, -1))
    last = gaussian.step(x_1, chain.schedule.beta[1])
    x0 = gaussian.sample(jax.random.fold_in(key, 1), last)
    first, law, beta = _start(chain, x0)

    def between(i: Array, carry):
        y_prev, total = carry
        s = i + 2
        y = gaussian.sample(jax.random.fold_in(key, chain.T + s), _forward(chain, y_prev, x0, s))
        return y, _add(total, -_log_ratio(chain, chain.reverse(y, s), y_prev, y, s))

    y, total = jax.lax.fori_loop(0, first - 1, between, (x_1, total))
    value, low = _add(total, _log_start(x0, y, law, beta))
    return x0, -(value + low)


def turn(chain: Chain) -> Array | int:
    """t_1, the last t with ᾱ_t > ᾱ_1² (eq. 1): where a trajectory enters on its way down."""
    level = chain.schedule.log_alpha_bar
    if isinstance(level, jax.core.Tracer):
        return jnp.sum(level > 2 * level[1]) - 1
    known = np.asarray(level)
    return int(np.sum(known > 2 * known[1])) - 1


def _start(chain: Chain, x0: Array) -> tuple[Array | int, Normal, Array]:
    """t_1, ρ(y^{t_1}|x^0), and β' of the step from t_1 to t'."""
    first, level = turn(chain), chain.schedule.log_alpha_bar
    beta = -jnp.expm1(2 * level[1] - level[first])
    t = jnp.maximum(first, 2)  # of the network; the kernel at 1 is not its
    guess = x0_hat(chain.reverse(x0, t).mean, x0, chain.schedule, t)
    return first, gaussian.bridge(guess, x0, beta, level[first]), beta


def _log_start(x0: Array, y: Array, law: Normal, beta: Array) -> Array:
    """log q(x^0|y^{t_1}) − log ρ(y^{t_1}|x^0)."""
    return _difference(gaussian.step(y, beta), x0, law, y)


def _forward(chain: Chain, y_prev: Array, x0: Array, s: Array) -> Normal:
    """q(y^s|y^{s-1}, y^{t'} = x^0) of eq. 3: the step times what x^0 says of y^s."""
    level = chain.schedule.log_alpha_bar
    rest = 2 * level[1] - level[s]  # log of what is left of y^s in x^0
    seen = Normal(jnp.exp(-0.5 * rest) * x0, jnp.full_like(x0, -jnp.expm1(rest) / jnp.exp(rest)))
    return gaussian.multiply(gaussian.step(y_prev, chain.schedule.beta[s]), seen)[0]


def _log_ratio(chain: Chain, p: Normal, x_prev: Array, x: Array, t: Array) -> Array:
    """log p(x^{t-1}|x^t) − log q(x^t|x^{t-1})."""
    return _difference(p, x_prev, gaussian.step(x_prev, chain.schedule.beta[t]), x)


def _difference(p: Normal, x: Array, q: Normal, y: Array) -> Array:
    """log p(x) − log q(y), element by element before the sum: of many dimensions each is large."""
    square = (x - p.mean - p.low) ** 2 / p.variance - (y - q.mean - q.low) ** 2 / q.variance
    return -0.5 * jnp.sum(square + jnp.log(p.variance) - jnp.log(q.variance))


def _add(total: tuple[Array, Array], value: Array) -> tuple[Array, Array]:
    found, lost = exact_sum(total[0], value)
    return found, total[1] + lost
