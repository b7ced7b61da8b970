"""Tilts: eq. 22 as an identity, r by its names, known values to the bit, errors, the bias."""

import re
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cases import (
    BOTH,
    RATE,
    STATES,
    averaged,
    bent_chain,
    bits_chain,
    bits_given,
    gaussian_chain,
    is_gaussian,
    keys,
    mean_is,
    model_covariance,
)
from dpm_jax import binomial, gaussian, model, posterior, replacement, sampling, schedule
from dpm_jax.core.binomial import Bernoulli
from dpm_jax.core.chain import fix_last_step, make_chain, respace
from dpm_jax.core.gaussian import Normal

T = 4
MASK = np.array([True, False, True])
NOISE = np.array([0.3, 0.2, 0.45])


def stepped(family, reverse=None):
    """A chain of T steps with β_T = 1: of this kernel, or the forward one."""
    steps = schedule.constant_fraction(T, 0.1)

    def forward(xt, t):
        return family.step(xt, steps.beta[t])

    return make_chain(family, steps, reverse or forward, (3,), "learned")


def of_gaussians():
    return stepped(gaussian.family())


def of_bits():
    return stepped(binomial.family(RATE))


@pytest.fixture(params=BOTH)
def setting(request):
    """A chain with β_T = 1 and a kernel that is not exact, and values y of the support."""
    make, y = BOTH[request.param]
    return bent_chain(make(), schedule.constant_fraction(T, 0.1), "learned"), np.array(y)


def curved(x):
    """A log r per element; for bits as good as any."""
    return jnp.sin(x) - 0.3 * x**2


def states(chain):
    """(8, 3): all bits, or as many normal vectors."""
    normal = np.random.default_rng(0).normal(size=(8, 3))
    return jnp.asarray(normal if is_gaussian(chain.family) else STATES)


def close(actual, expected, rtol=1e-9, atol=1e-10):
    jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, rtol, atol), actual, expected)


def same(actual, expected):
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


def three(chain, y):
    """Known here, perturbed everywhere, noisy where nothing is known."""
    return posterior.compose(
        posterior.inpaint(chain, MASK, y, "noised"),
        posterior.perturb(chain, curved),
        posterior.denoise(chain, y, NOISE, "annealed", ~MASK),
    )


TILTS = {
    **{
        f"denoise, {r_t}": lambda chain, y, r_t=r_t: posterior.denoise(chain, y, NOISE, r_t, MASK)
        for r_t in posterior.R_T
    },
    **{
        f"perturb, {r_t}": lambda chain, y, r_t=r_t: posterior.perturb(chain, curved, r_t)
        for r_t in posterior.R_T[:2]
    },
    "inpaint, noised": lambda chain, y: posterior.inpaint(chain, MASK, y, "noised"),
    "compose": three,
}


def kernels(chain):
    """Kernels p(x^{t-1}|x^t) of some x^t at t = 1..T, and p(x^T) as the step T + 1: (T+1, 3)."""
    found = [chain.reverse(states(chain)[t], jnp.asarray(t)) for t in range(1, T + 1)]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *found, chain.prior)


# --- eq. 22 -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TILTS)
def test_a_tilt_keeps_what_eq_22_normalises_away(name, x64, setting):
    """log p~(x^{t-1}|x^t) + log Z~ = log p(x^{t-1}|x^t) + log r(x^{t-1}), at every t and state."""
    chain, y = setting
    tilt, family = TILTS[name](chain, y), chain.family
    first = 2 if name in ("inpaint, noised", "compose") else 1  # at x^0 r is a delta

    def both_sides(params, t, x):
        left = family.log_prob(tilt(params, t), x) + tilt.log_z(params, x, t)
        return left, family.log_prob(params, x) + tilt.log_r(x, t - 1)

    grid = jax.vmap(jax.vmap(both_sides, (None, None, 0)), (0, 0, None))
    params = jax.tree.map(lambda a: a[first - 1 :], kernels(chain))
    close(*jax.jit(grid)(params, jnp.arange(first, T + 2), states(chain)))


