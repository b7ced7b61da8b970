"""Jarzynski 1997 against closed forms: constant and Gaussian work, paths enumerated, a trap."""

import itertools
import json
import math
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT

from dpm_jax import thermodynamics, units
from dpm_jax.experiments import jarzynski as experiment
from dpm_jax.runs import work_report
from dpm_jax.thermodynamics import weights

INF = math.inf


def keys(n, seed=0):
    return jax.random.split(jax.random.key(seed), n)


# --- the estimate of eq. 9 ----------------------------------------------------------------------


def test_constant_work_is_known_without_error():
    estimate = thermodynamics.jarzynski(jnp.full(7, 3.25))
    np.testing.assert_allclose([estimate.value, estimate.K], -3.25, rtol=1e-6)
    np.testing.assert_allclose([estimate.error, estimate.jackknife, estimate.K_error], 0, atol=1e-6)
    assert float(estimate.ess) == pytest.approx(7) and abs(float(estimate.dissipation)) < 1e-6


def test_three_works_by_hand(x64):
    work = np.array([0.3, -1.2, 2.0])
    weight = np.exp(-work)
    estimate = thermodynamics.jarzynski(jnp.asarray(work))
    assert estimate.value == pytest.approx(math.log(weight.mean()))
    assert estimate.error == pytest.approx(weight.std(ddof=1) / math.sqrt(3) / weight.mean())
    others = np.log([np.delete(weight, i).mean() for i in range(3)])
    assert estimate.jackknife == pytest.approx(
        math.sqrt(2 / 3 * np.sum((others - others.mean()) ** 2))
    )
    assert estimate.ess == pytest.approx(weight.sum() ** 2 / np.sum(weight**2))
    assert estimate.K_error == pytest.approx(work.std(ddof=1) / math.sqrt(3))


def test_gaussian_work_and_the_coverage_of_its_errors(x64):
    """W ~ N(m, s²): log⟨e^{−W}⟩ = s²/2 − m, ⟨W⟩ − ΔF = s²/2."""
    m, s = 1.5, 0.8
    works = m + s * np.random.default_rng(0).standard_normal((400, 2000))
    estimate = jax.jit(jax.vmap(thermodynamics.jarzynski))(jnp.asarray(works))
    for value, error, truth in (
        (estimate.value, estimate.error, s**2 / 2 - m),
        (estimate.value, estimate.jackknife, s**2 / 2 - m),
        (estimate.K, estimate.K_error, -m),
    ):
        z = (np.asarray(value) - truth) / np.asarray(error)
        assert abs(np.mean(np.abs(z) < 1) - 0.683) < 0.1 and abs(z.mean()) < 0.25
    np.testing.assert_allclose(estimate.jackknife, estimate.error, rtol=0.05)
    np.testing.assert_allclose(estimate.ess / 2000, math.exp(-(s**2)), rtol=0.3)  # 1/⟨w²⟩
    assert abs(float(estimate.dissipation.mean()) - s**2 / 2) < 0.01


def test_a_trajectory_of_weight_zero_counts():
    estimate = thermodynamics.jarzynski(jnp.array([1.0, INF, 1.0, INF]))
    assert float(estimate.value) == pytest.approx(-1 - math.log(2), rel=1e-6)
    assert float(estimate.ess) == 2 and float(estimate.K) == -INF
    assert np.isfinite([estimate.error, estimate.jackknife]).all()


def test_one_work_has_no_error_and_none_possible_no_weight():
    one = thermodynamics.jarzynski(jnp.array([2.5]))
    assert float(one.value) == float(one.K) == -2.5 and float(one.ess) == 1
    assert np.isnan([one.error, one.jackknife, one.K_error]).all()
    none = thermodynamics.jarzynski(jnp.full(3, INF))
    assert float(none.value) == float(none.K) == -INF and float(none.ess) == 0
    assert np.isnan([none.error, none.jackknife, none.K_error]).all()


def test_nan_is_not_an_impossible_trajectory():
    for work in ([math.nan, 1.0], [math.nan, INF], [math.nan]):
        estimate = thermodynamics.jarzynski(jnp.array(work))
        assert np.isnan([estimate.value, estimate.ess, estimate.K]).all()


@pytest.mark.parametrize("shift", [-5e3, 5e3])
def test_large_works_neither_overflow_nor_underflow(shift):
    works = jnp.array([0.0, 1.0, 2.0])
    near, far = thermodynamics.jarzynski(works), thermodynamics.jarzynski(works + shift)
    assert far.value.dtype == jnp.float32
    np.testing.assert_allclose(far.value + shift, near.value, atol=1e-3)
    np.testing.assert_allclose(far.error, near.error, rtol=1e-5)


