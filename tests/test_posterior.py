"""Tilts: eq. 22 as an identity, r by its names, known values to the bit, errors, the bias."""

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
    bent,
    bits_given,
    enumerated,
    keys,
    mean_is,
    of_states,
)
from dpm_jax import binomial, bound, gaussian, model, posterior, sampling, schedule
from dpm_jax.binomial import Bernoulli
from dpm_jax.gaussian import Normal

T = 4
MASK = np.array([True, False, True])
NOISE = np.array([0.3, 0.2, 0.45])
STEPS = schedule.constant_fraction(T, 0.1)


@pytest.fixture(params=BOTH)
def setting(request):
    """A family, a schedule with β_T = 1, a reverse kernel, values y of the support."""
    make, y = BOTH[request.param]
    family, steps = make(), schedule.constant_fraction(T, 0.1)
    return family, steps, bent(family, steps), np.array(y)


def curved(x):
    """A log r per element; for bits as good as any."""
    return jnp.sin(x) - 0.3 * x**2


def states(family):
    """(8, 3): all bits, or as many normal vectors."""
    return STATES if family.name == "binomial" else np.random.default_rng(0).normal(size=(8, 3))


def close(actual, expected, rtol=1e-9, atol=1e-10):
    jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, rtol, atol), actual, expected)


def same(actual, expected):
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


TILTS = {
    **{
        f"denoise, {how}": lambda family, steps, y, how=how: posterior.denoise(
            family, steps, y, NOISE, how, MASK
        )
        for how in posterior.HOW
    },
    **{
        f"perturb, {how}": lambda family, steps, y, how=how: posterior.perturb(
            family, steps, curved, how
        )
        for how in posterior.HOW[:2]
    },
    "inpaint, noised": lambda family, steps, y: posterior.inpaint(family, steps, MASK, y, "noised"),
    "compose": lambda family, steps, y: posterior.compose(
        posterior.inpaint(family, steps, MASK, y, "noised"),
        posterior.perturb(family, steps, curved),
        posterior.denoise(family, steps, y, NOISE, "annealed", ~MASK),
    ),
}


def kernels(family, steps, reverse):
    """Kernels p(x^{t-1}|x^t) of some x^t at t = 1..T, and π as the step T + 1: leaves (T+1, 3)."""
    found = [reverse(jnp.asarray(states(family)[t]), jnp.asarray(t)) for t in range(1, T + 1)]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *found, family.prior((3,)))


# --- eq. 22 -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TILTS)
def test_a_tilt_keeps_what_eq_22_normalises_away(name, x64, setting):
    """log p~(x^{t-1}|x^t) + log Z~ = log p(x^{t-1}|x^t) + log r(x^{t-1}), at every t and state."""
    family, steps, reverse, y = setting
    tilt = TILTS[name](family, steps, y)
    first = 2 if name in ("inpaint, noised", "compose") else 1  # at x^0 r is a delta

    def both_sides(params, t, x):
        left = family.log_prob(tilt(params, t), x) + tilt.log_z(params, x, t)
        return left, family.log_prob(params, x) + tilt.log_r(x, t - 1)

    grid = jax.vmap(jax.vmap(both_sides, (None, None, 0)), (0, 0, None))
    params = jax.tree.map(lambda a: a[first - 1 :], kernels(family, steps, reverse))
    close(*jax.jit(grid)(params, jnp.arange(first, T + 2), jnp.asarray(states(family))))


def test_the_names_of_r(x64, setting):
    """constant, annealed and noised r(x^t) against log P(y | x), up to a constant in x."""
    family, steps, _, y = setting
    x = jnp.asarray(states(family))
    r = family.observe(y, NOISE)
    truth = jax.vmap(lambda x: family.log_prob(r, x))(x)

    @jax.jit
    def log_r():
        tilts = {how: posterior.denoise(family, steps, y, NOISE, how) for how in posterior.HOW}
        tilts["at t"] = tilts["constant"]._replace(
            log_r=lambda x, t: family.log_prob(family.noised(r, steps.log_alpha_bar[t]), x)
        )
        each = lambda tilt: jax.vmap(jax.vmap(tilt.log_r, (0, None)), (None, 0))  # noqa: E731
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
    family, steps = binomial.family(RATE), schedule.constant_fraction(T, 0.1)
    params, t = Bernoulli(jnp.asarray([0.3, -2.0, 40.0])), jnp.asarray(2)
    for how in posterior.HOW:
        tilt = posterior.denoise(family, steps, np.ones(3), 0.5, how)
        close(tilt(params, t), params)
    same(posterior.perturb(family, steps, lambda x: 0 * x)(params, t), params)


