"""Checkpoints: to the bit and back, strict, past damage, never at the cost of the user's files."""

import contextlib
import logging
import os
import resource
import shutil
import threading
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dpm_jax.training.checkpoint import CheckpointError, Checkpoints

OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3))


class State(NamedTuple):
    step: Any
    seed: Any
    params: Any
    ema: Any
    opt_state: Any
    extra: Any


def update(grads, opt_state):
    """One step of the optimiser; optax's adam raises a float to an int power, not our doing."""
    with jax.numpy_dtype_promotion("standard"):
        return jax.jit(OPTIMIZER.update, donate_argnums=1)(grads, opt_state)


def make_state(step=0, width=16):
    """A training state after one optimiser step, with values that depend on `step`."""
    key = jax.random.fold_in(jax.random.key(7), step)
    params = {
        "network": {
            "Dense_0": {"kernel": jax.random.normal(key, (2, width)), "bias": jnp.zeros(width)},
        },
        "log_beta": jnp.array([jnp.nan, -0.0, jnp.inf, 1e-42]),
    }
    # Wide enough to be the largest file of the checkpoint by far.
    params["network"]["big"] = jax.random.normal(key, (100, 50))
    grads = jax.tree.map(jnp.ones_like, params)
    opt_state = update(grads, OPTIMIZER.init(params))[1]
    ema = jax.tree.map(jnp.negative, params)
    extra = {"none": {}, "half": jnp.full((3,), 0.1, jnp.bfloat16)}
    return State(jnp.int32(step), jnp.uint32(2**32 - 1), params, ema, opt_state, extra)


def assert_same(got, want):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert isinstance(a, jax.Array)
        assert a.devices() == {jax.devices()[0]}
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


@contextlib.contextmanager
def absl_records():
    """Every log record that passes absl's logger, at any level."""
    records = []
    handler = logging.Handler()
    handler.emit = records.append
    logger = logging.getLogger("absl")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        yield records
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)


def listing(directory):
    """Every path below a directory with its bytes and modification time."""
    return {
        str(p.relative_to(directory)): (p.stat().st_mtime_ns, p.is_file() and p.read_bytes())
        for p in sorted(Path(directory).rglob("*"))
    }


def largest_file(directory):
    return max((p for p in directory.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


@pytest.fixture
def directory(tmp_path):
    """Checkpoints 20, 30, 40 of a run."""
    checkpoints = Checkpoints(tmp_path / "run")
    for step in (20, 30, 40):
        checkpoints.save(step, make_state(step))
    checkpoints.close()
    return tmp_path / "run"


# ---- round trip


@pytest.mark.parametrize("abstract", [False, True])
def test_round_trip_is_exact_to_the_bit(tmp_path, abstract):
    state = make_state(5)
    like = make_state(0)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(5, state)
    if abstract:
        like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), like)
    step, restored = checkpoints.restore(like)
    assert (step, type(step)) == (5, int)
    assert_same(restored, state)


