"""The experiments on images, a few steps each: tables, figures, resume, what they refuse."""

import json
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from test_experiments import configure

from dpm_jax import training, units
from dpm_jax.baselines import mcgsm
from dpm_jax.core import gaussian, model, schedule
from dpm_jax.data.streaming import Stream
from dpm_jax.experiments import bark, cifar10, dead_leaves, evaluate
from dpm_jax.images import dequantisation
from dpm_jax.likelihood import Evaluation
from dpm_jax.networks import MLP
from dpm_jax.runs import (
    ImageScale,
    Invalid,
    Problem,
    execution,
    hole,
    identity,
    image_table,
    images,
    noise_floor,
    observations,
    plots,
    posterior_report,
)
from dpm_jax.runs.config import training_options
from dpm_jax.training.checkpoint import Checkpoints

TINY = {
    "T": 6,
    "width": 4,
    "depth": 1,
    "scales": 1,
    "batch_size": 4,
    "num_steps": 2,
    "log_every": 1,
    "checkpoint_every": 2,
    "num_eval": 6,
    "passes": 2,
    "num_samples": 2,
    "sample_steps": 3,
    "baseline_patches": 1000,
}


def run(experiment, workdir, preset="best", **given):
    flags = {**experiment.presets[preset], **TINY, **given, "preset": preset}
    config = configure(experiment, workdir, **flags)
    printed = execution.execute(experiment, config)[1]
    return config, printed, json.loads((workdir / "report.json").read_text(encoding="utf-8"))


@pytest.fixture
def photographs(tmp_path):
    folder = tmp_path / "photographs"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(4):
        coarse = rng.integers(0, 256, (6, 8), dtype=np.uint8)
        Image.fromarray(np.kron(coarse, np.ones((6, 6), np.uint8))).save(folder / f"{i}.png")
    return folder


def test_dead_leaves_and_an_image_larger_than_its_patches(tmp_path, monkeypatch):
    monkeypatch.setattr(noise_floor, "FLOORS", (0.101,))
    monkeypatch.setattr(mcgsm, "fit", partial(mcgsm.fit, steps=8, pixels=1000))  # soon done
    panels = {}

    def kept(path, columns, **settings):
        panels[path.name] = columns
        return image_columns(path, columns, **settings)

    image_columns = plots.image_columns
    monkeypatch.setattr(plots, "image_columns", kept)
    given = {"size": 16, "train_images": 2, "baselines": "dct,blocks,causal,mcgsm"}
    config, printed, report = run(dead_leaves.EXPERIMENT, tmp_path / "run", **given)
    figure4 = panels["figure4.png"]
    assert list(figure4) == ["training image", "sample, MCGSM", "sample, 3 steps"]
    assert {x.shape for x in figure4.values()} == {(1, 256, 256, 1)}
    assert report["figures"].keys() == {"samples", "figure4", "noise_floor", "bound_terms"}
    assert all((tmp_path / "run" / path).exists() for path in report["figures"].values())
    pixels = 16 * 16
    assert report["K_bits_per_pixel"] == pytest.approx(report["K_bits"] / pixels)
    assert report["bits_per_dim_8bit"] == pytest.approx(
        units.bits_per_dim_8bit(report["K_bits"] * units.LN2, pixels, report["scale_levels"])
    )
    noise = -0.5 * pixels * np.log2(2 * np.pi * np.e * config["beta_1"])
    assert report["ceiling_bits"] == pytest.approx(noise) and report["K_bits"] < noise
    assert "bits/pixel" in printed and "β_1 = 0.002" in printed
    assert paper_of(printed)["K per pixel"] == "1.489" and paper_of(printed)["K"] == "–"
    assert report["paper_K_bits"] == pytest.approx(1.489 * pixels)
    curves = report["noise_floor"]
    known = ["Gaussian, DCT", "Gaussian, 8×8 blocks", "causal scale mixture", "MCGSM"]
    assert list(curves) == ["diffusion", *known]
    assert all(f"{name} (diffusion ahead by" in printed for name in known)
    gain = "K_minus_L_null_bits_per_pixel"
    curve, law = curves["diffusion"], curves["Gaussian, DCT"]
    assert len(curve[gain]) == len(curve["noise_variance"]) and curve["noise_variance"][0] < 0.003
    at = [curve["noise_variance"].index(v) for v in law["noise_variance"]]
    ours = np.array(curve[gain])[at]
    # The skip starts as the Gaussian law itself: so near is its bound after two steps.
    lead = np.array(law["lead_of_diffusion_bits_per_pixel"])
    assert np.all(lead < 5 * np.array(law["lead_standard_error_bits_per_pixel"]))
    np.testing.assert_allclose(ours - law[gain], lead, rtol=1e-4, atol=1e-5)


