"""What a run keeps and what it lets nobody take: data, lock, links, metrics, events, claims."""

import csv
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from dpm_jax import files, gaussian, model, networks, runs
from dpm_jax.core import schedule
from dpm_jax.data.streaming import Stream
from dpm_jax.experiments import bark, cifar10, evaluate, jarzynski, posterior
from dpm_jax.runs import draws, identity, parts, posterior_figures, posterior_report
from dpm_jax.runs import workdir as workdirs
from dpm_jax.runs.metrics import Board, MetricsFile
from dpm_jax.training import Options

DEVICES = jax.local_device_count()
TINY = {
    "T": 4, "beta_1": 0.02, "width": 4, "depth": 1, "scales": 1, "dense": 0, "readout": "skip",
    "num_steps": 4, "batch_size": 2 * DEVICES, "log_every": 1, "checkpoint_every": 2,
    "warmup": 0, "num_eval": 16, "passes": 1, "sample_steps": 4, "num_samples": 2,
}  # fmt: skip


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def flags_of(binary, **given):
    return {name: flag.default for name, flag in binary.FLAGS.items()} | given


def plain(experiment):
    """The experiment without its figures, which take most of the time of a run."""
    return dataclasses.replace(experiment, figures=lambda *args: ({}, {}, []))


# --- the data of a run --------------------------------------------------------------------------