@pytest.mark.parametrize("work", [[1.0, 2.0, 0.5], [1.0, INF, 0.5], [INF, INF]])
def test_gradient_is_minus_the_normalised_weights(work):
    work = jnp.array(work)
    gradient = jax.grad(lambda w: thermodynamics.jarzynski(w).value)(work)
    expected = -jax.nn.softmax(-work) if np.isfinite(work).any() else np.zeros(len(work))
    np.testing.assert_allclose(gradient, expected, atol=1e-6)


@pytest.mark.parametrize("shape", [(), (0,), (2, 2)])
def test_works_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"work: expected shape \(M,\) with M >= 1, got"):
        thermodynamics.jarzynski(jnp.zeros(shape))


@pytest.mark.parametrize("offset", [0.0, 1e5, 1e7, 1e8, -1e8])
def test_a_common_offset_of_float64_works_costs_no_digits(offset):
    works = np.random.default_rng(0).normal(0, 1, 1000)
    near, far = thermodynamics.jarzynski(works), thermodynamics.jarzynski(works + offset)
    for name in ("value", "K", "low", "high"):
        shifted = getattr(far, name) + offset
        assert shifted == pytest.approx(getattr(near, name), abs=1e-6 + 3e-16 * abs(offset) * 10)
    np.testing.assert_allclose(far.error, near.error, rtol=1e-5)
    np.testing.assert_allclose(far.k_hat, near.k_hat, rtol=1e-3)


@pytest.mark.parametrize("offset", [0.0, 1e5, 1e7, 1e8, -1e8])
def test_what_an_offset_costs_on_a_device_is_in_error_and_interval(offset):
    works = np.random.default_rng(0).normal(0, 1, (5, 1000))
    truth = [thermodynamics.jarzynski(each).value for each in works]
    found = jax.vmap(thermodynamics.jarzynski)(works + offset)
    value, low, high = (np.asarray(v, np.float64) + offset for v in (found.value, *found.interval))
    assert np.all(np.abs(value - truth) <= found.error)
    assert np.all((low <= truth) & (truth <= high))


@pytest.mark.parametrize("gap", [20.0, 100.0, 1e4, INF])
def test_the_jackknife_where_one_weight_dominates(gap, x64):
    """Without it the others are all there is: no NaN, and +inf where they are 0."""
    works = np.array([0.0, gap, gap, gap])
    found = thermodynamics.jarzynski(jnp.asarray(works, jnp.float32)).jackknife
    others = np.array([-gap, *[math.log(1 / 3)] * 3])
    expected = math.sqrt(0.75 * np.sum((others - others.mean()) ** 2)) if gap < INF else INF
    np.testing.assert_allclose(found, expected, rtol=1e-5)


# --- value or bound -----------------------------------------------------------------------------


SHAPE = jax.jit(jax.vmap(weights.pareto_shape))
ESTIMATE = jax.jit(jax.vmap(thermodynamics.jarzynski))


def pareto(shape, size, seed=0):
    """Logarithms of weights of a Pareto law of this shape."""
    return shape * np.random.default_rng(seed).exponential(size=size)


@pytest.mark.parametrize("shape", [0.2, 0.5, 0.8, 1.2])
def test_k_hat_is_the_shape_of_the_largest_weights(shape):
    k_hat = SHAPE(jnp.asarray(pareto(shape, (200, 4096))))
    n = weights.tail_length(4096)  # k̂ is drawn to 1/2 by 10 of n + 10
    spread = (1 + shape) / math.sqrt(n)
    assert float(k_hat.mean()) == pytest.approx((n * shape + 5) / (n + 10), abs=0.03)
    assert float(k_hat.std()) == pytest.approx(spread, rel=0.2)


def test_k_hat_moves_with_nothing_but_the_shape_and_knows_its_limits():
    log_weight = jnp.asarray(pareto(0.5, 500))
    k_hat = weights.pareto_shape(log_weight)
    np.testing.assert_allclose(weights.pareto_shape(log_weight - 50), k_hat, rtol=1e-3)
    np.testing.assert_allclose(weights.pareto_shape(log_weight[::-1]), k_hat, rtol=1e-5)
    assert weights.pareto_shape(log_weight[: weights.LEAST - 1]) == INF
    assert weights.pareto_shape(jnp.zeros(100)) == -INF
    assert weights.pareto_shape(jnp.full(100, -INF)) == INF
    assert np.isnan(weights.pareto_shape(log_weight.at[3].set(math.nan)))
    assert weights.threshold(100) == 0.5 and weights.threshold(10**6) == 0.7


