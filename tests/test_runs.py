"""Runs as objects: start, fit, save, load, to the bit; data and experiments of the user's."""

import csv
import dataclasses
import json
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpm_jax import binomial, gaussian, model, networks, runs
from dpm_jax.core import schedule
from dpm_jax.data import swiss_roll as roll_data
from dpm_jax.experiments import evaluate, posterior, swiss_roll
from dpm_jax.likelihood import Rows, discretized
from dpm_jax.runs import parts
from dpm_jax.runs import train as runs_train
from dpm_jax.runs.config import HELP
from dpm_jax.training import Options
from dpm_jax.training.checkpoint import CheckpointError

ROOT = Path(__file__).resolve().parents[1]
DEVICES = jax.local_device_count()
TINY = {"T": 4, "num_t": -1, "num_steps": 4, "log_every": 2, "checkpoint_every": 2}
TINY |= {"batch_size": 4 * DEVICES, "num_eval": 10}
OPTIONS = Options(num_steps=6, batch_size=2 * DEVICES, log_every=2, checkpoint_every=2)


def leaves_equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for one, other in zip(jax.tree.leaves(a), jax.tree.leaves(b)):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def flags_of(binary, **given):
    return {name: flag.default for name, flag in binary.FLAGS.items()} | given


def asked(workdir, **given):
    """The flags of evaluate.py for a measurement in a moment."""
    small = {"trajectories": "4", "examples": 4, "model_samples": 2, "lanes": 16}
    return flags_of(evaluate, workdir=str(workdir), **{**small, **given})


# --- an experiment ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def roll(tmp_path_factory):
    """A run of the swiss roll without its figure."""
    plain = dataclasses.replace(swiss_roll.EXPERIMENT, figures=lambda *args: ({}, {}, []))
    return runs.start(tmp_path_factory.mktemp("roll") / "run", plain, **TINY)


@pytest.fixture(scope="module")
def again(roll):
    return runs.load(roll.workdir, num_eval=10)


def test_a_run_is_loaded_as_it_was_left(roll, again):
    leaves_equal(again.params, roll.params)
    np.testing.assert_array_equal(again.data, roll.data)
    np.testing.assert_array_equal(again.test, roll.test)
    assert again.step == roll.step == 4 and again.experiment is swiss_roll.EXPERIMENT
    assert again.config == {**roll.config, "log_every": 250, "checkpoint_every": 2000}
    assert again.report == roll.report and again.report["experiment"] == "swiss_roll"
    chains = [run.model.chain(run.params).schedule for run in (roll, again)]
    leaves_equal(*chains)
    assert str(again) == f"{roll.workdir}: swiss_roll, preset paper, 4 training steps"


def test_k_of_the_report_is_that_of_the_run(again):
    found = again.evaluate(rows=Rows(again.config["seed"] + 1))
    report = again.report
    assert found.K / np.log(2) == report["K_bits"]
    assert found.K_error / np.log(2) == report["K_standard_error_bits"]
    assert found.examples == report["examples"] == 10


def test_data_of_the_users(again):
    x = np.array([[0.3, -0.2], [1.0, 0.5], [-0.7, 1.1]])
    found = again.evaluate(x, rows=Rows(3))
    assert found == again.evaluate(x.tolist(), rows=Rows(3)) and found.examples == 3
    many = again.log_p(x, num=5)
    assert many.examples == 3 and many.num == 5 and many.log_p > many.K
    rows, prepare = again.rows(np.zeros(2))  # one event, of which no two values differ
    assert rows.shape == (1, 2) and rows.dtype == np.float32 and prepare is None
    assert again.rows(None)[0] is again.test


