"""r through the network: laws and their ratios, eq. 61, composition, powers, correctors, errors."""

from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cases import C_CORRELATED, C_DIAGONAL, RATE, STATES, gaussian_chain, keys, mean_is
from dpm_jax import binomial, gaussian, particles, posterior, sampling, schedule
from dpm_jax.core.chain import make_chain
from dpm_jax.posterior import Gibbs, Langevin, linear
from dpm_jax.posterior import guide as through
from dpm_jax.posterior.tilt import draw, look, tilted

T = 20
A = np.array([[1.0, 0.5, -1.0], [0.0, 1.0, 1.0]])
Y = np.array([0.8, -0.4])
R = 0.05
STEPS = schedule.geometric(T, 1e-2, 1e4)
NAMES = {
    "dps": {},
    "pigdm": {},
    "mmps": {},
    "mmps by one product": {"products": 1},
    "pigdm by errors": {"error": np.linspace(0.01, 1, T + 1)},
}


@lru_cache
def chain_of(C="correlated"):
    of = {"correlated": C_CORRELATED, "diagonal": C_DIAGONAL}[C]
    return gaussian_chain(of, STEPS)[0]


def measured(name, chain=None, y=Y, noise=R):
    chain = chain_of() if chain is None else chain
    return posterior.measure(chain, A, y, noise, name.split()[0], **NAMES.get(name, {}))


def exact_posterior(C, A, y, R):
    """Mean, covariance and log Z~ of x ~ N(0, C) given y = A x + ε."""
    S = A @ C @ A.T + R * np.eye(len(y))
    gain = C @ A.T @ np.linalg.inv(S)
    log_z = -0.5 * (y @ np.linalg.solve(S, y) + np.linalg.slogdet(2 * np.pi * S)[1])
    return gain @ y, C - gain @ A @ C, log_z


# --- one step -----------------------------------------------------------------------------------


@pytest.mark.parametrize("t", [1, 5, T])
@pytest.mark.parametrize("name", NAMES)
def test_the_law_of_a_step_and_its_ratio_to_the_kernel_belong_together(name, t):
    """p~ p/p~ = p: draws of p~, weighted by p/p~, have the mean of p; and p/p~ the mean 1."""
    chain, tilt = chain_of(), measured(name, noise=0.5)

    @jax.jit
    def drawn(x):
        params, law = look(chain, tilt, x, jnp.asarray(t))
        each = jax.vmap(lambda k: draw(chain.family, tilt, k, law))(keys(20_000))
        ratio = jax.vmap(lambda z: through.log_ratio(tilt.guides, law, z))(each)
        return params, each, jnp.exp(ratio)

    params, each, ratio = jax.tree.map(np.asarray, drawn(jnp.asarray([0.3, -0.2, 0.6])))
    mean_is(ratio, 1.0)
    mean_is(ratio[:, None] * (each - params.mean), 0.0)
    mean_is(ratio[:, None] * (each - params.mean) ** 2, params.variance)


def test_the_last_step_is_eq_22_for_a_scalar_variance():
    """With the fixed last step p(x^0|x^1) has one variance: mean and log Z~ are those of eq. 22."""
    chain, _ = gaussian_chain(C_CORRELATED, STEPS, "fixed")
    x, t = jnp.asarray([0.3, -0.2, 0.6]), jnp.asarray(1)
    exact = posterior.measure(chain, A, Y, R, "constant")
    product = exact(chain.reverse(x, t), t)
    log_z = exact.log_z(chain.reverse(x, t), x, t)
    for name in NAMES:
        _, law = look(chain, measured(name, chain), x, t)
        np.testing.assert_allclose(law.mean, product.mean, rtol=2e-4, atol=1e-5)
        if "one product" not in name:  # whose S is known in one direction alone
            np.testing.assert_allclose(law.log_r, log_z, rtol=1e-3, atol=1e-3)


def test_tweedie_is_the_covariance_of_x0_given_xt():
    """Of Gaussian data r(x^t) by mmps is the law of y given x^t, and p~ has the mean of x^{t-1}."""
    chain, t = chain_of(), 7
    ab = float(STEPS.alpha_bar[t])
    x = np.array([0.5, -1.0, 0.2])
    S = ab * C_CORRELATED + (1 - ab) * np.eye(3)
    x0 = np.sqrt(ab) * C_CORRELATED @ np.linalg.solve(S, x)
    V = C_CORRELATED - ab * C_CORRELATED @ np.linalg.solve(S, C_CORRELATED)
    _, law = look(chain, measured("mmps"), jnp.asarray(x), jnp.asarray(t))
    of_y = A @ V @ A.T + R * np.eye(2)
    e = Y - A @ x0
    expected = -0.5 * (e @ np.linalg.solve(of_y, e) + np.linalg.slogdet(2 * np.pi * of_y)[1])
    np.testing.assert_allclose(law.log_r, expected, rtol=1e-4)
    a = np.sqrt(STEPS.alpha_bar[t - 1]) * STEPS.beta[t] / STEPS.noise[t]
    np.testing.assert_allclose(law.shift, a * V @ A.T @ np.linalg.solve(of_y, e), rtol=2e-3)