def levels(n, seed=0, high=256):
    return np.random.default_rng(seed).integers(0, high, (n, 8, 8, 1), np.uint8)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run on the images of two files."""
    folder = tmp_path_factory.mktemp("images")
    np.save(folder / "x.npy", levels(40))
    np.save(folder / "x_test.npy", levels(20, 1))
    run = runs.start(
        folder / "run", plain(cifar10.EXPERIMENT), dataset=str(folder / "x.npy"), **TINY
    )
    return folder, run


@pytest.fixture
def copied(trained, tmp_path):
    """A copy of it and of its data, to do things to."""
    shutil.copytree(trained[0], tmp_path / "copy")
    path = tmp_path / "copy" / "run" / "config.json"
    held = json.loads(path.read_text()) | {"dataset": str(tmp_path / "copy" / "x.npy")}
    path.write_text(json.dumps(held))
    return tmp_path / "copy"


def again(folder, **more):
    given = TINY | {"dataset": str(folder / "x.npy")} | more
    return runs.start(folder / "run", plain(cifar10.EXPERIMENT), **given)


def measure(folder, **given):
    small = {"trajectories": "2", "examples": 2, "model_samples": 2, "num_eval": 16, "passes": 1}
    flags = flags_of(evaluate, workdir=str(folder / "run"), **small)
    return evaluate.execute(flags | given)


FEWER = "num_eval: 50 asked for, all 20 there are were measured"


def test_a_run_keeps_what_it_took_from_its_data(trained):
    folder, run = trained
    held = json.loads((run.workdir / "data.json").read_text())
    train, test = (np.load(folder / name) for name in ("x.npy", "x_test.npy"))
    for part, x in (("train", train), ("test", test)):
        assert held[part] == identity.digest(x) and held[part]["rows"] == len(x)
        assert held[part]["dtype"] == "uint8" and held[part]["shape"] == [8, 8, 1]
    assert (held["mean"], held["scale"]) == (run.problem.images.mean, run.problem.images.scale)
    assert held["levels"] == 256
    assert held["trained_on"] == run.report["trained_on"]
    here = {"devices": DEVICES, "processes": 1, "backend": "cpu", "jax": jax.__version__}
    assert held["trained_on"] == [{"from_step": 0, **here}]
    with np.load(run.workdir / "data.npz") as arrays:
        assert set(arrays) == {"mean", "axes", "power"}


@pytest.mark.parametrize(
    "name, x, what",
    [
        ("x.npy", levels(40) // 3, "train: other content, sha256 .* there, .* here; mean 12"),
        ("x.npy", levels(41), "train: rows 40 there, 41 here"),
        ("x_test.npy", levels(20, 2), "test: other content"),
        ("x_test.npy", levels(20, 2).astype(np.uint16), "(x_test.npy: expected images|test: )"),
    ],
)
def test_other_data_under_the_same_path_are_refused(copied, name, x, what):
    np.save(copied / name, x)
    before = contents(copied)
    for call in (again, lambda folder: runs.load(folder / "run"), measure):
        with pytest.raises((ValueError, runs.Invalid), match=what) as error:
            call(copied)
        assert "\n" not in str(error.value)
    flags = flags_of(posterior, workdir=str(copied / "run"))
    with pytest.raises(runs.Invalid, match=what):
        posterior.execute(flags)
    assert contents(copied) == before


def test_moved_data_are_taken_and_other_data_where_one_says_so(copied, tmp_path, caplog):
    (tmp_path / "moved").mkdir()
    for name in ("x.npy", "x_test.npy"):
        shutil.move(copied / name, tmp_path / "moved" / name)
    path = str(tmp_path / "moved" / "x.npy")
    found = runs.load(copied / "run", dataset=path)
    assert found.config["dataset"] == path
    again(tmp_path / "copy", dataset=path)  # resumes: the digest says that it is the same
    np.save(tmp_path / "moved" / "x.npy", levels(40) // 3)
    np.save(tmp_path / "moved" / "x_test.npy", levels(20, 1) // 3)
    with pytest.raises(ValueError, match=r"dataset, data_dir, manual_dir.*other_data"):
        runs.load(copied / "run", dataset=path)
    other = runs.load(copied / "run", dataset=path, other_data=True)
    assert other.problem.images == dataclasses.replace(
        found.problem.images, enlarge=other.problem.images.enlarge
    )  # the scaling is that of the run
    before = contents(copied)
    printed = measure(copied, dataset=path, other_data=True, num_eval=50)
    assert "likelihood_x.json" in printed and contents(copied).items() >= before.items()
    told = json.loads((copied / "run" / "likelihood_x.json").read_text())
    assert told["sandwich"] is None
    assert told["num_eval_note"] == FEWER and caplog.text.count(f"--{FEWER}") == 1


@pytest.mark.parametrize(
    "wrong, what",
    [
        (levels(40)[:, :4], r"got \[4, 8, 1\] of 256"),
        (levels(40).astype(np.uint16) * 257, r"got \[8, 8, 1\] of 65536"),
    ],
)
def test_other_data_are_of_the_same_kind(copied, tmp_path, wrong, what):
    np.save(tmp_path / "x.npy", wrong)
    with pytest.raises(ValueError, match=rf"is of images \[8, 8, 1\] of 256 levels, {what}"):
        runs.load(copied / "run", dataset=str(tmp_path / "x.npy"), other_data=True)


def test_a_damaged_data_json_says_so(copied):
    for name in ("data.json", "data.npz"):
        kept = (copied / "run" / name).read_bytes()
        (copied / "run" / name).write_bytes(kept[: len(kept) // 2])
        with pytest.raises(ValueError, match=f"workdir: .*{name} does not read"):
            runs.load(copied / "run")
        (copied / "run" / name).write_bytes(kept)


def test_digests_tell_data_apart_but_not_backends():
    x = np.random.default_rng(0).standard_normal((1000, 3)).astype(np.float32)
    rounded = x * (1 + 1e-6 * np.random.default_rng(1).uniform(-1, 1, x.shape)).astype(np.float32)
    assert identity.same(identity.digest(x), identity.digest(rounded))
    one, swapped = x.copy(), x[::-1]
    one[7, 1] += 0.01
    for other in (one, swapped, x[:-1], x.astype(np.float64), x.reshape(1000, 1, 3), -x):
        assert not identity.same(identity.digest(x), identity.digest(other))
    assert identity.digest(Stream(levels(5))) == identity.digest(levels(5))
    tree = {"a": levels(3), "b": x}
    assert identity.same(identity.digest(tree), identity.digest({"a": levels(3), "b": rounded}))
    assert not identity.same(identity.digest(tree), identity.digest({"a": levels(3, 1), "b": x}))
    assert not identity.same(identity.digest(tree), identity.digest({"a": levels(3)}))


def test_a_large_file_is_read_in_parts(tmp_path, monkeypatch):
    np.save(tmp_path / "x.npy", levels(30))
    whole = identity.digest(levels(30))
    monkeypatch.setattr(identity, "_CHUNK", 100)
    assert identity.digest(np.load(tmp_path / "x.npy", mmap_mode="r")) == whole
    assert identity.digest(Stream(str(tmp_path / "x.npy")))["files"]


def photograph(path, seed):
    from PIL import Image

    pixels = np.random.default_rng(seed).integers(0, 256, (12, 12), np.uint8)
    Image.fromarray(pixels).save(path)


def test_a_photograph_more_does_not_move_the_split(tmp_path):
    folder = tmp_path / "photographs"
    folder.mkdir()
    for i in range(10):
        photograph(folder / f"{i}.png", i)
    config = bark.EXPERIMENT.presets["paper"] | {"size": 8, "num_eval": 2, "image_dir": str(folder)}
    config |= {"workdir": str(tmp_path / "run")}

    def facts():
        found = bark.make(config)
        return found, identity.of_images(found)

    _, held = facts()
    assert len(held["train_files"]) == 9 and list(held["test_files"]) == ["5.png"]
    (tmp_path / "run" / "checkpoints" / "2").mkdir(parents=True)  # as if it had trained
    files.write_json(tmp_path / "run" / "data.json", held)
    photograph(folder / "00.png", 99)
    _, now = facts()
    assert now["train_files"] == held["train_files"]
    assert set(now["test_files"]) == {"00.png", "5.png"}
    with pytest.raises(ValueError, match=r"test files more: 00\.png"):
        identity.check(held, now, tmp_path / "run", "")
    photograph(folder / "3.png", 98)
    (folder / "4.png").unlink()
    with pytest.raises(ValueError, match=r"train files missing: 4\.png; train files changed: 3\."):
        identity.check(held, facts()[1], tmp_path / "run", "")
    for i in (5, "00"):
        (folder / f"{i}.png").unlink()
    with pytest.raises(ValueError, match="image_dir: expected the held-out files too"):
        facts()


@pytest.mark.parametrize("page", [0, 1])
def test_each_page_of_a_file_is_known(tmp_path, page):
    from PIL import Image

    def digests(x):
        pages = [Image.fromarray(each) for each in x[..., 0]]
        pages[0].save(tmp_path / "a.tiff", save_all=True, append_images=pages[1:])
        photograph(tmp_path / "b.png", 0)
        config = bark.EXPERIMENT.presets["paper"] | {"size": 8, "num_eval": 2, "seed": 1}
        return bark.make(config | {"image_dir": str(tmp_path), "workdir": None}).files

    x = levels(2)
    before = digests(x)
    x[page, 0, 0] ^= 1
    after = digests(x)
    named = {name for part in before for name in before[part] if before[part] != after[part]}
    assert named == {"a.tiff"}


# --- a model of one's own: cheap to train, for what follows --------------------------------------

OPTIONS = Options(num_steps=6, batch_size=2 * DEVICES, log_every=1, checkpoint_every=2)


def pairs(n, seed=0):
    return np.random.default_rng(seed).standard_normal((n, 2)).astype(np.float32)


def small(width=4):
    network = networks.MLP(width, 1, outputs=2)
    return model.build(gaussian.family(), schedule.geometric(4, 0.02), network, (2,))


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    return runs.fit(tmp_path_factory.mktemp("own") / "run", small(), pairs(50), OPTIONS)


def test_fit_goes_on_with_the_same_data_only(own):
    before = contents(own.workdir)
    with pytest.raises(ValueError, match=r"^workdir: .*train: other content, projection"):
        runs.fit(own.workdir, small(), pairs(50, 1), OPTIONS)
    with pytest.raises(ValueError, match=r"^workdir: .*train: rows 50 there, 51 here"):
        runs.fit(own.workdir, small(), pairs(51), OPTIONS)
    assert contents(own.workdir) == before


@pytest.mark.parametrize(
    "bad", [pairs(10)[:, :1], pairs(0), np.full((3, 2), np.nan), np.array([["a", "b"]]), 7.0]
)
@pytest.mark.parametrize("name", ["data", "test"])
def test_fit_refuses_data_and_test_before_it_begins(tmp_path, name, bad):
    given = {"data": pairs(50), "test": pairs(10)} | {name: bad}
    with pytest.raises((TypeError, ValueError), match=f"^{name}: expected "):
        runs.fit(tmp_path / "run", small(), options=OPTIONS, **given)
    assert not list(tmp_path.iterdir())


def test_fewer_rows_than_asked_for_are_told_of(copied, caplog):
    """As evaluate.py does of other data, above."""
    run = again(copied, num_eval=50)
    assert run.report["num_eval_note"] == FEWER and run.report["examples"] == 20
    assert caplog.text.count(f"--{FEWER}") == 1
    assert "num_eval_note" not in again(copied, num_eval=20).report


# --- starting from another run -------------------------------------------------------------------


def test_a_run_starts_from_another(own, tmp_path):
    longer = dataclasses.replace(OPTIONS, num_steps=1, learning_rate=1e-12, batch_size=4 * DEVICES)
    longer = dataclasses.replace(longer, optimizer="muon")
    run = runs.fit(tmp_path / "on", small(), pairs(50), longer, init_from=own)
    for mine, theirs in zip(jax.tree.leaves(run.params), jax.tree.leaves(own.params)):
        np.testing.assert_allclose(mine, theirs, atol=1e-6)
    held = json.loads((run.workdir / "config.json").read_text())
    assert held["init_from"] == str(own.workdir) and held["init_from_step"] == 6
    digest = files.sha256(own.workdir / "checkpoints" / "6" / "checksums.json")
    assert held["init_from_sha256"] == digest
    # Resumed, it does not need that run any more; without the flag it is another run.
    moved = own.workdir.with_name("away")
    own.workdir.rename(moved)
    try:
        again = runs.fit(tmp_path / "on", small(), pairs(50), longer, init_from=own.workdir)
        assert again.step == 1
    finally:
        moved.rename(own.workdir)
    with pytest.raises(ValueError, match=r"init_from = .* there, None here"):
        runs.fit(tmp_path / "on", small(), pairs(50), longer)
    assert runs.load(tmp_path / "on").step == 1


def test_a_start_that_does_not_fit_is_named(own, tmp_path):
    def start(source, width=4):
        runs.fit(tmp_path / "new", small(width), pairs(50), OPTIONS, init_from=source)

    with pytest.raises(ValueError, match=r"^init_from: checkpoint step 6: ema/network/.*shape"):
        start(own, 5)
    with pytest.raises(ValueError, match=r"^init_from: expected a trained run, got .*no config"):
        start(tmp_path / "absent")
    with pytest.raises(runs.Invalid, match=r"^--init_from: expected a trained run"):
        runs.start(tmp_path / "new", "swiss_roll", init_from=tmp_path / "absent")
    assert not list(tmp_path.iterdir())
    kept = runs.save(tmp_path / "kept", small(), own.params)  # of `save` the parameters
    params = runs.run.starting_point(str(kept.workdir), small(), tmp_path / "new")[1]
    for mine, theirs in zip(jax.tree.leaves(params), jax.tree.leaves(own.params)):
        np.testing.assert_array_equal(mine, theirs)


# --- metrics.csv and TensorBoard -----------------------------------------------------------------


def row(step):
    return {"step": step, "seconds": step / 2, "K_bits": -1.5, "grad_norm": 0.25, "skipped": 0}


def written(path, steps=(2, 4, 6, 8)):
    path.unlink(missing_ok=True)
    metrics = MetricsFile(path, 0)
    for step in steps:
        metrics.append(**row(step))
    return path.read_bytes().decode()


def steps_of(path):
    with path.open(newline="") as file:
        return [int(each["step"]) for each in csv.DictReader(file)]


@pytest.mark.parametrize(
    "change, left",
    [
        (lambda text: text.replace("step,", "stp,"), [2, 4, 6, 8]),
        (lambda text: text.split("\n", 1)[1], [2, 4, 6, 8]),
        (lambda text: "\ufeff" + text.replace(",", ";").replace(".", ","), [2, 4, 6, 8]),
        (lambda text: text.replace("\r\n", "\n").replace("\n2,", '\n"2",'), [2, 4, 6, 8]),
        (lambda text: text.replace("\n8,", "\n800,"), [2, 4, 6]),
        (lambda text: text.replace("\n4,", "\n400,"), [2, 6, 8]),
        (lambda text: text.replace("\n4,2.0,-1.5", "\n4,2.0,oops"), [2, 6, 8]),
        (lambda text: text + text.split("\n", 1)[1], [2, 4, 6, 8]),
        (lambda text: "\x00\xff\n", []),
    ],
)
def test_an_altered_metrics_file_loses_no_row_and_is_kept(tmp_path, change, left, caplog):
    path = tmp_path / "metrics.csv"
    altered = change(written(path)).encode("utf-8")
    path.write_bytes(altered)
    metrics = MetricsFile(path, 8)
    assert steps_of(path) == left and [int(r["step"]) for r in metrics.rows] == left
    metrics.append(**row(10))
    assert steps_of(path) == [*left, 10]
    if b"\n800," not in altered and b"\n400," not in altered:
        assert (tmp_path / "metrics-altered.csv").read_bytes() == altered
        assert "was altered" in caplog.text


def test_rows_beyond_the_checkpoint_come_again_and_seconds_do_not_go_back(tmp_path):
    path = tmp_path / "metrics.csv"
    whole = written(path)
    path.write_bytes((whole + "10,5.").encode())  # killed in a line, the checkpoint being of 4
    metrics = MetricsFile(path, 4)
    assert steps_of(path) == [2, 4] and metrics.seconds_at(4) == 2
    for step in (6, 8):
        metrics.append(**row(step))
    assert path.read_bytes().decode() == whole
    before = path.stat()
    MetricsFile(path, 8)
    assert path.stat().st_mtime_ns == before.st_mtime_ns and len(list(tmp_path.iterdir())) == 1


def events(folder):
    """(name, step, value) of every event below a folder, as TensorBoard reads them."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for path in folder.glob("events.out.tfevents.*"):
        content = path.read_bytes()
        while content:
            size = int.from_bytes(content[:8], "little")
            event = Event.FromString(content[12 : 12 + size])
            content = content[16 + size :]
            found += [(v.tag, event.step, v.simple_value) for v in event.summary.value]
    return sorted(found)