def test_the_names_of_r(x64, setting):
    """constant, annealed and noised r(x^t) against log P(y | x), up to a constant in x."""
    chain, y = setting
    family, x = chain.family, states(chain)
    r = family.observe(y, NOISE)
    truth = jax.vmap(lambda x: family.log_prob(r, x))(x)

    @jax.jit
    def log_r():
        tilts = {r_t: posterior.denoise(chain, y, NOISE, r_t) for r_t in posterior.R_T}
        log_alpha_bar = chain.schedule.log_alpha_bar
        tilts["at t"] = tilts["constant"]._replace(
            log_r=lambda x, t: family.log_prob(family.noised(r, log_alpha_bar[t]), x)
        )

        def each(tilt):
            return jax.vmap(jax.vmap(tilt.log_r, (0, None)), (None, 0))

        return {name: each(tilt)(x, jnp.arange(T + 1)) for name, tilt in tilts.items()}

    def is_r(values, expected, atol=1e-10):
        close(values - values[0], expected - expected[0], atol=atol)

    found = log_r()
    for t in range(T + 1):
        is_r(found["constant"][t], truth)
        is_r(found["annealed"][t], truth * (T - t) / T)
        is_r(found["noised"][t], found["at t"][t])
    is_r(found["noised"][0], truth)
    is_r(found["noised"][T], np.zeros(8), atol=1e-4)  # β_T = 1: nothing of y is left


def test_r_1_changes_nothing(x64):
    chain = of_bits()
    params, t = Bernoulli(jnp.asarray([0.3, -2.0, 40.0])), jnp.asarray(2)
    for r_t in posterior.R_T:
        close(posterior.denoise(chain, np.ones(3), 0.5, r_t)(params, t), params)
    same(posterior.perturb(chain, lambda x: 0 * x)(params, t), params)


def test_bits_flipped_are_the_table_s_perturbation(x64):
    """`perturb` with log r per bit and `denoise` are one kernel (Table App.1), and one Z~."""
    chain = of_bits()
    y, flip = jnp.asarray([1.0, 0.0, 1.0]), jnp.asarray([0.1, 0.3, 0.4])

    def log_r(x):
        return jnp.log(jnp.where(x == y, 1 - flip, flip))

    params, x, t = Bernoulli(jnp.asarray([0.3, -2.0, 5.0])), jnp.asarray(STATES[3]), jnp.asarray(2)
    for r_t in ("constant", "annealed"):
        table = posterior.perturb(chain, log_r, r_t)
        product = posterior.denoise(chain, y, flip, r_t)
        close(table(params, t), product(params, t))
        ratio = [tilt.log_z(params, x, t) - tilt.log_r(x, t - 1) for tilt in (table, product)]
        close(*ratio)


def test_a_linear_log_r_moves_the_gaussian_mean_by_its_slope_times_sigma(x64):
    chain, b = of_gaussians(), jnp.asarray([1.0, -2.0, 0.5])
    params, t = Normal(jnp.asarray([0.1, 0.2, 0.3]), jnp.asarray([0.5, 1.0, 2.0])), jnp.asarray(3)
    for tilt in (posterior.perturb(chain, lambda x: b @ x, r_t) for r_t in posterior.R_T[:2]):
        s = float(tilt.log_r(jnp.ones(3), t - 1) / b.sum())
        expected = Normal(params.mean + s * params.variance * b, params.variance)
        close(tilt(params, t), expected)
        log_z = s * b @ params.mean + 0.5 * s**2 * b @ (params.variance * b)
        for x in (jnp.zeros(3), params.mean):  # the product is exact, Z~ the same for every x
            close(tilt.log_z(params, x, t), log_z)


def test_little_noise_is_inpaint_and_much_is_nothing(x64):
    chain, t = of_gaussians(), jnp.asarray(2)
    y, params = jnp.asarray([3.0, 0.0, -1.0]), Normal(jnp.ones(3), jnp.full(3, 0.5))
    for r_t in posterior.R_T:
        close(posterior.denoise(chain, y, 1e16, r_t)(params, t), params)
        sharp = posterior.denoise(chain, y, 1e-14, r_t, MASK)
        close(sharp(params, t), posterior.inpaint(chain, MASK, y, r_t)(params, t))


