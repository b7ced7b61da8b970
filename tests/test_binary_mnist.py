"""Binarised MNIST: the rule of the bits, the readout by Bayes' rule, a short run end to end."""

import hashlib
import json
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit, logit

from cases import mnist_originals
from dpm_jax import binomial, runs, schedule
from dpm_jax.data import bits
from dpm_jax.experiments import binary_mnist
from dpm_jax.runs import Invalid, execution

EXPERIMENT = binary_mnist.EXPERIMENT


# --- bits of grey levels ------------------------------------------------------------------------


def test_fixed_bits_are_the_same_on_every_machine():
    levels = np.arange(256, dtype=np.uint8).repeat(40).reshape(8, 1280)
    found = bits.fixed(levels, 3)
    assert found.dtype == np.uint8 and set(np.unique(found)) == {0, 1}
    digest = hashlib.sha256(np.packbits(found).tobytes()).hexdigest()
    assert digest[:16] == "9ac4853aef347319"
    assert (found != bits.fixed(levels, 4)).any()


def test_fixed_bits_do_not_depend_on_how_many_are_drawn_at_once(monkeypatch):
    levels = np.random.default_rng(0).integers(0, 256, (7, 5), dtype=np.uint8)
    whole = bits.fixed(levels, 0)
    monkeypatch.setattr(bits, "_IMAGES", 2)
    assert np.array_equal(bits.fixed(levels, 0), whole)


@pytest.mark.parametrize("kind", ["fixed", "drawn"])
def test_a_bit_is_one_with_the_probability_of_its_level(kind):
    levels = np.broadcast_to(np.asarray([0, 1, 60, 128, 254, 255], np.uint8), (20_000, 6))
    if kind == "fixed":
        found = bits.fixed(levels, 0)
    else:
        found = np.asarray(bits.drawn(jax.random.key(0), jnp.asarray(levels)))
        assert found.dtype == np.float32
    p = levels[0] / 255
    error = np.sqrt(p * (1 - p) / len(levels))
    assert (np.abs(found.mean(axis=0) - p) <= 4.5 * error).all()
    assert found[:, 0].max() == 0 and found[:, -1].min() == 1


def test_dynamic_bits_differ_by_key_alone():
    levels = jnp.full((50, 50), 128, jnp.uint8)
    one, again, other = (bits.drawn(jax.random.key(seed), levels) for seed in (0, 0, 1))
    assert jnp.array_equal(one, again)
    assert 0.4 < float(jnp.mean(one != other)) < 0.6


def test_images_of_bits_are_taken_as_they_are():
    x = np.random.default_rng(0).integers(0, 2, (3, 4, 4), dtype=np.uint8)
    assert bits.white(x) == bits.white(np.zeros_like(x)) == 1 and bits.white(200 * x) == 255
    assert np.array_equal(bits.fixed(x, 5, 1), x)
    assert np.array_equal(bits.drawn(jax.random.key(0), jnp.asarray(x), 1), x)


def test_the_rate_of_a_pixel_is_its_mean():
    levels = np.asarray([[0, 255, 51], [0, 255, 102]], np.uint8)
    found = bits.rate(levels)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [1e-3, 1 - 1e-3, 0.3], rtol=1e-6)


# --- the readout --------------------------------------------------------------------------------


def read(mean, z, xt, t, rate, steps):
    family = binomial.family(rate)
    raw = jnp.asarray(z, jnp.float32)[..., None]
    return np.asarray(family.readout(mean).apply(raw, xt, steps, jnp.asarray(t), None).logits)


@pytest.mark.parametrize("rate", [0.3, np.asarray([0.01, 0.5, 0.9, 0.2])])
@pytest.mark.parametrize("t", [1, 2, 7])
def test_bayes_is_the_posterior_of_each_bit(rate, t):
    steps = schedule.constant_fraction(8, 0.05)
    xt, z = jnp.asarray([1.0, 0.0, 1.0, 0.0]), np.asarray([0.3, -2.0, 4.0, 0.0])
    alpha = float(np.exp(np.float64(steps.log_alpha_bar[t])))
    one, zero = alpha + (1 - alpha) * rate, (1 - alpha) * rate  # P(x^t = 1 | x^0)
    on = np.asarray(xt) > 0.5
    evidence = np.where(on, np.log(one / zero), np.log((1 - one) / (1 - zero)))
    expected = read("x0", z + logit(rate) + evidence, xt, t, rate, steps)
    np.testing.assert_allclose(read("bayes", z, xt, t, rate, steps), expected, atol=2e-4)


@pytest.mark.parametrize("rate", [0.5, np.asarray([0.01, 0.5, 0.9, 0.2])])
def test_bayes_of_nothing_is_the_prior_at_every_t(rate):
    steps, xt = schedule.cosine(50, 1e-3), jnp.asarray([1.0, 0.0, 1.0, 0.0])
    family = binomial.family(rate)
    for t in (2, 3, 25, 50):  # π is reversible: backwards is forwards
        forward = family.step(xt, steps.beta[t]).logits
        found = read("bayes", np.zeros(4), xt, t, rate, steps)
        np.testing.assert_allclose(expit(found), expit(forward), atol=1e-5)


def test_the_law_of_t_follows_what_bits_lose():
    size = binomial.family().readout("bayes").kl_per_fold
    noise = np.asarray([1e-6, 1e-3, 0.1, 0.5])
    found = np.asarray(size(jnp.asarray(np.log1p(-noise) - np.log(noise), jnp.float32)))
    np.testing.assert_allclose(found, noise * (0.3 - np.log(noise)), rtol=1e-4)
    assert binomial.family().readout("x0").kl_per_fold is None