def test_bits_flipped_are_the_table_s_perturbation(x64):
    """`perturb` with log r per bit and `denoise` are one kernel (Table App.1), and one Z~."""
    family, steps = binomial.family(RATE), schedule.constant_fraction(T, 0.1)
    y, flip = jnp.asarray([1.0, 0.0, 1.0]), jnp.asarray([0.1, 0.3, 0.4])
    log_r = lambda x: jnp.log(jnp.where(x == y, 1 - flip, flip))  # noqa: E731
    params, x, t = Bernoulli(jnp.asarray([0.3, -2.0, 5.0])), jnp.asarray(STATES[3]), jnp.asarray(2)
    for how in ("constant", "annealed"):
        table = posterior.perturb(family, steps, log_r, how)
        product = posterior.denoise(family, steps, y, flip, how)
        close(table(params, t), product(params, t))
        ratio = [tilt.log_z(params, x, t) - tilt.log_r(x, t - 1) for tilt in (table, product)]
        close(*ratio)


def test_a_linear_log_r_moves_the_gaussian_mean_by_its_slope_times_sigma(x64):
    family, b = gaussian.family(), jnp.asarray([1.0, -2.0, 0.5])
    steps = schedule.constant_fraction(T, 0.1)
    params, t = Normal(jnp.asarray([0.1, 0.2, 0.3]), jnp.asarray([0.5, 1.0, 2.0])), jnp.asarray(3)
    for tilt in (
        posterior.perturb(family, steps, lambda x: b @ x, how) for how in posterior.HOW[:2]
    ):
        s = float(tilt.log_r(jnp.ones(3), t - 1) / b.sum())
        expected = Normal(params.mean + s * params.variance * b, params.variance)
        close(tilt(params, t), expected)
        log_z = s * b @ params.mean + 0.5 * s**2 * b @ (params.variance * b)
        for x in (jnp.zeros(3), params.mean):  # the product is exact, Z~ the same for every x
            close(tilt.log_z(params, x, t), log_z)


def test_little_noise_is_inpaint_and_much_is_nothing(x64):
    family, steps = gaussian.family(), schedule.constant_fraction(T, 0.1)
    y, params = jnp.asarray([3.0, 0.0, -1.0]), Normal(jnp.ones(3), jnp.full(3, 0.5))
    t = jnp.asarray(2)
    for how in posterior.HOW:
        close(posterior.denoise(family, steps, y, 1e16, how)(params, t), params)
        sharp = posterior.denoise(family, steps, y, 1e-14, how, MASK)
        close(sharp(params, t), posterior.inpaint(family, steps, MASK, y, how)(params, t))


@pytest.mark.parametrize("noise", [1e-8, 1e-4, 0.2])
def test_annealed_and_noised_r_leave_the_start_to_the_prior(noise, setting):
    """r(x^T) = 1 with β_T = 1, however sharp r is (Sec. 2.5)."""
    family, steps, _, y = setting
    for how in ("annealed", "noised"):
        tilt = posterior.denoise(family, steps, y, noise, how)
        close(posterior.start(family, tilt, steps, (3,)), family.prior((3,)), atol=3e-6)
    general = posterior.perturb(family, steps, lambda x: curved(x) / noise, "annealed")
    close(posterior.start(family, general, steps, (3,)), family.prior((3,)), atol=3e-6)


# --- products of several r ----------------------------------------------------------------------


def test_the_order_of_exact_tilts_is_irrelevant(x64, setting):
    """Known here, noisy there, and both at once: compose is the product in any order."""
    family, steps, reverse, y = setting
    known = posterior.inpaint(family, steps, MASK, y, "noised")
    noisy = posterior.denoise(family, steps, y, NOISE, "annealed", ~MASK)
    again = posterior.denoise(family, steps, 1 - y, 0.4, "noised")
    params = reverse(jnp.asarray(states(family)[2]), jnp.asarray(3))
    x = family.sample(jax.random.key(0), params)
    one, other = posterior.compose(known, noisy, again), posterior.compose(again, noisy, known)
    for t in (jnp.asarray(1), jnp.asarray(3)):
        at = jnp.where(jnp.asarray(MASK) & (t == 1), y, x)
        close(one(params, t), other(params, t))
        close(one.log_z(params, at, t), other.log_z(params, at, t))
        close(one.log_r(x, t), other.log_r(x, t))
    assert posterior.compose(known) is known


