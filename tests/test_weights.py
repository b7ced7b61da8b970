"""Runs without their data and without their training: export, and the trained runs kept here."""

import dataclasses
import errno
import hashlib
import json
import shutil

import jax
import numpy as np
import pytest

from dpm_jax import model, runs
from dpm_jax.experiments import WEIGHTS, cifar10, evaluate, posterior
from dpm_jax.runs import exported
from dpm_jax.runs.workdir import MEASURES, PLACES
from dpm_jax.training.checkpoint import CheckpointError

DEVICES = jax.local_device_count()
TINY = {
    "T": 4, "beta_1": 0.02, "width": 4, "depth": 1, "scales": 1, "dense": 0, "readout": "skip",
    "num_steps": 4, "batch_size": 2 * DEVICES, "log_every": 1, "checkpoint_every": 2,
    "warmup": 0, "num_eval": 16, "passes": 1, "sample_steps": 4, "num_samples": 2,
}  # fmt: skip
KEPT = {"data.json", "data.npz", "metrics.csv"}
NOTES = json.loads((WEIGHTS / "WEIGHTS.json").read_text(encoding="utf-8"))


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def flags_of(binary, **given):
    return {name: flag.default for name, flag in binary.FLAGS.items()} | given


def levels(n, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, 8, 8, 1), np.uint8)


def plain():
    """CIFAR-10's experiment without its figures, which take most of the time of a run."""
    return dataclasses.replace(cifar10.EXPERIMENT, figures=lambda *args: ({}, {}, []))