def paper_of(printed):
    """The second column of a table, by the first."""
    rows = [re.split("  +", line) for line in printed.splitlines()]
    return {row[0]: row[1] for row in rows if len(row) > 3}


@pytest.mark.parametrize("last_step", ["fixed", "discretized"])
def test_the_papers_numbers_stand_in_the_rows_of_its_unit(last_step):
    rows = np.zeros((2, 8, 8, 3), np.uint8)
    found = images.ImageSet(
        rows, None, rows, 100.0, 64.2, 256, {}, paper=images.Paper(5.4, 11.5, 0.2)
    )
    facts = images._facts({"beta_1": 1e-3, "last_step": last_step}, found)
    network = MLP(2, 1, outputs=2)
    built = model.build(gaussian.family(), schedule.geometric(4), network, (8, 8, 3))
    problem = Problem(
        model=built, facts=facts, images=ImageScale(mean=100.0, scale=64.2, levels=256)
    )
    result = Evaluation(-64.0, 3.2, -640.0, 576.0, 6.4, 9)
    ours, table = image_table.measures(problem, result, None)
    K, gain, code = table
    if last_step == "fixed":
        assert K[1:3] == ("5.4 ± 0.2", "−1.4427 ± 0.0721") and gain[1] == "11.5 ± 0.2"
        assert facts["paper_K_bits"] == pytest.approx(5.4 * 64)
    else:  # no density
        assert K[1] == gain[1] == "–" and facts["paper_K_bits"] is None
    assert code[1] == "–" and all(" ± " in row[2] for row in table)
    assert ours["K_bits_per_pixel"] == pytest.approx(units.bits(-1))


@pytest.fixture(scope="module")
def larger(tmp_path_factory):
    """A run on white noise of 12-bit levels, a set larger than memory: flags, table, report."""
    place = tmp_path_factory.mktemp("larger")
    rng = np.random.default_rng(0)
    levels = np.clip(rng.normal(2048, 480, (600, 8, 8, 1)), 0, 4095).astype(np.uint16)
    np.save(place / "x.npy", levels)
    given = {"dataset": str(place / "x.npy"), "memory_gib": 0.0, "levels": 4096, "dense": 0}
    given |= {"baselines": "dct,blocks,dct", "baseline_patches": 2000, "beta_1": 2e-3}
    return run(cifar10.EXPERIMENT, place / "run", **given, num_eval=60, T=100)


def test_densities_beside_the_curve_of_images_that_are_a_known_gaussian(larger):
    # White noise of levels: at any noise added to it the best density is N(0, I), so K' is 0.
    _, _, report = larger
    assert len(report["noise_floor"]) == 3
    for name, found in report["noise_floor"].items():
        if name == "diffusion":
            continue
        gain = np.array(found["K_minus_L_null_bits_per_pixel"])
        assert len(gain) == 4  # one at each of the noises
        # A full covariance of 64 pixels overfits 540 images by about 64/4/540 nats a pixel.
        assert np.all(np.abs(gain) < 5 * np.array(found["standard_error_bits_per_pixel"]) + 0.06)


def test_other_densities_are_fitted_and_tested_at_the_very_noise(tmp_path, monkeypatch):
    # Flat images: what varies is u of the dequantisation and ε. They add only if they are
    # independent, down to the bits of their keys.
    np.save(
        tmp_path / "x.npy", np.repeat(np.arange(0, 240, 4, dtype=np.uint8), 64).reshape(60, 8, 8)
    )
    config = configure(cifar10.EXPERIMENT, tmp_path / "run", **TINY)
    config |= {"dataset": str(tmp_path / "x.npy"), "baselines": "dct", "num_eval": 60}
    problem = cifar10.setup(config)
    seen = []

    def fit(train):
        seen.append(train)
        return noise_floor.Density("seen", len(seen), lambda model, x: score(x))

    def score(x):
        seen.append(x)
        return np.zeros(len(x))

    monkeypatch.setitem(noise_floor._FITS, "dct", fit)
    noise = np.array([0.002, 0.101])
    beside = noise_floor._beside(config, problem, noise, np.zeros((6, 2)), np.zeros(2), 1.0)
    assert list(beside[0]) == ["seen"] and beside[1]["dct"].model == 1  # of the least noise
    assert [len(x) for x in seen] == [1000, 6, 1000, 6]
    for v, noisy in zip(np.repeat(noise, 2), seen):
        within = np.var(noisy, axis=(1, 2, 3), ddof=1).mean()
        expected = v + (1 - v) / (12 * problem.facts["scale_levels"] ** 2)
        assert within == pytest.approx(expected, rel=5 * (2 / (64 * len(noisy))) ** 0.5)