def test_tensorboard_is_made_anew_and_flushed_at_each_row(tmp_path):
    metrics, folder = MetricsFile(tmp_path / "metrics.csv", 0), tmp_path / "tensorboard"
    board = Board(folder, metrics.rows)
    for step in (1, 2, 3):
        board.add(metrics.append(**row(step)))
    assert [e[1] for e in events(folder) if e[0] == "K_bits"] == [1, 2, 3]  # and nobody closed it
    board.close()
    (folder / "mine.txt").write_text("mine")
    metrics = MetricsFile(tmp_path / "metrics.csv", 2)  # a kill, and back to step 2
    board = Board(folder, metrics.rows)
    board.add(metrics.append(**row(3)))
    board.close()
    expected = [(n, s, v) for s in (1, 2, 3) for n, v in row(s).items() if n in Board._NAMES]
    assert events(folder) == sorted(expected) and (folder / "mine.txt").exists()


# --- kills ---------------------------------------------------------------------------------------

PROGRAM = """
import sys, time
from test_run_files import *
from dpm_jax.runs import train

before = train._logger
def slow(*args):
    log = before(*args)
    def on_log(state):
        log(state)
        print(int(state.step), flush=True)
        time.sleep(0.3)
    return on_log
train._logger = slow
runs.fit(sys.argv[1], small(), pairs(50), OPTIONS)
"""