def start(folder, data, **more):
    return runs.start(folder, plain(), dataset=str(data / "x.npy"), **TINY, **more)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run on images, and it again as `export` writes it."""
    folder = tmp_path_factory.mktemp("images")
    np.save(folder / "x.npy", levels(40))
    np.save(folder / "x_test.npy", levels(20, 1))
    run = start(folder / "run", folder)
    return folder, run, runs.export(run.workdir, folder / "given")


@pytest.fixture
def alone(trained, tmp_path):
    """A copy of what was exported, where its data are not."""
    shutil.copytree(trained[0] / "given", tmp_path / "alone")
    path = tmp_path / "alone" / "config.json"
    held = json.loads(path.read_text()) | {"dataset": str(tmp_path / "gone" / "x.npy")}
    path.write_text(json.dumps(held))
    return tmp_path / "alone"


def equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    assert jax.tree.all(jax.tree.map(lambda x, y: bool((np.asarray(x) == y).all()), a, b))


# --- export -------------------------------------------------------------------------------------


def test_an_exported_run_is_the_run(trained):
    folder, run, given = trained
    equal(given.params, run.params)
    assert given.step == run.step == 4 and given.experiment.name == "cifar10"
    assert given.report == {**run.report, "figures": {}}
    whole = runs.load(folder / "given", num_eval=16, passes=1)  # its data are still there
    np.testing.assert_array_equal(whole.test, run.test)
    assert whole.evaluate() == run.evaluate()
    names = {path.name for path in given.workdir.iterdir()}
    assert names == {*KEPT, "checkpoints", "config.json", "report.json"}
    whole, slim = (contents(place / "checkpoints") for place in (run.workdir, given.workdir))
    assert sum(map(len, slim.values())) < 0.4 * sum(map(len, whole.values()))


def test_it_is_started_from_and_not_trained_further(trained, tmp_path):
    folder, run, given = trained
    before = contents(given.workdir)
    alone = r"^--workdir: checkpoint step 4 holds ema alone: .*--init_from"
    with pytest.raises(runs.Invalid, match=alone):
        start(given.workdir, folder)
    (given.workdir / "lock").unlink()
    assert contents(given.workdir) == before
    one = start(tmp_path / "one", folder, init_from=given.workdir)
    other = start(tmp_path / "other", folder, init_from=run.workdir)
    equal(one.params, other.params)


def test_nothing_is_written_over(trained, tmp_path):
    folder, run, given = trained
    before = contents(folder)
    for place in (given.workdir, run.workdir, folder):
        with pytest.raises(
            ValueError, match=r"^workdir: expected a new directory, got .*which holds"
        ):
            runs.export(run, place)
    with pytest.raises(ValueError, match=r"^workdir: expected a trained run, got"):
        runs.export(tmp_path / "absent", tmp_path / "new")
    assert contents(folder) == before and not (tmp_path / "new").exists()


def test_an_export_that_fails_leaves_nothing_behind(trained, tmp_path, monkeypatch):
    """A damaged report, and a disk that is full once half is there."""
    damaged = tmp_path / "damaged"
    shutil.copytree(trained[1].workdir, damaged)
    (damaged / "report.json").write_text("[1")
    with pytest.raises(ValueError, match=r"report\.json does not read"):
        runs.export(damaged, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr(exported.Checkpoints, "save", full)
        runs.export(trained[1], tmp_path / "copy")
    assert not list((tmp_path / "copy").iterdir())
    assert runs.export(trained[1], tmp_path / "copy").step == trained[1].step


def test_models_of_ones_own_are_exported(tmp_path):
    run = runs.load(WEIGHTS / "swiss_roll_best", data=False)
    runs.save(tmp_path / "saved", run.model, run.params)
    found = runs.export(tmp_path / "saved", tmp_path / "copy")
    equal(found.params, run.params)
    assert contents(tmp_path / "copy") and found.step == 0
    with pytest.raises(CheckpointError, match="holds checkpoint step 0"):
        runs.save(tmp_path / "copy", run.model, run.params)


# --- without data -------------------------------------------------------------------------------


def test_a_run_of_images_works_where_its_images_are_not(trained, alone):
    _, run, _ = trained
    with pytest.raises(ValueError, match=r"gone"):
        runs.load(alone)
    found = runs.load(alone, data=False)
    equal(found.params, run.params)
    assert found.data is None and found.test is None
    assert found.problem.images.scale == run.problem.images.scale
    x = levels(3, 5)
    assert found.evaluate(x, passes=1) == run.evaluate(x, passes=1)
    draws = [model.sample(r.model, r.params, jax.random.key(0), 2) for r in (run, found)]
    np.testing.assert_array_equal(*draws)
    with pytest.raises(ValueError, match=r"^data: expected an array, since this run keeps no test"):
        found.evaluate()


def test_inputs_are_inpainted_and_measured_without_data(alone, tmp_path):
    np.save(tmp_path / "seen.npy", levels(2, 6))
    given = {"workdir": str(alone), "input": str(tmp_path / "seen.npy")}
    before = contents(alone)
    more = {"num_samples": 2, "repeats": 1, "out": str(tmp_path / "out")}
    posterior.execute(flags_of(posterior, method="replacement", **given, **more))
    with np.load(tmp_path / "out" / "posterior.npz") as found:
        assert found["x"].shape == (2, 2, 8, 8, 1)
        known, seen = found["known"], found["observed"]
        np.testing.assert_allclose(found["x"][:, 0][:, known], seen[:, known], atol=1e-5)
    assert contents(alone) == before
    small = {"trajectories": "2", "examples": 2, "model_samples": 2, "lanes": 16}
    assert "K, eq. 14" in evaluate.execute(flags_of(evaluate, **given, **small))
    with pytest.raises(runs.Invalid, match=r"gone"):
        posterior.execute(flags_of(posterior, workdir=str(alone), out=str(tmp_path / "more")))


@pytest.mark.parametrize("name", ["data.json", "data.npz"])
def test_a_run_that_lost_what_it_keeps_says_so(alone, name):
    (alone / name).unlink()
    with pytest.raises(ValueError, match=rf"^workdir: .*alone holds no {name}") as error:
        runs.load(alone, data=False)
    assert "\n" not in str(error.value)


# --- the trained runs kept here -----------------------------------------------------------------


def test_every_file_is_the_one_that_was_kept():
    folders = {path.name for path in WEIGHTS.iterdir() if path.is_dir()}
    assert folders == set(NOTES) == {"heartbeat_best", "mnist_best", "swiss_roll_best"}
    for name, notes in NOTES.items():
        for file, digest in notes["sha256"].items():
            found = hashlib.sha256((WEIGHTS / name / file).read_bytes()).hexdigest()
            assert found == digest, f"{name}/{file}"
        assert {"config.json", "data.json", "report.json"} <= set(notes["sha256"])
    assert sum(path.stat().st_size for path in WEIGHTS.rglob("*") if path.is_file()) < 12e6


@pytest.mark.parametrize("name", sorted(NOTES))
def test_notes_say_what_the_run_says(name):
    notes, run = NOTES[name], runs.load(WEIGHTS / name, data=False)
    report = run.report
    for key in ("K_bits", "K_standard_error_bits", "ceiling_bits", "unit", "examples", "jax"):
        assert notes[key] == report[key]
    assert [notes["beta_1"], notes["last_step"]] == [run.config["beta_1"], run.model.last_step]
    assert notes["seed"] == run.config["seed"]
    flags = dict(part[2:].split("=", 1) for part in notes["command"].split() if "=" in part)
    assert f"experiments/{run.experiment.name}.py" in notes["command"]
    assert flags["preset"] == run.config["preset"]
    # Presets move on; the command is still the one of this run.
    asked = run.experiment.presets[flags["preset"]]
    for name in run.config.keys() & asked.keys() - {*MEASURES, *PLACES}:
        given = type(asked[name])(flags[name]) if name in flags else asked[name]
        assert run.config[name] == given, name
    draws = model.sample(run.model, run.params, jax.random.key(0), 2, min(run.config["T"], 10))
    assert np.isfinite(np.asarray(draws)).all()


def same_K(found, notes):
    """K of a few examples is that of the many, within four errors."""
    error = np.hypot(found.K_error / np.log(2), notes["K_standard_error_bits"])
    assert abs(found.K / np.log(2) - notes["K_bits"]) < 4 * error


@pytest.mark.parametrize("name, num", [("swiss_roll_best", 1000), ("heartbeat_best", 60)])
def test_K_is_as_stated(name, num):
    run = runs.load(WEIGHTS / name)  # its data are the run's, by their digests
    same_K(run.evaluate(run.test[:num]), NOTES[name])


def test_K_of_mnist_is_as_stated(dpm_data):
    folder = dpm_data / "mnist"
    if not (folder / "t10k-images-idx3-ubyte.gz").is_file():
        pytest.skip(f"no MNIST in {folder}")
    run = runs.load(WEIGHTS / "mnist_best", manual_dir=str(folder))
    same_K(run.evaluate(run.test[:50], passes=2), NOTES["mnist_best"])