def test_a_bound_has_no_upper_end_and_markovs_lower_one():
    found = thermodynamics.jarzynski(jnp.asarray(-pareto(1.5, 1000)))
    assert not found.is_value and found.interval[1] == INF and found.k_hat > 0.7
    assert float(found.value - found.low) == pytest.approx(math.log(20), rel=1e-5)
    few = jax.vmap(thermodynamics.jarzynski)(jnp.zeros((2, 16)))
    assert few.is_value.shape == (2,) and not few.is_value.any()
    exact = thermodynamics.jarzynski(jnp.full(25, 3.0))
    assert exact.is_value and np.asarray(exact.interval) == pytest.approx(-3, abs=1e-5)
    broken = thermodynamics.jarzynski(jnp.zeros(30).at[0].set(math.nan))
    assert not broken.is_value and np.isnan(broken.interval).all()
    half = thermodynamics.jarzynski(jnp.where(jnp.arange(200) % 2 == 0, INF, 1.0))
    assert half.is_value and half.low < -1 - math.log(2) < half.high


@pytest.mark.parametrize("s, M", [(2.0, 64), (2.5, 256), (3.0, 64)])
def test_a_wide_bulk_is_a_bound_though_no_large_weight_was_drawn(s, M):
    """M e^{−s²} < 2: where k̂ is low the largest weights are merely missing."""
    works = s * np.random.default_rng(0).standard_normal((1000, M)) + s**2 / 2
    found = ESTIMATE(jnp.asarray(works))
    assert np.mean(found.k_hat < weights.threshold(M)) > 0.03
    assert np.mean(found.is_value) < 0.01


def works_by_name(name, n, M):
    """(n, M) works, and log⟨e^{−W}⟩."""
    rng = np.random.default_rng(5)
    if name == "trap":
        done = jnp.linspace(0.0, 1.0, 51)
        W = DRAW(keys(n * M, 5), 3 * done, 1 + 3 * done, 0.2)
        return np.asarray(W).reshape(n, M), -math.log(2)
    if name == "student":  # kernels too wide by 1.3, five of them: w = Π p(x)/q(x)
        x = rng.standard_normal((n, M, 5))
        return 0.5 * math.log(1.3) * 5 - 0.5 * (1 - 1 / 1.3) * (x**2).sum(axis=-1), 0.0
    if name == "two values":  # about as many large ones as the tail is long
        return np.where(rng.random((n, M)) < 0.2, 0.0, INF), math.log(0.2)
    s = float(name)
    return s * rng.standard_normal((n, M)) + s**2 / 2, 0.0


@pytest.mark.parametrize("M", [64, 256])
@pytest.mark.parametrize("name", ["0.5", "1.0", "1.5", "trap", "student", "two values"])
def test_intervals_cover_where_a_value_is_said(name, M):
    """95 % ± 2 %, and three standard errors of what 1,000 repetitions can show."""
    works, truth = works_by_name(name, 1000, M)
    found = ESTIMATE(jnp.asarray(works))
    value = np.asarray(found.is_value)
    low, high = (np.asarray(end)[value] for end in found.interval)
    covered = np.mean((low <= truth) & (truth <= high))
    assert value.mean() > 0.1
    margin = 0.02 + 3 * math.sqrt(0.95 * 0.05 / value.sum())
    assert abs(covered - 0.95) < margin, f"{covered:.3f} of {value.mean():.2f}"
    assert np.mean(np.asarray(found.low)[~value] <= truth) > 0.95 or value.all()


def rare(rng, shape, reverse):
    """log w of which 3 in 1,000 hold 40 % of the mean; of `reverse`, as often as they weigh."""
    share = 0.4 if reverse else 0.003
    heavy = rng.random(shape) < share
    tilt = 0.09 if reverse else -0.09
    log_w = tilt + 0.3 * math.sqrt(2) * rng.standard_normal(shape)
    return log_w + np.where(heavy, math.log(0.4 / 0.003), math.log(0.6 / 0.997))


@pytest.mark.parametrize("reverse", [False, True])
def test_the_reverse_side_shows_what_no_trajectory_drew(reverse):
    """Two thirds of the samples miss the rare weights, and nothing in them says so."""
    rng = np.random.default_rng(1)
    works = -rare(rng, (1000, 128), False)
    back = jnp.asarray(rare(rng, (1000, 32), True)) if reverse else None
    found = ESTIMATE(jnp.asarray(works), back) if reverse else ESTIMATE(jnp.asarray(works))
    wrong = np.asarray(found.is_value & (found.high < 0))
    assert wrong.mean() < 0.005 if reverse else wrong.mean() > 0.5


@pytest.mark.parametrize("s", [0.5, 1.5])
def test_the_reverse_side_leaves_what_is_a_value(s):
    """Of normal works the share of the mean beyond M draws is known: 0.02 % and 8 %."""
    rng = np.random.default_rng(2)
    works = s * rng.standard_normal((400, 256)) + s**2 / 2
    back = s * rng.standard_normal((400, 64)) + s**2 / 2
    alone, both = ESTIMATE(jnp.asarray(works)), ESTIMATE(jnp.asarray(works), jnp.asarray(back))
    assert both.is_value.mean() > 0.5 * alone.is_value.mean() > 0.3
    assert not np.any(both.is_value & ~alone.is_value)
    few = thermodynamics.jarzynski(works[0], back[0, :4])
    assert not few.is_value and few.value == thermodynamics.jarzynski(works[0]).value
    with pytest.raises(ValueError, match=r"reverse_work: expected shape \(n,\), got \(2, 2\)"):
        thermodynamics.jarzynski(works[0], np.zeros((2, 2)))