def test_compose_of_parts_is_the_whole(x64, setting):
    """y observed in two masked parts is y observed at once; twice with v is once with v/2."""
    family, steps, reverse, y = setting
    t = jnp.asarray(2)
    params = reverse(jnp.asarray(states(family)[2]), t)
    parts = [posterior.denoise(family, steps, y, NOISE, "noised", m) for m in (MASK, ~MASK)]
    whole = posterior.denoise(family, steps, y, NOISE, "noised")
    x = jnp.asarray(states(family)[4])
    for name in ("apply", "log_z"):
        args = (params, t) if name == "apply" else (params, x, t)
        close(getattr(posterior.compose(*parts), name)(*args), getattr(whole, name)(*args))
    known = posterior.inpaint(family, steps, MASK, y)
    same(posterior.compose(known, known)(params, t), known(params, t))
    if family.name == "gaussian":
        half = posterior.denoise(family, steps, y, NOISE / 2)
        twice = posterior.compose(*[posterior.denoise(family, steps, y, NOISE)] * 2)
        close(twice(params, t), half(params, t))


@pytest.mark.parametrize("delta_first", [True, False])
def test_a_perturbation_beside_known_values_gives_no_nan(delta_first, setting):
    family, steps, reverse, y = setting
    parts = [posterior.inpaint(family, steps, MASK, y, "noised")]
    parts.insert(delta_first, posterior.perturb(family, steps, curved))
    tilt = posterior.compose(*parts)
    assert (tilt.curvature is not None) and not tilt.singular

    @jax.jit
    def step(t):
        params = reverse(jnp.asarray(states(family)[2], jnp.float32), t)
        x = family.sample(jax.random.key(0), tilt(params, t))
        return x, tilt.log_z(params, x, t)

    for t in (1, 2):
        x, log_z = step(t)
        assert jnp.isfinite(log_z)
        if t == 1:
            np.testing.assert_array_equal(x[MASK], y[MASK].astype(np.float32))


def test_any_function_of_params_and_t_is_a_tilt():
    family, seen = gaussian.family(), []

    def mine(params, t):
        seen.append(t)
        return params._replace(mean=params.mean + 10)

    reverse = posterior.tilted(lambda xt, t: Normal(xt, 0 * xt), mine)
    start = posterior.start(family, mine, STEPS, (3,))
    assert int(seen[0]) == T + 1
    close(start.mean, np.full(3, 10.0))
    x = sampling.sample(keys(1)[0], family, STEPS, reverse, (3,), start)
    plain = family.sample(jax.random.fold_in(keys(1)[0], T + 1), family.prior((3,)))
    close(x, plain + 10 * (T + 1), rtol=1e-6)


# --- inpainting ---------------------------------------------------------------------------------


@pytest.mark.parametrize("how", posterior.HOW)
def test_known_values_come_back_to_the_bit_and_the_hidden_are_never_read(how, setting):
    family, steps, reverse, y = setting
    y = y * (1 / 3) if family.name == "gaussian" else y
    reverse = bound.fix_last_step(family, steps, reverse)

    @jax.jit
    def draw(known):
        tilt = posterior.inpaint(family, steps, MASK, known, how)
        start = posterior.start(family, tilt, steps, (3,))
        kernel = posterior.tilted(reverse, tilt)
        one = lambda key: sampling.sample(key, family, steps, kernel, (3,), start)  # noqa: E731
        return jax.vmap(one)(keys(100))

    x = np.asarray(draw(y))
    np.testing.assert_array_equal(x[:, MASK], np.tile(y.astype(np.float32)[MASK], (100, 1)))
    assert len(np.unique(x[:, ~MASK])) == (2 if family.name == "binomial" else 100)
    for hidden in (np.nan, np.inf, 0.5):
        np.testing.assert_array_equal(draw(np.where(MASK, y, hidden)), x)


