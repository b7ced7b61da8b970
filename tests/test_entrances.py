"""Every public entrance that takes data, and data that it must refuse: named, before any work."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpm_jax import (
    binomial,
    bound,
    gaussian,
    likelihood,
    model,
    networks,
    posterior,
    replacement,
    sampling,
    thermodynamics,
    training,
)
from dpm_jax import schedule as schedules
from dpm_jax.baselines import blocks, causal, mcgsm, parzen
from dpm_jax.images import dequantisation
from dpm_jax.likelihood import Rows, discretized
from dpm_jax.runs import Problem, Run

KEY = jax.random.key(0)


def built(family, **given):
    steps = schedules.constant_fraction(3)
    outputs = 1 if family.name == "binomial" else 2
    readout = "x0" if family.name == "binomial" else "v"
    return model.build(family, steps, networks.MLP(2, 1, outputs=outputs), (3,), readout, **given)


MODELS = {"gaussian": built(gaussian.family()), "bits": built(binomial.family(0.5))}
CHAINS = {name: m.chain(m.init(KEY)) for name, m in MODELS.items()}


def fit(m, data, **given):
    options = training.Options(num_steps=1, batch_size=8 * jax.local_device_count())
    return training.fit(m, data, options, **given)


def run(m):
    return Run(None, {}, Problem(model=m), {}, 0)


# Entrance -> the argument's name, and a call (name of the model, value).
ROWS = {
    "fit": ("data", lambda f, x: fit(MODELS[f], x)),
    "evaluate": ("data", lambda f, x: likelihood.evaluate(MODELS[f], {}, x)),
    "evaluate_works": ("data", lambda f, x: likelihood.evaluate_works(MODELS[f], {}, x, 2)),
    "evaluate_losses": ("data", lambda f, x: likelihood.evaluate_losses(MODELS[f], {}, x, 2)),
    "evaluate_dissipation": (
        "data", lambda f, x: likelihood.evaluate_dissipation(MODELS[f], {}, x, 2)
    ),
    "evaluate_noise_floor": (
        "data", lambda f, x: likelihood.evaluate_noise_floor(MODELS[f], {}, x, [1])
    ),
    "bound.estimate": ("x0", lambda f, x: bound.estimate(KEY, CHAINS[f], x)),
    "bound.draw_terms": ("x0", lambda f, x: bound.draw_terms(KEY, CHAINS[f], x)),
    "Run.evaluate": ("data", lambda f, x: run(MODELS[f]).evaluate(x)),
    "Run.log_p": ("data", lambda f, x: run(MODELS[f]).log_p(x, 2)),
}  # fmt: skip
ONE = {
    "bound.exact": ("x0", lambda f, x: bound.exact(KEY, CHAINS[f], x)),
    "bound.exact_terms": ("x0", lambda f, x: bound.exact_terms(KEY, CHAINS[f], x)),
    "bound.null": ("x0", lambda f, x: bound.null(CHAINS[f], x)),
    "bound.noise_floor": ("x0", lambda f, x: bound.noise_floor(KEY, CHAINS[f], x, [1])),
    "bound.term": ("x0", lambda f, x: bound.term(KEY, CHAINS[f], x, 1)),
    "bound.ends": ("x0", lambda f, x: bound.ends(CHAINS[f], x)),
    "noised": ("x0", lambda f, x: sampling.noised(KEY, CHAINS[f], x, 1)),
    "forward_trajectory": ("x0", lambda f, x: sampling.forward_trajectory(KEY, CHAINS[f], x)),
    "forward_work": ("x0", lambda f, x: likelihood.forward_work(KEY, CHAINS[f], x)),
    "forward_works": ("x0", lambda f, x: likelihood.forward_works(KEY, CHAINS[f], x, 2)),
    "estimate": ("x0", lambda f, x: likelihood.estimate(KEY, CHAINS[f], x, 2)),
    "profile": ("x0", lambda f, x: likelihood.profile(KEY, CHAINS[f], x)),
    "inpaint": ("known", lambda f, x: posterior.inpaint(CHAINS[f], np.ones(3, bool), x)),
    "denoise": ("y", lambda f, x: posterior.denoise(CHAINS[f], x, 0.1)),
    "replacement": (
        "known", lambda f, x: replacement.sample(KEY, CHAINS[f], np.ones(3, bool), x)
    ),
}  # fmt: skip
GOOD = np.array([0.0, 1.0, 1.0])
NO_NUMBERS = {
    "text": np.array(["a", "b", "c"]),
    "complex": GOOD * 1j,
    "dates": np.array(["2020-01-01"] * 3, "M8[D]"),
    "structured": np.zeros(3, [("a", float), ("b", int)]),
    "objects": np.array([None, {}, ()], object),
    "masked": np.ma.array(GOOD, mask=[0, 1, 0]),
}
OUTSIDE = {
    "NaN": ("gaussian", [0, np.nan, 1], "finite"),
    "infinite": ("gaussian", [0, np.inf, 1], "finite"),
    "±1": ("bits", [-1, 1, 1], "only 0 and 1"),
    "0/255": ("bits", [0, 255, 255], "only 0 and 1"),
    "grey": ("bits", [0.0, 0.5, 1.0], "only 0 and 1"),
    "NaN bits": ("bits", [0, np.nan, 1], "only 0 and 1"),
}


def as_rows(entrance, x):
    return np.stack([x, x]) if entrance in ROWS else x


@pytest.mark.parametrize("entrance", [*ROWS, *ONE])
@pytest.mark.parametrize("kind", NO_NUMBERS)
def test_what_is_no_array_of_numbers(entrance, kind):
    argument, call = {**ROWS, **ONE}[entrance]
    x = NO_NUMBERS[kind]
    if entrance in ROWS:
        x = (np.ma if kind == "masked" else np).stack([x, x])
    with pytest.raises((TypeError, ValueError), match=rf"^{argument}: expected .*numbers.* got "):
        call("gaussian", x)


@pytest.mark.parametrize("entrance", [*ROWS, *ONE])
@pytest.mark.parametrize("kind", OUTSIDE)
def test_values_outside_the_support(entrance, kind):
    argument, call = {**ROWS, **ONE}[entrance]
    family, values, expected = OUTSIDE[kind]
    x = as_rows(entrance, np.array(values, np.float32))
    for given in (x, jnp.asarray(x)):
        with pytest.raises(ValueError, match=rf"^{argument}: expected {expected}"):
            call(family, given)


@pytest.mark.parametrize("entrance", [*ROWS, *ONE])
@pytest.mark.parametrize("shape", [(2,), (4,), (3, 3, 1), ()])
def test_another_shape(entrance, shape):
    argument, call = {**ROWS, **ONE}[entrance]
    x = np.zeros((2, *shape) if entrance in ROWS and shape else shape)
    with pytest.raises(ValueError, match=rf"^{argument}: expected .*got .*\("):
        call("bits", x)


def standing(n, d=2):
    return np.random.default_rng(0).standard_normal((n, d))


# What knows no chain: entrance -> the argument's name, a call, and a good value's shape.
ALONE = {
    "blocks.fit": ("train", lambda x: blocks.fit(x, 1), (9, 2, 2, 1)),
    "isotropic": ("images", blocks.isotropic, (2, 2, 2, 1)),
    "causal.fit": ("train", lambda x: causal.fit(x, rows=0, columns=1), (40, 2, 2, 1)),
    "mcgsm.fit": ("train", lambda x: mcgsm.fit(x, 0, 1, steps=1), (40, 2, 2, 1)),
    "fit_scale_mixture": (
        "context", lambda x: causal.fit_scale_mixture(x, standing(20)[:, 0]), (20, 2)
    ),
    "fit_scale_mixture, target": (
        "target", lambda x: causal.fit_scale_mixture(standing(20), x), (20,)
    ),
    "fit_conditional": (
        "context", lambda x: mcgsm.fit_conditional(x, standing(20)[:, 0], steps=1), (20, 2)
    ),
    "parzen.evaluate": ("samples", lambda x: parzen.evaluate(x, standing(3), standing(3)), (4, 2)),
    "parzen.evaluate, validation": (
        "validation", lambda x: parzen.evaluate(standing(3), x, standing(3)), (4, 2)
    ),
    "parzen.evaluate, test": (
        "test", lambda x: parzen.evaluate(standing(3), standing(3), x), (4, 2)
    ),
    "parzen.log_density": ("x", lambda x: parzen.log_density(standing(3), x, 1.0), (4, 2)),
    "widths": ("widths", lambda x: parzen.log_densities(standing(3), standing(3), x), (2,)),
    "centre": ("images", lambda x: discretized.centre(x, discretized.bins(4, 0.0, 1.0)), (3,)),
}  # fmt: skip


@pytest.mark.parametrize("entrance", ALONE)
@pytest.mark.parametrize("kind", [*NO_NUMBERS, "ragged", "none", "NaN", "infinite", "shape"])
def test_baselines_and_bins(entrance, kind):
    argument, call, shape = ALONE[entrance]
    good = np.abs(standing(int(np.prod(shape)), 1).round() % 4).reshape(shape)
    bad = {"ragged": [[1.0], [1.0, 2.0]], "none": None, "NaN": good * np.nan, "shape": good[None]}
    bad |= {"infinite": np.where(good == good.max(), np.inf, good)} | NO_NUMBERS
    if (entrance, kind) == ("centre", "shape"):
        return  # of any shape
    with pytest.raises((TypeError, ValueError), match=f"^{argument}: expected .* got"):
        call(bad[kind])


@pytest.mark.parametrize("t", [-1, 4, 1.0, np.nan])
def test_t_is_a_step_of_the_chain(t):
    for call, least in ((bound.term, 1), (sampling.noised, 0)):
        for given in (t, jnp.asarray(t)):
            with pytest.raises(ValueError, match=rf"^t: expected a whole number in {least}\.\.3"):
                call(KEY, CHAINS["gaussian"], GOOD, given)
    with pytest.raises(ValueError, match=r"in 1\.\.3, got 0"):
        bound.term(KEY, CHAINS["gaussian"], GOOD, 0)


MASK = np.array([True, False, True])
CHAIN, MODEL = CHAINS["gaussian"], MODELS["gaussian"]
PARAMS = MODEL.init(KEY)
WHOLE = {  # entrance -> name, call, least
    "Model.chain": ("steps", lambda n: MODEL.chain(PARAMS, n), 2),
    "model.sample": ("num", lambda n: model.sample(MODEL, PARAMS, KEY, n), 1),
    "model.build": (
        "event_shape",
        lambda n: model.build(gaussian.family(), schedules.linear(3, 0.1, 0.5), None, (n,)), 1,
    ),
    "schedule": ("T", lambda n: schedules.geometric(n, 0.1), 2),
    "reverse_trajectory": ("every", lambda n: sampling.reverse_trajectory(KEY, CHAIN, n), 1),
    "estimate": ("num", lambda n: likelihood.estimate(KEY, CHAIN, GOOD, n), 1),
    "estimate, chunk": ("chunk", lambda n: likelihood.estimate(KEY, CHAIN, GOOD, 2, n), 1),
    "sandwich": ("num", lambda n: likelihood.sandwich(KEY, CHAIN, n), 1),
    "evaluate": ("passes", lambda n: likelihood.evaluate(MODEL, PARAMS, GOOD[None], n), 1),
    "Rows": (
        "at_once", lambda n: likelihood.evaluate(MODEL, PARAMS, GOOD[None], rows=Rows(at_once=n)), 1
    ),
    "evaluate_works": ("num", lambda n: likelihood.evaluate_works(MODEL, PARAMS, GOOD[None], n), 1),
    "summarise": ("num", lambda n: likelihood.summarise(np.zeros((2, 3)), n), 1),
    "draw_terms": ("num_t", lambda n: bound.draw_terms(KEY, CHAIN, GOOD[None], n), 1),
    "noise_floor": ("num_t", lambda n: bound.noise_floor(KEY, CHAIN, GOOD, [1], n), 1),
    "posterior.sample": (
        "num",
        lambda n: posterior.sample(KEY, CHAIN, posterior.inpaint(CHAIN, MASK, GOOD), n), 1,
    ),
    "replacement": ("repeats", lambda n: replacement.sample(KEY, CHAIN, MASK, GOOD, n), 1),
    "parzen": ("chunk", lambda n: parzen.log_density(standing(3), standing(3), 1.0, n), 1),
}  # fmt: skip


@pytest.mark.parametrize("entrance", WHOLE)
def test_whole_numbers(entrance):
    name, call, least = WHOLE[entrance]
    for bad in (1.5, "2", True, [2], np.nan, jnp.zeros(2), least - 1):
        with pytest.raises((TypeError, ValueError), match=f"^{name}: expected .*got"):
            call(bad)


@pytest.mark.parametrize("t0", [[1.5], 1, [0], [4], [], ["1"]])
def test_noise_floors_are_steps(t0):
    with pytest.raises(ValueError, match=r"^t0: expected a list of values in 1\.\.3, got"):
        bound.noise_floor(KEY, CHAIN, GOOD, t0)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: model.sample(MODEL, {}, KEY, 1), "params: expected those of the model"),
        (lambda: MODEL.chain(None), "params: expected those of the model"),
        (lambda: binomial.family("a"), "rate: expected an array of numbers, got"),
        (
            lambda: schedules.geometric(3, "a"),
            r"beta_1: expected a number inside \(0, 1\), got 'a'",
        ),
        (lambda: built(gaussian.family(), x0_range="ab"), r"x0_range: expected \(low, high\)"),
        (lambda: built(gaussian.family(), x0_range=(1,)), r"x0_range: expected \(low, high\)"),
        (lambda: built(gaussian.family(), x0_range=(np.nan, 1)), "x0_range: expected"),
        (
            lambda: model.build(gaussian.family(), jnp.ones(4), networks.MLP(outputs=2), (3,)),
            "schedule: expected one such as",
        ),
        (lambda: posterior.perturb(CHAIN, 3.0, "annealed"), "log_r: expected a function"),
        (lambda: posterior.compose(3, 4), "tilts: expected tilts, got 3"),
        (lambda: posterior.tilted(CHAIN, None), "tilt: expected a Tilt or"),
        *(
            (lambda f=f, bad=bad: f(bad), "(work|forward_work): expected an array of numbers, got")
            for f in (
                thermodynamics.jarzynski,
                lambda w: thermodynamics.bennett(w, [1.0, 2.0]),
                lambda w: thermodynamics.crooks(w, [1.0, 2.0]),
            )
            for bad in (*NO_NUMBERS.values(), None, [[1.0], [1.0, 2.0]])
        ),
    ],
)
def test_what_is_no_part_of_a_model_or_a_work(call, message):
    with pytest.raises((TypeError, ValueError), match=f"^{message}"):
        call()


@pytest.mark.parametrize("mask", [np.ones(3), np.array(["a"] * 3), np.ones(3, "M8[D]"), [1, 0, 1]])
def test_masks_are_bool(mask):
    for call in (
        lambda: posterior.inpaint(CHAINS["bits"], mask, GOOD),
        lambda: posterior.denoise(CHAINS["bits"], GOOD, 0.1, mask=mask),
        lambda: replacement.sample(KEY, CHAINS["bits"], mask, GOOD),
    ):
        with pytest.raises(ValueError, match=r"^mask: expected bool, True where known, got "):
            call()


@pytest.mark.parametrize("noise", ["a", 1j, None, np.nan, -1.0, np.zeros(2)])
def test_noise_is_a_number(noise):
    with pytest.raises((TypeError, ValueError), match=r"^noise: expected "):
        posterior.denoise(CHAINS["gaussian"], GOOD, noise)


def test_what_is_prepared_is_checked_and_so_is_what_is_drawn():
    rows = np.zeros((4, 3), np.uint8)
    for bad, message in (
        (lambda key, x: x.astype(float) - 1, "only 0 and 1, got -1"),
        (lambda key, x: jnp.zeros((len(x), 4)), r"shape \(n, 3\) .* got \(2, 4\)"),
    ):
        with pytest.raises(ValueError, match=f"^prepare: expected {message}"):
            likelihood.evaluate(MODELS["bits"], {}, rows, rows=Rows(prepare=bad))
    for draw, message in (
        (lambda key, x, n: jnp.full((n, 3), -1.0), "only 0 and 1, got -1"),
        (lambda key, x, n: jnp.zeros((n, 4)), r"shape \(n, 3\) "),
    ):
        with pytest.raises(ValueError, match=f"^draw: expected {message}"):
            fit(MODELS["bits"], rows, draw=draw)


def test_bits_and_integers_are_taken_as_the_numbers_they_are():
    for name in ("bits", "gaussian"):
        chain = CHAINS[name]
        expected = likelihood.forward_work(KEY, chain, jnp.asarray(GOOD, jnp.float32))
        for kind in (bool, np.uint8, int, np.float16, np.longdouble):
            found = likelihood.forward_work(KEY, chain, GOOD.astype(kind))
            np.testing.assert_array_equal(found, expected)
    rows = np.stack([GOOD, GOOD])
    m, params = MODELS["bits"], MODELS["bits"].init(KEY)
    expected = likelihood.evaluate(m, params, rows)
    assert likelihood.evaluate(m, params, rows.astype(bool)) == expected


def test_under_jit_shape_and_type_are_checked_and_impossible_values_give_no_number():
    chain = CHAINS["bits"]
    work = jax.jit(lambda x: likelihood.forward_work(KEY, chain, x))
    assert work(jnp.asarray([1, 0, 1])).dtype == jnp.float32
    with pytest.raises(ValueError, match=r"^x0: expected shape \(3,\), got \(2,\)"):
        work(jnp.zeros(2))
    rows = jnp.asarray([[-1.0, 1.0, 1.0], [0.0, 255.0, 0.0], [0.5, 0.0, 1.0], GOOD])
    for call in (likelihood.forward_work, lambda *given: bound.exact(*given).K):
        found = np.asarray(jax.vmap(lambda x, call=call: call(KEY, chain, x))(rows))
        assert np.isnan(found).tolist() == [True, True, True, False]


# --- images: levels and units -------------------------------------------------------------------

OF = (100.0, 50.0)  # mean and scale


@pytest.mark.parametrize(
    "levels, rows, message",
    [
        (65536, np.zeros(4, np.uint8), r"16-bit grey levels 0\.\.65535, .*uint16\), got uint8"),
        (4096, np.zeros(4, np.uint8), r"12-bit grey levels 0\.\.4095, .*\(uint16\), got uint8"),
        (256, np.zeros(4, np.uint16), r"8-bit grey levels 0\.\.255, .*\(uint8\), got uint16"),
        (32, np.array([0, 32], np.uint8), r"5-bit grey levels 0\.\.31, .*, got 0\.\.32"),
        (100, np.array([-1, 9]), r"100-level grey levels 0\.\.99, .*, got -1\.\.9"),
        (256, np.array([True, False]), r"8-bit grey levels .* got bool"),
    ],
)
def test_integers_are_levels_of_the_run(levels, rows, message):
    with pytest.raises(ValueError, match=f"^input: expected {message}"):
        dequantisation.check_rows("input", rows, levels)


@pytest.mark.parametrize("x", [[0.0, 0.5, 1.0], [0.0, 255.0], [-9.0, 0.0]])
def test_floats_are_in_the_units_of_the_model(x):
    with pytest.raises(ValueError, match=r"^input: expected images in the units of the model"):
        dequantisation.check_units("input", np.array(x), *OF, 256)
    dequantisation.check_units("input", np.array([-2.0, 0.5, 3.1]), *OF, 256)
    dequantisation.check_units("input", np.array([-9.0, 0.5]), *OF, 256, noise=1.0)