def test_the_paper_preset_of_cifar_10_from_a_file(tmp_path):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "x.npy", rng.integers(0, 256, (40, 8, 8, 3), dtype=np.uint8))
    given = {"dataset": str(tmp_path / "x.npy"), "dense": 3, "scales": 2}
    _, printed, report = run(cifar10.EXPERIMENT, tmp_path / "run", preset="paper", **given)
    assert report["dims"] == 192 and report["pixels"] == 64
    assert report["figures"].keys() == {"samples", "figure3", "noise_floor", "bound_terms"}
    assert report["figure3_rmse_noised"] == pytest.approx(1, rel=0.2)
    assert 0 < report["figure3_rmse_denoised"] < 3
    assert set(paper_of(printed).values()) == {"–", "paper"}  # not CIFAR-10
    assert "code length per 8-bit level" in printed and "bits_per_dim_8bit" in report
    measured_on_a_file(tmp_path, rng)


def measured_on_a_file(tmp_path, rng):
    """evaluate.py on grey levels of the user's."""
    np.save(tmp_path / "mine.npy", rng.integers(0, 256, (3, 8, 8, 3), dtype=np.uint8))
    asked = {name: flag.default for name, flag in evaluate.FLAGS.items()}
    asked |= {"workdir": str(tmp_path / "run"), "particles": 4, "examples": 2}
    printed = evaluate.execute({**asked, "input": str(tmp_path / "mine.npy")})
    found = json.loads((tmp_path / "run" / "likelihood_mine.json").read_text(encoding="utf-8"))
    assert found["K"]["examples"] == 3 and found["likelihood"][0]["examples"] == 2
    assert "8-bit bits/dim" in printed and found["dims"] == 192 and found["particles"] == 4
    np.save(tmp_path / "grey.npy", np.zeros((3, 8, 8), np.uint8))
    with pytest.raises(Invalid, match=r"^--input: expected numbers of shape \('n', 8, 8, 3\), got"):
        evaluate.execute({**asked, "input": str(tmp_path / "grey.npy")})


def test_the_code_length_of_integers_by_the_discretized_last_step(tmp_path):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "x.npy", rng.integers(0, 256, (60, 8, 8, 1), dtype=np.uint8))
    given = {"dataset": str(tmp_path / "x.npy"), "last_step": "discretized", "beta_1": 1e-4}
    given |= {"dense": 0, "T": 100, "baselines": "", "passes": 100}
    _, printed, report = run(cifar10.EXPERIMENT, tmp_path / "run", **given)
    # No code of uniform integers is shorter than 8 bits; a Gaussian law costs log2 sqrt(2πe/12),
    # 0.25, more, and a chain of 100 steps that begins as that law little on top.
    length = report["bits_per_dim_lossless"]
    assert length == pytest.approx(-report["K_bits"] / 64)
    assert 7.9 < length < 8.6
    assert "lossless code length" in printed and "last step discretized" in printed
    assert "log probability of the integers" in printed and "ceiling: " not in printed
    assert report["paper_K_bits"] is None  # it is a density, of CIFAR-10
    asked = {name: flag.default for name, flag in evaluate.FLAGS.items()}
    asked |= {"workdir": str(tmp_path / "run"), "trajectories": "4"}
    asked |= {"examples": 2, "model_samples": 2, "num_eval": 8}
    printed = evaluate.execute(asked)
    found = json.loads((tmp_path / "run" / "likelihood.json").read_text(encoding="utf-8"))
    assert found["last_step"] == "discretized" and found["proposal"] == "paper"
    assert "lossless bits/dim" in printed and "those of integers" in printed
    assert -found["likelihood"][0]["log_p"] / 64 / np.log(2) == pytest.approx(length, abs=0.3)
    assert found["sandwich"]["upper"] < 0 and found["sandwich"]["samples"] == 2
    for flags, message in (
        ({"proposal": "up_down"}, "--proposal: expected 'paper' but for the fixed last step"),
        ({"steps": 1000}, "--steps: expected"),
    ):
        with pytest.raises(Invalid, match=f"^{message}"):
            evaluate.execute({**asked, **flags})
    assert list(report["noise_floor"]) == ["diffusion"]


