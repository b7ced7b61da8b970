"""evaluate.py on runs of a few steps: what it reads, prints and refuses."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_experiments import configure, contents, tiny_roll

from dpm_jax import runs, units
from dpm_jax.exact import heartbeat as exact
from dpm_jax.experiments import evaluate, heartbeat, swiss_roll
from dpm_jax.likelihood import Proposal, summarise, up_down
from dpm_jax.runs import Invalid, effort, execution, likelihood_report
from dpm_jax.runs.likelihood_measure import Measure

FLAGS = {name: flag.default for name, flag in evaluate.FLAGS.items()}
FLAGS |= {"trajectories": "2,8", "examples": 6}
# 24 lanes hold 8 trajectories of 3 examples: on two devices works of 6 and of 60 are one program.
FLAGS |= {"model_samples": 4, "lanes": 24, "num_eval": 20}


@pytest.fixture(scope="module")
def roll(tmp_path_factory):
    """A run, and the configuration that measures it."""
    workdir = tmp_path_factory.mktemp("roll") / "run"
    experiment = dataclasses.replace(swiss_roll.EXPERIMENT, figures=lambda *args: ({}, {}, []))
    execution.execute(experiment, tiny_roll(workdir, noise=0.5, num_eval=20))
    return workdir, {**FLAGS, "workdir": str(workdir)}


@pytest.fixture
def copy_of_run(roll, tmp_path):
    shutil.copytree(roll[0], tmp_path / "run")
    return tmp_path / "run", {**roll[1], "workdir": str(tmp_path / "run")}


def test_swiss_roll(roll):
    workdir, config = roll
    before = contents(workdir)
    printed = evaluate.execute(config)
    report = json.loads((workdir / "likelihood.json").read_text(encoding="utf-8"))
    assert [found["num"] for found in report["likelihood"]] == [2, 8]
    K, few, many = report["K"], *report["likelihood"]
    assert K["examples"] == 20 and few["examples"] == many["examples"] == 6
    assert few["K"] == pytest.approx(many["K"]) and many["K"] < many["log_p"]
    assert many["dissipation"] == pytest.approx(many["log_p"] - many["K"])
    assert 1 <= many["least_ess"] <= many["ess"] <= 8
    assert report["sandwich"]["upper"] - report["sandwich"]["lower"] == pytest.approx(
        report["sandwich"]["width"]
    )
    assert report["truth"] == pytest.approx(-1.37, abs=1.5)  # of six points of the roll
    assert report["sum_of_p"]["points"] == 60 and report["sum_of_p"]["error"] > 0
    assert report["last_step"] == "fixed" and report["beta_1"] == pytest.approx(1e-3)
    assert (report["proposal"], report["particles"]) == ("up_down", 1)
    assert "log p by trajectories, down before up" in printed
    for text in (
        "nats",
        "bits",
        "± trajectories",
        units.number(many["log_p"]),
        "from above",
        "∫ p",
    ):
        assert text in printed
    after = contents(workdir)
    assert {str(p) for p in set(after) - set(before)} == {
        "likelihood.json",
        "figures/dissipation.png",
    }
    assert all(after[path] == before[path] for path in before if path.name != "bound_terms.png")


def test_heartbeat_has_a_true_entropy_and_a_sum_over_its_five_sequences(tmp_path):
    sizes = {"T": 20, "beta_1": 0.05, "width": 8, "depth": 1, "num_t": -1, "checkpoint_every": 6}
    config = configure(heartbeat.EXPERIMENT, tmp_path / "run", **sizes, num_eval=20)
    experiment = dataclasses.replace(heartbeat.EXPERIMENT, figures=lambda *args: ({}, {}, []))
    execution.execute(experiment, config)
    asked = {**FLAGS, "workdir": str(tmp_path / "run"), "trajectories": "64", "lanes": 64}
    with pytest.raises(Invalid, match=r"^--particles: expected 1 of bits, .*no score; got 4"):
        evaluate.execute({**asked, "particles": 4})
    evaluate.execute(asked)
    report = json.loads((tmp_path / "run" / "likelihood.json").read_text(encoding="utf-8"))
    assert report["sum_of_p"]["points"] == 5 and 0 <= report["sum_of_p"]["value"] < 1.2
    assert report["truth"] == pytest.approx(-np.log(5) - 1.5, abs=1.5)
    problem = heartbeat.setup(config)
    schedule = problem.model.chain(problem.model.init(jax.random.key(0))).schedule
    lower, entropy, upper = problem.exact.entropies(schedule)
    assert entropy.shape == (21,) and entropy[0] == 0
    assert (lower[2:] < entropy[2:]).all() and (entropy <= upper + 1e-6).all()  # eq. 24
    # At t = 1 all that is lost of x^0: H(X^0|X^1) = H(X^1|X^0) + H(X^0) − H(X^1), by enumeration.
    beta = float(schedule.beta[1])

    def bit(p):
        return -p * np.log(p) - (1 - p) * np.log1p(-p)

    forward = 4 * bit(1 - beta + 0.2 * beta) + 16 * bit(0.2 * beta)
    expected = forward + np.log(5) - exact.entropy_x1(beta, 0.2)
    assert entropy[1] == pytest.approx(expected, abs=1e-6)


def test_works_of_particles_are_single_and_are_bounds(roll):
    workdir, config = roll
    flags = {"particles": 4, "trajectories": "1", "steps": 4, "lanes": 12}
    printed = evaluate.execute({**config, **flags})
    report = json.loads((workdir / "likelihood_4_steps.json").read_text(encoding="utf-8"))
    assert (report["proposal"], report["particles"], report["seconds_a_call"]) == (
        "up_down",
        4,
        None,
    )
    (found,), pair = report["likelihood"], report["sandwich"]
    assert found["num"] == 1 and found["error"] > 0 and found["high"] is None
    assert found["trajectory_error"] is None and np.isfinite(pair["width_error"])
    assert "works of 4 resampled trajectories, down before up" in printed
    assert "M = 1: no error over trajectories is known" in printed
    assert (
        "respaced to 4 steps: a model of its own" in printed and "dissipation, log p" not in printed
    )


def test_numbers_are_told_of_networks_that_give_them_alone(copy_of_run):
    workdir, config = copy_of_run
    run = runs.load(workdir)
    broken = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), run.params)
    chosen = effort.choose(config, run, 6, [8], False)
    measure = Measure(dataclasses.replace(run, params=broken), chosen, None, 0)
    message = "--workdir: expected a network that gives numbers, got NaN in"
    with pytest.raises(Invalid, match=f"^{message} K of 1 of 1"):
        measure.K(run.test[:20])
    with pytest.raises(Invalid, match=f"^{message} log p of 6 of 6"):
        measure.log_p(None, run.test[:6])


def test_effort_goes_into_trajectories_while_a_few_examples_can_be_had():
    def options(calls, most=1000):
        return effort.fit(calls, lambda num: 10.0 * num, effort.NUMBERS, most)

    assert options(0) == (1, effort.LEAST)
    assert options(4 * 160) == (16, 4) and options(4 * 160 - 1) == (1, 63)
    assert options(1e9, 50) == (256, 50)
    assert options(2560 * 3, 2) == (256, 2)  # a few are no more than there are


@pytest.mark.parametrize(
    "particles, counts, image, scored, options",
    [
        (None, None, True, True, [(n, [1]) for n in effort.NUMBERS]),
        (None, None, True, False, [(1, [n]) for n in effort.NUMBERS]),
        (1, None, True, True, [(1, [n]) for n in effort.NUMBERS]),
        (7, None, True, True, [(7, [1])]),
        (None, [5], True, True, [(1, [5])]),
        (None, None, False, True, [(1, [16, 256])]),
        (4, None, False, True, [(4, [16, 256])]),
    ],
)
def test_particles_and_works_that_are_chosen_among(particles, counts, image, scored, options):
    assert effort.to_choose(particles, counts, image, scored) == options


def test_calls_of_a_work(roll):
    run = runs.load(roll[0])
    chain = run.model.chain(run.params)
    alone, together = Proposal("up_down"), Proposal("up_down", 64, late=64)
    assert effort.calls_of(chain, alone) == chain.T + up_down.turn(chain)
    assert effort.calls_of(chain, together) == 80 * effort.calls_of(chain, alone)
    assert effort.calls_of(chain, together._replace(late=16)) < effort.calls_of(chain, together)


def test_what_flags_leave_open_is_chosen_by_time(roll):
    """Of vectors the experiment's M and no more examples than it has; what is given wins."""
    _, config = roll
    run, given = runs.load(roll[0]), {"examples": None, "model_samples": None, "minutes": 1e-9}
    few = effort.choose({**config, **given}, run, 20, None, False)
    assert (few.counts, few.examples, few.model_samples) == ([16, 256], 2, 2)
    assert few.seconds_a_call > 0 and "µs a call of the network" in str(few)
    assert few.lanes == 24 and few.proposal == Proposal("up_down")
    more = {**config, **given, "minutes": 1e9, "model_samples": 7}
    many = effort.choose(more, run, 20, [3], False)
    assert (many.counts, many.examples, many.model_samples) == ([3], 20, 7)


