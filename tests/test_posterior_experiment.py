"""posterior.py on runs of a few steps: what it observes, draws, measures, writes and refuses."""

import dataclasses
import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from test_experiments import configure, contents, tiny_roll

from dpm_jax import model, networks, schedule, units
from dpm_jax.core import binomial, gaussian
from dpm_jax.experiments import cifar10, heartbeat, swiss_roll
from dpm_jax.experiments import posterior as experiment
from dpm_jax.posterior import linear
from dpm_jax.posterior.particles import Particles
from dpm_jax.runs import (
    ImageScale,
    Invalid,
    Problem,
    draws,
    execution,
    inputs,
    masks,
    observations,
    plots,
)
from dpm_jax.runs import posterior_figures as figures
from dpm_jax.runs import posterior_report as report

FLAGS = {
    **{name: flag.default for name, flag in experiment.FLAGS.items()},
    "num_samples": 40,
    "examples": 3,
}


def trained(kind, workdir, **sizes):
    without = dataclasses.replace(kind, figures=lambda *args: ({}, {}, []))
    make = tiny_roll if kind is swiss_roll.EXPERIMENT else lambda *a, **k: configure(kind, *a, **k)
    execution.execute(without, make(workdir, **sizes))
    return workdir


@pytest.fixture(scope="module")
def roll(tmp_path_factory):
    return trained(swiss_roll.EXPERIMENT, tmp_path_factory.mktemp("roll") / "run", noise=0.5)


@pytest.fixture(scope="module")
def beat(tmp_path_factory):
    sizes = {"T": 20, "beta_1": 0.05, "width": 8, "depth": 1, "num_t": -1, "checkpoint_every": 6}
    return trained(heartbeat.EXPERIMENT, tmp_path_factory.mktemp("beat") / "run", **sizes)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Of colour images of 8×8 pixels, a network of convolutions alone."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (40, 4, 4, 3), dtype=np.uint8)
    np.save(folder / "x.npy", coarse.repeat(2, axis=1).repeat(2, axis=2))
    sizes = {"dataset": str(folder / "x.npy"), "dense": 0, "scales": 2, "layers": 1, "width": 4}
    sizes |= {"T": 8, "sample_steps": 8, "num_samples": 2, "num_eval": 4, "baselines": ""}
    preset = cifar10.PRESETS["best"]
    return trained(cifar10.EXPERIMENT, folder / "run", **preset | sizes | {"num_steps": 6})


def run(workdir, out, **given):
    printed = experiment.execute({**FLAGS, "workdir": str(workdir), "out": str(out), **given})
    content = json.loads((out / "posterior.json").read_text(encoding="utf-8"))
    return printed, content, dict(np.load(out / "posterior.npz"))


@pytest.mark.parametrize(
    "method", ["paper", "annealed", "particles", "replacement", "gibbs", "mmps"]
)
def test_the_known_part_comes_back_exactly(method, roll, beat, tmp_path):
    for workdir, mask in ((roll, "right_half"), (beat, "random"))[: 1 + (method != "mmps")]:
        before = contents(workdir)
        out = tmp_path / workdir.parent.name
        flags = {"method": method, "mask": mask}
        flags |= {"repeats": 2} if method == "replacement" else {}
        flags |= {"sweeps": 2, "particles": 4} if method == "gibbs" else {}
        printed, content, arrays = run(workdir, out, **flags)
        x, y, known = arrays["x"], arrays["observed"], arrays["known"]
        assert x.shape == (3, 40, *known.shape) and known.sum() == known.size // 2
        seen = np.broadcast_to(y[:, None], x.shape)
        np.testing.assert_array_equal(x[..., known], seen[..., known])
        assert (y[:, ~known] == 0).all() and x[..., ~known].std() > 0.01
        assert content["known_part_deviation"] == 0 and content["settings"]["method"] == method
        np.testing.assert_allclose(arrays["weight"].sum(axis=1), 1, rtol=1e-5)
        np.testing.assert_allclose(
            arrays["mean"], np.einsum("nk,nk...->n...", arrays["weight"], x), atol=1e-5
        )
        assert ("log_z" in content) == (method == "particles")
        assert ("worth" in content) == (method == "gibbs")
        assert f"method {method}" in printed and (out / "posterior.png").stat().st_size > 5000
        assert contents(workdir) == before  # nothing of the run is touched