@pytest.mark.parametrize(
    "data, message",
    [
        (np.zeros((3, 3)), r"data: expected numbers of shape \('n', 2\), got float64 of shape \(3"),
        (np.zeros((0, 2)), r"data: expected numbers of shape"),
        (np.zeros((2, 2, 2)), r"data: expected numbers of shape"),
        (3.0, r"data: expected numbers of shape .* got float64 of shape \(\)"),
        ([["a", "b"]], "data: expected numbers of shape .* got <U1"),
        ("x.npy", "data: expected numbers"),
        (np.zeros((3, 2), complex), "data: expected numbers .* got complex128"),
        (np.array([[0.0, np.nan]]), "data: expected finite values"),
    ],
)
def test_data_that_do_not_fit_are_refused_by_name(again, data, message):
    for measure in (again.evaluate, again.log_p):
        with pytest.raises(ValueError, match=f"^{message}"):
            measure(data)


def test_a_damaged_report_says_so(roll):
    elsewhere = dataclasses.replace(roll, workdir=roll.workdir.parent / "elsewhere")
    assert elsewhere.report is None
    elsewhere.workdir.mkdir()
    for text in ("{", "[1]", ""):
        (elsewhere.workdir / "report.json").write_text(text)
        with pytest.raises(ValueError, match=r"^workdir: .*elsewhere/report.json") as error:
            _ = elsewhere.report
        assert "\n" not in str(error.value)


def test_names_that_there_are_not(tmp_path):
    with pytest.raises(ValueError, match=r"^experiment: expected one of bark, .*got 'swiss'"):
        runs.start(tmp_path, "swiss")
    for name in ("evaluate", "../x", "", "os"):
        with pytest.raises(ValueError, match=r"^experiment: "):
            runs.find(name)
    with pytest.raises(ValueError, match=r"^preset: expected one of .*got 'wild'"):
        runs.start(tmp_path, "swiss_roll", preset="wild")
    with pytest.raises(ValueError, match=r"^width_of_hat: expected one of "):
        runs.start(tmp_path, "swiss_roll", width_of_hat=3)
    with pytest.raises(runs.Invalid, match=r"^--T: expected .*at least 2"):
        runs.start(tmp_path / "run", "swiss_roll", T=1)
    with pytest.raises(ValueError, match=r"^workdir: expected a trained run, .*no config.json"):
        runs.load(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "name", ["bark", "cifar10", "dead_leaves", "heartbeat", "mnist", "swiss_roll"]
)
def test_presets_are_read_without_flags(name):
    found = runs.find(name)
    assert found.name == name and {"paper", "best"} <= set(found.presets)
    assert all(preset["num_steps"] > 0 for preset in found.presets.values())
    assert set(found.presets["paper"]) <= {*HELP, *found.helps}


# --- images: grey levels ------------------------------------------------------------------------

GREY = runs.ImageScale(mean=100.0, scale=50.0, levels=256)


def image_run(last_step="fixed", images=GREY):
    """A run on tiny images that nobody trained."""
    built = model.build(
        gaussian.family(),
        schedule.geometric(3, 0.01),
        networks.UNet((4, 4), 1, 0, outputs=2),
        (4, 4, 1),
        last_step=last_step,
    )
    test = np.zeros((2, 4, 4, 1), np.uint8)

    def prepare(key, rows):
        return rows.astype(jnp.float32)

    problem = runs.Problem(model=built, test=test, images=images, prepare=prepare)
    return runs.Run(Path("nowhere"), {}, problem, None, 0)


def test_grey_levels_are_scaled_as_the_runs_and_floats_are_not():
    run = image_run()
    levels = np.arange(32).reshape(2, 4, 4)
    for data in (levels.astype(np.uint8), levels, levels[..., None], levels.tolist()):
        rows, prepare = run.rows(data)
        assert rows.shape == (2, 4, 4, 1) and rows.dtype == np.uint8
        np.testing.assert_array_equal(rows[..., 0], levels)
        assert prepare is run.problem.prepare
    assert run.rows(levels[0])[0].shape == (1, 4, 4, 1)
    rows, prepare = run.rows(levels / 8)
    assert prepare is None and rows.dtype == np.float32
    for bad in (levels - 1, levels + 230):
        with pytest.raises(
            ValueError, match=r"^data: expected 8-bit grey levels 0\.\.255, .* got "
        ):
            run.rows(bad)