def test_bark_from_a_folder_fills_the_centre_of_a_held_out_photograph(tmp_path, photographs):
    given = {"size": 16, "view": 32, "hole": 8, "window": 24, "repeats": 2}
    given |= {
        "image_dir": str(photographs),
        "baselines": "dct",
    }  # all of them: test_dead_leaves_and_an_image_larger_than...
    config, printed, report = run(bark.EXPERIMENT, tmp_path / "run", **given)
    assert report["figures"].keys() == {"samples", "figure5", "noise_floor", "bound_terms"}
    assert len(report["held_out_files"]) == 1 and report["skipped_files"] == 0
    assert report["left_out"] == report["converted"] == []
    for name in ("photograph", "paper", "ours", "ours_again"):
        z = report[f"figure5_seam_{name}"]
        assert z.keys() == {"border", "step", "spectrum", "histogram"} and len(z["step"]) == 1
        assert report[f"figure5_within_{name}"] in (0, 1)
    assert abs(report["figure5_seam_photograph"]["border"][0]) < 4
    assert report["figure5_sd_inside_ours"] != report["figure5_sd_inside_ours_again"]
    assert "Figure 5, squares among intact ones, the paper's way" in printed
    problem = bark.setup(config)
    assert problem.images.whole.shape == (1, 32, 32, 1) and problem.data.shape[0] == 3
    held = np.asarray(Image.open(photographs / report["held_out_files"][0]))
    np.testing.assert_array_equal(problem.images.whole[0, ..., 0], held[2:34, 8:40])
    x = problem.draw(jax.random.key(0), problem.data, 50)
    assert x.shape == (50, 16, 16, 1) and abs(float(x.mean())) < 0.5


def test_crops_beside_the_hole_reach_all_that_is_known_and_nothing_else():
    view, size, side = 20, 8, 4
    place = jnp.arange(view * view).reshape(view, view, 1)
    keys = jax.random.split(jax.random.key(0), 1000)
    seen = np.unique(jax.vmap(lambda k: hole.beside(k, place, size, side))(keys))
    inside = np.arange(view * view).reshape(view, view)[hole.middle(view, size)[1:]]
    assert sorted([*seen, *inside.ravel()]) == list(range(view * view))


def test_bark_from_a_folder_larger_than_memory_resumes_to_the_bit(tmp_path, photographs):
    given = {**TINY, "size": 16, "view": 32, "hole": 12, "image_dir": str(photographs)}
    given |= {"checkpoint_every": 1, "memory_gib": 0.0}
    config = configure(bark.EXPERIMENT, tmp_path / "run", **bark.PRESETS["best"] | given)
    problem, options = bark.setup(config), training_options(config)
    assert isinstance(problem.data, Stream) and identity.digest(problem.data)["files"]
    assert noise_floor.some_rows(problem, 7).shape == (7, 16, 16, 1)
    fit = partial(training.fit, problem.model, problem.data, options, problem.draw)
    whole, kept = fit(), Checkpoints(tmp_path / "kept")
    assert int(fit(checkpoints=kept, stop=lambda: True).step) == 1
    for one, other in zip(jax.tree.leaves(fit(checkpoints=kept)), jax.tree.leaves(whole)):
        np.testing.assert_array_equal(one, other)
    kept.close()
    in_memory = bark.setup({**config, "memory_gib": 4.0})
    assert in_memory.data.shape[0] == len(problem.data.source) == 3
    assert in_memory.identity == problem.identity and in_memory.facts == problem.facts
    np.testing.assert_array_equal(in_memory.test, problem.test)
    x = np.asarray(problem.prepare(jax.random.key(0), jnp.asarray(problem.test)))
    y = x + np.random.default_rng(0).normal(size=x.shape)
    seen = observations.Observations(y, np.ones(x.shape[1:], bool), 1.0, None)
    linear = posterior_report.wiener(problem, seen)  # of crops that it reads
    assert np.mean((linear - x) ** 2) < 0.7 * np.mean((y - x) ** 2)