def test_log_z_is_a_value_of_many_filters_and_a_bound_of_one(roll, tmp_path):
    flags = {"num_samples": 512, "task": "denoise", "noise": 4.0}
    one, bound, _ = run(roll, tmp_path / "one", **flags)
    assert bound["log_z_high"] == [None] * 3 and "its value takes --filters=25" in one
    np.testing.assert_allclose(
        np.subtract(bound["log_z"], bound["log_z_low"]), np.log(20), rtol=1e-5
    )
    many, found, arrays = run(roll, tmp_path / "many", **flags, filters=64)
    assert found["settings"]["filters"] == 64 and arrays["x"].shape == (3, 512, 2)
    known = [high is not None for high in found["log_z_high"]]
    assert any(known)
    for i, is_value in enumerate(known):
        assert f"problem {i}: {'−' if is_value else 'at least'}" in many
        assert units.number(units.bits(found["log_z_low"][i])) in many
    assert f"problem 0: at least {units.number(units.bits(bound['log_z_low'][0]))}" in one


def test_noise_is_added_and_its_posterior_is_nearer_to_the_truth(roll, tmp_path):
    """The run's own --noise (of the roll) must not be taken for that of the observation."""
    _, content, arrays = run(roll, tmp_path / "out", task="denoise", noise=0.04, examples=20)
    assert content["noise"] == 0.04
    errors = content["errors"]
    assert np.mean(errors["observed"]["rmse"]) == pytest.approx(0.2, rel=0.3)
    # For unit-variance data the best linear guess divides the error by 1.04^½; n = 20 is few.
    assert np.mean(errors["linear (Wiener)"]["rmse"]) < 1.05 * np.mean(errors["observed"]["rmse"])
    assert abs(arrays["mean"] - arrays["observed"]).max() < 2
    exact = content["against_exact"]
    assert all(0 < v <= 1 for v in exact["total_variation"])
    assert np.mean(exact["total_variation_floor"]) < np.mean(exact["total_variation"])


def test_a_file_is_taken_as_observed(beat, tmp_path):
    bits = np.zeros((2, 20))
    bits[:, ::5], bits[1, 7] = 1, 1
    np.save(tmp_path / "y.npy", bits)
    mask = np.arange(20) < 12
    np.save(tmp_path / "mask.npy", mask)
    flags = {"input": str(tmp_path / "y.npy"), "mask": str(tmp_path / "mask.npy")}
    _, content, arrays = run(beat, tmp_path / "out", method="paper", **flags)
    np.testing.assert_array_equal(arrays["observed"], bits * mask)
    assert "errors" not in content and content["known_elements"] == 12
    of_file = {"task": "denoise", "noise": 0.2, "input": flags["input"]}
    _, content, arrays = run(beat, tmp_path / "denoised", **of_file)
    np.testing.assert_array_equal(arrays["observed"], bits)  # no noise is added to a file
    first = content["against_exact"]["phase_0_exact"]
    odds = (0.2 / 0.8) ** 8  # eight bits differ from any other phase, in the second problem as many
    assert first[0] == pytest.approx(1 / (1 + 4 * odds), rel=1e-6)
    assert first[1] == pytest.approx(1 / (1 + 3 * odds + (0.2 / 0.8) ** 6), rel=1e-6)


