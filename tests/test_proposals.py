"""Particles that are resampled on their way: unbiased on both sides, whatever twist and kernels."""

import itertools
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal

from cases import (
    C_CORRELATED,
    C_DIAGONAL,
    averaged,
    gaussian_chain,
    keys,
    mean_is,
    model_covariance,
)
from dpm_jax import binomial, gaussian, likelihood, posterior, schedule
from dpm_jax.core.binomial import Bernoulli
from dpm_jax.core.chain import make_chain
from dpm_jax.core.gaussian import Normal
from dpm_jax.likelihood import Proposal, bound, twist

SPINS = np.array(list(itertools.product([0.0, 1.0], repeat=5)))


@lru_cache
def spins(last_step):
    """Five bits of a ring whose neighbours agree: the chain, and log p of its 32 states, summed."""
    steps, family = schedule.constant_fraction(6, 0.05), binomial.family(0.4)

    def reverse(x, t):
        neighbours = jnp.roll(x, 1, axis=-1) + jnp.roll(x, -1, axis=-1) - 1
        return Bernoulli(family.step(x, steps.beta[t]).logits + 0.4 * neighbours)

    chain = make_chain(family, steps, reverse, (5,), last_step)
    of = jax.jit(jax.vmap(lambda p, x: family.log_prob(p, x), (None, 0)))
    p = np.exp(of(chain.prior, SPINS))
    for t in range(steps.T, 0, -1):
        kernel = jax.vmap(chain.reverse, (0, None))(jnp.asarray(SPINS, jnp.float32), t)
        p = p @ np.exp(jax.vmap(of, (0, None))(kernel, SPINS))
    return chain, np.log(p)


def tilted(x, t):
    """A twist that knows nothing of the chain: any is right."""
    return 0.7 * x[0] - 0.4 * x[-1] / jnp.asarray(t, x.dtype)


@lru_cache
def three(last_step):
    """Three correlated Gaussians with diagonal kernels, and the covariance of the model."""
    steps = schedule.geometric(16, 0.1, 30.0)
    chain, _ = gaussian_chain(C_CORRELATED, steps, last_step)
    return chain, model_covariance(steps, chain.reverse)


OF_BITS = {
    "paper": ("learned", Proposal("paper", 4, every=2, threshold=1.0, twist=tilted)),
    "fixed": ("fixed", Proposal("paper", 4, every=1, threshold=0.8, twist=tilted)),
    "down": ("fixed", Proposal("up_down")),
    "down, many": ("fixed", Proposal("up_down", 5, every=1, threshold=1.0, late=3, twist=tilted)),
}
OF_GAUSSIANS = {
    "score": ("fixed", Proposal("up_down", 4, every=3, threshold=1.0)),
    "learned": ("learned", Proposal("paper", 4, every=2, threshold=1.0)),
    "tilted": ("fixed", Proposal("up_down", 8, every=2, threshold=0.9, late=8, twist=tilted)),
}


@pytest.mark.parametrize("name", OF_BITS)
def test_of_bits_both_sides_have_the_mean_p(name):
    last_step, proposal = OF_BITS[name]
    chain, log_p = spins(last_step)
    x0 = jnp.asarray(SPINS[[5, 31]], jnp.float32)

    @jax.jit
    def works(keys):
        forward = jax.vmap(lambda k, x: likelihood.forward_work(k, chain, x, proposal), (0, None))
        return jax.vmap(forward, (None, 0))(keys, x0), jax.vmap(
            lambda k: likelihood.reverse_work(k, chain, proposal)
        )(keys)

    forward, (x, reverse) = works(keys(6000))
    mean_is(np.exp(-np.asarray(forward).T - log_p[[5, 31]]), 1.0)
    which = np.asarray(x) @ 2.0 ** np.arange(4, -1, -1)
    mean_is(np.exp(reverse + log_p[which.astype(int)]), 1.0)