def test_a_common_offset_moves_the_reverse_side_with_it():
    rng = np.random.default_rng(0)
    works, back = rng.normal(0.2, 0.6, 500), rng.normal(0.2, 0.6, 100)
    near = thermodynamics.jarzynski(works, back)
    far = thermodynamics.jarzynski(works + 1e7, back - 1e7)
    assert near.is_value and far.is_value and far.high + 1e7 == pytest.approx(near.high, abs=1e-5)
    assert not thermodynamics.jarzynski(works, back + 5).is_value


# --- the master equation ------------------------------------------------------------------------


@pytest.mark.parametrize("states", [1, 2, 3, 8])
def test_metropolis_keeps_the_canonical_law_in_detail(x64, states):
    energy = 2 * jax.random.normal(jax.random.key(states), (states,))
    P = np.asarray(thermodynamics.metropolis(energy))
    flow = np.exp(-np.asarray(energy))[:, None] * P
    np.testing.assert_allclose(flow, flow.T, atol=1e-14)
    np.testing.assert_allclose(P.sum(axis=1), 1, atol=1e-14)
    assert (P >= 0).all()
    x, y = np.nonzero(P)
    assert np.isin((x - y) % states, [0, 1, states - 1]).all()  # neighbours on the ring only


def paths(energy, change_first):
    """(W, probability) of all paths of a protocol (n+1, S), steps in either order, by sums."""
    n, S = energy.shape[0] - 1, energy.shape[1]
    P = [np.asarray(thermodynamics.metropolis(jnp.asarray(e))) for e in energy]
    law = np.exp(-energy[0])
    works, weights = [], []
    for path in itertools.product(range(S), repeat=n + 1):
        W, p = 0.0, law[path[0]] / law.sum()
        for k in range(n):
            at, relaxes = (path[k], k + 1) if change_first else (path[k + 1], k)
            W += energy[k + 1, at] - energy[k, at]
            p *= P[relaxes][path[k], path[k + 1]]
        works.append(W)
        weights.append(p)
    return np.array(works), np.array(weights)


PROTOCOL = np.array([[0.0, 0.7, -0.4], [0.9, -0.3, 0.2], [0.1, 1.1, -1.3], [2.0, 0.4, 0.3]])


def test_master_equation_is_the_sum_over_all_paths(x64):
    works, weights = paths(PROTOCOL, change_first=True)
    moments = thermodynamics.master_equation(jnp.asarray(PROTOCOL))
    assert weights.sum() == pytest.approx(1)
    assert moments.exponential == pytest.approx(weights @ np.exp(-works), rel=1e-13)
    assert moments.mean == pytest.approx(weights @ works, rel=1e-13)


def test_crooks_theorem_path_by_path_and_the_order_of_the_reverse_process(x64):
    forward, p = paths(PROTOCOL, change_first=True)
    reverse, q = paths(PROTOCOL[::-1], change_first=False)  # time-reversed: relax, then change
    delta_F = np.diff(thermodynamics.free_energy(jnp.asarray(PROTOCOL[[0, -1]])))[0]

    def at(works, law, W):
        return law[np.isclose(works, W, 0, 1e-9)].sum()

    possible = np.unique(forward[p > 0].round(10))
    assert len(possible) == 18  # of 81 paths
    for W in possible:
        ratio = at(forward, p, W) / at(reverse, q, -W)
        assert math.log(ratio) == pytest.approx(W - delta_F, abs=1e-9)
    # Changing first gives the reverse works the same law: what `trap_work` rests on.
    swapped, r = paths(PROTOCOL[::-1], change_first=True)
    for W in possible:
        assert at(swapped, r, -W) == pytest.approx(at(reverse, q, -W), rel=1e-12)


@pytest.mark.parametrize("steps", [1, 7, 100, 1000])
def test_jarzynski_is_exact_at_every_speed_and_the_second_law_holds(x64, steps):
    done = jnp.linspace(0.0, 1.0, steps + 1)[:, None]
    ends = 2 * jax.random.normal(jax.random.key(1), (2, 9))
    energy = (1 - done) * ends[:1] + done * ends[1:]
    moments = jax.jit(thermodynamics.master_equation)(energy)
    delta_F = float(jnp.diff(thermodynamics.free_energy(ends))[0])
    assert abs(float(moments.exponential) * math.exp(delta_F) - 1) < 1e-10
    assert float(moments.mean) > delta_F
    back = jax.jit(thermodynamics.master_equation)(energy[::-1])
    assert abs(float(back.exponential) * math.exp(-delta_F) - 1) < 1e-10