@pytest.mark.parametrize("noise", [1e-8, 1e-4, 0.2])
def test_annealed_and_noised_r_leave_the_start_to_the_prior(noise, setting):
    """r(x^T) = 1 with β_T = 1, however sharp r is (Sec. 2.5)."""
    chain, y = setting
    tilts = [posterior.denoise(chain, y, noise, r_t) for r_t in ("annealed", "noised")]
    tilts.append(posterior.perturb(chain, lambda x: curved(x) / noise, "annealed"))
    for tilt in tilts:
        close(posterior.tilted(chain, tilt).prior, chain.prior, atol=3e-6)


# --- the tilted chain ---------------------------------------------------------------------------


def test_any_function_of_params_and_t_is_a_tilt():
    seen = []

    def mine(params, t):
        seen.append(t)
        return params._replace(mean=params.mean + 10)

    chain = stepped(gaussian.family(), lambda xt, t: Normal(xt, 0 * xt))
    used = posterior.tilted(chain, mine)
    assert int(seen[0]) == T + 1
    close(used.prior.mean, np.full(3, 10.0))
    plain = sampling.start(keys(1)[0], chain)
    close(sampling.sample(keys(1)[0], used), plain + 10 * (T + 1), rtol=1e-6)
    one = jax.random.split(keys(1)[0], 1)[0]
    drawn = posterior.sample(keys(1)[0], chain, mine, 1)  # T is not asked of it, and nothing warns
    close(drawn, sampling.start(one, chain)[None] + 10 * (T + 1), rtol=1e-6)


def test_a_tilted_chain_starts_where_it_is_told():
    """π r by default, another prior where given: seen in a chain that stands still."""
    still = stepped(gaussian.family(), lambda xt, t: Normal(xt, 0 * xt))
    tilt = posterior.denoise(still, np.full(3, 2.0), 1.0)
    x = np.asarray(posterior.sample(jax.random.key(0), still, tilt, 4000))
    mean_is(x, 1.0)  # N(0, 1) times N(2; x, 1) is N(1, 1/2)
    mean_is((x - 1) ** 2, 0.5)
    for chain in (still, posterior.tilted(still, tilt)):
        moved = chain._replace(prior=Normal(jnp.full(3, 7.0), jnp.zeros(3)))
        np.testing.assert_array_equal(sampling.sample(keys(1)[0], moved), np.full(3, 7.0))


def test_a_tilt_belongs_to_its_schedule(built):
    """Another T is refused at once; a chain is respaced before it is tilted, not after."""
    made, params = built
    chain = made.chain(params)
    short = respace(chain, 2)
    key, tilt = jax.random.key(1), posterior.inpaint(chain, MASK, np.ones(3))
    for use in (posterior.tilted, lambda *args: posterior.sample(key, *args, 5)):
        with pytest.raises(ValueError, match="tilt: expected one of T = 2, got T = 4"):
            use(short, tilt)
    with pytest.raises(ValueError, match="a tilted one: respace before"):
        respace(posterior.tilted(chain, tilt), 2)
    used = posterior.tilted(short, posterior.inpaint(short, MASK, np.ones(3)))
    assert used.T == 2 and used.last_step == "learned" and used.shape == (3,)
    np.testing.assert_array_equal(sampling.sample(key, used)[MASK], [1.0, 1.0])


# --- products of several r ----------------------------------------------------------------------


def test_the_order_of_exact_tilts_is_irrelevant(x64, setting):
    """Known here, noisy there, and both at once: compose is the product in any order."""
    chain, y = setting
    known = posterior.inpaint(chain, MASK, y, "noised")
    noisy = posterior.denoise(chain, y, NOISE, "annealed", ~MASK)
    again = posterior.denoise(chain, 1 - y, 0.4, "noised")
    params = chain.reverse(states(chain)[2], jnp.asarray(3))
    x = chain.family.sample(jax.random.key(0), params)
    one, other = posterior.compose(known, noisy, again), posterior.compose(again, noisy, known)
    for t in (jnp.asarray(1), jnp.asarray(3)):
        at = jnp.where(jnp.asarray(MASK) & (t == 1), y, x)
        close(one(params, t), other(params, t))
        close(one.log_z(params, at, t), other.log_z(params, at, t))
        close(one.log_r(x, t), other.log_r(x, t))
    assert posterior.compose(known) is known