@pytest.mark.parametrize("name", OF_GAUSSIANS)
def test_of_gaussians_both_sides_have_the_mean_p(name):
    last_step, proposal = OF_GAUSSIANS[name]
    chain, S = three(last_step)

    found = jax.jit(jax.vmap(lambda k: likelihood.sandwich(k, chain, 2, proposal=proposal)))(
        keys(6000)
    )
    p = multivariate_normal(np.zeros(3), S).logpdf(found.x0)
    mean_is(np.exp(found.lower - p), 1.0)
    mean_is(np.exp(p - found.upper), 1.0)
    mean_is(np.asarray(found.x0)[:, :, None] * np.asarray(found.x0)[:, None], S)


@lru_cache
def many(T):
    """64 Gaussians, half of them flat, with kernels of one variance; the variances of the model."""
    spectrum, steps = np.where(np.arange(64) < 32, 2.0 / (1 + np.arange(64)), 1e-5), None
    steps = schedule.geometric(T, 2e-3, 1e4)
    exact, _ = gaussian_chain(np.diag(spectrum), steps)
    chain = make_chain(
        gaussian.family(),
        steps,
        lambda x, t: (lambda p: Normal(p.mean, jnp.full_like(x, jnp.mean(p.variance))))(
            exact.reverse(x, t)
        ),
        (64,),
    )
    at = jax.vmap(chain.reverse, (None, 0))(jnp.ones(64), jnp.arange(T, 0, -1))
    variance = np.ones(64)
    for gain, spread in zip(np.asarray(at.mean, float), np.asarray(at.variance, float)):
        variance = gain**2 * variance + spread
    return chain, variance


def test_resampling_by_the_score_closes_the_sandwich():
    """T = 70 and 16 trajectories: half of what is left without resampling, about the truth."""
    chain, variance = many(70)
    resampled = Proposal("up_down", 16, threshold=0.5, late=16)

    @jax.jit
    def both(keys):
        def of(proposal, num):
            return jax.vmap(lambda k: likelihood.sandwich(k, chain, num, proposal=proposal))(keys)

        return of("up_down", 16), of(resampled, 1)

    plain, ours = both(keys(256))
    truth = -0.5 * np.sum(np.asarray(ours.x0) ** 2 / variance + np.log(2 * np.pi * variance), 1)
    width = [np.mean(found.upper - found.lower) for found in (plain, ours)]
    assert width[1] < 0.6 * width[0]  # 0.45 to 0.49, known to 0.035
    assert np.mean(ours.lower) < np.mean(truth) < np.mean(ours.upper)


def test_particles_below_one_number_are_the_mean_of_their_trajectories():
    """Without resampling N particles are N trajectories: the same law, mean and width."""
    chain, _ = three("fixed")
    x0 = jnp.array([0.7, -0.9, 0.2])
    one = jax.jit(jax.vmap(lambda k: likelihood.forward_work(k, chain, x0, "up_down")))
    together = Proposal("up_down", 8, threshold=0.0, late=8)
    many = jax.jit(jax.vmap(lambda k: likelihood.forward_work(k, chain, x0, together)))
    apart = -(jax.nn.logsumexp(-one(keys(8 * 2000)).reshape(8, 2000), axis=0) - np.log(8.0))
    ours = np.asarray(many(keys(2000, 1)))
    mean_is(ours, np.mean(apart), expected_error=np.std(apart) / np.sqrt(2000))
    assert abs(np.std(ours) / np.std(apart) - 1) < 0.15


def test_both_sides_of_a_sandwich_are_one_loop():
    """The network is traced once more than for one side: to draw the sample."""
    exact, seen = three("fixed")[0], []
    chain = exact._replace(reverse=lambda x, t: seen.append(t) or exact.reverse(x, t))
    of = Proposal("up_down", 8)
    jax.eval_shape(
        lambda k: likelihood.estimate(k, chain, jnp.zeros(3), 5, proposal=of), jax.random.key(0)
    )
    one_side = len(seen)
    jax.eval_shape(lambda k: likelihood.sandwich(k, chain, 5, proposal=of), jax.random.key(0))
    assert len(seen) - one_side == one_side + 1