def test_errors_are_the_variances_of_x0_given_xt():
    """Of Gaussian data their mean over the elements is known, tr C − ᾱ C (ᾱ C + (1−ᾱ) I)⁻¹ C."""
    x0 = np.random.default_rng(0).multivariate_normal(np.zeros(3), C_CORRELATED, 20_000)
    found = np.asarray(posterior.errors(jax.random.key(0), chain_of(), x0))
    for t in (2, 7, T):
        ab = float(STEPS.alpha_bar[t])
        S = ab * C_CORRELATED + (1 - ab) * np.eye(3)
        V = C_CORRELATED - ab * C_CORRELATED @ np.linalg.solve(S, C_CORRELATED)
        np.testing.assert_allclose(found[t], np.trace(V) / 3, rtol=0.05)
    assert found.shape == (T + 1,)
    along = np.asarray(posterior.errors(jax.random.key(0), chain_of(), x0, linear.dense(A, (3,))))
    rows = np.linalg.svd(A, full_matrices=False)[2]
    np.testing.assert_allclose(along[T], np.trace(rows @ V @ rows.T) / 2, rtol=0.05)


def test_any_log_r_of_x0_hat_is_eq_61_at_the_last_step():
    def log_r(x):
        return jnp.sum(jnp.sin(x)) - x[0] * x[2]

    chain, x, t = chain_of(), jnp.asarray([0.3, -0.2, 0.6]), jnp.asarray(1)
    params, law = look(chain, posterior.perturb(chain, log_r, "dps"), x, t)
    np.testing.assert_allclose(law.mean, gaussian.perturb(params, log_r).mean, rtol=1e-5)
    np.testing.assert_allclose(law.log_r, log_r(params.mean), rtol=1e-5)


def test_a_power_of_1_is_r_itself_and_of_0_the_kernel():
    chain, tilt, t = chain_of(), measured("mmps"), jnp.asarray(3)
    params, law = look(chain, tilt, jnp.asarray([0.3, -0.2, 0.6]), t)
    jax.tree.map(np.testing.assert_array_equal, through.tempered(law, jnp.asarray(1.0)), law)
    none = through.tempered(law, jnp.asarray(0.0))
    x = draw(chain.family, tilt, jax.random.key(1), none)
    np.testing.assert_allclose(x, chain.family.sample(jax.random.key(1), params), rtol=1e-5)
    assert through.log_ratio(tilt.guides, none, x) == none.log_r == 0


def test_a_signal_that_is_all_erased_gives_no_nan():
    chain, _ = gaussian_chain(C_CORRELATED, schedule.constant_fraction(4, 0.1))
    _, law = look(chain, measured("mmps", chain), jnp.asarray([0.3, -0.2, 0.6]), jnp.asarray(4))
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(law))


# --- particles ----------------------------------------------------------------------------------


def of_two(chain):
    """The rows of A one by one."""
    first = posterior.measure(chain, A[:1], Y[:1], R, "mmps")
    return posterior.compose(first, posterior.measure(chain, A[1:], Y[1:], R, "pigdm"))


def beside_exact(chain):
    """Element 0 seen through noise of variance R, an exact product, and A through the network."""
    mask = np.array([True, False, False])
    seen = posterior.denoise(chain, np.array([0.7, 0, 0]), R, "noised", mask)
    return posterior.compose(seen, measured("mmps", chain))


def beside_a_delta(chain):
    """Element 0 known exactly, and A through the network: R stands for a delta in the joint law."""
    mask = np.array([True, False, False])
    known = posterior.inpaint(chain, mask, np.array([0.7, 0, 0]), "noised")
    return posterior.compose(known, measured("mmps", chain))


CASES = {
    "two": (of_two, A, Y, 0.0),
    "beside an exact product": (beside_exact, np.vstack([A, [1, 0, 0]]), np.append(Y, 0.7), 0.0),
    "tempered": (lambda chain: measured("pigdm", chain), A, Y, 0.5),
}