def test_compose_of_parts_is_the_whole(x64, setting):
    """y observed in two masked parts is y observed at once; twice with v is once with v/2."""
    chain, y = setting
    t = jnp.asarray(2)
    params, x = chain.reverse(states(chain)[2], t), states(chain)[4]
    parts = [posterior.denoise(chain, y, NOISE, "noised", m) for m in (MASK, ~MASK)]
    whole = posterior.denoise(chain, y, NOISE, "noised")
    for name in ("apply", "log_z"):
        args = (params, t) if name == "apply" else (params, x, t)
        close(getattr(posterior.compose(*parts), name)(*args), getattr(whole, name)(*args))
    known = posterior.inpaint(chain, MASK, y)
    same(posterior.compose(known, known)(params, t), known(params, t))
    if is_gaussian(chain.family):
        half = posterior.denoise(chain, y, NOISE / 2)
        twice = posterior.compose(*[posterior.denoise(chain, y, NOISE)] * 2)
        close(twice(params, t), half(params, t))


@pytest.mark.parametrize("delta_first", [True, False])
def test_a_perturbation_beside_known_values_gives_no_nan(delta_first, setting):
    chain, y = setting
    parts = [posterior.inpaint(chain, MASK, y, "noised")]
    parts.insert(delta_first, posterior.perturb(chain, curved))
    tilt = posterior.compose(*parts)
    assert (tilt.curvature is not None) and not tilt.singular

    @jax.jit
    def step(t):
        params = chain.reverse(states(chain)[2].astype(jnp.float32), t)
        x = chain.family.sample(jax.random.key(0), tilt(params, t))
        return x, tilt.log_z(params, x, t)

    for t in (1, 2):
        x, log_z = step(t)
        assert jnp.isfinite(log_z)
        if t == 1:
            np.testing.assert_array_equal(x[MASK], y[MASK].astype(np.float32))


# --- inpainting ---------------------------------------------------------------------------------


def the_known_come_back(draw, y, alphabet):
    """100 draws: the known values to the bit, the hidden ones in all their variety, never read."""
    x = np.asarray(draw(y))
    np.testing.assert_array_equal(x[:, MASK], np.tile(y.astype(np.float32)[MASK], (100, 1)))
    assert len(np.unique(x[:, ~MASK])) == alphabet
    for hidden in (np.nan, np.inf, 0.5):
        np.testing.assert_array_equal(draw(np.where(MASK, y, hidden)), x)


@pytest.mark.parametrize("r_t", [*posterior.R_T, "replacement"])
def test_known_values_come_back_to_the_bit_and_the_hidden_are_never_read(r_t, setting):
    chain, y = setting
    normal = is_gaussian(chain.family)
    y, chain = y * (1 / 3) if normal else y, fix_last_step(chain)

    @jax.jit
    def draw(known):
        if r_t == "replacement":

            def each(key):
                return replacement.sample(key, chain, MASK, known, 3)

            return jax.vmap(each)(keys(100))
        used = posterior.tilted(chain, posterior.inpaint(chain, MASK, known, r_t))
        return jax.vmap(lambda key: sampling.sample(key, used))(keys(100))

    the_known_come_back(draw, y, alphabet=100 if normal else 2)


def test_hidden_values_need_not_be_of_the_support(setting):
    """Outside jit, where values are checked."""
    chain, y = setting
    params, t = chain.reverse(jnp.ones(3), jnp.asarray(2)), jnp.asarray(2)
    for hidden in (np.nan, 0.5):
        values = np.where(MASK, y, hidden)
        for make in (
            lambda v: posterior.inpaint(chain, MASK, v),
            lambda v: posterior.denoise(chain, v, 0.2, mask=MASK),
        ):
            same(make(values)(params, t), make(y)(params, t))
            close(make(values)(params, t)[0][1], params[0][1], 0, 0)  # untouched


def test_known_bits_may_be_bools():
    chain, t = of_bits(), jnp.asarray(2)
    for dtype in (bool, np.uint8, np.int32):
        tilt = posterior.inpaint(chain, MASK, np.array([1, 0, 0], dtype))
        close(tilt(chain.prior, t).logits, [np.inf, chain.prior.logits[1], -np.inf])