def test_a_probability_of_integers_is_of_integers():
    last_step = discretized.last_step(discretized.bins(256, 100.0, 50.0))
    run, levels = image_run(last_step), np.zeros((2, 4, 4, 1), np.uint8)
    assert run.rows(levels)[0].dtype == np.uint8
    with pytest.raises(ValueError, match=r"^data: expected integers, whose probability .*float64"):
        run.rows(levels / 2)
    own = image_run(last_step, images=None)  # of `fit`: centres of bins, as it was trained on
    assert own.rows(levels / 2)[0].dtype == np.float32


def test_without_a_test_set_data_are_asked_for():
    run = image_run()
    run = dataclasses.replace(run, problem=dataclasses.replace(run.problem, test=None))
    with pytest.raises(ValueError, match=r"^data: expected an array, since this run keeps no test"):
        run.evaluate()


# --- a model of one's own -----------------------------------------------------------------------


def small(width=4, network=None, **given):
    """A model of pairs."""
    return model.build(
        gaussian.family(),
        schedule.geometric(4, 0.02),
        networks.MLP(width, 1, outputs=2) if network is None else network,
        (2,),
        **given,
    )


def normal(n, seed=0):
    return np.asarray(roll_data.sample(jax.random.key(seed), n, 0.5))


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A run of a model of one's own."""
    return runs.fit(
        tmp_path_factory.mktemp("own") / "run", small(), normal(50), OPTIONS, normal(10, 1)
    )


def test_fit_leaves_a_run(own):
    report = own.report
    assert own.step == report["train_steps"] == 6 and report["examples"] == 10
    assert own.evaluate(rows=Rows(OPTIONS.seed + 1)).K / np.log(2) == report["K_bits"]
    assert str(own) == f"{own.workdir}: a model of its own, 6 training steps"
    loaded = runs.load(own.workdir)
    leaves_equal(loaded.params, own.params)
    assert loaded.step == 6 and loaded.test is None and loaded.experiment is None
    x = normal(5, 2)
    assert loaded.evaluate(x) == own.evaluate(x)


def test_a_killed_fit_goes_on_as_if_nothing_had_been(own, tmp_path, monkeypatch):
    before, seen = runs_train._logger, []

    def killed(*args):
        log = before(*args)

        def on_log(state):
            log(state)
            seen.append(int(state.step))
            if seen == [2]:
                signal.raise_signal(signal.SIGINT)

        return on_log

    monkeypatch.setattr(runs_train, "_logger", killed)
    arguments = tmp_path / "run", small(), normal(50), OPTIONS, normal(10, 1)
    with pytest.raises(KeyboardInterrupt):
        runs.fit(*arguments)
    stopped = runs.load(tmp_path / "run").step
    assert 2 <= stopped < 6 and seen[-1] == stopped
    resumed = runs.fit(*arguments)
    assert seen[-1] == 6 and len(seen) == 3
    leaves_equal(resumed.params, own.params)
    assert resumed.report["K_bits"] == own.report["K_bits"]
    with (tmp_path / "run" / "metrics.csv").open(newline="") as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["2", "4", "6"]


def test_another_fit_is_not_put_into_the_directory(own):
    before = contents(own.workdir)
    more = dataclasses.replace(OPTIONS, num_steps=8)
    with pytest.raises(ValueError, match=r"^workdir: .*another run \(num_steps = 6 there, 8 here"):
        runs.fit(own.workdir, small(), normal(50), more)
    with pytest.raises(ValueError, match=r"^workdir: .*another run \(another model\)"):
        runs.fit(own.workdir, small(width=5), normal(50), OPTIONS)
    with pytest.raises(ValueError, match=r"^workdir: .*another run"):
        runs.save(own.workdir, own.model, own.params)
    with pytest.raises(ValueError, match=r"^workdir: checkpoint step 6: .*the run expects"):
        runs.load(own.workdir, model=small(width=5))
    with pytest.raises(ValueError, match=r"^num_steps: expected more than 0"):
        runs.fit(own.workdir / "new", small(), normal(50), Options(num_steps=0))
    assert contents(own.workdir) == before