@pytest.mark.parametrize(
    "flags, message",
    [
        ({"trajectories": "0"}, "--trajectories: expected at least 1, got 0"),
        ({"trajectories": "16;4"}, "--trajectories: expected numbers as in 16,256, got '16;4'"),
        ({"examples": 1}, "--examples: expected at least 2, got 1"),
        ({"lanes": 0}, "--lanes: expected at least 1, got 0"),
        ({"steps": 99}, "--steps: expected 2..5, got 99"),
        ({"examples": 21}, "--examples: expected at most 20, got 21"),
        ({"proposal": "down"}, "--proposal: expected one of paper, up_down, got 'down'"),
        ({"particles": 0}, "--particles: expected at least 1, got 0"),
        ({"minutes": 0.0}, "--minutes: expected a finite number above 0, got 0.0"),
    ],
)
def test_bad_flags(roll, flags, message):
    with pytest.raises(Invalid) as error:
        evaluate.execute({**roll[1], **flags})
    assert str(error.value).startswith(message)


def refused(config, *parts):
    with pytest.raises(Invalid) as error:
        evaluate.execute(config)
    assert str(error.value).startswith("--workdir: ") and "\n" not in str(error.value)
    assert all(part in str(error.value) for part in parts)


def test_a_directory_without_a_run(tmp_path):
    refused({**FLAGS, "workdir": str(tmp_path)}, "expected a trained run", "no config.json")
    refused({**FLAGS, "workdir": None}, "expected a trained run")
    assert not list(tmp_path.iterdir())