def test_ring_of_the_experiment():
    ring = experiment.ring_moments()
    assert max(abs(row["error"]) for row in ring) < 1e-10
    waste = [row["dissipation"] for row in ring]
    assert sorted(waste, reverse=True) == waste and waste[-1] < 0.1 * waste[0]


@pytest.mark.parametrize("shape", [(3,), (1, 3)])
def test_energies_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"energy: expected shape \(n\+1, S\) with n >= 1, got"):
        thermodynamics.master_equation(jnp.zeros(shape))


# --- the trap -----------------------------------------------------------------------------------

DRAW = jax.jit(jax.vmap(thermodynamics.trap_work, in_axes=(0, None, None, None)))


def protocol(steps, displacement=1.5, last=4.0):
    done = jnp.linspace(0.0, 1.0, steps + 1)
    return displacement * done, 1 + (last - 1) * done


def within(values, truth, errors=4.5):
    values = np.asarray(values, np.float64)
    assert abs(values.mean() - truth) < errors * values.std(ddof=1) / math.sqrt(len(values))


@pytest.mark.parametrize("dt", [0.0, 0.05, 2.0])
def test_trap_obeys_jarzynski_both_ways_at_any_time_step(dt):
    # k_B < 2 k_A: beyond that e^{−W} of an instantaneous reverse process has no variance.
    centre, stiffness = protocol(10, displacement=1.0, last=1.6)
    delta_F = float(jnp.diff(thermodynamics.trap_free_energy(stiffness[jnp.array([0, -1])]))[0])
    assert delta_F == pytest.approx(0.5 * math.log(1.6), rel=1e-5)
    forward = DRAW(keys(20_000), centre, stiffness, dt)
    reverse = DRAW(keys(20_000, 1), centre[::-1], stiffness[::-1], dt)
    within(np.exp(-forward), math.exp(-delta_F))
    within(np.exp(-reverse), math.exp(delta_F))
    within(forward, float(thermodynamics.trap_mean_work(centre, stiffness, dt)))
    back = float(thermodynamics.trap_mean_work(centre[::-1], stiffness[::-1], dt))
    within(reverse, back)
    assert forward.mean() > delta_F > -reverse.mean()


def test_moved_trap_has_gaussian_work_of_known_mean():
    """Constant k: ⟨W⟩ = v²(τ − (1 − e^{−kτ})/k) in the limit of small steps; variance 2⟨W⟩."""
    k, length, tau, steps = 2.0, 3.0, 1.5, 1000
    centre = length * jnp.linspace(0.0, 1.0, steps + 1)
    stiffness = jnp.full(steps + 1, k)
    mean = float(thermodynamics.trap_mean_work(centre, stiffness, tau / steps))
    limit = (length / tau) ** 2 * (tau - (1 - math.exp(-k * tau)) / k)
    assert mean == pytest.approx(limit, rel=0.003)
    works = np.asarray(DRAW(keys(2000), centre[::50], stiffness[::50], 50 * tau / steps))
    mean = float(thermodynamics.trap_mean_work(centre[::50], stiffness[::50], 50 * tau / steps))
    within(works, mean)
    assert works.var(ddof=1) == pytest.approx(2 * mean, rel=5 * math.sqrt(2 / 2000))


def test_instantaneous_and_quasistatic_limits_of_the_mean_work(x64):
    centre, stiffness = protocol(1)
    mean = float(thermodynamics.trap_mean_work(centre, stiffness, 0.0))
    assert mean == pytest.approx(0.5 * 4 * (1.5**2 + 1) - 0.5)  # ⟨E_B − E_A⟩ in A
    centre, stiffness = protocol(10_000)
    mean = float(thermodynamics.trap_mean_work(centre, stiffness, 50.0))
    assert mean == pytest.approx(math.log(2), abs=1e-3)


def test_trap_of_another_shape_is_refused():
    key, ok = jax.random.key(0), jnp.ones(3)
    with pytest.raises(ValueError, match=r"centre: expected shape \(n\+1,\) with n >= 1, got \(1,"):
        thermodynamics.trap_work(key, ok[:1], ok[:1], 0.1)
    with pytest.raises(ValueError, match=r"stiffness: expected shape \(3,\), got \(2,\)"):
        thermodynamics.trap_mean_work(ok, ok[:2], 0.1)


# --- Bennett and Crooks -------------------------------------------------------------------------


def gaussian_works(n_forward, n_reverse, spread, delta_F, seed):
    """Works that obey Crooks' theorem: W_F ~ N(ΔF + s²/2, s²), W_R ~ N(−ΔF + s²/2, s²)."""
    rng = np.random.default_rng(seed)

    def draw(mean, n):
        return mean + spread**2 / 2 + spread * rng.standard_normal(n)

    return draw(delta_F, n_forward), draw(-delta_F, n_reverse)