KINDS = {
    "learned β, x0_range": lambda: small(learn_schedule=True, x0_range=(-2.5, 2.5)),
    "binomial, a rate each": lambda: model.build(
        binomial.family(np.array([0.1, 0.5, 0.7])),
        schedule.constant_fraction(4),  # β_T = 1: log ᾱ_T = −inf
        networks.SigmoidPerceptron(4, (3, 3)),
        (3,),
        last_step="learned",
    ),
    "RBF": lambda: small(network=networks.RBF(4, 3), variance="between"),
    "U-Net, bfloat16": lambda: model.build(
        gaussian.family(),
        schedule.geometric(3, 0.01),
        networks.UNet((4, 4), 1, 0, outputs=2, dtype=jnp.bfloat16),
        (4, 4, 1),
        "v",
    ),
}


@pytest.mark.parametrize("kind", KINDS)
@jax.numpy_dtype_promotion("standard")  # flax mixes types where a network computes in bfloat16
def test_a_model_is_built_again_from_its_directory(kind, tmp_path):
    built = KINDS[kind]()
    params = built.init(jax.random.key(1))
    kept = runs.save(tmp_path / "kept", built, params)
    before = contents(kept.workdir)
    with pytest.raises(CheckpointError, match="holds checkpoint step 0"):  # the very same again
        runs.save(tmp_path / "kept", built, params)
    with pytest.raises(ValueError, match=r"^workdir: .*another run"):
        runs.save(tmp_path / "kept", small(width=9), params)
    assert contents(kept.workdir) == before
    found = runs.load(tmp_path / "kept")
    leaves_equal(found.params, params)
    leaves_equal(found.model.chain(found.params).schedule, built.chain(params).schedule)
    assert found.model.x0_range == built.x0_range and found.model.last_step == built.last_step
    assert found.model.learns_schedule == built.learns_schedule
    draws = [
        np.asarray(jax.jit(lambda p, m=m: model.sample(m, p, jax.random.key(2), 3))(params))
        for m in (built, found.model)
    ]
    np.testing.assert_array_equal(*draws)
    assert np.isfinite(draws[0]).all()


@pytest.mark.parametrize(
    "name", [name for name in networks.__all__ if isinstance(getattr(networks, name), type)]
)
@jax.numpy_dtype_promotion("standard")  # flax mixes types where a network computes in bfloat16
def test_every_network_of_the_library_is_kept_by_its_fields(name):
    kind, images = getattr(networks, name), name in ("UNet", "MultiScaleConv")
    fields = {field.name for field in dataclasses.fields(kind)}
    given = {"T": 4, "outputs": 2, "channels": 4, "bottleneck": 3, "dtype": jnp.bfloat16}
    given = {n: v for n, v in given.items() if n in fields}
    given |= {"channels": (4, 4)} if name == "UNet" else {}
    given |= {"units": 3} if name == "RBF" else {}
    made = model.build(
        gaussian.family(),
        schedule.geometric(4, 0.01),
        kind(**given),
        (8, 8, 1) if images else (3,),
    )
    text = json.dumps(parts.encode(made))
    found = parts.decode(json.loads(text))
    assert found.parts["network"] == made.parts["network"] and found.event_shape == made.event_shape
    assert parts.encode(found) == json.loads(text) == parts.encode(made)


class Shift:
    """A network that is not the library's."""

    def init(self, key, x, t, log_snr):
        return {"shift": jax.random.normal(key, x.shape)}

    def apply(self, variables, x, t, log_snr):
        return jnp.stack([0.5 * x + variables["shift"], 0.1 * x], axis=-1)


