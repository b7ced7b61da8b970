"""outliers.py: what its sets are, AUC by pairs, a run from end to end, what it refuses."""

import dataclasses
import json

import numpy as np
import pytest
from test_experiments import configure, contents

from dpm_jax import runs
from dpm_jax.experiments import WEIGHTS, cifar10, mnist
from dpm_jax.experiments import outliers as experiment
from dpm_jax.runs import Invalid, execution, outlier_report, outliers
from dpm_jax.runs import workdir as workdirs
from dpm_jax.runs.outliers import Measured

FLAGS = {name: flag.default for name, flag in experiment.FLAGS.items()}
FLAGS |= {"examples": 4, "particles": 4, "passes": 2}
CHANGED = list(outliers.CHANGES)


# --- the sets -----------------------------------------------------------------------------------


@pytest.fixture
def levels():
    return np.random.default_rng(0).integers(0, 256, (5, 6, 6, 3), dtype=np.uint8)


def changed(name, levels, seed=1, of=256):
    found = outliers.changed(name, levels, of, seed)
    assert found.dtype == levels.dtype and found.max() < of
    return found


def test_changes_are_what_they_say(levels):
    turned = changed("rotated", levels)
    np.testing.assert_array_equal(turned[2, :, :, 1], np.rot90(levels[2, :, :, 1]))
    np.testing.assert_array_equal(changed("mirrored", levels)[:, :, 0], levels[:, :, -1])
    np.testing.assert_array_equal(changed("inverted", levels).astype(int) + levels, 255)
    assert not changed("blank", levels).any() and (changed("grey", levels) == 128).all()
    assert changed("inverted", levels // 16, of=16).max() == 15


def test_pixels_are_shuffled_by_one_permutation_with_their_colours(levels):
    every = np.arange(36, dtype=np.uint8)
    place = np.broadcast_to(every.reshape(6, 6, 1), (2, 6, 6, 3))
    order = changed("shuffled", place)[0, ..., 0].ravel()
    assert sorted(order) == list(every) and (order != every).any()
    expected = levels.reshape(5, 36, 3)[:, order].reshape(levels.shape)
    np.testing.assert_array_equal(changed("shuffled", levels), expected)
    assert (changed("shuffled", levels, seed=2) != expected).any()


def test_noise_and_blur_have_their_size():
    flat = np.full((4, 64, 64, 1), 100, np.uint8)
    noise = changed("noisy", flat).astype(float) - 100
    assert noise.std() == pytest.approx(25.6, rel=0.05) and abs(noise.mean()) < 1
    assert (changed("blurred", flat) == 100).all()
    point = np.zeros((1, 9, 9, 1), np.uint8)
    point[0, 4, 4] = 250
    spread = changed("blurred", point)[0, ..., 0].astype(float)
    x = np.arange(9) - 4
    variance = (spread * (x**2)[:, None]).sum() / spread.sum()
    assert spread.sum() == pytest.approx(250, rel=0.05) and variance == pytest.approx(1, abs=0.1)


# --- the scores ---------------------------------------------------------------------------------


def test_auc_counts_pairs_and_halves_of_ties():
    rng = np.random.default_rng(0)
    inside, outside = rng.integers(0, 6, 40), rng.integers(0, 5, 30)
    pairs = [(a > b) + 0.5 * (a == b) for a in inside for b in outside]
    assert outliers.auc(inside, outside).auc == pytest.approx(np.mean(pairs), abs=1e-12)
    assert outliers.auc(outside, inside).auc == pytest.approx(1 - np.mean(pairs), abs=1e-12)
    assert outliers.auc(inside + 9, outside) == (1, 0)
    assert outliers.auc(np.zeros(3), np.zeros(4)) == (0.5, 0)
    assert np.isnan(outliers.auc(np.array([np.nan, 1]), outside)).all()


def test_the_errors_of_auc_and_of_a_gain_are_those_of_many_repetitions():
    rng, told, gained = np.random.default_rng(0), [], []
    for _ in range(400):
        a, b = rng.normal(1, 1, (2, 50)) * [[1], [2]]
        near = a + rng.normal(0, 0.3, 50), b + rng.normal(0, 0.3, 50)
        told.append(outliers.auc(a, b))
        gained.append(outliers.gain(a, b, near))
    for found in (np.array(told), np.array(gained)):
        assert found[:, 1].mean() == pytest.approx(found[:, 0].std(), rel=0.1)
    assert np.mean([e for _, e in gained]) < 0.6 * np.mean([e for _, e in told])


def test_log_p_of_works_is_that_of_their_mean_and_k_has_its_error():
    works = np.array([[1.0, 3.0], [1000.0, 1000.0]])
    K = np.array([[-3.0, -5.0], [-1002.0, -1002.0]])
    found = outliers.measured(works, K, np.array([-9.0, -9.0]))
    np.testing.assert_allclose(found.log_p, [np.log((np.exp(-1) + np.exp(-3)) / 2), -1000])
    np.testing.assert_allclose(found.spread, [np.sqrt(2), 0])
    np.testing.assert_allclose(found.K, [-4, -1002])
    np.testing.assert_allclose(found.K_error, [1, 0])


def test_what_is_simpler_than_the_test_images_is_told_by_what_is_typical():
    """Of a set that scores higher, K and log p have AUC 0, and the distance from the typical 1."""
    rng = np.random.default_rng(0)

    def some(mean):
        x = rng.normal(mean, 1, 30)
        return Measured(x, np.ones(30), x - 5, np.ones(30), np.zeros(30))

    sets = {"test": some(0), outlier_report.REFERENCE: some(0), "simple": some(9), "noise": some(5)}
    sets["samples"] = some(5)
    against = {"simple": "test", "samples": "noise"}
    told = outlier_report.tell(sets, against)
    assert told["simple"]["log_p"] == told["simple"]["K"] == (0, 0)
    assert told["simple"]["typical_log_p"] == (1, 0) and told["simple"]["gain"] == (0, 0)
    assert told["samples"]["log_p"].auc == pytest.approx(0.5, abs=0.25)
    assert "typical_log_p" not in told["samples"]
    sets["rotated"] = sets["test"]._replace(K=sets["test"].K + 1, log_p=sets["test"].log_p - 1)
    assert outlier_report.below_intact(sets) == {"rotated": {"K": 0, "log_p": 1}}
    del sets[outlier_report.REFERENCE]
    assert "typical_log_p" not in outlier_report.tell(sets, against)["simple"]


def test_nan_is_null_in_json_and_no_score_of_the_table():
    x = np.array([1.0, np.nan])
    sets = {"test": Measured(*[np.zeros(2)] * 5), "broken": Measured(x, *[np.zeros(2)] * 4)}
    held = outlier_report.to_json(sets["broken"])
    assert held["log_p"] == [1.0, None]
    np.testing.assert_array_equal(outlier_report.from_json(held).log_p, x)
    content = outlier_report.content(sets, {"broken": "test"})
    assert content["auc"]["broken"]["log_p"] == [None, None]
    assert json.dumps(content, allow_nan=False)
    row = outlier_report.text(sets, {"broken": "test"}).splitlines()[3]
    assert row.split(" | ")[5:7] == ["0.50 ± 0.00", "–"]


# --- the binary ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A run of two steps on small images, of the last step that has a noise of its own."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    np.save(folder / "x.npy", rng.integers(0, 256, (100, 8, 8, 1), dtype=np.uint8))
    np.save(folder / "mine.npy", rng.integers(0, 30, (5, 8, 8), dtype=np.uint8))
    return folder


def trained(photos, name, **more):
    sizes = {"T": 6, "width": 4, "depth": 1, "scales": 2, "passes": 2, "num_steps": 2}
    sizes |= {"sample_steps": 3, "num_samples": 2, "figures": False, "baselines": ""}
    sizes |= {"readout": "skip"}
    given = cifar10.PRESETS["paper"] | sizes | {"dataset": str(photos / "x.npy")} | more
    plain = dataclasses.replace(cifar10.EXPERIMENT, figures=lambda *args: ({}, {}, []))
    execution.execute(plain, configure(plain, photos / name, **given | {"num_eval": 6}))
    return str(photos / name)


@pytest.fixture(scope="module")
def fixed(photos):
    return {**FLAGS, "workdir": trained(photos, "fixed"), "others": [str(photos / "mine.npy")]}


def read(out):
    return json.loads((out / "outliers.json").read_text(encoding="utf-8"))


def test_a_run_from_end_to_end_that_goes_on(fixed, photos, tmp_path):
    few = {**fixed, "out": str(tmp_path / "out"), "sets": ["blank", "rotated"]}
    before = contents(photos)
    printed = experiment.execute(few)
    found = read(tmp_path / "out")
    names = ["test", "held out", "noised as samples", "samples", "blank", "rotated", "mine"]
    assert list(found["sets"]) == names and found["against"]["samples"] == "noised as samples"
    assert set(found["against"]) == {*names} - {"test"}
    for each in found["sets"].values():
        assert all(len(each[field]) == 4 for field in Measured._fields)
        assert np.isfinite([each[field] for field in Measured._fields]).all()
    assert all(0 <= told["log_p"][0] <= 1 for told in found["auc"].values())
    assert printed.count("\n| ") == 9 and f"wrote {tmp_path}/out/outliers.png" in printed
    assert (tmp_path / "out" / "outliers.png").read_bytes()[1:4] == b"PNG"
    # More sets of the same question: what was measured stays, and its noise too.
    experiment.execute({**few, "sets": ["rotated", "shuffled"]})
    again = read(tmp_path / "out")
    assert again["sets"] == found["sets"] | {"shuffled": again["sets"]["shuffled"]}
    assert set(again["auc"]) == {*names, "shuffled"} - {"test", "blank"}
    with pytest.raises(Invalid, match=r"^--out: .* holds another result \(particles = 4 there, 8"):
        experiment.execute({**few, "particles": 8})
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["outliers.json", "outliers.png"]
    assert contents(photos) == before  # nothing is written into the run


def test_flags_that_came_after_a_run_leave_its_results_its_own(tmp_path):
    """`load` puts them into its flags; the same command is no other question for that."""
    held = json.loads((WEIGHTS / "mnist_best" / "config.json").read_text(encoding="utf-8"))
    path = WEIGHTS / "mnist_best" / "config.json"
    loaded = workdirs.configuration(mnist.EXPERIMENT, held, {}, path)
    assert {"bfloat16", "bottleneck"} <= loaded.keys() - held.keys()

    def asked(name, config):
        run = runs.Run(WEIGHTS / name, config, None, None, 1)
        wrote = [tmp_path / "out" / "outliers.json"]
        return experiment._claim({**FLAGS, "seed": 0}, run, {}, wrote)

    assert asked("mnist_best", held) == asked("mnist_best", loaded)
    assert asked("mnist_best", held) != asked("heartbeat_best", held)


@pytest.mark.parametrize("last_step", ["learned", "discretized"])
def test_samples_without_the_fixed_step_are_set_against_the_test_images(
    last_step, photos, tmp_path
):
    workdir = trained(photos, last_step, last_step=last_step)
    out = tmp_path / "out"
    experiment.execute({**FLAGS, "workdir": workdir, "out": str(out), "sets": [], "steps": 4})
    found = read(out)
    assert found["against"] == {"held out": "test", "samples": "test"}
    assert np.isfinite([each["log_p"] for each in found["sets"].values()]).all()


@pytest.mark.parametrize(
    "flags, message",
    [
        ({"out": None}, "out: expected a directory for the result, got none"),
        ({"workdir": None}, "workdir: expected a trained run, got none"),
        ({"examples": 1}, "examples: expected at least 2, got 1"),
        ({"examples": 11}, "examples: expected at most 10, got 11"),
        ({"particles": 0}, "particles: expected at least 1, got 0"),
        ({"works": 1}, "works: expected at least 2, got 1"),
        ({"steps": 99}, "steps: expected 2..6, got 99"),
        ({"sets": ["wild"]}, "sets: expected some of rotated, mirrored, .*, got wild"),
        ({"others": ["none.npy"]}, "others: expected a .npy file or an image, got none.npy"),
        ({"others": ["{}/mine.npy"] * 2}, "others: expected files of names of their own, got mine"),
        ({"others": ["{}/mine.npy"], "examples": 6}, r"others: expected shape \('6 or more', 8"),
        ({"others": ["{}/float.npy"]}, "others: expected 8-bit grey levels .*, got float64"),
        ({"others": ["{}/wide.npy"]}, r"others: expected shape .*, got \(5, 8, 9\) in"),
        ({"out": "{}/x.npy"}, "out: expected a directory to write into, got .*x.npy"),
    ],
)
def test_bad_flags_are_named_before_any_work(fixed, photos, tmp_path, flags, message):
    np.save(photos / "float.npy", np.zeros((5, 8, 8)))
    np.save(photos / "wide.npy", np.zeros((5, 8, 9), np.uint8))

    def placed(value):
        if isinstance(value, list):
            return [placed(v) for v in value]
        return value.replace("{}", str(photos)) if isinstance(value, str) else value

    given = {name: placed(value) for name, value in flags.items()}
    with pytest.raises(Invalid, match=f"^--{message}"):
        experiment.execute({**fixed, "out": str(tmp_path / "out"), **given})
    assert not (tmp_path / "out").exists()


def test_what_is_no_run_on_images_and_what_is_somebodys(fixed, tmp_path):
    asked = {**fixed, "others": [], "out": str(tmp_path / "out")}
    with pytest.raises(Invalid, match=r"^--workdir: expected a run on images with a test set, got"):
        experiment.execute({**asked, "workdir": str(WEIGHTS / "swiss_roll_best")})
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "outliers.png").write_text("mine")
    with pytest.raises(Invalid, match=r"^--out: .*outliers.png exists, without outliers.json"):
        experiment.execute(asked)