def test_hidden_values_need_not_be_of_the_support(setting):
    """Outside jit, where values are checked."""
    family, steps, reverse, y = setting
    params, t = reverse(jnp.ones(3), jnp.asarray(2)), jnp.asarray(2)
    for hidden in (np.nan, 0.5):
        values = np.where(MASK, y, hidden)
        for make in (
            lambda v: posterior.inpaint(family, steps, MASK, v),
            lambda v: posterior.denoise(family, steps, v, 0.2, mask=MASK),
        ):
            same(make(values)(params, t), make(y)(params, t))
            close(make(values)(params, t)[0][1], params[0][1], 0, 0)  # untouched


def test_known_bits_may_be_bools():
    family, t = binomial.family(RATE), jnp.asarray(2)
    params = family.prior((3,))
    for dtype in (bool, np.uint8, np.int32):
        tilt = posterior.inpaint(family, STEPS, MASK, np.array([1, 0, 0], dtype))
        close(tilt(params, t).logits, [np.inf, params.logits[1], -np.inf])


# --- the bias of eq. 22 without weights ---------------------------------------------------------


def law_of_the_chain(tilt, logits, family):
    """P(x^0) of the chain of tilted kernels, summed over all states: (8,)."""
    p = bits_given(jax.nn.sigmoid(posterior.start(family, tilt, STEPS, (3,)).logits))
    each = jax.vmap(lambda a, t: tilt(Bernoulli(a), t).logits, (0, None))
    for t in range(T, 0, -1):
        p = p @ bits_given(jax.nn.sigmoid(each(logits[t], jnp.asarray(t))))
    return p


def test_the_paper_s_samples_are_those_of_the_tilted_chain_and_biased():
    """Its law by enumeration: what `sampling.sample` draws, and not p(x) r(x)/Z~."""
    family, y, flip = binomial.family(RATE), np.array([0.0, 0.0, 1.0]), 0.1
    log_p, _, logits = enumerated(STEPS)
    true = np.exp(log_p) * np.where(y == STATES, 1 - flip, flip).prod(axis=1)
    true /= true.sum()
    away = {}
    for how in posterior.HOW:
        tilt = posterior.denoise(family, STEPS, y, flip, how)
        law = law_of_the_chain(tilt, logits, family)
        start = posterior.start(family, tilt, STEPS, (3,))
        kernel = posterior.tilted(of_states(logits), tilt)
        x = averaged(sampling.sample, 4000, family, STEPS, kernel, (3,), start)
        mean_is((x[:, None] == STATES).all(axis=-1), law, expected_error=np.sqrt(law / 4000))
        away[how] = 0.5 * np.abs(law - true).sum()
    assert away["constant"] > 0.2, away
    for how in ("annealed", "noised"):  # an r that comes gradually is less wrong, not right
        assert 0.03 < away[how] < 0.5 * away["constant"], away


def test_the_paper_s_samples_are_exact_where_r_is_1_or_the_bits_are_independent():
    family = binomial.family(RATE)
    log_p, _, logits = enumerated(STEPS)
    for how in posterior.HOW:
        tilt = posterior.denoise(family, STEPS, np.ones(3), 0.5, how)
        close(law_of_the_chain(tilt, logits, family), np.exp(log_p), rtol=1e-4)
    # With noised r the weights w_t are 1 for data ~ π, and the chain of eq. 22 is exact.
    stationary = jnp.zeros((T + 1, 8, 3))
    for t in range(1, T + 1):
        stationary = stationary.at[t].set(family.step(jnp.asarray(STATES), STEPS.beta[t]).logits)
    y, flip = np.array([1.0, 1.0, 0.0]), np.array([0.1, 0.2, 0.3])
    tilt = posterior.denoise(family, STEPS, y, flip, "noised")
    true = bits_given(RATE) * np.where(y == STATES, 1 - flip, flip).prod(axis=1)
    close(law_of_the_chain(tilt, stationary, family), true / true.sum(), rtol=1e-4)


# --- the reach of eq. 61 ------------------------------------------------------------------------