def test_a_part_that_is_not_the_librarys_must_be_given(tmp_path):
    built = small(network=Shift())
    params = built.init(jax.random.key(0))
    runs.save(tmp_path / "run", built, params)
    with pytest.raises(
        ValueError, match=r"^model: .*cannot hold network = test_runs\.Shift \(.*json\)"
    ):
        runs.load(tmp_path / "run")
    found = runs.load(tmp_path / "run", model=built)
    leaves_equal(found.params, params)
    assert found.model is built
    last_step = discretized.last_step(discretized.bins(256, 0.0, 50.0))
    encoded = parts.encode(small(last_step=last_step))
    with pytest.raises(ValueError, match=r"^model: .*last_step = dpm_jax\.likelihood\.discretized"):
        parts.decode(json.loads(json.dumps(encoded)))
    tilted = gaussian.family()._replace(name="tilted")
    assert parts.encode(small()._replace(family=tilted))["family"] == {"own": "tilted"}


@pytest.mark.parametrize("change", [{"network": {}}, {"family": None}, {"schedule": {}}])
def test_a_damaged_model_is_said_in_words(change):
    with pytest.raises(ValueError, match=r"^model: does not read: "):
        parts.decode({**parts.encode(small()), **change})


# --- an experiment of one's own, in a file -------------------------------------------------------

FILE = """
import jax
from dpm_jax import gaussian, model, networks, runs
from dpm_jax.core import schedule

SHARED = {
    "seed": 0, "T": 4, "beta_1": 0.02, "width": 4, "last_step": "fixed", "num_steps": 2,
    "batch_size": 4, "learning_rate": 1e-3, "log_every": 1, "checkpoint_every": 2, "num_eval": 8,
}


def setup(config):
    built = model.build(
        gaussian.family(), schedule.geometric(config["T"], config["beta_1"]),
        networks.MLP(config["width"], 1, outputs=2), (3,), last_step=config["last_step"],
    )
    x = jax.random.laplace(jax.random.key(config["seed"]), (60, 3)) / 2**0.5
    return runs.Problem(model=built, data=x[:50], test=x[50 : 50 + config["num_eval"]])


runs.register(runs.Experiment(name="laplace", unit="bits", presets={"paper": SHARED}, setup=setup))
"""


@pytest.fixture(scope="module")
def laplace(tmp_path_factory):
    """The file of an experiment, and a run of it."""
    folder = tmp_path_factory.mktemp("laplace")
    (folder / "laplace.py").write_text(FILE)
    with pytest.raises(ValueError, match=r"^experiment: expected one of .*got 'laplace'"):
        runs.find("laplace")
    runs.import_file(folder / "laplace.py")
    return folder / "laplace.py", runs.start(folder / "run", "laplace", batch_size=2 * DEVICES)


def test_an_experiment_of_ones_own_is_started_and_loaded(laplace):
    _, run = laplace
    assert run.report["experiment"] == "laplace" and run.report["train_steps"] == 2
    found = runs.load(run.workdir)
    leaves_equal(found.params, run.params)
    assert found.config["batch_size"] == 2 * DEVICES and found.experiment is runs.find("laplace")
    assert found.evaluate(rows=Rows(1)).K / np.log(2) == run.report["K_bits"]


def test_evaluate_learns_of_it_by_its_file(laplace, monkeypatch):
    file, run = laplace
    monkeypatch.setattr("dpm_jax.runs.experiment._REGISTERED", {})
    with pytest.raises(runs.Invalid, match=r"^--workdir: .*config.json: experiment: .*'laplace'"):
        evaluate.execute(asked(run.workdir))
    printed = evaluate.execute(asked(run.workdir, experiment=str(file)))
    assert "laplace, preset paper" in printed and "from above" in printed
    report = json.loads((run.workdir / "likelihood.json").read_text())
    assert report["K"]["examples"] == 8 and report["sum_of_p"] is None and report["truth"] is None
    for wrong in (file.with_name("none.py"), file.parent, file.with_suffix(".txt")):
        with pytest.raises(runs.Invalid, match=r"^--experiment: expected a Python file, got "):
            evaluate.execute(asked(run.workdir, experiment=str(wrong)))