BAD = {
    "order": (Proposal("down"), "proposal: expected one of .'paper', 'up_down'."),
    "particles": (Proposal("paper", 0), "proposal.particles: expected at least 1, got 0"),
    "every": (Proposal("paper", 4, every=0), "proposal.every: expected at least 1, got 0"),
    "late": (Proposal("paper", 4, late=5), "proposal.late: expected 1..4, got 5"),
    "threshold": (Proposal("paper", 4, threshold=1.5), "proposal.threshold: expected 0 .. 1"),
    "learned": (Proposal("up_down"), "expected 'paper' but for the fixed last step"),
    "twist": (Proposal("paper", 4), "proposal.twist: expected a function of your own but for"),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("ask", [likelihood.estimate, likelihood.sandwich, likelihood.reverse_work])
def test_bad_proposals_are_refused(ask, name):
    proposal, message = BAD[name]
    chain, _ = spins("learned")
    x0 = (SPINS[0],) if ask is likelihood.estimate else ()
    num = () if ask is likelihood.reverse_work else (4,)
    with pytest.raises(ValueError, match=message):
        ask(jax.random.key(0), chain, *x0, *num, proposal=proposal)
    with pytest.raises(
        TypeError, match=r"chain: expected one such as model\.chain\(params\), got a t"
    ):
        ask(jax.random.key(0), (1, 2), *x0, *num)
    with pytest.raises(TypeError, match="proposal: expected one of"):
        ask(jax.random.key(0), chain, *x0, *num, proposal=3)


def test_the_twist_is_the_marginal_of_exact_kernels():
    """log ψ_t(x)/ψ_t(a) of Gaussians in closed form: near, across and opposite each other."""
    steps = schedule.geometric(16, 0.1, 30.0)
    chain, _ = gaussian_chain(C_DIAGONAL, steps, "fixed")
    of = twist.by_score(chain, jnp.array([0.3, -0.2, 0.5]))
    x = jax.random.normal(jax.random.key(0), (40, 3))
    a = x[0]
    x = x.at[1].set(-a).at[2].set(1.01 * a).at[3].set(jnp.zeros(3))

    @jax.jit
    def log_psi(t):
        kernels = jax.vmap(lambda z: chain.reverse(z, t))(x)
        return of(x, kernels, t, a, jax.tree.map(lambda v: v[0], kernels))

    for t in (2, 7, 15):
        found = log_psi(t)
        alpha_bar = np.asarray(steps.alpha_bar, float)[t]
        S = alpha_bar * np.diag(C_DIAGONAL) + 1 - alpha_bar
        exact = -0.5 * np.sum((np.asarray(x) ** 2 - np.asarray(a) ** 2) / S, axis=1)
        np.testing.assert_allclose(found, exact, atol=0.02 * np.abs(exact).max())


def test_resampling_spreads_no_work_in_few_dimensions():
    """Two points may lie on opposite sides of the centre there, where an arc has no plane."""
    chain, _ = three("fixed")
    x0 = jnp.array([0.7, -0.9, 0.2])

    @jax.jit
    def spread(keys):
        def of(threshold):
            proposal = Proposal("up_down", 16, every=1, threshold=threshold, late=16)
            return jax.vmap(lambda k: likelihood.forward_work(k, chain, x0, proposal))(keys)

        return jnp.std(of(1.0)), jnp.std(of(0.0))

    resampled, plain = spread(keys(2000))
    assert resampled < 1.5 * plain


@lru_cache
def one_number(last_step):
    """A number with kernels that are off, of which ᾱ_T = 0: the chain, mean and variance of p."""
    steps = schedule.from_beta([0.1, 0.3, 0.5, 1.0])
    beta = np.asarray(steps.beta)
    gain, shift, variance = np.sqrt(1 - beta), 0.3 * beta, 1.2 * beta

    def reverse(x, t):
        at = (jnp.asarray(table)[t] for table in (gain, shift, variance))
        return Normal(next(at) * x + next(at), jnp.full_like(x, next(at)))

    chain = make_chain(gaussian.family(), steps, reverse, (), last_step)
    mean, spread = 0.0, 1.0
    for g, b, v in zip(gain[:1:-1], shift[:1:-1], variance[:1:-1]):
        mean, spread = g * mean + b, g**2 * spread + v
    last = (0.0, beta[1]) if last_step == "fixed" else (shift[1], variance[1])
    return chain, gain[1] * mean + last[0], gain[1] ** 2 * spread + last[1]


@pytest.mark.parametrize("late", [1, 2])
@pytest.mark.parametrize("last_step", ["fixed", "learned"])
def test_the_score_serves_an_event_of_one_number(last_step, late):
    """Whose noise is always along another's or opposite: an arc between them has no middle."""
    chain, mean, variance = one_number(last_step)
    order = "up_down" if last_step == "fixed" else "paper"
    proposal = Proposal(order, 2, every=1, threshold=1.0, late=late)
    draw = jax.jit(jax.vmap(lambda k: likelihood.sandwich(k, chain, 1, proposal=proposal)))
    found = draw(keys(4000))
    x0 = np.asarray(found.x0, float)
    p = -0.5 * ((x0 - mean) ** 2 / variance + np.log(2 * np.pi * variance))
    assert np.abs(found.upper - p).max() < 100 and np.abs(found.lower - p).max() < 100
    mean_is(np.exp(found.lower - p), 1.0)
    mean_is(np.exp(p - found.upper), 1.0)


def test_nothing_is_lost_where_particles_are_thinned_at_the_last_level():
    """More signal than noise up to T, or levels that end a block of `every` there."""
    chain, _, _ = one_number("learned")
    x0 = jnp.asarray(0.4)

    @jax.jit
    def both(keys):
        def works(late):
            proposal = Proposal("paper", 8, threshold=0.0, late=late)
            return jax.vmap(lambda k: likelihood.forward_work(k, chain, x0, proposal))(keys)

        return works(1), works(8)

    np.testing.assert_allclose(*both(keys(50)), atol=1e-5)


def test_a_tilted_last_step_is_not_the_fixed_one():
    """−K = ⟨W⟩ of a tilted chain; down before up, which needs the forward kernel, is refused."""
    fixed, _, _ = one_number("fixed")
    chain = posterior.tilted(fixed, posterior.denoise(fixed, np.asarray(1.5), 0.5, "noised"))
    x0 = jnp.asarray(0.9)
    works = averaged(likelihood.forward_work, 4000, chain, x0)
    bounds = jax.jit(jax.vmap(lambda k: bound.exact(k, chain, x0).K))(keys(4000, 1))
    mean_is(bounds, -np.mean(works), expected_error=np.std(works) / np.sqrt(4000))
    with pytest.raises(ValueError, match="expected 'paper' but for the fixed last step"):
        likelihood.forward_work(keys(1)[0], chain, x0, "up_down")


def test_a_twist_of_another_shape_is_refused_and_an_integer_one_taken():
    chain, _ = spins("learned")

    def work(of):
        proposal = Proposal("paper", 5, every=1, threshold=1.0, twist=of)
        return likelihood.forward_work(keys(1)[0], chain, SPINS[3], proposal)

    with pytest.raises(ValueError, match=r"proposal.twist: expected scalar nats .*shape \(5,\)"):
        work(lambda x, t: x)
    with pytest.raises(TypeError, match=r"proposal.twist: expected a function or None, got 3"):
        work(3)
    assert np.isfinite(jax.jit(lambda: work(lambda x, t: t - t))())