def test_a_run_in_use_is_refused_and_a_killed_one_is_not(own, tmp_path):
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    workdir = tmp_path / "run"
    child = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(workdir)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    try:
        assert child.stdout is not None
        for line in child.stdout:
            if line == "3\n":
                break
        with pytest.raises(
            ValueError, match=rf"^workdir: .* in use by process {child.pid} on .*20"
        ):
            runs.fit(workdir, small(), pairs(50), OPTIONS)
    finally:
        child.send_signal(signal.SIGKILL)
        child.communicate()
    run = runs.fit(workdir, small(), pairs(50), OPTIONS)
    for mine, theirs in zip(jax.tree.leaves(run.params), jax.tree.leaves(own.params)):
        np.testing.assert_array_equal(mine, theirs)
    assert steps_of(workdir / "metrics.csv") == [1, 2, 3, 4, 5, 6]
    seconds = [float(r["seconds"]) for r in MetricsFile(workdir / "metrics.csv", 6).rows]
    assert seconds == sorted(seconds)
    found = events(workdir / "tensorboard")
    assert [step for name, step, _ in found if name == "K_bits"] == [1, 2, 3, 4, 5, 6]
    assert len(found) == 18
    assert (workdir / "lock").read_bytes() == b""


def test_other_devices_are_warned_of_and_recorded(tmp_path, own, caplog):
    workdir = tmp_path / "run"
    shutil.copytree(own.workdir, workdir)
    shutil.rmtree(workdir / "checkpoints" / "6")
    content = json.loads((workdir / "data.json").read_text())
    content["trained_on"][0]["devices"] = 8
    (workdir / "data.json").write_text(json.dumps(content))
    run = runs.fit(workdir, small(), pairs(50), OPTIONS, pairs(10, 3))
    assert f"trained on 8 cpu device(s) up to step 4, on {DEVICES} cpu" in caplog.text
    assert [each["from_step"] for each in run.report["trained_on"]] == [0, 4]


