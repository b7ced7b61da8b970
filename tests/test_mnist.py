"""MNIST's preset for an accelerator, small, and its sampler chosen on held-out images."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cases import mnist_originals
from dpm_jax import gaussian, model, networks, runs, schedule
from dpm_jax.experiments import WEIGHTS, mnist
from dpm_jax.runs import execution

EXPERIMENT = mnist.EXPERIMENT
SMALL = {
    "width": 4, "depth": 1, "bottleneck": 8, "T": 12, "sample_steps": 5, "num_steps": 2,
    "log_every": 1, "checkpoint_every": 2, "num_eval": 40, "num_samples": 20, "passes": 2,
    "batch_size": 2 * jax.local_device_count(),
}  # fmt: skip


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    return mnist_originals(tmp_path_factory.mktemp("mnist"), mnist.VALIDATION + 64)


def configure(workdir, originals, **given):
    preset = EXPERIMENT.presets["accelerator"]
    places = {"workdir": str(workdir), "manual_dir": str(originals), "preset": "accelerator"}
    return {"experiment": EXPERIMENT.name, **preset, **SMALL, **places, **given}


@pytest.fixture(scope="module")
def run(tmp_path_factory, originals):
    """A finished run of the preset, with steps to choose from: work directory and printed table."""
    workdir = tmp_path_factory.mktemp("runs") / "run"
    config = configure(workdir, originals, choose_steps="8, 3,12")
    return workdir, execution.execute(EXPERIMENT, config)[1]


@pytest.fixture(scope="module")
def whole(run, originals):
    """That run with its data, loaded."""
    return runs.load(run[0], manual_dir=str(originals))


@pytest.fixture(scope="module")
def chosen(whole, originals):
    """What the choice of its steps finds with other flags, and of a problem."""

    def of(problem):
        config = configure(whole.workdir, originals, choose_steps="3,8")
        return mnist._chosen(config, problem, whole.params)[1]

    return of


@pytest.fixture(scope="module")
def ours(whole, chosen):
    return chosen(whole.problem)


def test_the_sampler_is_chosen_on_held_out_images_and_the_report_says_by_what(run, ours):
    workdir, printed = run
    report = json.loads((workdir / "report.json").read_text(encoding="utf-8"))
    found = report["parzen_bits_held_out_by_steps"]
    assert list(found) == ["3", "8", "12"]
    assert len(set(found.values())) == 3 and report["parzen_samples_held_out"] == 20
    best = max(found, key=found.get)
    assert report["sample_steps"] == int(best) and report["samples"] == 20
    row = next(line for line in printed.splitlines() if "chosen on held-out images" in line)
    assert f" {best} " in row and "[3, 8, 12]" in row
    held = json.loads((workdir / "config.json").read_text(encoding="utf-8"))
    assert "choose_steps" not in held  # it measures: the same run takes another choice
    assert ours["parzen_bits_held_out_by_steps"] == pytest.approx(
        {3: found["3"], 8: found["8"]}, rel=1e-4
    )


def test_test_images_have_no_part_in_the_choice(whole, chosen, ours):
    problem = whole.problem
    other = dataclasses.replace(problem, test=255 - problem.test)
    bare = dataclasses.replace(problem, validation=255 - problem.validation)
    assert chosen(other) == ours != chosen(bare)


def test_one_number_of_steps_is_no_choice(originals):
    for named, steps in (("", 5), ("7", 7), ("7,7", 7)):
        config = configure("", originals, choose_steps=named)
        chosen, facts, rows = mnist._chosen(config, None, None)  # and takes no model
        assert chosen["sample_steps"] == steps and not facts and not rows


def test_where_no_sample_is_finite_nothing_is_chosen():
    """The steps are then those of the flag, and report.json says that no choice has a number."""
    network, steps = networks.MLP(width=2, depth=1, outputs=2), schedule.geometric(T=4, beta_1=1e-3)
    built = model.build(gaussian.family(), steps, network, (28, 28, 1), readout="v")
    like = jax.eval_shape(built.init, jax.random.key(0))
    params = jax.tree.map(lambda x: np.full(x.shape, np.nan, x.dtype), like)
    scaling = runs.ImageScale(mean=0.0, scale=1.0, levels=256)
    problem = runs.Problem(model=built, validation=np.zeros((4, 28, 28, 1)), images=scaling)
    given = {"T": 4, "sample_steps": 4, "num_samples": 2, "choose_steps": "2,3"}
    chosen, facts, rows = mnist._chosen(configure("", "", **given), problem, params)
    assert facts["parzen_bits_held_out_by_steps"] == {2: None, 3: None}
    assert chosen["sample_steps"] == 4
    assert rows[0][2] == "none, all give non finite samples: 4"


def test_one_sample_chooses_nothing_and_is_refused(tmp_path):
    config = configure(tmp_path / "run", tmp_path / "absent", choose_steps="2,3", num_samples=1)
    with pytest.raises(ValueError, match=r"^num_samples: expected at least 2 to choose steps by"):
        mnist.setup(config)


def test_bfloat16_of_a_network_without_it_is_refused_before_data_are_looked_for(tmp_path):
    given = EXPERIMENT.presets["paper"] | {"bfloat16": True, "manual_dir": str(tmp_path / "none")}
    with pytest.raises(ValueError, match=r"^bfloat16: expected a network of .*, got 'bump_dense'"):
        mnist.setup({"workdir": str(tmp_path / "run"), **given})


@pytest.mark.parametrize("text", ["x", "1", "0", "2.5", "-3", "5;6", "5,1", "5,13"])
def test_a_bad_list_is_refused_before_data_are_looked_for(text, tmp_path):
    config = configure(tmp_path / "run", tmp_path / "absent", choose_steps=text)
    with pytest.raises(ValueError, match=rf"choose_steps: expected whole numbers in 2..12.*{text}"):
        mnist.setup(config)


def test_bfloat16_is_inside_the_network_alone(whole, originals):
    config = configure(whole.workdir, originals, bfloat16=False)
    plain = mnist.without_data(config).model
    assert {leaf.dtype for leaf in jax.tree.leaves(whole.params)} == {jnp.dtype("float32")}
    x = np.random.default_rng(0).normal(size=(28, 28, 1)).astype(np.float32)
    # Two steps leave the output near 0: larger weights than they have show the rounding.
    params = jax.tree.map(lambda p: p + np.float32(0.1), whole.params)

    def mean(built):
        found = jax.jit(lambda p: built.chain(p, clamped=False).reverse(x, jnp.int32(9)).mean)
        return np.asarray(found(params))

    ours, theirs = mean(whole.model), mean(plain)
    assert ours.dtype == np.float32
    assert 0 < np.abs(ours - theirs).max() < 0.05 * np.abs(theirs).max()


def test_a_run_from_before_these_flags_loads_as_it_was():
    held = json.loads((WEIGHTS / "mnist_best" / "config.json").read_text(encoding="utf-8"))
    assert not {"bfloat16", "bottleneck", "optimizer"} & set(held)
    config = runs.load(WEIGHTS / "mnist_best", data=False).config
    assert (config["bfloat16"], config["bottleneck"], config["optimizer"]) == (False, 512, "adam")