# --- runs ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    return mnist_originals(tmp_path_factory.mktemp("mnist"), binary_mnist.VALIDATION + 64)


def configure(workdir, originals, **sizes):
    given = {"preset": "best", "workdir": str(workdir), "manual_dir": str(originals)}
    given |= {"width": 4, "depth": 1, "bottleneck": 8, "T": 12, "sample_steps": 5}
    given |= {"num_steps": 4, "log_every": 2, "checkpoint_every": 2, "num_eval": 40}
    given |= {"batch_size": 4 * jax.local_device_count(), "num_samples": 20, "passes": 2}
    return {"experiment": EXPERIMENT.name, **EXPERIMENT.presets["best"], **given, **sizes}


@pytest.fixture(scope="module")
def run(tmp_path_factory, originals):
    """A finished run: work directory and printed table."""
    workdir = tmp_path_factory.mktemp("runs") / "run"
    return workdir, execution.execute(EXPERIMENT, configure(workdir, originals))[1]


def test_a_run_reports_nats_beside_the_literature(run):
    workdir, printed = run
    report = json.loads((workdir / "report.json").read_text(encoding="utf-8"))
    assert report["unit"] == "bits/image" and report["dims"] == 784 and report["examples"] == 40
    assert report["K_nats"] == pytest.approx(report["K_bits"] * np.log(2), rel=1e-6)
    assert report["K_nats"] < 0 < report["K_standard_error_nats"]
    assert report["ceiling_bits"] is None and report["config"]["binarise"] == "dynamic"
    assert f"{-report['K_nats']:.2f} ± {report['K_standard_error_nats']:.2f}" in printed
    for of in binary_mnist.LITERATURE:
        told = f"{of.name}, {of.data} "
        assert any(told in line and str(of) in line for line in printed.splitlines())
    assert "≤ 80.97" in printed and "≈ 79.03" in printed
    assert set(report["figures"]) == {"samples", "test", "bound_terms"}
    for path in report["figures"].values():
        assert (workdir / path).stat().st_size > 1000
    assert 0 <= report["share_of_ones"] <= 1 and 0 < report["share_of_ones_test"] < 0.1


def test_a_run_is_loaded_with_its_bits_and_without(run, originals):
    workdir, _ = run
    whole = runs.load(workdir, manual_dir=str(originals))
    assert set(np.unique(whole.test)) == {0, 1} and whole.data.max() == 255
    assert len(whole.data) == 64 and len(whole.problem.validation) == binary_mnist.VALIDATION
    alone = runs.load(workdir, data=False)
    assert alone.data is None and alone.test is None
    rates = (r.model.family.arguments["rate"] for r in (whole, alone))
    for rate in rates:
        np.testing.assert_array_equal(rate, bits.rate(whole.data))
    same = [r.evaluate(whole.test, passes=2).K for r in (whole, alone)]
    assert same[0] == same[1] < 0


@pytest.mark.parametrize("binarise", ["fixed", "dynamic"])
def test_training_bits(binarise, originals):
    config = configure("", originals, binarise=binarise)
    problem = binary_mnist.setup(config)
    one, other = (problem.draw(jax.random.key(s), problem.data, 64) for s in (0, 1))
    assert one.shape == (64, 28, 28, 1) and set(np.unique(one)) == {0, 1}
    # A bar that is grey is whole where its bits were drawn at 255 alone; else it has gaps.
    upright = one[:, 8:20, 12:16].sum((1, 2, 3)) == 48
    assert 0.2 < float(upright.mean()) < 0.8
    kinds = {x.tobytes() for x in np.asarray(jnp.concatenate([one, other]))}
    most = len({x.tobytes() for x in problem.data}) if binarise == "fixed" else 2 * 64
    assert (len(kinds) <= most) and (binarise == "fixed" or len(kinds) > 40)
    again = binary_mnist.setup(config)
    assert np.array_equal(problem.test, again.test)


def test_a_rate_for_all_pixels_needs_no_data(tmp_path, originals):
    config = configure(tmp_path / "none", originals, rate=0.3)
    assert binary_mnist.setup(config).fitted == {}
    model = binary_mnist.without_data(config).model
    assert model.family.arguments["rate"] == 0.3


@pytest.mark.parametrize(
    "flag, value",
    [
        ("binarise", "wild"),
        ("rate", 1.0),
        ("rate", -0.1),
        ("rate", float("nan")),
        ("schedule", "learned"),
        ("schedule", "wild"),
        ("network", "rbf"),  # takes vectors only
        ("readout", "v"),
        ("sample_steps", 13),
        ("sample_steps", 1),
        ("num_eval", 10_001),
        ("num_eval", 1),
        ("passes", 0),
        ("objective", "v"),
        ("manual_dir", "few"),
        ("manual_dir", "small"),
    ],
)
def test_bad_flags_are_named(flag, value, tmp_path, originals, monkeypatch):
    monkeypatch.setattr("dpm_jax.training.fit", lambda *a, **k: pytest.fail("trains"))
    if flag == "manual_dir":
        sides = {"few": (5000, 28), "small": (10_001, 14)}[value]
        for name in ("train", "test"):
            np.save(tmp_path / f"{name}.npy", np.zeros((sides[0], sides[1], sides[1], 1), np.uint8))
        value = str(tmp_path)
    begun = time.monotonic()
    with pytest.raises(Invalid, match=rf"^--{flag}: ") as error:
        execution.execute(EXPERIMENT, configure(tmp_path / "run", originals, **{flag: value}))
    assert "\n" not in str(error.value) and time.monotonic() - begun < 20
    assert not (tmp_path / "run").exists()