def test_a_lock_file_that_is_a_link_is_not_followed(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "run" / "lock").symlink_to(tmp_path / "mine")
    with pytest.raises(ValueError, match=r"link to .*mine, out of the run"):
        runs.fit(tmp_path / "run", small(), pairs(50), OPTIONS)
    assert (tmp_path / "mine").read_text() == "mine"


@pytest.fixture
def held(tmp_path):
    """A directory that another process holds."""
    (tmp_path / "run").mkdir()
    hold = "import fcntl, time; f = open('run/lock', 'w'); fcntl.flock(f, fcntl.LOCK_EX);"
    hold += " f.write('process 7 on here'); f.flush(); print('held', flush=True); time.sleep(600)"
    command = [sys.executable, "-c", hold]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None and child.stdout.readline() == "held\n"
        yield tmp_path / "run"
        child.kill()


def test_a_directory_in_use_is_refused_before_data_are_read(held):
    def unread(config):
        pytest.fail("the data were read first")

    experiment = dataclasses.replace(cifar10.EXPERIMENT, setup=unread)
    calls = [
        lambda: runs.start(held, experiment, **TINY),
        lambda: runs.fit(held, small(), pairs(50), OPTIONS),
        lambda: runs.save(held, small(), small().init(jax.random.key(0))),
        lambda: jarzynski.execute(flags_of(jarzynski, workdir=str(held), num_trajectories=2)),
    ]
    for call in calls:
        with pytest.raises((ValueError, runs.Invalid), match=r"workdir: .* in use by process 7 on"):
            call()
    assert [path.name for path in held.iterdir()] == ["lock"]


