"""The particle filter against closed-form Gaussian posteriors and all posteriors of three bits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cases import (
    BOTH,
    C_CORRELATED,
    C_DIAGONAL,
    STATES,
    T,
    bent_chain,
    bits_chain,
    gaussian_chain,
    keys,
    mean_is,
    model_covariance,
    still_chain,
)
from dpm_jax import binomial, gaussian, model, particles, posterior, schedule
from dpm_jax.core.chain import fix_last_step

STEPS = schedule.constant_fraction(T, 0.1)
MASK = np.array([True, False, True])
NOISE = np.array([0.5, 1.0, 0.2], np.float32)
Y = np.array([1.5, 0.4, -1.0], np.float32)


def filters(chain, tilt, num, number, threshold=0.5, seed=0):
    """`number` independent filters of `num` particles each."""

    def one(key):
        return particles.sample(key, chain, tilt, num, threshold)

    return jax.vmap(one)(keys(number, seed))


# --- Gaussian data ------------------------------------------------------------------------------

CORRELATED, _ = gaussian_chain(C_CORRELATED, STEPS)
CHAINS = {
    "diagonal": gaussian_chain(C_DIAGONAL, STEPS)[0],
    "correlated": CORRELATED,
    "correlated, fixed last step": fix_last_step(CORRELATED),
}
COVARIANCE = {
    name: np.asarray(model_covariance(STEPS, chain.reverse), np.float64)
    for name, chain in CHAINS.items()
}


def number(name):
    return list(CHAINS).index(name)


def numbered(index):
    """The chain of that number, which may be traced: one compilation serves all."""

    def reverse(xt, t):
        every = [chain.reverse(xt, t) for chain in CHAINS.values()]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves)[index], *every)

    return CORRELATED._replace(reverse=reverse)


def gaussian_posterior(name, precision, b):
    """Mean, covariance and log Z~ of p(x) exp(b x − x·precision·x/2)."""
    S = COVARIANCE[name]
    C = np.linalg.inv(np.linalg.inv(S) + precision)
    mean = C @ b
    return mean, C, 0.5 * (b @ mean + np.linalg.slogdet(C)[1] - np.linalg.slogdet(S)[1])


def observed(name, noise, mask):
    """Mean, covariance and log Z~ after y = x + noise on the coordinates of the mask."""
    weight = np.where(mask, 1 / np.float64(noise), 0)
    y = np.where(mask, Y, 0)
    mean, C, log_z = gaussian_posterior(name, np.diag(weight), weight * y)
    norm = np.where(mask, np.log(2 * np.pi * np.float64(noise)), 0) + weight * y**2
    return mean, C, log_z - 0.5 * norm.sum()


def agrees(found, mean, C, log_z, errors=4.5):
    """Independent filters give posterior mean, covariance and Z~."""
    x, weight = np.asarray(found.x, np.float64), np.asarray(found.weight, np.float64)
    np.testing.assert_allclose(weight.sum(axis=1), 1, rtol=1e-4)
    mean_is(found.mean, mean, errors, 1e-6)
    away = x - mean  # from the true one: exact up to the filters' own bias of 1/N
    moment = np.einsum("fn,fni,fnj->fij", weight, away, away)
    mean_is(moment, C, errors, 1e-6)
    ours = np.asarray(found.variance) + (np.asarray(found.mean) - mean) ** 2
    np.testing.assert_allclose(ours, np.einsum("fii->fi", moment), rtol=1e-3, atol=1e-6)
    mean_is(np.exp(np.asarray(found.log_z, np.float64) - log_z), 1.0, errors)
    assert not np.asarray(found.lost_t).any()


@pytest.fixture(scope="module")
def compiled():
    """Functions by name, each compiled once."""
    made = {}

    def run(name, function, *args):
        return made.setdefault(name, jax.jit(function))(*args)

    return run


def denoised(compiled, r_t, name, noise, mask):
    def draw(index, noise, mask):
        chain = numbered(index)
        return filters(chain, posterior.denoise(chain, Y, noise, r_t, mask), 4096, 16)

    return compiled(f"denoise, {r_t}", draw, number(name), noise, mask)


def perturbed(compiled, r_t, b, curvature):
    """The posterior of a log r that is linear or quadratic."""

    def draw(b, curvature):
        def log_r(x):
            return jnp.sum(b * x - 0.5 * x**2 * curvature)

        return filters(CORRELATED, posterior.perturb(CORRELATED, log_r, r_t), 4096, 16)

    return compiled(f"perturb, {r_t}", draw, b, curvature)


@pytest.mark.parametrize("mask", [np.ones(3, bool), MASK], ids=["all", "masked"])
@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("r_t", posterior.R_T)
def test_denoised_gaussian_data_have_their_posterior(r_t, name, mask, compiled):
    # With constant r the weights at x^T are of finite variance where the noise is above about 1.
    noise = NOISE + 2 if r_t == "constant" else NOISE
    found = denoised(compiled, r_t, name, noise, mask)
    agrees(found, *observed(name, noise, mask))
    assert np.asarray(found.ess).min() > 100


def test_a_sharp_constant_r_leaves_fewer_particles_than_noised(compiled):
    """Its weights are heavy-tailed; the same r noised keeps most particles."""
    constant, noised = (
        denoised(compiled, r_t, "correlated", NOISE, MASK) for r_t in ("constant", "noised")
    )
    assert 3 * np.median(constant.least_ess) < np.median(noised.least_ess)


@pytest.mark.parametrize("name", CHAINS)
def test_inpainted_gaussian_data_have_their_posterior(name, compiled):
    def draw(index):
        chain = numbered(index)
        return filters(chain, posterior.inpaint(chain, MASK, Y, "noised"), 4096, 16)

    found = compiled("inpaint", draw, number(name))
    agrees(found, *observed(name, np.full(3, 1e-9), MASK))
    np.testing.assert_array_equal(found.x[..., MASK], np.tile(Y[MASK], (16, 4096, 1)))


def test_known_and_noisy_coordinates_together():
    """Compose: one coordinate known, one seen through noise, one not at all."""
    known, noisy = np.array([True, False, False]), np.array([False, False, True])
    tilt = posterior.compose(
        posterior.inpaint(CORRELATED, known, Y, "noised"),
        posterior.denoise(CORRELATED, Y, NOISE, "annealed", noisy),
    )
    found = jax.jit(lambda: filters(CORRELATED, tilt, 4096, 16))()
    agrees(found, *observed("correlated", np.where(known, 1e-9, NOISE), known | noisy))


@pytest.mark.parametrize("r_t", posterior.R_T[:2])
def test_first_order_tilts_are_exact_with_weights(r_t, compiled):
    """A mild quadratic log r and a linear one: eq. 61 proposes, the weights correct."""
    b, width = np.array([1.0, -0.5, 0.3], np.float32), 4.0
    found = perturbed(compiled, r_t, b, 1 / width)
    agrees(found, *gaussian_posterior("correlated", np.eye(3) / width, b))
    mean, C, log_z = gaussian_posterior("correlated", np.zeros((3, 3)), b)
    np.testing.assert_allclose(C @ b, mean)  # the shift is Σ b
    agrees(perturbed(compiled, r_t, b, 0.0), mean, C, log_z)


def test_particles_without_r_are_samples_of_the_model(compiled):
    """r = 1: no weight moves, Z~ = 1, nothing is resampled."""
    found = perturbed(compiled, "constant", np.zeros(3, np.float32), 0.0)
    np.testing.assert_allclose(found.weight, 1 / 4096, rtol=1e-4)
    np.testing.assert_allclose(found.log_z, 0, atol=1e-4)
    assert not np.asarray(found.resampled).any()
    np.testing.assert_allclose(found.least_ess, 4096, rtol=1e-3)
    x = np.asarray(found.x, np.float64).reshape(-1, 3)
    mean_is(x, 0.0)
    mean_is(x**2, np.diag(COVARIANCE["correlated"]))


# --- three bits ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bits():
    """p(x^0) of the 8 states and the chain that has it, of the enumerated model."""
    log_p, _, chain = bits_chain(STEPS)
    return np.exp(log_p), chain


def law_of(found):
    """Weighted frequencies of the 8 states: (..., N, 3) -> (..., 8)."""
    match = (np.asarray(found.x)[..., None, :] == STATES).all(axis=-1)
    return np.einsum("...n,...ns->...s", np.asarray(found.weight, np.float64), match)


def all_posteriors(found, joint):
    """Filters (problems, filters, N) against p(x) r(x) of every problem, (problems, 8).

    Z~ times the weighted frequencies is unbiased for p r at any N, so that many small filters tell
    more than few large ones.
    """
    ours = np.exp(np.asarray(found.log_z, np.float64))[..., None] * law_of(found)
    for values, expected in zip(ours, joint):
        # A state that few particles reach has no error of its own: at least that of free draws.
        least = np.sqrt(expected * expected.sum() / found.weight[0].size)
        mean_is(values, expected, errors=4.5, expected_error=least)
        mean_is(values.sum(axis=1), expected.sum(), errors=4.5)
    assert not np.asarray(found.lost_t).any()


@pytest.mark.parametrize("r_t", posterior.R_T)
def test_every_posterior_of_three_bits_seen_through_flips(r_t, bits):
    p, chain = bits
    flip = 0.1

    def one(y):
        return filters(chain, posterior.denoise(chain, y, flip, r_t), 256, 128)

    found = jax.jit(jax.vmap(one))(jnp.asarray(STATES, jnp.float32))
    r = np.where(STATES[:, None] == STATES, 1 - flip, flip).prod(axis=-1)
    all_posteriors(found, p * r)
    if r_t == "constant":
        assert np.asarray(found.resampled).max() > 0


def test_every_posterior_of_three_bits_some_of_them_known(bits):
    """All 27: each bit unknown, 0 or 1."""
    p, chain = bits
    problems = np.stack(np.meshgrid(*[[-1, 0, 1]] * 3, indexing="ij"), axis=-1).reshape(27, 3)

    def one(problem):
        tilt = posterior.inpaint(chain, problem >= 0, problem.astype(float), "noised")
        return filters(chain, tilt, 256, 64)

    found = jax.jit(jax.vmap(one))(jnp.asarray(problems))
    fits = ((problems[:, None] == -1) | (problems[:, None] == STATES)).all(axis=-1)
    all_posteriors(found, p * fits)
    assert (law_of(found)[np.broadcast_to(~fits[:, None], (27, 64, 8))] == 0).all()


# --- the evidence -------------------------------------------------------------------------------


@pytest.mark.parametrize("threshold", [0, 1])
@pytest.mark.parametrize("name", BOTH)
def test_the_evidence_of_few_particles_is_unbiased(name, threshold, bits):
    """E Z~ and E Z~ · (weighted mean) are exact for any N, resampled always or never."""
    if name == "gaussian":
        chain, y, noise = CORRELATED, Y, NOISE
        mean, _, log_z = observed("correlated", NOISE, np.ones(3, bool))
    else:
        (p, chain), y, noise = bits, STATES[1], 0.2
        joint = p * np.where(y == STATES, 1 - noise, noise).prod(axis=1)
        mean, log_z = joint @ STATES / joint.sum(), np.log(joint.sum())
    tilt = posterior.denoise(chain, y, noise, "annealed")
    found = jax.jit(lambda: filters(chain, tilt, 4, 3000, threshold))()
    Z = np.exp(np.asarray(found.log_z, np.float64) - log_z)
    mean_is(Z, 1.0, errors=4)
    mean_is(Z[:, None] * np.asarray(found.mean), mean, errors=4)
    assert np.std(Z) > 0.05  # there is something to average
    resampled = np.asarray(found.resampled)
    assert resampled.max() == 0 if threshold == 0 else resampled.mean() > 1


@pytest.mark.parametrize("r_t", ["annealed", "noised"])
def test_the_interval_of_pooled_filters_holds_the_evidence(r_t):
    """64 filters of 16: nominal 95 %, where log Z~ is called a value."""
    _, _, log_z = observed("correlated", NOISE, np.ones(3, bool))
    tilt = posterior.denoise(CORRELATED, Y, NOISE, r_t)
    found = evidence(tilt, 300)
    value = np.asarray(found.is_value)
    covered = ((found.low <= log_z) & (log_z <= found.high))[value].mean()
    assert value.mean() > 0.4 and covered > 0.95 - 0.02 - 3 * 0.02
    width = np.median((found.high - found.low)[value])
    assert 2 * 1.96 * np.std(found.log_z) == pytest.approx(width, rel=0.6)
    assert np.mean(found.low <= log_z) > 0.95
    mean_is(np.exp(np.asarray(found.log_z, np.float64) - log_z), 1.0)


@pytest.mark.parametrize("known_r_t", ["constant", "noised"])
@pytest.mark.parametrize("r_t", ["constant", "annealed"])
def test_the_gradient_of_log_z_through_known_and_steep(known_r_t, r_t, x64):
    """Compose: what is known has no ratio of laws, nor a gradient of one; finite differences."""
    chain, _ = gaussian_chain(C_CORRELATED, schedule.constant_fraction(T, 0.1))
    known = posterior.inpaint(chain, MASK, Y.astype(float), known_r_t)

    def log_z(a):
        tilt = posterior.compose(
            known, posterior.perturb(chain, lambda x: jnp.sum(a * x - 0.1 * x**2), r_t)
        )
        x, t = jnp.asarray(Y, float), jnp.asarray(2)
        params = chain.reverse(x, t)
        return tilt.log_z(params, known(params, t).mean + 0.3 * ~MASK, t)

    a = jnp.array([0.5, -0.3, 0.2])
    slope, step = jax.jit(jax.grad(log_z))(a), 1e-6 * jnp.eye(3)
    both = jax.jit(jax.vmap(log_z))
    there, back = (both(a[None] + sign * step) for sign in (1, -1))
    np.testing.assert_allclose(slope, (there - back) / 2e-6, rtol=1e-5, atol=1e-8)
    assert np.abs(slope[1]) > 1e-3


def test_a_sharp_constant_r_has_no_evidence_but_a_bound():
    """Its weights have no variance: Z~ is far too low in most runs, and few call it a value."""
    _, _, log_z = observed("correlated", NOISE, np.ones(3, bool))
    found = evidence(posterior.denoise(CORRELATED, Y, NOISE, "constant"), 300)
    low = np.asarray(found.log_z) < log_z
    assert low.mean() > 0.7 and np.asarray(found.is_value).mean() < 0.08
    assert np.median(found.k_hat) > 0.7 and np.mean(found.low <= log_z) > 0.95


def evidence(tilt, number, num=16, filters=64):
    def one(key):
        return particles.sample(key, CORRELATED, tilt, num, filters=filters)._replace(x=0.0)

    return jax.jit(lambda k: jax.lax.map(one, k, batch_size=50))(keys(number))


def test_pooled_filters_are_those_filters_by_their_evidence():
    """All fields by hand, of filters whose keys are those of the split."""
    tilt = posterior.denoise(CORRELATED, Y, NOISE, "annealed")
    each = jax.jit(lambda: filters(CORRELATED, tilt, 8, 30, 0.8))()
    pooled = jax.jit(lambda: particles.sample(jax.random.key(0), CORRELATED, tilt, 8, 0.8, 30))()
    share = jax.nn.softmax(each.log_z)
    np.testing.assert_allclose(pooled.x, each.x.reshape(240, 3), rtol=1e-5)
    np.testing.assert_allclose(pooled.weight, (share[:, None] * each.weight).ravel(), rtol=1e-3)
    np.testing.assert_allclose(np.exp(pooled.log_z), np.mean(np.exp(each.log_z)), rtol=1e-4)
    np.testing.assert_allclose(pooled.ess, 1 / np.sum(np.asarray(pooled.weight) ** 2), rtol=1e-3)
    np.testing.assert_allclose(pooled.mean, share @ each.mean, rtol=1e-3)
    assert 30 < pooled.least_ess <= pooled.ess <= 240
    assert pooled.resampled == each.resampled.max() and pooled.lost_t == 0
    expected = 1 / np.sum(np.asarray(share) ** 2 / each.ancestors)
    np.testing.assert_allclose(pooled.ancestors, expected, rtol=1e-3)
    assert 10 < pooled.ancestors < pooled.ess


@pytest.mark.parametrize("N, filters", [(4096, 1), (8, 4)])
def test_a_bound_has_markovs_lower_end_and_a_shape(N, filters):
    """One filter never has a value, nor have four."""
    tilt = posterior.denoise(CORRELATED, Y, NOISE, "noised")

    def draw(key):
        return particles.sample(key, CORRELATED, tilt, N, filters=filters)

    found = jax.jit(draw)(jax.random.key(0))
    low, high = found.interval
    assert not found.is_value and high == np.inf
    assert float(found.log_z - low) == pytest.approx(np.log(20), rel=1e-4)
    assert (0 < found.k_hat < 0.7) if filters == 1 else found.k_hat == np.inf
    assert "in the mean a lower bound; 95 % above" in str(found)


def test_float64_works(x64):
    chain = bent_chain(gaussian.family(), schedule.constant_fraction(T, 0.1), "learned")
    tilt = posterior.denoise(chain, Y.astype(float), 0.2, "noised")
    found = jax.jit(lambda key: particles.sample(key, chain, tilt, 8))(jax.random.key(0))
    assert found.x.dtype == found.weight.dtype == found.log_z.dtype == np.float64
    assert 1 <= found.least_ess <= found.ess <= 8 * (1 + 1e-9)


# --- steep r ------------------------------------------------------------------------------------


def softplus_steps(height, slope, place):
    """log r(x): a sum over elements of three bends, each of one slope to another."""
    height, slope, place = (jnp.asarray(v)[:, None] for v in (height, slope, place))

    def log_r(x):
        return jnp.sum(height * jax.nn.softplus(slope * (x[None] - place)) / slope)

    return log_r


def evidence_on_a_grid(log_r):
    """log ∫ N(x; 0, I) r(x) of two elements, of which r is a product."""
    x = np.linspace(-30, 30, 60_001, dtype=np.float32)
    each = np.asarray(jax.vmap(lambda v: log_r(v[None]))(jnp.asarray(x)), np.float64)
    weight = np.exp(each - x.astype(float) ** 2 / 2)
    return 2 * np.log(weight.sum() * 0.001 / np.sqrt(2 * np.pi))


STEEP = {
    "constant": ([0.75, 1.55, -0.14], [2.8, 15.9, 14.9], [-0.44, -1.1, 0.97]),
    "annealed": ([4.0, -1.06, 3.3], [11.6, 2.5, 17.0], [1.83, -1.72, 1.06]),
}


@pytest.mark.parametrize("r_t", STEEP)
def test_ancestors_show_a_steep_r_that_no_weight_does(r_t):
    """Least ESS above 2,000 of 4,096, curvature and bend small, and log Z~ off by half a nat."""
    chain, _ = gaussian_chain(np.eye(2), schedule.geometric(50, 1e-3))
    height, *rest = STEEP[r_t]

    def draw(height):
        tilt = posterior.perturb(chain, softplus_steps(height, *rest), r_t)
        return filters(chain, tilt, 4096, 4, threshold=0.8)

    draw = jax.jit(draw)
    for given, few in ((height, True), ([0.3, 0.2, -0.1], False)):
        found = draw(jnp.asarray(given))
        off = found.log_z - evidence_on_a_grid(softplus_steps(given, *rest))
        assert np.median(found.least_ess) > 2000
        assert (np.median(found.ancestors) < particles.ANCESTORS) == few
        assert (np.sqrt(np.mean(off**2)) > 0.3) == few


def test_a_constant_r_too_sharp_for_its_weights_is_warned_of():
    tilt = posterior.denoise(CORRELATED, Y, NOISE / 2, "constant")
    message = r"particles: the draws descend from about \d+.\d of 4096 first ones"
    with pytest.warns(UserWarning, match=message) as warned:
        found = particles.sample(jax.random.key(0), CORRELATED, tilt, 4096)
    assert [warning.filename for warning in warned] == [__file__]
    assert found.log_z < observed("correlated", NOISE / 2, np.ones(3, bool))[2] - 0.1


def test_a_log_r_that_bends_within_a_step_is_warned_of():
    """Small curvature at the mean, and another slope where the step ends."""
    chain, _ = gaussian_chain(np.eye(2), schedule.constant_fraction(10, 0.05))
    log_r = softplus_steps([-11.14, 3.94, 3.2], [40.6, 2.8, 5.9], [1.11, 1.68, 2.09])
    tilt = posterior.perturb(chain, log_r)
    curvature = jax.jit(lambda k: posterior.curvature(k, chain, tilt))
    assert curvature(jax.random.key(0)) < 0.5
    with pytest.warns(UserWarning, match=r"nearly linear over a step, got one that bends by"):
        posterior.sample(jax.random.key(0), chain, tilt, 1)


# --- systematic resampling ----------------------------------------------------------------------


def counts(weight, number, seed=0):
    draw = jax.jit(jax.vmap(particles.systematic, (0, None)))
    index = np.asarray(draw(keys(number, seed), jnp.asarray(weight, jnp.float32)))
    return np.stack([np.bincount(row, minlength=len(weight)) for row in index])


def test_systematic_counts_are_floor_or_ceiling_and_unbiased():
    weight = np.random.default_rng(0).exponential(size=50)
    weight[[0, 7, 8, 49]] = 0
    weight /= weight.sum()
    found = counts(weight, 4000)
    assert (found.sum(axis=1) == 50).all()
    assert (found >= np.floor(50 * weight - 1e-4)).all()
    assert (found <= np.ceil(50 * weight + 1e-4)).all()
    mean_is(found, 50 * weight, expected_error=1e-4)


@pytest.mark.parametrize(
    "weight, expected",
    [
        ([1.0], [1]),
        ([0.25] * 4, [1] * 4),
        ([0, 0, 1.0, 0], [0, 0, 4, 0]),
        ([0.5, 0, 0, 0.5], [2, 0, 0, 2]),
    ],
)
def test_systematic_where_there_is_no_choice(weight, expected):
    assert (counts(weight, 50) == expected).all()


def test_a_weight_of_0_is_never_drawn_however_the_sum_is_rounded():
    """XLA sums in a tree: float32 cumulative weights fall, and rise at weights of 0."""
    rng = np.random.default_rng(0)
    weight = rng.exponential(size=(100, 4096)).astype(np.float32)
    weight[rng.random(weight.shape) < 0.5] = 0
    weight[:, -1] = 0
    weight /= weight.sum(axis=1, keepdims=True)
    draw = jax.jit(jax.vmap(particles.systematic))
    for seed in range(10):
        index = np.asarray(draw(keys(100, seed), jnp.asarray(weight)))
        assert (np.diff(index, axis=1) >= 0).all()
        assert (np.take_along_axis(weight, index, axis=1) > 0).all()


@pytest.mark.parametrize("offset", [0.0, np.nextafter(np.float32(1), np.float32(0))])
def test_the_ends_of_the_uniform_draw_no_weight_of_0(offset, monkeypatch):
    """4096 − u rounds to 4095 for the largest u below 1."""
    weight = np.full(4096, 1 / 4094, np.float32)
    weight[[0, -1]] = 0
    monkeypatch.setattr(jax.random, "uniform", lambda *_: jnp.float32(offset))
    index = np.asarray(particles.systematic(jax.random.key(0), jnp.asarray(weight)))
    assert index.shape == (4096,) and index.min() > 0 and index.max() < 4095


# --- errors -------------------------------------------------------------------------------------

MILD = posterior.denoise(CORRELATED, Y, 1.0)
OTHER = schedule.constant_fraction(T, 0.3)


NO_KEYS = {"0": 0, "None": None, "int64 of": np.arange(2), r"key<fry> of shape \(3,\)": keys(3)}


@pytest.mark.parametrize("draw", [posterior.sample, particles.sample])
@pytest.mark.parametrize("got, key", NO_KEYS.items())
def test_what_is_no_key_is_refused(draw, key, got):
    with pytest.raises(TypeError, match=f"key: expected one key, as .* makes it, got {got}"):
        draw(key, CORRELATED, MILD, 4)


@pytest.mark.parametrize("draw", [posterior.sample, particles.sample])
def test_what_is_no_tilt_is_refused(draw):
    with pytest.raises(TypeError, match="tilt: expected a Tilt"):
        draw(jax.random.key(0), CORRELATED, "inpaint", 4)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"num": 0}, "num: expected at least 1, got 0"),
        ({"num": 4.0}, "num: expected a whole number, at least 1, got 4.0"),
        ({"filters": True}, "filters: expected at least 1, got True"),
        ({"threshold": "0.5"}, r"threshold: expected a number in \[0, 1\], got '0.5'"),
        ({"filters": 0}, "filters: expected at least 1, got 0"),
        ({"threshold": 1.5}, r"threshold: expected a number in \[0, 1\], got 1.5"),
        ({"threshold": -0.1}, "threshold: expected a number in"),
        (
            {"chain": CORRELATED._replace(schedule=schedule.constant_fraction(7))},
            "tilt: expected one of T = 7, got T = 4",
        ),
        (
            {"chain": still_chain(binomial.family(0.5), STEPS)},
            "tilt: expected one for Bernoulli kernels, got one for Normal",
        ),
        (
            {"tilt": posterior.denoise(gaussian_chain(C_DIAGONAL, OTHER)[0], Y, 1.0, "noised")},
            "tilt: expected one of this schedule, got another, ᾱ_",
        ),
        (
            {"tilt": posterior.inpaint(CORRELATED, MASK, Y)},
            "tilt: a delta at t > 0 has no weights; expected r_t='noised' for the known",
        ),
        (
            {"tilt": posterior.compose(MILD, posterior.inpaint(CORRELATED, MASK, Y, "annealed"))},
            "tilt: a delta at t > 0 has no weights",
        ),
    ],
)
def test_errors_name_the_argument(change, message):
    args = {"chain": CORRELATED, "tilt": MILD, "num": 4} | change

    def draw(key):
        return particles.sample(key, **args)

    for run in (draw, jax.jit(draw)):
        with pytest.raises(ValueError, match=message):
            run(jax.random.key(0))


def test_lost_weights_are_named_by_t_and_problem(bits):
    """An r that is 0 wherever the particles are, and one that is NaN."""
    _, chain = bits

    def run(value, when):
        """A tilt whose log Z~ is `value` at t = `when`."""
        tilt = posterior.Tilt(
            T,
            lambda params, t: params,
            lambda x, t: jnp.zeros(()),
            lambda params, x, t: jnp.where(t == when, value, 0.0),
        )
        return particles.sample(jax.random.key(0), chain, tilt, 8)

    many = jax.jit(jax.vmap(run))
    when = jnp.asarray([T + 1, 1])
    good = many(jnp.zeros(2), when)
    assert particles.check(good) is good
    assert jax.eval_shape(particles.check, good).x.shape == (2, 8, 3)  # under jit: unchecked
    for value, message in (
        (
            [0.0, -jnp.inf],
            r"particles: step t = 1 of problem 1 left no weight \(use more particles",
        ),
        ([-jnp.inf, -jnp.inf], "t = 5 of problem 0 left no weight"),
        ([jnp.nan, 0.0], r"t = 5 of problem 0 left a weight .* NaN: does log r return NaN\?"),
        ([0.0, jnp.inf], "t = 1 of problem 1"),
    ):
        with pytest.raises(ValueError, match=message):
            particles.check(many(jnp.asarray(value), when))


def test_mean_and_variance_of_many_problems():
    """Of as many problems as particles too, where a contraction over the wrong axis has a shape."""
    rng = np.random.default_rng(0)
    x, weight = rng.normal(size=(4, 4, 2, 3)), rng.dirichlet(np.ones(4), size=4)
    scalar = jnp.zeros(())
    many = particles.Particles(jnp.asarray(x), jnp.asarray(weight), *[scalar] * 5)
    for i in range(4):
        one = particles.Particles(many.x[i], many.weight[i], *[scalar] * 5)
        mean = np.average(x[i], axis=0, weights=weight[i])
        variance = np.average((x[i] - mean) ** 2, axis=0, weights=weight[i])
        for found in ((many.mean[i], many.variance[i]), (one.mean, one.variance)):
            np.testing.assert_allclose(found, (mean, variance), rtol=1e-5)


# --- of a model ---------------------------------------------------------------------------------


class Linear:
    """A network of one parameter: x̂^0 = scale · x^t."""

    def init(self, key, x, t, log_snr):
        return {"scale": jnp.asarray(0.5)}

    def apply(self, params, x, t, log_snr):
        return params["scale"] * x[..., None]


def built(name, steps=None):
    """The chain of a model of that family, in T or fewer steps."""
    family = BOTH[name][0]()
    readout = {"variance": "posterior"} if name == "gaussian" else {}
    made = model.build(family, STEPS, Linear(), (3,), **readout)
    return made.chain(made.init(jax.random.key(0)), steps)


@pytest.mark.parametrize("name", BOTH)
def test_particles_of_a_model_end_to_end(name):
    """Many problems under jit: y traced, the key shared or of each; fewer steps."""
    chain, y = built(name), np.array(BOTH[name][1], np.float32)

    def one(y, key=keys(1)[0]):  # noqa: B008
        return particles.sample(key, chain, posterior.inpaint(chain, MASK, y, "noised"), 6)

    ys = jnp.stack([y, y])
    found = jax.jit(jax.vmap(one))(ys, keys(2))
    assert found.x.shape == (2, 6, 3) and found.weight.shape == (2, 6)
    assert found.log_z.shape == (2,) and found.mean.shape == found.variance.shape == (2, 3)
    np.testing.assert_array_equal(found.x[..., MASK], np.tile(y[MASK], (2, 6, 1)))
    assert found.log_z[0] != found.log_z[1]
    assert jax.eval_shape(jax.vmap(one), ys).x.shape == (2, 6, 3)  # a key that is not traced
    short = built(name, 2)
    tilt = posterior.denoise(short, y, 0.3, "noised")

    def run(key):
        return particles.sample(key, short, tilt, 6, threshold=1)

    assert jax.eval_shape(run, keys(1)[0]).x.shape == (6, 3)
    with pytest.raises(ValueError, match="tilt: expected one of T = 4, got T = 2"):
        particles.sample(keys(1)[0], chain, tilt, 6)


def test_particles_outside_jit_are_checked():
    """They warn of a first-order tilt beyond its reach, and name the t of lost weights."""
    chain = built("gaussian")

    # NaN where a particle is far out, and some are.
    def log_r(x):
        return jnp.where(jnp.abs(x) < 2, -50.0, jnp.nan) * x**2

    tilt = posterior.perturb(chain, log_r)

    def draw(key):
        return particles.sample(key, chain, tilt, 100)

    with (
        pytest.raises(ValueError, match="t = 5 of problem 0 .* does log r return NaN"),  # noqa: RUF043
        pytest.warns(UserWarning, match="perturb: the first-order form .* got ") as warned,
    ):
        draw(jax.random.key(1))
    assert [warning.filename for warning in warned] == [__file__]
    found = jax.jit(draw)(jax.random.key(1))  # neither: the result says it, where it is asked
    assert found.lost_t == 5
    with pytest.raises(ValueError, match="t = 5 of problem 0"):
        particles.check(found)
