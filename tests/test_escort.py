"""Escorted work: Crooks' theorem path by path, maps that carry the law, maps found on a pilot."""

import json
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from dpm_jax import thermodynamics
from dpm_jax.experiments import jarzynski as experiment
from dpm_jax.reproduction import tables
from dpm_jax.thermodynamics import Escort

DRAW = jax.jit(jax.vmap(thermodynamics.trap_work, in_axes=(0, None, None, None, None)))
MEAN = jax.jit(thermodynamics.trap_mean_work)
JARZYNSKI = jax.jit(jax.vmap(thermodynamics.jarzynski))


def keys(n, seed=0):
    return jax.random.split(jax.random.key(seed), n)


def protocol(steps, displacement=1.5, last=4.0):
    done = jnp.linspace(0.0, 1.0, steps + 1)
    return displacement * done, 1 + (last - 1) * done


def anyhow(steps, seed=0, spread=0.1):
    """Maps that nobody would choose."""
    rng = np.random.default_rng(seed)
    scale, shift = np.exp(spread * rng.normal(size=steps)), spread * rng.normal(size=steps)
    return Escort(jnp.asarray(scale, float), jnp.asarray(shift, float))


def within(values, truth, errors=4.5):
    values = np.asarray(values, np.float64)
    assert abs(values.mean() - truth) < errors * values.std(ddof=1) / math.sqrt(len(values))


def back(centre, stiffness, dt, maps):
    return centre[::-1], stiffness[::-1], dt, None if maps is None else maps.reversed()


# --- the theorem --------------------------------------------------------------------------------


def test_crooks_theorem_path_by_path_for_any_maps(x64):
    """log P_F(path)/P_R(path back) = W − ΔF, the densities of all parts written out."""
    steps, dt = 6, 0.3
    centre, stiffness = protocol(steps)
    delta_F = 0.5 * math.log(4)
    for seed in range(5):
        maps, key = anyhow(steps, seed, spread=1.0), jax.random.key(seed)
        noise = [float(jax.random.normal(jax.random.fold_in(key, j))) for j in range(steps + 1)]
        c, k = np.asarray(centre), np.asarray(stiffness)
        x = c[0] + noise[0] / math.sqrt(k[0])
        ratio = stats.norm.logpdf(x, c[0], k[0] ** -0.5)
        for j in range(1, steps + 1):
            keep, spread = math.exp(-k[j] * dt), math.sqrt((1 - math.exp(-2 * k[j] * dt)) / k[j])
            y = float(maps.scale[j - 1]) * x + float(maps.shift[j - 1])
            x = c[j] + keep * (y - c[j]) + spread * noise[j]
            ratio += stats.norm.logpdf(x, c[j] + keep * (y - c[j]), spread)
            ratio -= stats.norm.logpdf(y, c[j] + keep * (x - c[j]), spread)  # on the way back
            ratio -= math.log(maps.scale[j - 1])  # dy of the way back, in dx of the way there
        ratio -= stats.norm.logpdf(x, c[-1], k[-1] ** -0.5)
        work = thermodynamics.trap_work(key, centre, stiffness, dt, maps)
        assert float(work) - delta_F == pytest.approx(ratio, abs=1e-10)


def test_the_mean_of_exponential_work_for_any_maps_by_gaussian_integrals(x64):
    """Without relaxation W(x) is a quadratic form, which three trajectories give."""
    steps = 5
    centre, stiffness = protocol(steps)
    for seed in range(5):
        maps = anyhow(steps, seed, spread=0.3)
        x = [float(jax.random.normal(jax.random.fold_in(k, 0))) for k in keys(3, seed)]
        work = DRAW(keys(3, seed), centre, stiffness, 0.0, maps)
        a, b, c = np.polyfit(x, np.asarray(work), 2)  # W = a x² + b x + c under N(0, 1)
        mean = math.exp(b**2 / (2 * (1 + 2 * a)) - c) / math.sqrt(1 + 2 * a)
        assert mean == pytest.approx(0.5, rel=1e-7)  # e^{−ΔF}
        assert float(MEAN(centre, stiffness, 0.0, maps)) == pytest.approx(a + c, abs=1e-7)