# --- runs that somebody else made ----------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["figures", "checkpoints", "metrics.csv", "posterior", "tensorboard", "lock"]
)
def test_links_out_of_a_run_are_not_followed(copied, tmp_path, name):
    outside, run = tmp_path / "outside", copied / "run"
    place = run / name
    if place.exists():
        place.rename(outside)
    else:
        outside.mkdir()
    place.symlink_to(outside)
    before = contents(tmp_path)
    message = rf"^--workdir: .*/{name} is a link to .*outside, out of the run"
    calls = [again, measure]
    calls += [lambda folder: posterior.execute(flags_of(posterior, workdir=str(folder / "run")))]
    for call in calls:
        with pytest.raises(runs.Invalid, match=message):
            call(copied)
    assert contents(tmp_path) == before


def test_a_foreign_run_does_not_say_where_files_are(copied):
    path = copied / "run" / "config.json"
    held = json.loads(path.read_text())
    places = {"data_dir": "/evil", "manual_dir": "/evil", "memory_gib": 0.0}
    path.write_text(json.dumps(held | places))
    config = runs.load(copied / "run").config
    assert (config["data_dir"], config["manual_dir"], config["memory_gib"]) == ("", "", 4.0)
    for bad in ("../evil", "/evil/set", "evil.module:Set", "a/../../b", "kaggle:evil"):
        path.write_text(json.dumps(held | {"dataset": bad}))
        with pytest.raises(ValueError, match=r"^workdir: .*dataset: expected a name or file"):
            runs.load(copied / "run")
    for change in ({"T": "4"}, {"flip": 1}, {"seed": None}, {"beta_1": [1]}, {"dataset": 3}):
        path.write_text(json.dumps(held | change))
        with pytest.raises(ValueError, match=rf"^workdir: .*{next(iter(change))}: expected "):
            runs.load(copied / "run")