def test_another_question_is_not_answered_in_the_same_folder(roll, tmp_path):
    run(roll, tmp_path / "out", method="paper")
    before = (tmp_path / "out" / "posterior.npz").read_bytes()
    run(roll, tmp_path / "out", method="paper")  # the same again gives the same
    assert (tmp_path / "out" / "posterior.npz").read_bytes() == before
    with pytest.raises(Invalid, match=r"--out: .* holds another result .*right_half here"):
        run(roll, tmp_path / "out", method="paper", mask="right_half")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("mine")
    with pytest.raises(Invalid, match=r"--out: .*thesis.tex exists, without posterior.json"):
        run(roll, tmp_path / "full", method="paper")
    (tmp_path / "out" / "posterior.json").write_text("{")
    with pytest.raises(Invalid, match=r"--out: .* does not read"):
        run(roll, tmp_path / "out", method="paper")


@pytest.mark.parametrize(
    "flags, message",
    [
        ({"task": "dream"}, "--task: expected one of inpaint, denoise, .*, got 'dream'"),
        ({"method": "magic"}, "--method: expected one of paper, annealed, .*'magic'"),
        ({"task": "denoise", "method": "replacement"}, "--method: replacement is for"),
        ({"mask": "upper"}, "--mask: expected one of .* or a file, got 'upper'"),
        ({"mask": "random", "fraction": 1.0}, r"--fraction: expected a number in \(0, 1\), got 1"),
        ({"task": "denoise", "mask": "centre"}, "--mask: expected none with --task=denoise"),
        (
            {"task": "denoise", "noise": 0.0},
            r"--noise: expected a variance in \(0, 1e\+08\), got 0",
        ),
        ({"start": "observed"}, "--start: observed is for --task=denoise"),
        ({"num_samples": 1}, "--num_samples: expected at least 2, got 1"),
        ({"repeats": 0}, "--repeats: expected at least 1, got 0"),
        ({"threshold": 2.0}, r"--threshold: expected a number in \[0, 1\], got 2"),
        ({"filters": 3}, "--filters: expected a divisor of --num_samples below it, got 3 for 40"),
        ({"filters": 40}, "--filters: expected a divisor of --num_samples below it"),
        ({"filters": 2, "method": "paper"}, "--filters: expected 1 with --method=paper, got 2"),
        ({"input": "/no/file.npy"}, "--input: expected a .npy file or an image, got /no/file.npy"),
        ({"steps": 1000}, "--steps: expected 2.."),
        ({"examples": 10**6}, "--examples: expected at most"),
        ({"calls": 1000}, "--calls: expected 2..5, the steps of the chain, got 1000"),
        ({"calls": 9, "method": "gibbs"}, "--calls: expected 10 or more with 5 steps .*, got 9"),
        (
            {"calls": 9, "method": "gibbs", "particles": 3},
            "--particles: expected none with --calls",
        ),
        ({"corrector": "magic"}, "--corrector: expected one of none, gibbs, langevin"),
        ({"corrector": "gibbs"}, "--corrector: expected none with --method=particles, got 'gibbs'"),
        ({"compare": ["mmps", "magic"]}, "--compare: expected one of paper, .*, got 'magic'"),
        ({"compare": ["mmps+magic"]}, r"--compare: .* as mmps\+gibbs, got 'mmps\+magic'"),
        ({"compare": ["replacement"], "task": "denoise"}, "--compare: replacement is for"),
        ({"task": "colourise"}, r"--task: colourise is for images in colour, .* shape \(2,\)"),
        (
            {"task": "super_resolution", "factor": 4},
            "--factor: expected one that divides .*, got 4",
        ),
        ({"task": "super_resolution", "factor": 1}, "--factor: expected at least 2, got 1"),
        ({"task": "deblur", "sigma": 0.0}, "--sigma: expected a finite number above 0, got 0"),
        ({"task": "project", "num_measurements": 2}, "--num_measurements: expected 1..1, got 2"),
        (
            {"task": "project", "noise": -1.0},
            r"--noise: expected a variance in \(0, 1e\+08\), got -1",
        ),
        ({"task": "project", "input": "y.npy"}, "--input: expected --clean with --task=project"),
        ({"task": "project", "mask": "centre"}, "--mask: expected none with --task=project"),
        ({"clean": True}, "--clean: expected --input with it"),
        ({"crop": 8}, "--crop: expected --input with it"),
    ],
)
def test_bad_flags_are_refused_by_name(roll, tmp_path, flags, message):
    with pytest.raises(Invalid, match=message):
        run(roll, tmp_path / "out", **flags)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "flags, message",
    [
        ({"task": "deblur"}, "--task: expected inpaint or denoise of bits, got 'deblur'"),
        ({"method": "mmps"}, "--method: expected one that bits have, got 'mmps'"),
        ({"twist": "pigdm"}, "--twist: expected one that bits have, got 'pigdm'"),
        (
            {"method": "paper", "corrector": "langevin"},
            "--corrector: expected one that bits have, got 'langevin'",
        ),
    ],
)
def test_what_bits_do_not_have_is_refused(beat, tmp_path, flags, message):
    with pytest.raises(Invalid, match=message):
        run(beat, tmp_path / "out", **flags)
    assert not (tmp_path / "out").exists()