@pytest.mark.parametrize("dt", [0.0, 0.05, 2.0])
def test_any_maps_obey_jarzynski_both_ways_at_any_time_step(dt):
    centre, stiffness = protocol(10, displacement=1.0, last=1.6)
    there = (centre, stiffness, dt, anyhow(10, spread=0.04))
    forward, reverse = DRAW(keys(20_000), *there), DRAW(keys(20_000, 1), *back(*there))
    within(np.exp(-forward), 1.6**-0.5)
    within(np.exp(-reverse), 1.6**0.5)
    within(forward, float(MEAN(*there)))
    within(reverse, float(MEAN(*back(*there))))
    assert forward.mean() > 0.5 * math.log(1.6) > -reverse.mean()


def test_reversed_maps_undo_each_other(x64):
    maps = anyhow(7, spread=1.0)
    x = jnp.linspace(-3.0, 3.0, 5)
    y = x
    for each in (maps, maps.reversed()):
        for a, b in zip(*each):
            y = a * y + b
    np.testing.assert_allclose(y, x, atol=1e-12)
    for one, same in zip(maps, maps.reversed().reversed()):
        np.testing.assert_allclose(one, same, rtol=1e-12)


# --- maps that are known ------------------------------------------------------------------------


@pytest.mark.parametrize("dt", [0.0, 0.002, 3.0])
def test_maps_that_carry_the_law_make_work_the_free_energy(x64, dt):
    centre, stiffness = protocol(50, displacement=5.0)
    there = (centre, stiffness, dt, thermodynamics.carry(centre, stiffness))
    np.testing.assert_allclose(DRAW(keys(100), *there), math.log(2), atol=1e-12)
    np.testing.assert_allclose(DRAW(keys(100), *back(*there)), -math.log(2), atol=1e-12)
    assert float(MEAN(*there)) == pytest.approx(math.log(2), abs=1e-12)


@pytest.mark.parametrize("dt", [0.0, 0.002, 0.5])
def test_carried_with_the_trap_stiffening_alone_is_dear(x64, dt):
    """The work is that of a trap that does not move, trajectory by trajectory."""
    centre, stiffness = protocol(50, displacement=5.0)
    maps = thermodynamics.carry(centre, jnp.ones_like(centre))
    still = (0 * centre, stiffness, dt, None)
    work = DRAW(keys(100), centre, stiffness, dt, maps)
    np.testing.assert_allclose(work, DRAW(keys(100), *still), atol=1e-12)
    mean = float(MEAN(centre, stiffness, dt, maps))
    assert mean == pytest.approx(float(MEAN(*still)), abs=1e-12)
    if dt == 0:
        assert mean == pytest.approx(1.5)  # ⟨E_B − E_A⟩ in A


def test_a_trap_that_only_moves_is_reversible_when_carried():
    centre, _ = protocol(20, displacement=3.0)
    stiffness = jnp.full_like(centre, 2.0)
    maps = thermodynamics.carry(centre, stiffness)
    assert np.all(maps.scale == 1)
    np.testing.assert_allclose(DRAW(keys(50), centre, stiffness, 0.01, maps), 0, atol=1e-5)


# --- an anharmonic trap, and maps that are not known --------------------------------------------


def bessel(k, g):
    """−log ∫ e^{−k u²/2 − g u⁴} du."""
    z = k**2 / (32 * g)
    return -np.log(0.5 * np.sqrt(k / (2 * g)) * special.kve(0.25, z))


@pytest.mark.parametrize("g", [1e-6, 0.01, 1.0, 300.0])
def test_free_energy_of_an_anharmonic_trap(x64, g):
    k = jnp.asarray([0.1, 1.0, 4.0])
    found = thermodynamics.trap_free_energy(k, jnp.asarray(g))
    np.testing.assert_allclose(found, bessel(np.asarray(k), g), rtol=1e-12)


@pytest.mark.parametrize("dt", [0.0, 0.3])
def test_an_anharmonic_trap_obeys_jarzynski_both_ways(dt):
    centre, stiffness = protocol(8, displacement=0.4, last=2.0)
    g = jnp.float32(0.5)
    delta_F = bessel(2.0, 0.5) - bessel(1.0, 0.5)
    draw = jax.jit(jax.vmap(partial(thermodynamics.trap_work, quartic=g), (0, *[None] * 4)))
    for maps in (None, anyhow(8, spread=0.03)):
        there = (centre, stiffness, dt, maps)
        within(np.exp(-draw(keys(20_000), *there)), math.exp(-delta_F))
        within(np.exp(-draw(keys(20_000, 1), *back(*there))), math.exp(delta_F))