def test_restored_state_goes_on_training(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(0, make_state())
    _, state = checkpoints.restore(make_state())
    got = update(state.params, state.opt_state)  # donates the restored state
    want = update(make_state().params, make_state().opt_state)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_array_equal(a, b)


def test_accepts_replicated_and_numpy_arrays(tmp_path):
    state = make_state(3)
    same = jax.pmap(lambda i, s: s, in_axes=(0, None), out_axes=None)
    replicated = same(jnp.arange(2), state)
    assert len(replicated.params["log_beta"].devices()) == 2
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(3, replicated)
    assert_same(checkpoints.restore(replicated)[1], state)
    checkpoints.save(4, jax.device_get(state))
    assert_same(checkpoints.restore(state)[1], state)


def test_arrays_without_elements_and_a_bare_array(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    state = {"none": jnp.zeros((0, 3), jnp.bfloat16), "mask": jnp.array([True, False])}
    checkpoints.save(1, state)
    assert_same(checkpoints.restore(state)[1], state)
    checkpoints.save(2, jnp.arange(3))
    assert_same(checkpoints.restore(jnp.zeros(3, int))[1], jnp.arange(3))


def test_max_to_keep(tmp_path):
    checkpoints = Checkpoints(tmp_path, max_to_keep=2)
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "mine.txt").write_text("not a checkpoint")
    for step in (1, 2, 10):
        checkpoints.save(step, {"x": jnp.float32(step)})
    assert checkpoints.steps() == [2, 10]
    assert (tmp_path / "0" / "mine.txt").exists()
    with pytest.raises(ValueError, match="max_to_keep must be at least 1, got 0"):
        Checkpoints(tmp_path, max_to_keep=0)


def test_directory_may_be_relative_text_or_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a/b", Path("c/d")):
        checkpoints = Checkpoints(name)
        monkeypatch.chdir(tmp_path / "..")  # the path is fixed when the object is made
        checkpoints.save(1, {"x": jnp.ones(2)})
        monkeypatch.chdir(tmp_path)
        assert Checkpoints(name).restore({"x": jnp.ones(2)})[0] == 1


# ---- nothing there, nothing changed


def test_nothing_to_restore_is_none_and_makes_nothing(tmp_path):
    checkpoints = Checkpoints(tmp_path / "absent")
    assert checkpoints.restore(make_state()) is None
    assert checkpoints.steps() == []
    assert not (tmp_path / "absent").exists()
    assert Checkpoints(tmp_path).restore(make_state()) is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", [False, True])
def test_restore_changes_nothing_on_disk(directory, damage):
    if damage:
        largest_file(directory / "40").write_bytes(b"")
    before = listing(directory)
    Checkpoints(directory).restore(make_state())
    assert listing(directory) == before


def test_orbax_is_quiet(tmp_path, capfd):
    with absl_records() as records:
        checkpoints = Checkpoints(tmp_path)
        checkpoints.save(1, make_state())
        checkpoints.restore(make_state())
        checkpoints.close()
    assert records == []
    assert capfd.readouterr() == ("", "")


# ---- strictness


def test_other_shape_is_named_and_never_falls_back(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(30, make_state(width=32))
    checkpoints.save(40, make_state(width=16))
    with pytest.raises(ValueError) as error:
        checkpoints.restore(make_state(width=32))
    text = str(error.value)
    path = "params/network/Dense_0/kernel"
    assert text.startswith("checkpoint step 40: ")
    assert f"{path} has shape (2, 16), the run expects (2, 32)" in text
    assert text.endswith("; and 4 more")


def test_other_dtype_missing_and_extra_leaves_are_named(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(3, {"x": jnp.float32(1), "only_saved": jnp.zeros((2, 1))})
    with pytest.raises(ValueError) as error:
        checkpoints.restore({"x": jnp.int32(1), "only_run": {"y": jnp.zeros(4)}})
    assert str(error.value) == (
        "checkpoint step 3: only_run/y is missing, the run expects it with shape (4,) and dtype "
        "float32; x has dtype float32, the run expects int32; only_saved is extra (shape (2, 1) "
        "and dtype float32), the run does not have it"
    )


def test_another_optimiser_does_not_fit(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    state = make_state()
    checkpoints.save(1, state)
    with pytest.raises(ValueError, match=r"opt_state/0/trace/.* is missing.*; of another opt"):
        checkpoints.restore(state._replace(opt_state=optax.sgd(1.0, 0.9).init(state.params)))


def test_what_cannot_be_kept_is_refused(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    refused = [
        ({"x": np.zeros(2)}, "x has dtype float64, which JAX turns to float32"),
        ({"x": jax.random.key(0)}, "x is a typed PRNG key"),
        ({"a/b": jnp.ones(1), "a": {"b": jnp.ones(1)}}, "two leaves of the state have one path"),
        ({}, "the state holds no numbers"),
    ]
    for state, message in refused:
        with pytest.raises(ValueError, match=message):
            checkpoints.save(1, state)
    with pytest.raises(ValueError, match="step must not be negative, got -1"):
        checkpoints.save(-1, {"x": jnp.ones(1)})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("step", [40, 35])
def test_existing_steps_are_never_overwritten(directory, step):
    before = listing(directory)
    checkpoints = Checkpoints(directory)
    with pytest.raises(CheckpointError, match="holds checkpoint step 40, so step"):
        checkpoints.save(step, make_state(step))
    assert listing(directory) == before


# ---- damage


def truncate(step):
    file = largest_file(step)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip_byte(step):
    file = largest_file(step)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0x10
    file.write_bytes(bytes(data))


def flip_digest(step):
    file = step / "checksums.json"
    text = file.read_text()
    file.write_text(text.replace('": "', '": "0', 1))


def truncate_digests(step):
    file = step / "checksums.json"
    file.write_text(file.read_text()[:200])


def rename_leaf(step):
    """Metadata that says something else: a mismatch with the run, were it believed."""
    file = step / "_METADATA"
    text = file.read_text()
    assert "log_beta" in text
    file.write_text(text.replace("log_beta", "log_zeta"))


def delete_array_metadata(step):
    (step / "_METADATA").unlink()


def delete_manifest(step):
    (step / "manifest.ocdbt").unlink()


def delete_digests(step):
    (step / "checksums.json").unlink()


def delete_arrays(step):
    shutil.rmtree(step / "d")
    shutil.rmtree(step / "ocdbt.process_0")


def delete_everything_inside(step):
    shutil.rmtree(step)
    step.mkdir()


DAMAGE = [
    truncate,
    flip_byte,
    flip_digest,
    truncate_digests,
    rename_leaf,
    delete_array_metadata,
    delete_manifest,
    delete_digests,
    delete_arrays,
    delete_everything_inside,
]


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_found_and_the_one_before_restored(directory, damage):
    damage(directory / "40")
    with absl_records() as records:
        step, state = Checkpoints(directory).restore(make_state())
    assert step == 30
    assert_same(state, make_state(30))
    (record,) = records
    assert record.levelno == logging.WARNING
    text = record.getMessage()
    assert text.startswith(f"damaged checkpoint in {directory}: step 40 (")
    assert "Falling back to step 30" in text
    assert len(text) < 500, text


def test_damage_is_moved_aside_and_kept_when_the_run_saves_again(directory):
    for count in (1, 2):
        flip_byte(directory / "40")
        broken = listing(directory / "40")
        checkpoints = Checkpoints(directory)
        assert checkpoints.restore(make_state())[0] == 30
        checkpoints.save(40, make_state(40))
        assert checkpoints.steps() == [20, 30, 40]
        assert_same(checkpoints.restore(make_state())[1], make_state(40))
        name = "damaged-40" if count == 1 else "damaged-40-2"
        assert listing(directory / name) == broken


def test_a_damaged_step_does_not_stand_in_the_way_of_an_earlier_one(directory):
    truncate(directory / "40")
    checkpoints = Checkpoints(directory)
    checkpoints.restore(make_state())
    with pytest.raises(CheckpointError, match="holds checkpoint step 30, so step 25"):
        checkpoints.save(25, make_state(25))
    checkpoints.save(35, make_state(35))
    assert checkpoints.steps() == [20, 30, 35]
    assert Checkpoints(directory).restore(make_state())[0] == 35


def test_two_damaged_steps_give_one_warning(directory):
    truncate(directory / "40")
    delete_digests(directory / "30")
    with absl_records() as records:
        assert Checkpoints(directory).restore(make_state())[0] == 20
    (record,) = records
    assert "step 40 (" in record.getMessage()
    assert "step 30 (" in record.getMessage()


def test_all_damaged_is_an_error_that_changes_nothing(directory):
    for step in directory.iterdir():
        truncate(step)
    before = listing(directory)
    with pytest.raises(CheckpointError) as error:
        Checkpoints(directory).restore(make_state())
    assert str(error.value).startswith(f"every checkpoint in {directory} is damaged: step 40 (")
    assert listing(directory) == before


def test_interrupted_save_is_no_checkpoint_and_is_cleared_by_the_next(directory):
    for name in ("50.partial", "50.partial.orbax-checkpoint-tmp", "60.orbax-checkpoint-tmp-17"):
        shutil.copytree(directory / "40", directory / name)
    checkpoints = Checkpoints(directory)
    assert checkpoints.steps() == [20, 30, 40]
    assert checkpoints.restore(make_state())[0] == 40
    checkpoints.save(50, make_state(50))
    assert sorted(path.name for path in directory.iterdir()) == [
        "30",
        "40",
        "50",
        "60.orbax-checkpoint-tmp-17",  # not by our naming, so not ours to delete
    ]
    assert_same(checkpoints.restore(make_state())[1], make_state(50))


@pytest.mark.parametrize("renames", [0, 1])
def test_save_killed_half_way_leaves_the_older_ones(directory, monkeypatch, renames):
    """Killed before orbax's own renaming, and between that and ours."""
    real, done = os.rename, []

    def rename(*args, **kwargs):
        if len(done) == renames:
            raise KeyboardInterrupt
        done.append(args)
        return real(*args, **kwargs)

    checkpoints = Checkpoints(directory)
    with monkeypatch.context() as patch:
        for name in ("rename", "replace"):
            patch.setattr(os, name, rename)
        with pytest.raises(KeyboardInterrupt):
            checkpoints.save(50, make_state(50))
    assert len(list(directory.glob("50.partial*"))) == 1
    assert Checkpoints(directory).steps() == [20, 30, 40]
    assert Checkpoints(directory).restore(make_state())[0] == 40
    checkpoints.save(50, make_state(50))
    assert sorted(path.name for path in directory.iterdir()) == ["30", "40", "50"]


def test_a_save_that_the_disk_does_not_take_leaves_nothing(directory):
    checkpoints, (soft, hard) = Checkpoints(directory), resource.getrlimit(resource.RLIMIT_FSIZE)
    large = {"x": np.random.default_rng(0).random(10**5)[:, None].astype(np.float32)}
    resource.setrlimit(resource.RLIMIT_FSIZE, (10**5, hard))
    try:
        with pytest.raises(Exception, match="File too large"):
            checkpoints.save(50, large)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sorted(path.name for path in directory.iterdir()) == ["20", "30", "40"]
    checkpoints.save(50, large)
    assert checkpoints.restore(large)[0] == 50


def test_files_of_others_in_a_checkpoint_are_no_damage(directory):
    (directory / "40" / ".DS_Store").write_text("")
    assert Checkpoints(directory).restore(make_state())[0] == 40


def test_a_moved_directory_restores(directory, tmp_path):
    shutil.move(directory, tmp_path / "elsewhere")
    assert Checkpoints(tmp_path / "elsewhere").restore(make_state())[0] == 40


def test_what_is_not_damage_is_not_hidden(directory, monkeypatch):
    checkpoints = Checkpoints(directory)

    def restore(*args, **kwargs):
        raise TypeError("orbax changed its interface")

    monkeypatch.setattr(checkpoints._orbax, "restore", restore)
    with pytest.raises(TypeError, match="orbax changed"):
        checkpoints.restore(make_state())


def test_folders_and_links_of_others_are_left_alone(directory, tmp_path):
    """A folder "9999" that is no checkpoint is not taken for a damaged one, nor for a newer one."""
    for name in ("9999", "50", "7.partial"):
        (directory / name).mkdir()
        (directory / name / "mine.txt").write_text("mine")
    shutil.copytree(directory / "40", tmp_path / "elsewhere")
    (directory / "9000").symlink_to(tmp_path / "elsewhere")
    before = {
        name: contents for name, contents in listing(directory).items() if "mine" in str(name)
    }
    checkpoints = Checkpoints(directory)
    assert checkpoints.steps() == [20, 30, 40]
    assert checkpoints.restore(make_state())[0] == 40
    with pytest.raises(CheckpointError, match=r"50 is no checkpoint and in the way .*move it away"):
        checkpoints.save(50, make_state(50))
    checkpoints.save(60, make_state(60))
    assert checkpoints.steps() == [30, 40, 60] and (directory / "9000").is_symlink()
    after = listing(directory)
    assert before and after.items() >= before.items()


def test_a_part_of_the_state_is_restored_alone(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    state = {"ema": {"w": jnp.arange(3.0)}, "opt_state": jnp.ones(2)}
    checkpoints.save(1, state)
    step, ema = checkpoints.restore(state["ema"], "ema")
    assert step == 1
    assert_same(ema, state["ema"])
    with pytest.raises(ValueError, match=r"^checkpoint step 1: ema/other is missing"):
        checkpoints.restore({**ema, "other": jnp.zeros(2)}, "ema")
    checkpoints.save(2, {"ema": {"w": jnp.ones(3)}, "opt_state": jnp.ones(2)})
    assert checkpoints.digest(1) != checkpoints.digest(2)


def test_a_save_goes_on_while_the_caller_does(tmp_path):
    """What is written is the state as it was; what went wrong is raised by the next call."""
    gate = threading.Event()
    kept = Checkpoints(tmp_path / "a", after=gate.wait)
    state = {"x": np.arange(5.0, dtype=np.float32)}
    kept.save(1, state, wait=False)
    state["x"][:] = -1
    gate.set()
    step, found = kept.restore(state)
    assert step == 1 and found["x"].tolist() == [0, 1, 2, 3, 4]
    kept.close()

    def full():
        raise OSError("No space left on device")

    failing = Checkpoints(tmp_path / "b", after=full)
    failing.save(1, state, wait=False)
    with pytest.raises(OSError, match="No space left"):
        failing.save(2, state)
    failing.close()