# --- the bias of eq. 22 without weights ---------------------------------------------------------


@pytest.fixture(scope="module")
def three_bits():
    """p(x^0) of the 8 states, and the chain that has it exactly."""
    log_p, _, chain = bits_chain(schedule.constant_fraction(T, 0.1))
    return np.exp(log_p), chain


def law_of(chain):
    """P(x^0) of a chain of bits, summed over all states: (8,)."""
    p = bits_given(jax.nn.sigmoid(chain.prior.logits))
    each = jax.vmap(lambda x, t: chain.reverse(x, t).logits, (0, None))
    for t in range(T, 0, -1):
        p = p @ bits_given(jax.nn.sigmoid(each(jnp.asarray(STATES, jnp.float32), jnp.asarray(t))))
    return p


def far(law, true):
    """Total variation distance."""
    return 0.5 * np.abs(law - true).sum()


def frequencies(x):
    """Which of the 8 states each draw is: (n, 8)."""
    return (np.asarray(x)[:, None] == STATES).all(axis=-1)


def test_the_paper_s_samples_are_those_of_the_tilted_chain_and_biased(three_bits):
    """Its law by enumeration: what `sampling.sample` draws, and not p(x) r(x)/Z~."""
    p, chain = three_bits
    y, flip, away = np.array([0.0, 0.0, 1.0]), 0.1, {}
    true = p * np.where(y == STATES, 1 - flip, flip).prod(axis=1)
    true /= true.sum()
    for r_t in posterior.R_T:
        used = posterior.tilted(chain, posterior.denoise(chain, y, flip, r_t))
        law, x = law_of(used), averaged(sampling.sample, 4000, used)
        mean_is(frequencies(x), law, expected_error=np.sqrt(law / 4000))
        away[r_t] = far(law, true)
    assert away["constant"] > 0.2, away
    for r_t in ("annealed", "noised"):  # an r that comes gradually is less wrong, not right
        assert 0.03 < away[r_t] < 0.5 * away["constant"], away


def test_the_paper_s_samples_are_exact_where_r_is_1_or_the_bits_are_independent(three_bits):
    p, chain = three_bits
    for r_t in posterior.R_T:
        tilt = posterior.denoise(chain, np.ones(3), 0.5, r_t)
        close(law_of(posterior.tilted(chain, tilt)), p, rtol=1e-4)
    # With noised r the weights w_t are 1 for data ~ π, and the chain of eq. 22 is exact.
    stationary = of_bits()
    y, flip = np.array([1.0, 1.0, 0.0]), np.array([0.1, 0.2, 0.3])
    tilt = posterior.denoise(stationary, y, flip, "noised")
    true = bits_given(RATE) * np.where(y == STATES, 1 - flip, flip).prod(axis=1)
    close(law_of(posterior.tilted(stationary, tilt)), true / true.sum(), rtol=1e-4)


def test_replacement_comes_closer_with_repeats():
    """One of three correlated normals known; visited once a t, the others hear of it too late."""
    steps = schedule.geometric(20, 1e-2)
    chain, _ = gaussian_chain(0.9 * np.ones((3, 3)) + 0.1 * np.eye(3), steps)
    S = np.asarray(model_covariance(steps, chain.reverse))
    true = 2 * S[1, 0] / S[0, 0]
    args = chain, np.array([True, False, False]), np.array([2.0, 0.0, 0.0])
    means = [averaged(replacement.sample, 1000, *args, n).mean(axis=0)[1] for n in (1, 20)]
    assert means[0] < 0.6 * true
    assert means[1] == pytest.approx(true, rel=0.04)


# --- the reach of eq. 61 ------------------------------------------------------------------------