def test_files_outside_the_support_or_of_another_shape_are_refused(roll, beat, tmp_path):
    file = tmp_path / "y.npy"
    for workdir, values, message in (
        (beat, np.full((1, 20), 0.5), "--input: .* expected only 0 and 1"),
        (roll, np.array([[np.nan, 1.0]]), "--input: .* expected finite values"),
        (roll, np.zeros((1, 3)), r"--input: expected shape \('n', 2\), got \(1, 3\)"),
    ):
        np.save(file, values)
        with pytest.raises(Invalid, match=message):
            run(workdir, tmp_path / "out", input=str(file), task="denoise")
    with pytest.raises(Invalid, match=r"--mask: expected shape \(2,\), got \(1, 3\)"):
        run(roll, tmp_path / "out", mask=str(file))


def test_masks_by_name():
    def known(name, shape, fraction=0.25):
        return masks.read_mask({"mask": name, "fraction": fraction, "seed": 3}, shape)

    image = (8, 12, 3)
    left, right = known("left_half", image), known("right_half", image)
    assert not left[:, :6].any() and left[:, 6:].all() and (right == ~left).all()
    centre = known("centre", image)
    assert (~centre).sum() == 4 * 6 * 3 and not centre[2:6, 3:9].any()
    random = known("random", image)
    assert random.shape == image and (~random).sum() == 24 * 3  # whole pixels
    assert (random[..., 0] == random[..., 2]).all()
    assert known("random", (20,)).sum() == 15
    assert known("left_half", (5,)).tolist() == [0, 0, 1, 1, 1]


def test_grey_levels_of_a_file_are_scaled_as_the_data(tmp_path):
    from PIL import Image

    levels = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
    Image.fromarray(levels).save(tmp_path / "x.png")
    scaling = ImageScale(mean=30.0, scale=80.0, levels=256)
    values = inputs.read_values(str(tmp_path / "x.png"), (3, 4, 1), scaling)
    np.testing.assert_allclose(values[0, ..., 0], (levels + 0.5 - 30) / 80)


DEEP = ImageScale(mean=30000.0, scale=10000.0, levels=65536)