@pytest.mark.parametrize("sizes", [(300, 300), (200, 1200)])
def test_bennett_and_crooks_with_the_coverage_of_their_errors(sizes):
    delta_F, spread = -1.7, 2.0
    ours = []
    for seed in range(300):
        works = gaussian_works(*sizes, spread, delta_F, seed)
        bennett, crossing = thermodynamics.bennett(*works), thermodynamics.crooks(*works)
        ours.append((*bennett[:2], *crossing))
    value, error, crossing, crossing_error, slope, slope_error = np.array(ours).T
    zs = (
        (value - delta_F) / error,
        (crossing - delta_F) / crossing_error,
        (slope - 1) / slope_error,
    )
    for z in zs:
        assert abs(z.mean()) < 0.25 and 0.9 < z.std() < 1.12
    assert value.std() <= 1.02 * crossing.std()  # Bennett knows that the slope is 1


def test_crooks_and_bennett_on_the_trap():
    centre, stiffness = protocol(20)
    forward = DRAW(keys(10_000, 2), centre, stiffness, 0.05)
    reverse = DRAW(keys(5_000, 3), centre[::-1], stiffness[::-1], 0.05)
    bennett = thermodynamics.bennett(forward, reverse)
    crossing = thermodynamics.crooks(forward, reverse)
    assert abs(bennett.value - math.log(2)) < 4 * bennett.error < 0.2
    assert abs(crossing.value - math.log(2)) < 4 * crossing.error < 0.2
    assert abs(crossing.slope - 1) < 4 * crossing.slope_error < 0.2