def test_a_set_larger_than_memory_is_read_as_training_goes(larger, tmp_path):
    config, printed, report = larger
    few = {**config, "workdir": str(tmp_path / "run"), "levels": 2048}
    with pytest.raises(Invalid, match=r"^--levels: expected pixels below 2048, .*") as error:
        execution.execute(cifar10.EXPERIMENT, few)
    got = int(str(error.value).rpartition(" got ")[2])
    assert got >= 2048 and got in np.load(config["dataset"])
    problem = cifar10.setup(config)
    noisy = np.asarray(problem.draw(jax.random.key(0), jnp.asarray(problem.data.source[:8]), 8))
    assert noisy.shape == (8, 8, 8, 1)  # the rows of a step as they are
    assert isinstance(problem.data, Stream) and isinstance(problem.data.source, np.memmap)
    assert noise_floor.some_rows(problem, 7).shape == (7, 8, 8, 1)  # not all are read
    assert report["train_steps"] == 2 and np.isfinite(report["K_bits"])
    code = np.log2(report["scale_levels"]) - report["K_bits"] / 64
    assert report["bits_per_dim_12bit"] == pytest.approx(code) and report["levels"] == 4096
    assert "bits_per_dim_8bit" not in report and "code length per 12-bit level" in printed
    small = {**config, "memory_gib": 1.0}
    assert not isinstance(cifar10.setup(small).data, Stream)


def test_training_images_are_mirrored_in_half_of_the_draws(tmp_path):
    ramp = np.broadcast_to(np.arange(8, dtype=np.uint8)[:, None] * 30, (40, 8, 8, 1)).copy()
    np.save(tmp_path / "x.npy", ramp)
    config = configure(cifar10.EXPERIMENT, tmp_path / "run", **TINY)
    config |= {"dataset": str(tmp_path / "x.npy"), "flip": True}
    made = cifar10.make(config)
    rows = np.asarray(made.draw(jax.random.key(0), jax.numpy.asarray(made.data), 400))
    mirrored = (rows[:, 0, 0, 0] == 210).mean()
    assert abs(mirrored - 0.5) < 0.1
    there = ramp[0, 0, :, 0]
    assert {tuple(r) for r in rows[:, 0, :, 0]} == {tuple(there), tuple(there[::-1])}


def test_levels_of_16_bits_are_shown_in_8():
    scaling = ImageScale(mean=30000.0, scale=10000.0, levels=65536)
    problem = Problem(model=None, images=scaling)
    x = np.array([-3.0, -1.0, 0.0, 3.5535, 9.0])
    np.testing.assert_array_equal(images.to_8bit(problem, x), [0, 78, 117, 255, 255])


@pytest.mark.parametrize(
    "experiment, flags, message",
    [
        (dead_leaves, {"size": 4}, "--size: expected 8..256, got 4"),
        (dead_leaves, {"train_images": 0}, "--train_images: expected at least 1, got 0"),
        (dead_leaves, {"dataset": "/no/leaves.mat"}, "leaves.mat"),
        (dead_leaves, {"size": 18, "scales": 3}, "18"),
        (cifar10, {"dataset": "cifar1O"}, "cifar10"),
        (cifar10, {"sample_steps": 7}, "--sample_steps: expected 2..6, got 7"),
        (cifar10, {"dataset": "/no/file.npy"}, "file.npy"),
        (cifar10, {"baselines": "dct,block"}, r"--baselines: expected names of .*'block'"),
        (
            cifar10,
            {"dataset": "mnist", "memory_gib": -1.0},
            "--memory_gib: expected a finite",
        ),
        (cifar10, {"baseline_patches": 9}, "--baseline_patches: expected at least 1000, got 9"),
        (bark, {}, "--image_dir: expected a folder of photographs, got none"),
        (bark, {"image_dir": "/no"}, "/no"),
        (bark, {"image_dir": "x", "hole": 400}, "--hole: expected 1..319, got 400"),
        (bark, {"image_dir": "x", "view": 30}, "--view: expected a multiple of 4, got 30"),
        (bark, {"image_dir": "x", "window": 190}, "--window: expected a multiple of 4, got 190"),
        (bark, {"image_dir": "x", "window": 96}, "--window: expected more than the 100 pixels"),
    ],
)
def test_bad_flags_are_refused_before_any_work(tmp_path, experiment, flags, message):
    given = {"size": 16, "train_images": 1} if experiment is dead_leaves else {}
    with pytest.raises(Invalid, match=message):
        run(experiment.EXPERIMENT, tmp_path / "run", **{**given, **flags})
    assert not (tmp_path / "run").exists()


def test_the_law_of_the_skip_is_that_of_the_training_draws(tmp_path):
    config = configure(dead_leaves.EXPERIMENT, tmp_path / "run", **TINY, size=16, train_images=30)
    made = dead_leaves.make(config)
    law = images.fit_law(made, 0)
    assert float(law.power.mean()) == pytest.approx(1, abs=0.15)  # unit variance, but for the mean
    assert dequantisation.levels_of(made.test) == made.levels == 256