# --- evaluate.py and posterior.py on files and on runs of one's own -------------------------------


def test_evaluate_measures_a_file(roll, tmp_path):
    np.save(tmp_path / "mine.npy", normal(6, 3))
    before = contents(roll.workdir)
    printed = evaluate.execute(asked(roll.workdir, input=str(tmp_path / "mine.npy")))
    report = json.loads((roll.workdir / "likelihood_mine.json").read_text())
    assert report["K"]["examples"] == 6 and report["likelihood"][0]["examples"] == 4
    assert report["sandwich"] is report["sum_of_p"] is report["ceiling_of_K"] is None
    expected = roll.evaluate(np.load(tmp_path / "mine.npy"), rows=Rows(10)).K
    assert report["K"]["K"] == pytest.approx(expected, rel=1e-6)
    assert "likelihood_mine.json" in printed and "ceiling" not in printed
    new = {str(path) for path in set(contents(roll.workdir)) - set(before)}
    assert new == {"likelihood_mine.json", "figures/dissipation_mine.png"}
    assert contents(roll.workdir).items() >= before.items()
    np.save(tmp_path / "wrong.npy", np.zeros((4, 3)))
    (tmp_path / "no.npy").write_text("nothing")
    for name, message in (
        ("wrong", r"--input: expected numbers of shape \('n', 2\), got float64 of shape \(4, 3\)"),
        ("no", r"--input: expected a \.npy file or an image, got .*no\.npy"),
        ("absent", r"--input: expected a \.npy file or an image, got .*absent\.npy"),
    ):
        with pytest.raises(runs.Invalid, match=f"^{message}"):
            evaluate.execute(asked(roll.workdir, input=str(tmp_path / f"{name}.npy")))


def test_a_run_of_ones_own_is_measured_on_a_file(own, tmp_path):
    with pytest.raises(runs.Invalid, match=r"^--input: expected an array, .*keeps no test set"):
        evaluate.execute(asked(own.workdir))
    np.save(tmp_path / "x.npy", normal(5, 3))
    printed = evaluate.execute(asked(own.workdir, input=str(tmp_path / "x.npy")))
    assert "own model, preset –" in printed
    assert json.loads((own.workdir / "likelihood_x.json").read_text())["experiment"] is None


def test_a_run_of_ones_own_is_asked_for_posteriors_of_a_file(own, tmp_path):
    flags = {"workdir": str(own.workdir), "out": str(tmp_path / "out"), "num_samples": 16}
    with pytest.raises(runs.Invalid, match=r"^--input: expected a file, .*keeps no test set"):
        posterior.execute(flags_of(posterior, **flags))
    np.save(tmp_path / "x.npy", normal(2, 3))
    printed = posterior.execute(flags_of(posterior, **flags, input=str(tmp_path / "x.npy")))
    found = json.loads((tmp_path / "out" / "posterior.json").read_text())
    assert "own model, preset –: inpaint" in printed and len(found["log_z"]) == 2
    assert found["known_part_deviation"] == 0 and "errors" not in found


# --- the binaries as processes ------------------------------------------------------------------


@pytest.mark.parametrize(
    "program",
    [["-m", "dpm_jax.experiments.swiss_roll"], [str(ROOT / "experiments" / "swiss_roll.py")]],
)
def test_a_binary_says_its_flags_and_refuses_others(program, tmp_path):
    def run(flag):
        return subprocess.run(
            [sys.executable, *program, flag],
            capture_output=True,
            text=True,
            timeout=120,
            cwd=tmp_path,
        )

    told = run("--help")
    assert all(flag in told.stdout for flag in ("--workdir", "--preset", "--beta_1", "--noise"))
    refused = run("--no_such_flag=3")
    assert refused.returncode == 2 and refused.stdout == ""
    assert refused.stderr.startswith("swiss_roll.py: ") and "no_such_flag" in refused.stderr
    assert refused.stderr.count("\n") == 1