@pytest.mark.parametrize("case", CASES)
def test_weights_keep_compositions_and_powers_exact(case):
    """Diagonal C, whose kernels are exact: mean, variances and log Z~ of the joint posterior."""
    make, rows, y, temper = CASES[case]
    chain = chain_of("diagonal")
    tilt = make(chain)
    run = jax.jit(lambda k: particles.sample(k, chain, tilt, 1000, filters=16, temper=temper))
    found = run(jax.random.key(0))
    mean, C, log_z = exact_posterior(C_DIAGONAL, rows, y, R)
    error = 5 / np.sqrt(float(found.ancestors))  # of that many independent draws
    np.testing.assert_allclose((found.mean - mean) / np.sqrt(np.diag(C)), 0, atol=error)
    np.testing.assert_allclose(found.variance / np.diag(C), 1, atol=error * np.sqrt(2))
    np.testing.assert_allclose(found.log_z, log_z, atol=error)
    assert int(found.distinct) >= float(found.ancestors) > 100


def test_a_delta_beside_a_guide_keeps_its_weights():
    """log Z~ is that of the known element, times that of A given it."""
    chain = chain_of("diagonal")
    tilt = beside_a_delta(chain)
    run = jax.jit(lambda k: particles.sample(k, chain, tilt, 1000, filters=16))
    found = run(jax.random.key(0))
    rest, C = A[:, 1:], C_DIAGONAL[1:, 1:]
    mean, S, log_z = exact_posterior(C, rest, Y - 0.7 * A[:, 0], R)
    log_z += -0.5 * (0.49 / C_DIAGONAL[0, 0] + np.log(2 * np.pi * C_DIAGONAL[0, 0]))
    error = 5 / np.sqrt(float(found.ancestors))
    np.testing.assert_allclose(found.log_z, log_z, atol=error)
    np.testing.assert_allclose((found.mean[1:] - mean) / np.sqrt(np.diag(S)), 0, atol=error)
    np.testing.assert_allclose(found.mean[0], 0.7, rtol=1e-5)


def test_what_lies_outside_the_range_of_a_is_measured_without_cancellation(x64):
    """y of 40 elements of which A reaches 20, noise 1e-6: log N of the rest, as in float64."""
    rng = np.random.default_rng(0)
    rows = np.repeat(rng.normal(size=(1, 3)), 40, axis=0)
    y = rows @ np.array([1.0, 2.0, -1.0]) + 1e-3 * rng.normal(size=40)
    outside = np.sum((y - y.mean()) ** 2)
    expected = -0.5 * (outside / 1e-6 + 39 * np.log(2 * np.pi * 1e-6))
    for dtype in (np.float32, np.float64):
        A_ = linear.dense(rows, (3,))
        guide = posterior.measure(chain_of(), A_, y.astype(dtype), 1e-6, "pigdm").guides[0]
        x = jnp.asarray([1.0, 2.0, -1.0])
        z = A_.seen(jnp.asarray(y)) - A_.singular * A_.rows(x)
        inside = -0.5 * jnp.sum(z**2 / 1e-6 + np.log(2 * np.pi * 1e-6))
        tolerance = 2e-2 if dtype == np.float32 else 1e-9
        np.testing.assert_allclose(guide.log_r0(x), inside + expected, rtol=tolerance)


# --- correctors ---------------------------------------------------------------------------------


@pytest.mark.parametrize("corrector", [Gibbs(2), Gibbs(2, jump=7), Gibbs(0), Langevin(3, 0.05)])
def test_correctors_leave_the_law_of_exact_kernels(corrector):
    chain = chain_of("diagonal")
    x = jax.jit(jax.vmap(lambda k: corrector.sample(k, chain)))(keys(20_000))
    mean_is(x, 0.0)
    mean_is(x**2, np.diag(C_DIAGONAL), expected_error=0.005)  # π and q(x^T) differ by 1e-4
    turns = 14 if getattr(corrector, "jump", 1) == 7 else T - 1  # the steps to x^0 are taken once
    whole = 21 if turns == 14 else T
    assert corrector.calls(T) == whole + turns * corrector.repeats


@pytest.mark.parametrize("corrector", [Gibbs(9), Langevin(9)])
def test_correctors_add_no_noise_of_a_fixed_last_step(corrector):
    chain, _ = gaussian_chain(C_DIAGONAL, STEPS, "fixed")
    x = jax.jit(jax.vmap(lambda k: corrector.sample(k, chain)))(keys(20_000))
    plain = jax.jit(jax.vmap(lambda k: sampling.sample(k, chain)))(keys(20_000))
    mean_is(x[:10_000] ** 2 - plain[10_000:] ** 2, 0.0)


@pytest.mark.parametrize("jump", [1, 3])
def test_gibbs_takes_bits(jump):
    """In equilibrium, where forward and reverse kernels are one, nothing moves but bits."""
    steps = schedule.constant_fraction(4, 0.1)
    family = binomial.family(RATE)
    chain = make_chain(family, steps, lambda x, t: family.step(x, steps.beta[t]), (3,), "learned")
    x = jax.jit(jax.vmap(lambda k: Gibbs(2, jump).sample(k, chain)))(keys(5000))
    assert set(map(tuple, np.asarray(x))) <= set(map(tuple, STATES))
    mean_is(x, RATE)