def test_relaxation_keeps_the_anharmonic_law():
    """At equal traps and maps of 1, W = 0; a map and its inverse tell the law before each."""
    steps, g = 40, jnp.float32(1.0)
    still = jnp.zeros(steps + 1), jnp.ones(steps + 1)
    # A last map of 1.1: W = E(1.1 x) − E(x) − log 1.1, a function of the x that 39 steps left.
    maps = Escort(jnp.ones(steps).at[-1].set(1.1), jnp.zeros(steps))
    draw = jax.jit(jax.vmap(partial(thermodynamics.trap_work, quartic=g), (0, *[None] * 4)))
    u = np.linspace(-6, 6, 4001)
    law = np.exp(-0.5 * u**2 - u**4)
    law /= law.sum()
    mean = law @ (0.5 * 0.21 * u**2 + (1.1**4 - 1) * u**4) - math.log(1.1)
    for dt in (0.0, 0.2):
        within(draw(keys(20_000), *still, dt, maps), mean)


def fitted(centre, stiffness, dt, quartic=None, seed=9, num=1000):
    fit = partial(thermodynamics.fitted_maps, dt=dt, num=num, quartic=quartic)
    return jax.jit(fit)(jax.random.key(seed), centre, stiffness)


@pytest.mark.parametrize("time", [0.1, 1.0, 10.0])
def test_maps_of_a_pilot_need_not_be_told_how_the_trap_moves(time):
    centre, stiffness = protocol(max(50, int(20 * time)), displacement=5.0)
    dt = time / (len(centre) - 1)
    maps = fitted(centre, stiffness, dt)
    waste = [float(MEAN(centre, stiffness, dt, m)) - math.log(2) for m in (None, maps)]
    assert 0 < waste[1] < 0.005 and waste[1] < waste[0] / 2000
    again = fitted(centre, stiffness, dt)
    assert all(np.array_equal(one, same) for one, same in zip(maps, again))


def test_where_no_affine_map_is_perfect_those_of_a_pilot_still_gain():
    centre, stiffness = protocol(50, displacement=5.0)
    g, dt = jnp.float32(1.0), 0.02
    maps = fitted(centre, stiffness, dt, g)
    draw = jax.jit(jax.vmap(partial(thermodynamics.trap_work, quartic=g), (0, *[None] * 4)))
    delta_F = bessel(4.0, 1.0) - bessel(1.0, 1.0)
    plain, forward = (draw(keys(5000), centre, stiffness, dt, m) for m in (None, maps))
    reverse = draw(keys(5000, 1), *back(centre, stiffness, dt, maps))
    assert plain.mean() - delta_F > 40 and 0 < forward.mean() - delta_F < 0.02
    found = thermodynamics.jarzynski(forward, reverse)
    assert found.is_value and -found.high < delta_F < -found.low
    bennett = thermodynamics.bennett(forward, reverse)
    assert abs(bennett.value - delta_F) < 4 * bennett.error < 0.02


@pytest.mark.parametrize("escort", ["none", "carry", "full"])
@pytest.mark.parametrize("time", [0.1, 1.0, 10.0])
def test_fast_drivings_are_right_when_escorted_and_bounds_when_not(time, escort):
    """200 repetitions of 128 works each way: what is called a value holds ΔF in 95 %."""
    steps, num, M = 50, 200, 128  # one protocol of steps at every time: two compilations serve all
    centre, stiffness = protocol(steps, displacement=5.0)
    maps = {
        "none": None,
        "carry": thermodynamics.carry(centre, jnp.ones_like(centre)),
        "full": thermodynamics.carry(centre, stiffness),
    }[escort]
    there = (centre, stiffness, time / steps, maps)
    forward = DRAW(keys(num * M, int(10 * time)), *there).reshape(num, M)
    reverse = DRAW(keys(num * M, int(10 * time) + 1), *back(*there)).reshape(num, M)
    found = JARZYNSKI(forward, reverse)
    low, high = -np.asarray(found.high), -np.asarray(found.low)
    if escort == "none":
        assert not found.is_value.any() and np.mean(high >= math.log(2)) > 0.95
        return
    assert found.is_value.all()
    rounding = 2e-5 if escort == "full" else 0.0
    covered = np.mean((low - rounding <= math.log(2)) & (math.log(2) <= high + rounding))
    assert covered > 0.9  # 0.95 less three standard errors
    assert np.max(high - low) < (1e-4 if escort == "full" else 0.4)