def test_curvature_along_a_chain_is_its_largest():
    """Σ/σ² at the t of the largest Σ, the prior's included; 0 where tilts are exact."""
    chain = stepped(
        gaussian.family(), lambda xt, t: Normal(0.5 * xt, 0 * xt + 0.2 * t.astype(float))
    )

    def quadratic(x):
        return -0.5 * jnp.sum(x**2) / 4

    sharp = posterior.perturb(chain, lambda x: -50.0 * jnp.where(MASK, x, 0.0) ** 2)
    known = posterior.inpaint(chain, MASK, np.ones(3))
    tilts = {
        "constant": posterior.perturb(chain, quadratic),
        "annealed": posterior.perturb(chain, quadratic, "annealed"),
        "exact": posterior.denoise(chain, np.zeros(3), 0.01),
        "sharp": sharp,
        "sharp where known": posterior.compose(known, sharp),
    }

    def measure(tilt):
        return posterior.curvature(jax.random.key(0), chain, tilt)

    found = jax.jit(lambda: {name: measure(tilt) for name, tilt in tilts.items()})()
    assert found["constant"] == pytest.approx(1 / 4, rel=1e-4)
    # At step t it is (T − t + 1)/T · 0.2 t / 4, the largest at t = 2 and 3.
    assert found["annealed"] == pytest.approx(3 / 4 * 0.4 / 4, rel=1e-4)
    assert found["sharp"] == pytest.approx(100, rel=1e-4)  # at π
    assert found["exact"] == found["sharp where known"] == 0


# --- errors -------------------------------------------------------------------------------------

G, B = of_gaussians(), of_bits()
ZEROS = np.zeros(3)


def replaced(mask=MASK, known=ZEROS, repeats=2):
    return replacement.sample(jax.random.key(0), G, mask, known, repeats)


WRONG = [
    (
        lambda: posterior.inpaint(G, MASK.astype(float), ZEROS),
        r"mask: expected bool, True where known, got float",
    ),
    (
        lambda: posterior.inpaint(B, MASK, np.array([0.5, 0, 0])),
        "^known: expected only 0 and 1",
    ),
    (
        lambda: posterior.inpaint(G, MASK, np.array([np.nan, 0, 0])),
        "^known: expected finite values",
    ),
    (lambda: posterior.denoise(B, np.full(3, 0.5), 0.1), "^y: expected only 0 and 1"),
    (
        lambda: posterior.denoise(G, ZEROS, 0.0),
        r"noise: expected above 0 \(at 0 it is `inpaint`\), got 0.0",
    ),
    (
        lambda: posterior.denoise(G, ZEROS, np.array([1.0, -1.0, 1.0])),
        "noise: expected above 0",
    ),
    (lambda: posterior.denoise(G, ZEROS, np.nan), "noise: expected .* got nan"),
    (lambda: posterior.denoise(G, ZEROS, np.inf), "noise: expected .* got inf"),
    (
        lambda: posterior.denoise(B, ZEROS, 1.0),
        r"noise: expected a flip probability in \[0, 1\), got 1.0",
    ),
    (
        lambda: posterior.denoise(G, ZEROS, np.ones(2)),
        r"noise: expected shape \(\) or \(3,\), got \(2,\)",
    ),
    (
        lambda: posterior.inpaint(G, MASK, ZEROS, "slowly"),
        r"r_t: expected one of \('constant', 'annealed', 'noised'\), got 'slowly'",
    ),
    (
        lambda: posterior.perturb(G, jnp.sum, "noised"),
        r"r_t: expected one of \('constant', 'annealed', 'dps'\) for any log r, got 'noised'",
    ),
    (
        lambda: posterior.compose(posterior.denoise(G, ZEROS, 1.0), posterior.perturb(B, jnp.sum)),
        r"tilts: expected kernels of one kind, got \['Bernoulli', 'Normal'\]",
    ),
    (lambda: posterior.compose(), r"tilts: expected some of one T, got T = \[\]"),
    (
        lambda: posterior.compose(
            posterior.perturb(G, jnp.sum),
            posterior.perturb(G._replace(schedule=schedule.constant_fraction(7)), jnp.sum),
        ),
        r"tilts: expected some of one T, got T = \[4, 7\]",
    ),
    (
        lambda: posterior.tilted(G, posterior.perturb(G, lambda x: x[:2])),
        r"log_r: expected shape \(\) or \(3,\), got \(2,\)",
    ),
    (
        lambda: posterior.tilted(B, posterior.perturb(B, jnp.sum)),
        r"log_r: expected shape \(3,\) \(per bit\), got \(\)",
    ),
    (
        lambda: posterior.sample(jax.random.key(0), G, posterior.perturb(G, jnp.sum), 0),
        "num: expected at least 1, got 0",
    ),
    (lambda: replaced(repeats=0), "repeats: expected at least 1, got 0"),
]