def test_sixteen_bits_of_a_file_are_scaled_as_the_data(tmp_path):
    from PIL import Image

    x = np.array([[0, 65535], [300, 30000]], np.uint16)
    Image.fromarray(x).save(tmp_path / "x.png")
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "int.npy", x.astype(int))
    for name in ("x.png", "x.npy", "int.npy"):
        values = inputs.read_values(str(tmp_path / name), (2, 2, 1), DEEP)
        np.testing.assert_allclose(values[0, ..., 0], (x + 0.5 - 30000) / 10000)
    grey = dataclasses.replace(DEEP, mean=100.0, scale=50.0, levels=256)
    known = np.array([[True, False], [True, True]])[..., None]
    np.save(tmp_path / "units.npy", np.array([[0.3, np.nan], [-1.0, 2.0]]))
    values = inputs.read_values(str(tmp_path / "units.npy"), (2, 2, 1), grey, known)
    np.testing.assert_array_equal(values[0, ..., 0], [[0.3, 0], [-1, 2]])  # nan is not read
    for name, array, scaling, message in (
        ("8.npy", x.astype(np.uint8), DEEP, r"16-bit grey levels 0\.\.65535, .*, got uint8"),
        ("16.npy", x // 300, grey, r"8-bit grey levels 0\.\.255, .*, got uint16"),
        ("01.npy", x / 65535, grey, r"images in the units of the model, .*as of levels / 255"),
        ("255.npy", x / 257, grey, r"images in the units of the model, .*, got 0\.\.255"),
        ("text.npy", x.astype(str), grey, "a .npy file or an image, got .*: <U5 .* no numbers"),
        ("complex.npy", x * 1j, grey, "a .npy file or an image, .*complex128"),
    ):
        np.save(tmp_path / name, array)
        with pytest.raises(ValueError, match=f"^input: expected {message}"):
            inputs.read_values(str(tmp_path / name), (2, 2, 1), scaling)


def test_psnr_has_the_peak_of_the_file():
    rng = np.random.default_rng(0)
    truth = rng.uniform(-2, 3, (2, 4, 6, 1))
    x = truth[:, None] + 0.1 * rng.normal(size=(2, 5, 4, 6, 1))
    weight = np.full((2, 5), 0.2)
    found = Particles(x, weight, *[np.full(2, np.nan)] * 3, np.zeros(2), np.zeros(2))
    seen = observations.Observations(x[:, 0], np.ones((4, 6, 1), bool), 1.0, truth)
    problem = Problem(model=SimpleNamespace(family=gaussian.family()), images=DEEP)
    errors = report._errors(problem, seen, found, x.mean(axis=1), seen.known)["posterior mean"]
    expected = 20 * np.log10(65535 / (np.array(errors["rmse"]) * 10000))
    np.testing.assert_allclose(errors["psnr"], expected)
    assert 15 < expected.min() < 60


def test_masks_of_files_have_two_values(tmp_path):
    from PIL import Image

    def known(name):
        return masks.read_mask({"mask": str(tmp_path / name)}, (8, 8, 3))

    half = np.zeros((8, 8), np.uint8)
    half[:, 3:] = 255
    image = Image.fromarray(half)
    for name, mode in (("l.png", "L"), ("rgb.png", "RGB"), ("1.png", "1"), ("p.png", "P")):
        image.convert(mode).save(tmp_path / name)
    np.save(tmp_path / "deep.npy", half.astype(np.uint16) * 200)
    opaque = image.convert("RGBA")
    opaque.save(tmp_path / "opaque.png")
    for name in ("l.png", "rgb.png", "1.png", "p.png", "deep.npy", "opaque.png"):
        np.testing.assert_array_equal(known(name), np.repeat(half[..., None] > 0, 3, axis=2))
    image.save(tmp_path / "ringing.jpg", quality=60)
    opaque.putalpha(image)
    opaque.save(tmp_path / "alpha.png")
    arrays = {"none": half * 0, "all": half * 0 + 1, "nan": half * np.nan, "text": half.astype(str)}
    for name, x in arrays.items():
        np.save(tmp_path / f"{name}.npy", x)
    for name, message in (
        ("ringing.jpg", "0 where hidden and one other value, got .* JPEG"),
        ("alpha.png", "a .npy file or an image, .* transparency"),
        ("none.npy", r"one that hides a part of \(8, 8, 3\), got .*192 of 192 hidden"),
        ("all.npy", "0 where hidden and one other value, got 1 values from 1 to 1"),
        ("nan.npy", "0 where hidden and one other value, got NaN"),
        ("text.npy", "a .npy file or an image, .*<U3"),
    ):
        with pytest.raises(ValueError, match=f"^mask: expected {message}"):
            known(name)
    with pytest.raises(
        ValueError, match=r"^mask: expected one that hides .* random: 0 of 4 hidden"
    ):
        masks.read_mask({"mask": "random", "fraction": 0.01, "seed": 0}, (4,))


def test_the_linear_baseline_is_the_conditional_mean_of_a_gaussian():
    rng = np.random.default_rng(0)
    root = np.array([[1.0, 0, 0], [0.8, 0.5, 0], [-0.3, 0.2, 0.7]])
    data = (rng.normal(size=(200_000, 3)) @ root.T + 0.5).astype(np.float32)
    problem = Problem(model=SimpleNamespace(family=gaussian.family()), data=data[:10_000])
    C, y = np.cov(data[:10_000].T.astype(np.float64)), np.array([[1.0, 0.0, -0.5]])
    mean = data[:10_000].mean(axis=0, dtype=np.float64)
    seen = observations.Observations(y, np.array([True, False, True]), 0.0, None)
    found = report.wiener(problem, seen)
    k = [0, 2]
    expected = mean[1] + C[1, k] @ np.linalg.inv(C[np.ix_(k, k)]) @ (y[0, k] - mean[k])
    np.testing.assert_allclose(found[0], [1.0, expected, -0.5], atol=1e-4)
    noisy = report.wiener(problem, seen._replace(known=np.ones(3, bool), noise=0.3))
    expected = mean + C @ np.linalg.inv(C + 0.3 * np.eye(3)) @ (y[0] - mean)
    np.testing.assert_allclose(noisy[0], expected, atol=1e-4)
    A = rng.normal(size=(2, 3))
    measured = observations.Observations(
        np.float32([[0.3, -1.2]]), np.zeros(3, bool), 0.2, None, linear.dense(A, (3,))
    )
    gain = C @ A.T @ np.linalg.inv(A @ C @ A.T + 0.2 * np.eye(2))
    expected = mean + gain @ ([0.3, -1.2] - A @ mean)
    np.testing.assert_allclose(report.wiener(problem, measured)[0], expected, atol=1e-4)
    bits = Problem(model=SimpleNamespace(family=binomial.family()), data=data)
    assert report.wiener(bits, seen) is None


def test_figures_of_images(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 5, 4, 6, 1))
    weight = np.full((2, 5), 0.2)
    unknown = np.full(2, np.nan)
    found = Particles(x, weight, unknown, unknown, unknown, unknown, np.zeros(2))
    truth = x[:, 0].astype(np.float32)
    seen = observations.Observations(truth, np.ones((4, 6, 1), bool), 1.0, truth)
    scaling = ImageScale(mean=100.0, scale=60.0, levels=256)
    of = SimpleNamespace(problem=SimpleNamespace(images=scaling))
    shown = {}
    columns = plots.image_columns
    try:
        plots.image_columns = lambda path, images, title: shown.update(images)
        figures.draw(tmp_path / "x.png", of, seen, found, "title")
    finally:
        plots.image_columns = columns
    assert list(shown)[:4] == ["x^0", "observed", "mean", "spread"] and len(shown) == 8
    np.testing.assert_array_equal(
        shown["mean"], np.clip(np.floor(x.mean(axis=1) * 60 + 100), 0, 255).astype(np.uint8)
    )
    path = columns(tmp_path / "x.png", shown, "title")
    assert path.stat().st_size > 1000