def test_curvature_along_a_chain_is_its_largest():
    """Σ/σ² at the t of the largest Σ, the prior's included; 0 where tilts are exact."""
    family = gaussian.family()
    reverse = lambda xt, t: Normal(0.5 * xt, 0 * xt + 0.2 * t.astype(float))  # noqa: E731
    quadratic = lambda x: -0.5 * jnp.sum(x**2) / 4  # noqa: E731
    sharp = posterior.perturb(family, STEPS, lambda x: -50.0 * jnp.where(MASK, x, 0.0) ** 2)
    known = posterior.inpaint(family, STEPS, MASK, np.ones(3))
    tilts = {
        "constant": posterior.perturb(family, STEPS, quadratic),
        "annealed": posterior.perturb(family, STEPS, quadratic, "annealed"),
        "exact": posterior.denoise(family, STEPS, np.zeros(3), 0.01),
        "sharp": sharp,
        "sharp where known": posterior.compose(known, sharp),
    }
    measure = lambda tilt: posterior.curvature(  # noqa: E731
        jax.random.key(0), family, STEPS, reverse, tilt, (3,)
    )
    found = jax.jit(lambda: {name: measure(tilt) for name, tilt in tilts.items()})()
    assert found["constant"] == pytest.approx(1 / 4, rel=1e-4)
    # At step t it is (T − t + 1)/T · 0.2 t / 4, the largest at t = 2 and 3.
    assert found["annealed"] == pytest.approx(3 / 4 * 0.4 / 4, rel=1e-4)
    assert found["sharp"] == pytest.approx(100, rel=1e-4)  # at π
    assert found["exact"] == found["sharp where known"] == 0


# --- errors -------------------------------------------------------------------------------------

G, B = gaussian.family(), binomial.family(RATE)


