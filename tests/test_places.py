"""Runs at a URL: trained, killed, resumed and read there; what cannot be reached is refused."""

import contextlib
import json

import fsspec
import jax
import numpy as np
import pytest

from dpm_jax import networks, runs, training
from dpm_jax.core import gaussian, model, schedule
from dpm_jax.runs.train import Checkpoints

DEVICES = jax.local_device_count()
ROOT = "memory://bucket/runs"
OPTIONS = training.Options(
    num_steps=4, batch_size=4 * DEVICES, log_every=2, checkpoint_every=2, num_t=1
)


@pytest.fixture
def bucket():
    """The files of an object store in memory, by name below ROOT."""
    system = fsspec.filesystem("memory")
    system.store.clear()
    yield lambda: {name.removeprefix("/bucket/runs/"): f for name, f in system.store.items()}
    system.store.clear()


@pytest.fixture(scope="module")
def built():
    network = networks.MLP(4, 1, outputs=2)
    return model.build(
        gaussian.family(), schedule.geometric(3, 1e-2), network, (2,), readout="v"
    ), np.random.default_rng(0).normal(size=(64, 2)).astype(np.float32)


def params_of(run):
    return jax.tree.map(np.asarray, run.params)


def test_a_run_at_a_url_is_that_of_a_folder(bucket, built, tmp_path):
    own, data = built
    there = runs.fit(f"{ROOT}/a", own, data, OPTIONS, test=data[:8])
    here = runs.fit(tmp_path / "a", own, data, OPTIONS, test=data[:8])
    names = {name.removeprefix("a/") for name in bucket()}
    # The lock holds on one machine alone; events have random names.
    expected = {str(p.relative_to(tmp_path / "a")) for p in (tmp_path / "a").rglob("*")}
    alike = [n for n in expected if (tmp_path / "a" / n).is_file() and "tensorboard" not in n]
    alike = {name for name in alike if "/d/" not in name and name != "lock"}
    assert alike <= names and any(name.startswith("tensorboard/") for name in names)
    loaded = runs.load(f"{ROOT}/a")
    jax.tree.map(np.testing.assert_array_equal, params_of(loaded), params_of(here))
    assert str(loaded).startswith(f"{ROOT}/a: ") and there.report["K_bits"] == here.report["K_bits"]
    # Through pathlib, which makes one slash of two, it is the same place.
    from pathlib import Path

    assert runs.load(Path(f"{ROOT}/a")).step == 4


def test_a_copy_that_was_cut_short_is_resumed_from_the_checkpoint_before(
    bucket, built, monkeypatch
):
    own, data = built
    whole = runs.fit(f"{ROOT}/whole", own, data, OPTIONS)
    system, sent = fsspec.filesystem("memory"), []
    put = type(system).put_file

    def cut(self, here, there, **more):
        if "/checkpoints/4/" in there:
            sent.append(there)
            if len(sent) > 2:
                raise ConnectionError("unplugged")
        return put(self, here, there, **more)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="unplugged") as stopped:
        patch.setattr(type(system), "put_file", cut)
        runs.fit(f"{ROOT}/cut", own, data, OPTIONS)
    kept = stopped.value.strerror.rpartition(" ")[2]
    assert stopped.value.filename == "memory://bucket/runs/cut"
    with contextlib.closing(Checkpoints(f"{kept}/checkpoints")) as checkpoints:
        assert checkpoints.steps() == [2, 4]  # nothing is lost: it is all here
    assert any("checkpoints/4/" in name for name in bucket())
    again = runs.fit(f"{ROOT}/cut", own, data, OPTIONS)
    jax.tree.map(np.testing.assert_array_equal, params_of(again), params_of(whole))


def test_a_run_at_a_url_holds_what_it_is(bucket, built):
    own, data = built
    runs.fit(f"{ROOT}/a", own, data, OPTIONS)
    with pytest.raises(ValueError, match="holds another run"):
        runs.fit(f"{ROOT}/a", own, data, training.Options(num_steps=8, batch_size=4 * DEVICES))
    content = bucket()["a/config.json"].getvalue()
    assert json.loads(content)["num_steps"] == 4


def test_what_another_process_left_at_a_url_is_seen(bucket, built):
    own, data = built
    first = runs.fit(f"{ROOT}/a", own, data, OPTIONS)
    files = dict(fsspec.filesystem("memory").store)
    fsspec.filesystem("memory").store.clear()
    longer = training.Options(**{**vars(OPTIONS), "num_steps": 6})
    runs.fit(f"{ROOT}/a", own, data, longer)
    assert runs.load(f"{ROOT}/a").step == 6 and first.step == 4
    fsspec.filesystem("memory").store.update({"/bucket/runs/a/../../out.json": files.popitem()[1]})
    with pytest.raises(ValueError, match=r"cannot read memory.*leads out of it"):
        runs.load(f"{ROOT}/a")


@pytest.mark.parametrize(
    "url, message",
    [
        ("file://", "expected a URL with a path, got file://"),
        (f"file://{__file__}", "expected a directory, got a file"),
        (f"zip://{__file__}", "workdir: "),
        ("gs://bucket/run", "gcsfs"),
        ("s3://bucket/run", "s3fs"),
        ("wild://bucket/run", "expected a path, or a URL whose file system is installed"),
        ("http://127.0.0.1:9/run", "workdir: "),
    ],
)
def test_a_url_that_cannot_be_reached_is_refused(url, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        runs.load(url)
    assert not list(tmp_path.iterdir())