def test_a_run_without_checkpoint(copy_of_run):
    workdir, config = copy_of_run
    shutil.rmtree(workdir / "checkpoints")
    before = contents(workdir)
    refused(config, "no checkpoint")
    (workdir / "checkpoints" / "500.partial").mkdir(parents=True)  # killed in its first save
    refused(config, "no checkpoint")
    shutil.rmtree(workdir / "checkpoints")
    assert contents(workdir) == before


def change(workdir, **values):
    path = workdir / "config.json"
    held = json.loads(path.read_text(encoding="utf-8"))
    held = {k: v for k, v in {**held, **values}.items() if v is not None}
    path.write_text(json.dumps(held), encoding="utf-8")


def test_a_checkpoint_of_another_family(copy_of_run):
    workdir, config = copy_of_run
    other = configure(heartbeat.EXPERIMENT, workdir, T=20, beta_1=0.05, width=8, depth=1)
    other.pop("workdir")
    (workdir / "config.json").write_text(json.dumps(other), encoding="utf-8")
    refused(config, "checkpoint")


def test_a_run_of_another_version_or_experiment(copy_of_run):
    workdir, config = copy_of_run
    change(workdir, noise=None)
    refused(config, "does not say noise")
    change(workdir, experiment="cifar")
    refused(config, "'cifar'", "swiss_roll")


def test_impossible_data_and_loose_bounds_are_said_in_words():
    found = {"num": 16, "examples": 3, "impossible": 1, "poor": 0.0}
    found |= {"low": None, "high": None, "values": 0.0, "k_hat": None}
    found["dissipation"] = None
    content = {"sum_of_p": None, "likelihood": [found], "last_step": "learned"}
    assert "1 of 3 examples have log p = −inf" in likelihood_report.notes(content)[-1]
    found |= {"impossible": 0, "poor": 0.1, "dissipation": 1.0}
    assert "lower bound" in likelihood_report.notes(content)[-1]
    found |= {"poor": 0.0, "dissipation": 9.0}
    assert "lower bound" in likelihood_report.notes(content)[-1]
    found |= {"dissipation": 1.0}
    assert "WARNING" not in "".join(likelihood_report.notes(content))
    found |= {"num": 1, "dissipation": 0.0}
    assert "M = 1: no error over trajectories is known" in likelihood_report.notes(content)[-1]


def test_log_p_may_be_as_much_higher_as_the_sandwich_is_wide():
    """Estimates of samples of the model that miss half a nat, and of data that show nothing."""
    found = summarise(np.full((3, 40), 2.5))
    assert found.is_value and likelihood_report.widened(found, None) is found
    pairs = np.array([[-2.5, -2.0], [-3.5, -3.0]])
    assert likelihood_report.widened(found, pairs).interval == (-2.5, -2.0)
    assert likelihood_report.widened(found, pairs[:, ::-1]).interval == found.interval
    assert not likelihood_report.widened(found, pairs - [[np.inf, 0]]).is_value