@pytest.mark.parametrize(
    "make, message",
    [
        (
            lambda: posterior.inpaint(G, STEPS, MASK.astype(float), np.zeros(3)),
            r"mask: expected bool, True where known, got float",
        ),
        (
            lambda: posterior.inpaint(G, STEPS, MASK[:2], np.zeros(3)),
            r"mask: expected shape \(3,\), that of the values, got \(2,\)",
        ),
        (
            lambda: posterior.denoise(G, STEPS, np.zeros((3, 3)), 0.1, mask=MASK),
            r"mask: expected shape \(3, 3\), .* got \(3,\)",
        ),
        (
            lambda: posterior.inpaint(B, STEPS, MASK, np.array([0.5, 0, 0])),
            "^known: expected only 0 and 1",
        ),
        (
            lambda: posterior.inpaint(G, STEPS, MASK, np.array([np.nan, 0, 0])),
            "^known: expected finite values",
        ),
        (lambda: posterior.denoise(B, STEPS, np.full(3, 0.5), 0.1), "^y: expected only 0 and 1"),
        (
            lambda: posterior.denoise(G, STEPS, np.zeros(3), 0.0),
            r"noise: expected above 0 \(at 0 it is `inpaint`\), got 0.0",
        ),
        (
            lambda: posterior.denoise(G, STEPS, np.zeros(3), np.array([1.0, -1.0, 1.0])),
            "noise: expected above 0",
        ),
        (lambda: posterior.denoise(G, STEPS, np.zeros(3), np.nan), "noise: expected .* got nan"),
        (lambda: posterior.denoise(G, STEPS, np.zeros(3), np.inf), "noise: expected .* got inf"),
        (
            lambda: posterior.denoise(B, STEPS, np.zeros(3), 1.0),
            r"noise: expected a flip probability in \[0, 1\), got 1.0",
        ),
        (
            lambda: posterior.inpaint(G, STEPS, MASK, np.zeros(3), "slowly"),
            r"how: expected one of \('constant', 'annealed', 'noised'\), got 'slowly'",
        ),
        (
            lambda: posterior.perturb(G, STEPS, jnp.sum, "noised"),
            r"how: expected one of \('constant', 'annealed'\) for a general log r, got 'noised'",
        ),
        (lambda: posterior.compose(), r"tilts: expected some of one T, got T = \[\]"),
        (
            lambda: posterior.compose(
                posterior.perturb(G, STEPS, jnp.sum),
                posterior.perturb(G, schedule.constant_fraction(7), jnp.sum),
            ),
            r"tilts: expected some of one T, got T = \[4, 7\]",
        ),
        (
            lambda: posterior.perturb(G, STEPS, lambda x: x[:2])(G.prior((3,)), jnp.asarray(1)),
            r"log_r: expected shape \(\) or \(3,\), got \(2,\)",
        ),
        (
            lambda: posterior.perturb(B, STEPS, jnp.sum)(B.prior((3,)), jnp.asarray(1)),
            r"log_r: expected shape \(3,\) \(per bit\), got \(\)",
        ),
    ],
)
def test_errors_name_the_argument(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# --- model.sample -------------------------------------------------------------------------------


class Linear:
    """A network of one parameter: x̂^0 = scale · x^t."""

    def init(self, key, x, t, log_snr):
        return {"scale": jnp.asarray(0.5)}

    def apply(self, params, x, t, log_snr):
        return params["scale"] * x[..., None]


@pytest.fixture(params=["gaussian", "binomial"])
def built(request):
    family = gaussian.family() if request.param == "gaussian" else binomial.family(RATE)
    variance = {"variance": "posterior"} if request.param == "gaussian" else {}
    made = model.build(family, STEPS, Linear(), (3,), **variance)
    return made, made.init(jax.random.key(0))


def test_model_samples_with_a_tilt(built):
    """End to end, y and key traced, several problems at once, and in fewer steps."""
    made, params = built
    y = np.array([1.0, 0.0, 0.0], np.float32)

    @jax.jit
    def problems(key, ys):
        def one(y):
            tilt = posterior.inpaint(made.family, STEPS, MASK, y)
            return model.sample(made, params, key, 5, tilt=tilt)

        return jax.vmap(one)(ys)

    x = problems(jax.random.key(1), jnp.stack([y, 1 - y]))
    assert x.shape == (2, 5, 3)
    for found, known in zip(np.asarray(x), (y, 1 - y)):
        np.testing.assert_array_equal(found[:, MASK], np.tile(known[MASK], (5, 1)))
    tilt = posterior.inpaint(made.family, STEPS, MASK, y)
    np.testing.assert_allclose(model.sample(made, params, jax.random.key(1), 5, tilt=tilt), x[0])
    with pytest.raises(ValueError, match="tilt: expected one of T = 2, got T = 4"):
        model.sample(made, params, jax.random.key(1), 5, steps=2, tilt=tilt)
    short = model.respaced(made, params, 2)
    tilt = posterior.inpaint(made.family, short, MASK, y)
    draw = lambda key: model.sample(made, params, key, 5, steps=2, tilt=tilt)  # noqa: E731
    assert jax.eval_shape(draw, jax.random.key(1)).shape == (5, 3)


def test_model_sample_starts_where_it_is_told():
    """The tilt's π r by default, `start` where given: seen in a chain that stands still."""
    family = gaussian.family()._replace(step=lambda x, beta: Normal(x, 0 * x))
    still = model.Model(
        family, (3,), "learned", False, None, lambda p: STEPS, lambda p, s: still_at
    )
    still_at = lambda xt, t: Normal(xt, 0 * xt)  # noqa: E731
    tilt = posterior.denoise(family, STEPS, np.full(3, 2.0), 1.0)
    x = np.asarray(model.sample(still, None, jax.random.key(0), 4000, tilt=tilt))
    mean_is(x, 1.0)  # N(0, 1) times N(2; x, 1) is N(1, 1/2)
    mean_is((x - 1) ** 2, 0.5)
    at = Normal(jnp.full(3, 7.0), jnp.zeros(3))
    for given in (None, tilt):
        x = model.sample(still, None, jax.random.key(0), 2, tilt=given, start=at)
        np.testing.assert_array_equal(x, np.full((2, 3), 7.0))


def test_the_first_order_form_is_warned_of_beyond_its_reach():
    made = model.build(gaussian.family(), STEPS, Linear(), (3,), variance="posterior")
    params, key = made.init(jax.random.key(0)), jax.random.key(1)

    def draw(width, key=key):
        tilt = posterior.perturb(made.family, STEPS, lambda x: -0.5 * jnp.sum(x**2) / width)
        return model.sample(made, params, key, 2, tilt=tilt)

    with pytest.warns(UserWarning, match=r"perturb: the first-order form .* got 10 \(at 0.5"):
        draw(0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw(2.5)
        jax.jit(lambda key: draw(0.1, key))(key)


def test_a_traced_r_with_a_key_that_is_not_samples_unwarned():
    """As in `jax.vmap` over problems that share a key."""
    made = model.build(gaussian.family(), STEPS, Linear(), (3,), variance="posterior")
    params, key = made.init(jax.random.key(0)), jax.random.key(1)

    def draw(width):
        tilt = posterior.perturb(made.family, STEPS, lambda x: -0.5 * jnp.sum(x**2) / width)
        return model.sample(made, params, key, 2, tilt=tilt)

    assert jax.vmap(draw)(jnp.asarray([0.1, 1.0])).shape == (2, 2, 3)