IMAGES = {"num_samples": 4, "examples": 2, "method": "mmps", "steps": 4}


@pytest.mark.parametrize(
    "task, more, measured",
    [
        ("super_resolution", {}, (4, 4, 3)),
        ("deblur", {"sigma": 1.0}, (8, 8, 3)),
        ("colourise", {}, (8, 8)),
        ("project", {"num_measurements": 20}, (20,)),
    ],
)
def test_linear_measurements_of_images(photos, tmp_path, task, more, measured):
    _, content, arrays = run(photos, tmp_path / "out", task=task, **more, **IMAGES)
    assert arrays["x"].shape == (2, 4, 8, 8, 3) and arrays["observed"].shape == (2, *measured)
    assert content["noise"] == observations.NOISE and not arrays["known"].any()
    assert content["calls"] == 4 and content["settings"]["steps"] == 4
    assert set(content["errors"]) == {
        "posterior mean", "observed", "linear (Wiener)", "one posterior sample",
    }  # fmt: skip
    assert content["coverage"]["k"] == 1 and content["coverage"]["nominal"] == 0.6
    assert np.isfinite(content["consistency"]).all() and len(content["consistency"]) == 2
    assert (tmp_path / "out" / "posterior.png").stat().st_size > 5000


def test_methods_are_compared_on_the_same_problems_and_the_table_goes_on(
    photos, tmp_path, monkeypatch
):
    flags = {"task": "colourise", "calls": 8, **IMAGES, "method": None}
    flags["compare"] = ["twisted", "mmps+gibbs"]
    asked = {**FLAGS, "workdir": str(photos), "out": str(tmp_path / "out"), **flags}
    printed = experiment.execute(asked)
    held = {n: (tmp_path / "out" / n / "posterior.json").read_bytes() for n in flags["compare"]}
    first, second = (json.loads(text) for text in held.values())
    assert first["settings"]["data"] == second["settings"]["data"]
    assert (first["settings"]["method"], second["settings"]["corrector"]) == ("twisted", "gibbs")
    assert first["settings"]["steps"] is None and second["settings"]["steps"] == 4  # of T = 8
    lines = [line.split(" | ")[0] for line in printed.splitlines() if line.startswith("| ")]
    assert lines[1:] == ["| linear (Wiener)", "| observed", "| twisted", "| mmps+gibbs"]
    whole = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert whole["methods"]["twisted"]["errors"] == first["errors"] and "unfinished" not in whole
    assert (tmp_path / "out" / "compare.png").stat().st_size > 5000
    monkeypatch.setattr(experiment.draws, "draw", None)  # nothing is drawn again
    assert experiment.execute(asked) == printed
    assert held == {n: (tmp_path / "out" / n / "posterior.json").read_bytes() for n in held}
    with pytest.raises(Invalid, match=r"--out: .*twisted.* holds another result .*seed = 20 there"):
        experiment.execute({**asked, "seed": 7})
    with pytest.raises(Invalid, match=r"--out: .*compare.json holds another result"):
        experiment.execute({**asked, "compare": ["mmps+gibbs", "twisted"]})