def test_a_corrector_comes_closer_to_the_posterior():
    """The tilt alone, on correlated Gaussians, is off in its moments; by less with Gibbs."""
    chain = chain_of()
    tilt = measured("pigdm")
    mean, C, _ = exact_posterior(C_CORRELATED, A, Y, R)

    def off(corrector):
        draws = posterior.sample(jax.random.key(0), chain, tilt, 20_000, corrector)
        moments = draws.mean(0) - mean, np.cov(np.asarray(draws).T) - C
        return sum(float(np.abs(m).sum()) for m in moments)

    assert off(Gibbs(4)) < 0.7 * off(None)


# --- errors -------------------------------------------------------------------------------------

BITS = make_chain(
    binomial.family(RATE), STEPS, lambda x, t: binomial.step(x, STEPS.beta[t], RATE), (3,)
)


def imaginary(x):
    return jnp.sqrt(-1 - x**2)


WRONG = [
    (lambda: posterior.measure(BITS, A, Y, R), "chain: expected one of Gaussians"),
    (lambda: posterior.perturb(BITS, jnp.sum, "dps"), "chain: expected one of Gaussians"),
    (lambda: measured("pigdm", y=Y[:1]), r"y: expected the shape of A x, \(2,\), got \(1,\)"),
    (lambda: measured("mmps", y=[0.1, np.nan]), "y: expected finite values"),
    (lambda: measured("mmps", noise=0.0), r"noise: expected a variance in \(0, inf\), got 0"),
    (lambda: measured("mmps", noise=[1.0, 2.0]), r"noise: expected one variance, got shape \(2,\)"),
    (lambda: posterior.measure(chain_of(), A, Y, R, "tweedie"), "r_t: expected one of"),
    (lambda: posterior.measure(chain_of(), A, Y, R, products=3), r"products: .* 1\.\.2, got 3"),
    (lambda: posterior.measure(chain_of(), A, Y, R, "pigdm", error=[1.0]), "error: expected var"),
    (
        lambda: posterior.measure(chain_of(), A, Y, R, "pigdm", error=np.linspace(-1, 1, T + 1)),
        "error: expected variances, of at least 0",
    ),
    (
        lambda: posterior.measure(chain_of(), A, Y, R, "pigdm", products=1),
        "products: expected none but with r_t='mmps', got r_t='pigdm'",
    ),
    (lambda: posterior.measure(chain_of(), jnp.cos, Y, R), "A: expected a linear function"),
    (
        lambda: posterior.measure(chain_of(), linear.mask(np.ones(4, bool)), np.ones(4), R),
        r"A: expected one of events of shape \(3,\), got \(4,\)",
    ),
    (
        lambda: posterior.measure(chain_of(), np.ones((2, 3)), np.array([5.0, -5.0]), R),
        "y: expected one within the range of A and noise, got one 7.07 away in 1 directions",
    ),
    (
        lambda: posterior.compose(measured("noised"), measured("dps")),
        "tilts: expected the exact product of a measurement to be the last",
    ),
    (
        lambda: particles.sample(
            jax.random.key(0), chain_of(), measured("noised"), 8, temper=0.5
        ),
        "temper: expected 0 without an r through the network, got 0.5",
    ),
    (
        lambda: posterior.sample(
            jax.random.key(0), chain_of(), posterior.perturb(chain_of(), imaginary, "dps"), 2
        ),
        "tilt: expected finite draws, got NaN",
    ),
    (lambda: Gibbs(-1).sample(jax.random.key(0), chain_of()), "repeats: expected"),
    (lambda: Gibbs(1, 21).sample(jax.random.key(0), chain_of()), "jump: expected"),
    (lambda: Langevin(1, 2.0).sample(jax.random.key(0), chain_of()), "size: expected a number in"),
    (lambda: Langevin(1).sample(jax.random.key(0), BITS), "of bits: Gibbs"),
]  # fmt: skip


@pytest.mark.parametrize("make, message", WRONG)
def test_errors_name_the_argument(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_what_is_no_corrector_is_refused():
    with pytest.raises(TypeError, match="corrector: expected Gibbs"):
        posterior.sample(jax.random.key(0), chain_of(), measured("mmps"), 2, "gibbs")


def test_the_range_of_a_is_no_error_where_the_noise_explains_it():
    tilt = posterior.measure(chain_of(), np.ones((2, 3)), np.array([0.1, -0.1]), R)
    assert np.isfinite(tilt.guides[0].log_r0(jnp.zeros(3)))


def test_a_tilted_chain_through_the_network_is_a_chain():
    used = tilted(chain_of(), measured("mmps"))
    assert sampling.sample(jax.random.key(0), used).shape == (3,)
    assert sampling.reverse_trajectory(jax.random.key(0), used, 10).shape == (3, 3)