def test_shifting_all_works_shifts_the_free_energy():
    forward, reverse = gaussian_works(200, 300, 1.5, 0.0, 7)
    near, near_crossing = (
        f(forward, reverse) for f in (thermodynamics.bennett, thermodynamics.crooks)
    )
    forward, reverse = forward + 1e4, reverse - 1e4
    far, far_crossing = (
        f(forward, reverse) for f in (thermodynamics.bennett, thermodynamics.crooks)
    )
    np.testing.assert_allclose(np.array(far) - [1e4, 0, 0, 0, 0], near, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(np.array(far_crossing) - [1e4, 0, 0, 0], near_crossing, atol=1e-6)


def test_swapping_the_directions_negates_the_free_energy():
    forward, reverse = gaussian_works(200, 500, 1.5, 0.8, 3)
    there, back = thermodynamics.bennett(forward, reverse), thermodynamics.bennett(reverse, forward)
    np.testing.assert_allclose(there, np.array(back)[[0, 1, 2, 4, 3]] * [-1, 1, 1, 1, 1], rtol=1e-9)
    there, back = thermodynamics.crooks(forward, reverse), thermodynamics.crooks(reverse, forward)
    np.testing.assert_allclose(there, np.array(back) * [-1, 1, 1, 1], rtol=1e-6)


def test_without_overlap_bennett_says_so_and_nothing_crosses():
    forward, reverse = gaussian_works(50, 50, 60.0, 0.0, 0)
    assert forward.min() > -reverse.min()
    assert np.isnan(thermodynamics.crooks(forward, reverse)).all()
    bennett = thermodynamics.bennett(forward, reverse)
    assert np.isnan(bennett[:2]).all() and bennett[2:] == (0, 1, 1)
    assert str(bennett) == "unknown: no work of one side lies among the other's"


def two_states(n, seed):
    """One sudden switch of two states, n works each way, and ΔF."""
    rng = np.random.default_rng(seed)
    A, B = np.array([0.0, 10.0]), np.array([20.0, 5.0])
    P = [np.exp(-E[1]) / np.exp(-E).sum() for E in (A, B)]
    forward, reverse = ((rng.random(n) < p).astype(int) for p in P)
    return (B - A)[forward], (A - B)[reverse], np.log(np.exp(-A).sum() / np.exp(-B).sum())


def test_narrow_works_far_apart_are_no_overlap():
    """All works of a side may be one number: their effective number says nothing of the gap."""
    forward, reverse, delta_F = two_states(1000, 0)
    found = thermodynamics.bennett(forward, reverse)
    assert np.isnan(found[:2]).all() and found.ess == 0
    work = np.random.default_rng(1).normal(100, 1, 1000)
    for side in (work, -work):  # the second breaks Crooks' theorem
        assert np.isnan(thermodynamics.bennett(side, side)[:2]).all()
    forward, reverse, _ = two_states(200_000, 1)  # some 9 forward works of the rare kind
    found = thermodynamics.bennett(forward, reverse)
    assert abs(found.value - delta_F) < 4 * found.error < 3
    assert found.forward_beyond > 0.99 and 2 <= found.ess < 50
    rare = np.append(np.full(999, 20.0), -5.0), np.full(1000, 5.0)
    found = thermodynamics.bennett(*rare)  # one work is no error
    assert np.isnan(found.error) and found.ess < 2 and " ± unknown nats" in str(found)


def test_few_and_scattered_works_give_finite_numbers_wherever_they_overlap():
    rng = np.random.default_rng(0)
    crossed = 0
    for _ in range(300):
        scale = 10 ** rng.uniform(-2, 3)
        forward, reverse = (
            scale * rng.normal(0.5, 1, rng.integers(2, 6)),
            scale * rng.normal(size=4),
        )
        apart = forward.min() > -reverse.min() or forward.max() < -reverse.max()
        found = thermodynamics.bennett(forward, reverse)
        assert np.isfinite(found.value) == (not apart)
        assert np.isfinite(found.error) == (not apart and found.ess >= 2)
        apart = forward.min() >= -reverse.min() or forward.max() <= -reverse.max()
        assert np.isfinite(thermodynamics.crooks(forward, reverse)).all() == (not apart)
        crossed += not apart
    assert 50 < crossed < 290


def test_reversible_work_is_the_free_energy():
    bennett = thermodynamics.bennett(np.full(5, 0.7), np.full(9, -0.7))
    assert bennett.value == pytest.approx(0.7) and bennett.error < 1e-6
    assert np.isnan(thermodynamics.crooks(np.full(5, 0.7), np.full(9, -0.7))).all()


def test_works_that_rounding_alone_tells_apart_are_reversible():
    forward, reverse = 0.7 + 1e-6 * np.arange(1, 9), -0.7 + 1e-6 * np.arange(5)
    assert forward.min() > -reverse.min()
    found = thermodynamics.bennett(forward, reverse)
    assert found.value == pytest.approx(0.7, abs=1e-5) and found[2:] == pytest.approx((5, 0, 0))
    assert np.isnan(thermodynamics.crooks(forward, reverse - 2e-6)).all()


@pytest.mark.parametrize("function", [thermodynamics.bennett, thermodynamics.crooks])
def test_works_that_make_no_estimate_are_refused(function):
    good = np.array([0.1, 0.2, 0.4])
    for bad in ([], [1.0], [[1.0, 2.0]]):
        with pytest.raises(
            ValueError, match=r"reverse_work: expected shape \(n,\) with n >= 2, got"
        ):
            function(good, bad)
    for bad in (math.nan, INF):
        with pytest.raises(
            ValueError, match=r"forward_work: expected finite works, got 1 of 2 not"
        ):
            function([bad, 1.0], good)


# --- the experiment -----------------------------------------------------------------------------

SMALL = {name: flag.default for name, flag in experiment.FLAGS.items()}
SMALL |= {"num_trajectories": 300, "durations": (1.0, 0.1, 0.5)}


@pytest.fixture
def short_ring(monkeypatch):
    """The ring has a test of its own: elsewhere one speed of it will do."""
    monkeypatch.setattr(experiment, "_RING_STEPS", (1,))


def test_experiment_writes_its_report_and_figure(tmp_path, short_ring):
    config = {**SMALL, "workdir": str(tmp_path / "run"), "displacement": 1.0}
    text = experiment.execute(config)
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["free_energy_exact"] == pytest.approx(math.log(2))
    assert [d["duration"] for d in report["drivings"]] == [1.0, 0.1, 0.5]
    for d in report["drivings"]:
        assert abs(d["bennett"] - math.log(2)) < 5 * d["bennett_error"]
        assert abs(d["dissipation"] - d["exact"]) < 5 * d["dissipation_error"]
        assert units.number(d["bennett"], d["bennett_error"]) in text
    assert (tmp_path / "run" / report["figures"]["jarzynski"]).read_bytes()[1:4] == b"PNG"
    pdf = tmp_path / "run" / "figures" / "jarzynski.pdf"
    assert not pdf.exists() and "pdf" not in report["config"]
    again = experiment.execute(config | {"pdf": True})  # the same run, drawn in another way too
    assert again == f"{text}\nwrote {pdf}" and pdf.read_bytes()[:5] == b"%PDF-"
    with pytest.raises(experiment.Invalid, match=r"^--workdir: .* holds another run"):
        experiment.execute({**config, "seed": 1})


def test_experiment_says_where_works_are_too_few(tmp_path, short_ring):
    """Two trajectories, far apart: unknown is null in the report, a dash in the table."""
    config = {**SMALL, "workdir": str(tmp_path), "num_trajectories": 2, "displacement": 40.0}
    config["escort"] = "none"
    text = experiment.execute(config)
    report = json.loads((tmp_path / "report.json").read_text())
    assert all(d["crossing"] is None for d in report["drivings"])
    assert text.count("no overlap: ΔF unknown") == 3
    warn = {"bennett_ess": 9.0, "dissipation_reverse": 5.0, "jarzynski_low": 0.1, "k_hat": 0.9}
    warn["reverse_beyond"] = 0.2
    assert work_report._warning(warn, 100) == "M < e^D: a bound in the mean"
    bound = {**warn, "jarzynski_low": -INF}
    assert work_report._warning(bound, 1000) == (
        "k̂ = 0.90, 20% of −W_R beyond W_F: a bound in the mean"
    )
    assert work_report._warning(warn, 1000) == ""


def test_experiment_without_any_driving(tmp_path, short_ring):
    config = {**SMALL, "workdir": str(tmp_path), "displacement": 0.0, "stiffness_B": 1.0}
    experiment.execute({**config, "durations": (0.5,)})
    report = json.loads((tmp_path / "report.json").read_text())
    assert all(d["jarzynski"] == d["exact"] == 0 for d in report["drivings"])


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("workdir", None, "expected a directory for the run, got none"),
        ("seed", -1, "expected 0"),
        ("num_trajectories", 1, "expected at least 2, got 1"),
        ("displacement", INF, "expected a finite number, got inf"),
        ("stiffness_A", 0.0, "expected a finite number above 0, got 0.0"),
        ("stiffness_B", math.nan, "expected a finite number above 0, got nan"),
        ("durations", (), r"expected finite numbers above 0, got \[\]"),
        ("durations", (1.0, 0.0), "expected finite numbers above 0, got"),
    ],
)
def test_bad_flags_are_named_before_any_work(tmp_path, name, value, message):
    with pytest.raises(experiment.Invalid, match=f"^--{name}: {message}"):
        experiment.execute({**SMALL, "workdir": str(tmp_path / "run"), name: value})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("config.json", '{"experiment": "swiss_roll"}'),
        ("config.json", "{"),
        ("config.json", "[]"),
        ("report.json", "{}"),
    ],
)
def test_files_of_others_are_not_overwritten(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(experiment.Invalid, match=r"^--workdir: "):
        experiment.execute({**SMALL, "workdir": str(tmp_path)})
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [(name, text)]


def test_binary_refuses_in_one_line(tmp_path):
    program = [sys.executable, str(ROOT / "experiments" / "jarzynski.py"), f"--workdir={tmp_path}"]
    for flag in ("--stiffness_A=-1", "--durations=slow"):
        result = subprocess.run(
            [*program, flag], capture_output=True, text=True, timeout=120, cwd=ROOT
        )
        assert result.returncode == 2 and result.stdout == ""
        assert result.stderr.startswith(f"jarzynski.py: {flag.split('=')[0]}: expected")
        assert result.stderr.count("\n") == 1


# --- as text ------------------------------------------------------------------------------------


def test_an_estimate_reads_as_its_value_with_what_it_rests_on():
    one = thermodynamics.Estimate(-4.2361, 0.0456, 0.05, 12.34, -5.0, 0.1, 0.4, -4.3, -4.1)
    assert str(one) == f"{one}" == "−4.236 nats, 95 % in −4.300 … −4.100 (k̂ 0.40, ESS 12.3)"
    assert repr(one).startswith("Estimate(value=-4.2361, error=0.0456,")
    bound = one._replace(k_hat=0.9, high=INF)
    words = "nats, in the mean a lower bound; 95 % above"
    assert str(bound) == f"−4.236 {words} −4.300 (k̂ 0.90, ESS 12.3)"
    assert str(thermodynamics.jarzynski(jnp.full(3, INF))).startswith("−inf nats (")
    alone = str(thermodynamics.jarzynski(jnp.array([2.5])))
    assert alone == f"−2.500 {words} −5.496 (k̂ –, ESS 1.0)"  # −2.5 − ln 20, by Markov


def test_a_batch_of_estimates_reads_as_its_summary():
    works = jnp.stack([jnp.full(8, 1.0), jnp.full(8, 2.0), jnp.full(8, 6.0)])
    batch = jax.vmap(thermodynamics.jarzynski)(works)
    assert str(batch) == (
        "3 estimates, mean −3.000 nats, 0 of them values and the others bounds, median ESS 8.0"
    )


def test_an_estimate_under_jit_reads_as_its_record():
    seen = []

    @jax.jit
    def traced(work):
        estimate = thermodynamics.jarzynski(work)
        seen.append((str(estimate), repr(estimate)))
        return estimate.value

    traced(jnp.ones(4))
    assert seen[0][0] == seen[0][1] and seen[0][0].startswith("Estimate(value=")


def test_differences_and_crossings_as_text():
    assert str(thermodynamics.Difference(-1.5, 0.25, 40.0)) == "−1.500 ± 0.250 nats (ESS 40.0)"
    crossing = thermodynamics.Crossing(2.0, 0.5, 1.01, 0.02)
    assert str(crossing) == "2.000 ± 0.500 nats (slope 1.010 ± 0.020)"
    apart = thermodynamics.Crossing(*[math.nan] * 4)
    assert str(apart) == "– nats (slope –)"