def test_what_older_results_say_of_themselves_is_still_the_same_question(roll, tmp_path):
    _, content, _ = run(roll, tmp_path / "out", method="replacement")
    assert set(content["settings"]) == {
        "task", "method", "input", "mask", "fraction", "noise", "start", "repeats", "threshold",
        "seed", "steps", "num_samples", "train_steps", "problems", "run", "data",
    }  # fmt: skip
    assert content["settings"]["repeats"] == 10 and content["calls"] == 5 + 9 * 4


def test_files_of_another_size_and_clean_ones(photos, tmp_path):
    from PIL import Image

    rng = np.random.default_rng(1)
    picture = rng.integers(0, 256, (22, 30, 3), dtype=np.uint8)
    Image.fromarray(picture).save(tmp_path / "x.png")
    given = {"input": str(tmp_path / "x.png"), "task": "super_resolution", "crop": 12, **IMAGES}
    _, content, arrays = run(photos, tmp_path / "observed", **given)
    assert arrays["x"].shape == (1, 4, 24, 24, 3) and "errors" not in content
    scaling = experiment.runs.load(photos).problem.images
    middle = (picture[5:17, 9:21] + 0.5 - scaling.mean) / scaling.scale
    np.testing.assert_allclose(arrays["observed"][0], middle, rtol=1e-5, atol=1e-5)
    _, content, arrays = run(photos, tmp_path / "measured", **given, clean=True, noise=1e-8)
    assert arrays["x"].shape == (1, 4, 12, 12, 3) and "linear (Wiener)" not in content["errors"]
    np.testing.assert_allclose(arrays["truth"][0], middle, rtol=1e-5, atol=1e-5)
    blocks = middle.reshape(6, 2, 6, 2, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(arrays["observed"][0], blocks, atol=1e-3)
    with pytest.raises(Invalid, match=r"--crop: expected at most .*, got 23 of \(22, 30\)"):
        run(photos, tmp_path / "large", **{**given, "crop": 23})
    with pytest.raises(
        Invalid, match=r"--input: expected images as of shape \(8, 8\), got .22, 30, 3."
    ):
        run(photos, tmp_path / "colour", **{**given, "task": "colourise", "crop": None})


def test_a_network_of_one_size_refuses_others(roll, tmp_path):
    loaded = experiment.runs.load(roll)

    def enlarge(shape):
        steps = schedule.geometric(T=5, beta_1=1e-3)
        return model.build(gaussian.family(), steps, networks.MLP(outputs=2), shape)

    images = ImageScale(mean=0.0, scale=1.0, levels=256, enlarge=enlarge)
    problem = dataclasses.replace(loaded.problem, model=enlarge((8, 8, 1)), images=images)
    params = problem.model.init(jax.random.key(0))
    loaded = dataclasses.replace(loaded, problem=problem, params=params)
    config = {**FLAGS, "input": str(tmp_path / "x.npy")}
    np.save(tmp_path / "x.npy", np.zeros((8, 8), np.uint8))
    assert observations.sized(config, loaded) is loaded
    np.save(tmp_path / "x.npy", np.zeros((3, 16, 8), np.uint8))
    with pytest.raises(ValueError, match=r"^input: expected images of \(8, 8, 1\), .*\(16, 8, 1\)"):
        observations.sized(config, loaded)


@pytest.mark.parametrize("sd, covers", [(1.0, True), (0.5, False)])
def test_coverage_is_that_of_exact_draws_where_they_are_exact(sd, covers):
    rng = np.random.default_rng(0)
    truth, x = rng.normal(size=(3, 4000)), sd * rng.normal(size=(3, 19, 4000))
    draws = SimpleNamespace(x=x, weight=np.full((3, 19), 1 / 19))
    target = np.arange(4000) < 3000
    found = report.coverage(draws, truth, target)
    assert found["k"] == 1 and found["nominal"] == pytest.approx(0.9)
    off = np.array(found["share"]) - 0.9
    assert (abs(off) < 4 * np.sqrt(0.09 / 3000)).all() if covers else (off < -0.15).all()
    twice = SimpleNamespace(x=np.repeat(x, 2, axis=1), weight=np.full((3, 38), 1 / 38))
    again = report.coverage(twice, truth, target)  # the same law, each draw in two pieces
    assert again["k"] == 2 and again["share"] == found["share"]


def test_calls_decide_steps_and_repeats(roll):
    loaded = experiment.runs.load(roll)  # T = 5

    def planned(**given):
        return draws.plan({**FLAGS, **given}, loaded)

    assert planned(method="mmps", calls=3)["steps"] == 3
    assert planned(method="replacement")["repeats"] == 10
    for given in (
        {"method": "replacement"},
        {"method": "gibbs"},
        {"method": "mmps", "corrector": "gibbs"},
        {"method": "dps", "corrector": "langevin"},
    ):
        for calls in (17, 40):
            found = planned(**given, calls=calls)
            assert found["steps"] == 5 and calls - 5 < draws.count(found) <= calls