# --- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "maps, message",
    [
        (Escort(jnp.ones(2), jnp.zeros(3)), r"maps\.scale: expected shape \(3,\), got \(2,\)"),
        (Escort(jnp.ones(3), jnp.zeros(())), r"maps\.shift: expected shape \(3,\), got \(\)"),
        (Escort(jnp.array([1.0, 0.0, 1.0]), jnp.zeros(3)), "maps.scale: expected .* got 0.0"),
        (Escort(jnp.array([1.0, 2.0, -1.0]), jnp.zeros(3)), "maps.scale: expected .* got -1.0"),
        (Escort(jnp.array([1.0, math.nan, 1.0]), jnp.zeros(3)), "maps.scale: expected .* got nan"),
    ],
)
def test_maps_that_are_none_are_refused(maps, message):
    centre, stiffness = protocol(3)
    with pytest.raises(ValueError, match=f"^{message}$"):
        thermodynamics.trap_work(jax.random.key(0), centre, stiffness, 0.1, maps)
    with pytest.raises(ValueError, match=f"^{message}$"):
        thermodynamics.trap_mean_work(centre, stiffness, 0.1, maps)


def test_under_jit_a_scale_that_is_not_above_0_gives_nan():
    centre, stiffness = protocol(3)
    work = DRAW(keys(2), centre, stiffness, 0.1, Escort(jnp.array([1.0, 0.0, 1.0]), jnp.zeros(3)))
    assert np.isnan(work).all()


# --- the experiment -----------------------------------------------------------------------------

SMALL = {name: flag.default for name, flag in experiment.FLAGS.items()}
SMALL |= {"num_trajectories": 300, "durations": (0.1, 1.0)}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Report and text of a small run."""
    monkeypatch.setattr(experiment, "_RING_STEPS", (1,))

    def execute(**flags):
        config = {**SMALL, "workdir": str(tmp_path / "run"), **flags}
        text = experiment.execute(config)
        assert (tmp_path / "run" / "figures" / "jarzynski.png").read_bytes()[1:4] == b"PNG"
        return json.loads((tmp_path / "run" / "report.json").read_text()), text

    return execute


def test_escorts_of_the_experiment_beside_the_same_plain_driving(run):
    plain, text = run(escort="none")
    assert "escorted" not in plain["drivings"][0] and "carry" not in text
    for escort, waste in (("carry", 0.7), ("full", 1e-5), ("fitted", 0.02)):
        report, text = run(escort=escort)  # the same directory: the drivings are the same
        assert text.count(escort) >= 2
        for old, new in zip(plain["drivings"], report["drivings"]):
            escorted = new.pop("escorted")
            assert new == old and set(escorted) == {*set(old) - {"duration"}, "escort"}
            assert abs(escorted["exact"]) < waste < old["exact"]
            assert escorted["warning"] == "" and old["warning"] != ""
            error = max(escorted["bennett_error"], 1e-5)
            assert abs(escorted["bennett"] - math.log(2)) < 4.5 * error
            assert (escorted["slope"] is None) == (escort == "full")
    page = tables.drivings(report | {"drivings": [old | {"escorted": escorted}]})[0]
    assert [row.cells[0] for row in page.rows] == ["1", "1, fitted"]


def test_the_anharmonic_trap_of_the_experiment(run):
    report, _ = run(quartic=1.0, escort="fitted", durations=(1.0,))
    assert report["free_energy_exact"] == pytest.approx(bessel(4.0, 1.0) - bessel(1.0, 1.0))
    (driving,) = report["drivings"]
    assert driving["exact"] is None and driving["dissipation"] > 30
    found = driving["escorted"]
    assert abs(found["bennett"] - report["free_energy_exact"]) < 4.5 * found["bennett_error"] < 0.1


@pytest.mark.parametrize(
    "flags, message",
    [
        ({"quartic": -1.0}, "quartic: expected a finite number of at least 0, got -1.0"),
        ({"quartic": 1e5}, "quartic: expected at most 1e\\+04 with these traps, got 100000"),
        ({"quartic": 1.0, "displacement": 1e4}, "quartic: expected at most 0.0001 with"),
        ({"escort": "wild"}, "escort: expected one of none, carry, full, fitted, got 'wild'"),
    ],
)
def test_bad_flags_are_named_before_any_work(tmp_path, flags, message):
    with pytest.raises(experiment.Invalid, match=f"^--{message}"):
        experiment.execute({**SMALL, "workdir": str(tmp_path / "run"), **flags})
    assert not (tmp_path / "run").exists()