def test_networks_come_from_the_library_only():
    encoded = parts.encode(small())
    for name in ("log_snr_features", "dense", "os", "__loader__"):
        with pytest.raises(ValueError, match=r"^model: does not read"):
            parts.decode(encoded | {"network": {"name": name, "arguments": {}}})


# --- claims --------------------------------------------------------------------------------------


def test_a_directory_whose_training_never_began_may_be_taken(tmp_path):
    config = {"experiment": "a", "seed": 0}
    workdirs.claim(tmp_path / "run", config, write=True)
    identity.keep(tmp_path / "run", {"train": None, "mean": 3.0}, {"law": np.ones(2)})
    MetricsFile(tmp_path / "run" / "metrics.csv", 0)
    assert identity.kept(tmp_path / "run") == {}
    workdirs.claim(tmp_path / "run", {"experiment": "b", "T": 3}, write=True)
    identity.keep(tmp_path / "run", {"train": None}, {})
    assert json.loads((tmp_path / "run" / "config.json").read_text()) == {"experiment": "b", "T": 3}
    assert json.loads((tmp_path / "run" / "data.json").read_text()) == {"train": None}
    assert not (tmp_path / "run" / "data.npz").exists()
    (tmp_path / "run" / "thesis.tex").write_text("mine")  # it is somebody's now
    with pytest.raises(ValueError, match="another run"):
        workdirs.claim(tmp_path / "run", config, write=True)
    (tmp_path / "run" / "thesis.tex").unlink()
    written(tmp_path / "run" / "metrics.csv")
    with pytest.raises(ValueError, match="another run"):
        workdirs.claim(tmp_path / "run", config, write=True)
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "config.json").write_text('{"editor": "theirs"}')
    with pytest.raises(ValueError, match="another run"):
        workdirs.claim(tmp_path / "theirs", config, write=True)


# --- results: figures, arrays, JSON --------------------------------------------------------------


@pytest.mark.parametrize("when", ["draw", "save_arrays", "write_json"])
@pytest.mark.parametrize("how", ["Ctrl-C", "killed"])
def test_posterior_goes_on_after_it_was_stopped(own, tmp_path, monkeypatch, when, how):
    np.save(tmp_path / "y.npy", pairs(1))
    flags = flags_of(posterior, workdir=str(own.workdir), input=str(tmp_path / "y.npy"))
    flags |= {"out": str(tmp_path / "out"), "num_samples": 4}
    monkeypatch.setattr(draws, "draw", lambda *args: None)
    monkeypatch.setattr(
        posterior_report, "content", lambda run, seen, found, held: {"settings": held}
    )
    monkeypatch.setattr(posterior_report, "text", lambda content: "")

    def write(path, *args):
        with files.replacing(path) as temporary:
            temporary.write_bytes(b"whole")

    monkeypatch.setattr(posterior_figures, "draw", write)
    monkeypatch.setattr(posterior_figures, "save_arrays", write)
    with monkeypatch.context() as patch:

        def stop(path, *args):
            if how == "killed":  # nothing cleans up
                (path.parent / f".{'0' * 32}.{path.name}").write_bytes(b"ha")
            raise KeyboardInterrupt

        target = posterior.files if when == "write_json" else posterior_figures
        patch.setattr(target, when, stop)
        with pytest.raises(KeyboardInterrupt):
            posterior.execute(flags)
    posterior.execute(flags)
    wrote = {p.name for p in (tmp_path / "out").iterdir() if not files.is_unfinished(p)}
    assert wrote == {"posterior.json", "posterior.npz", "posterior.png"}
    assert "unfinished" not in json.loads((tmp_path / "out" / "posterior.json").read_text())


@pytest.mark.parametrize("pdf", [False, True])
def test_a_file_whose_writing_is_interrupted_stays_as_it_was(tmp_path, pdf):
    from dpm_jax.runs import plots

    figure = plots.plt.figure()
    with plots.formats(pdf):
        path = plots.save(figure, tmp_path / "figures" / "x.png")
    before = contents(tmp_path)
    assert {file.suffix for file in before} == ({".png", ".pdf"} if pdf else {".png"})

    class Broken:
        def savefig(self, temporary, **kwargs):
            Path(temporary).write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), plots.formats(pdf):
        plots.save(Broken(), path)
    assert contents(tmp_path) == before and plots.written("x.png") == [Path("x.png")]