@pytest.mark.parametrize("make, message", WRONG)
def test_errors_name_the_argument(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("shape", [(), (1,), (2,), (1, 3)], ids=str)
@pytest.mark.parametrize(
    "name, make",
    [
        ("mask", lambda wrong: posterior.inpaint(G, wrong > 0, ZEROS)),
        ("known", lambda wrong: posterior.inpaint(G, MASK, wrong)),
        ("y", lambda wrong: posterior.denoise(G, wrong, 0.1, mask=MASK)),
        ("mask", lambda wrong: posterior.denoise(G, ZEROS, 0.1, mask=wrong > 0)),
        ("mask", lambda wrong: replaced(mask=wrong > 0)),
        ("known", lambda wrong: replaced(known=wrong)),
    ],
)
def test_another_shape_than_the_event_s_is_refused_at_once(name, make, shape):
    """Also of one that would broadcast, and under jit."""
    message = rf"^{name}: expected .*shape \(3,\).*, got {re.escape(str(shape))}"
    for run in (lambda: make(np.zeros(shape)), lambda: jax.eval_shape(make, np.zeros(shape))):
        with pytest.raises(ValueError, match=message):
            run()


# --- of a model ---------------------------------------------------------------------------------


class Linear:
    """A network of one parameter: x̂^0 = scale · x^t."""

    def init(self, key, x, t, log_snr):
        return {"scale": jnp.asarray(0.5)}

    def apply(self, params, x, t, log_snr):
        return params["scale"] * x[..., None]


def build(family):
    variance = {"variance": "posterior"} if is_gaussian(family) else {}
    made = model.build(family, schedule.constant_fraction(T, 0.1), Linear(), (3,), **variance)
    return made, made.init(jax.random.key(0))


@pytest.fixture(params=[gaussian.family(), binomial.family(RATE)], ids=["gaussian", "binomial"])
def built(request):
    return build(request.param)


def test_a_model_samples_with_a_tilt(built):
    """End to end, y and key traced, several problems at once, and in fewer steps."""
    made, params = built
    y = np.array([1.0, 0.0, 0.0], np.float32)

    def draw(key, y, steps=None):
        chain = made.chain(params, steps)
        return posterior.sample(key, chain, posterior.inpaint(chain, MASK, y), 5)

    problems = jax.jit(jax.vmap(draw, (None, 0)))
    x = problems(jax.random.key(1), jnp.stack([y, 1 - y]))
    assert x.shape == (2, 5, 3)
    for found, known in zip(np.asarray(x), (y, 1 - y)):
        np.testing.assert_array_equal(found[:, MASK], np.tile(known[MASK], (5, 1)))
    np.testing.assert_allclose(draw(jax.random.key(1), y), x[0])
    assert jax.eval_shape(lambda key: draw(key, y, 2), jax.random.key(1)).shape == (5, 3)


def by_width(chain, width):
    """A tilt of curvature 1/width at the prior."""
    return posterior.perturb(chain, lambda x: -0.5 * jnp.sum(x**2) / width)


def test_the_first_order_form_is_warned_of_beyond_its_reach():
    """Outside jit only, and at the line that asked for samples."""
    made, params = build(gaussian.family())
    chain, key = made.chain(params), jax.random.key(1)

    def draw(width, key=key):
        return posterior.sample(key, chain, by_width(chain, width), 2)

    with pytest.warns(UserWarning, match=r"perturb: the first-order form .* got 10 \(at 0.5") as w:
        draw(0.1)
    assert [warning.filename for warning in w] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw(2.5)
        jax.jit(lambda key: draw(0.1, key))(key)


def test_a_traced_r_with_a_key_that_is_not_samples_unwarned():
    """As in `jax.vmap` over problems that share a key."""
    made, params = build(gaussian.family())
    chain, key = made.chain(params), jax.random.key(1)

    def draw(width):
        return posterior.sample(key, chain, by_width(chain, width), 2)

    assert jax.vmap(draw)(jnp.asarray([0.1, 1.0])).shape == (2, 2, 3)
