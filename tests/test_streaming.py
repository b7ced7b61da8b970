"""Streams: the same batches on every run and after resuming, errors and threads accounted for."""

import gc
import threading
import time
from functools import partial
from itertools import count, islice

import jax
import numpy as np
import pytest
from PIL import Image

from dpm_jax import networks, parallel, training
from dpm_jax.core import gaussian, model, schedule
from dpm_jax.data import folders, images, streaming
from dpm_jax.training.checkpoint import Checkpoints


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "dpm_jax stream"]


@pytest.fixture(autouse=True)
def no_thread_is_left():
    assert not threads()
    yield
    assert not threads()


@pytest.fixture
def files(tmp_path):
    """Three .npy files of 50, 1 and 49 rows; row k of all holds k."""
    x = np.arange(100, dtype=np.int32)[:, None].repeat(2, axis=1)
    parts = np.split(x, [50, 51])
    paths = [tmp_path / f"{i}.npy" for i in range(3)]
    for path, part in zip(paths, parts):
        np.save(path, part)
    np.save(tmp_path / "all.npy", x)
    return paths, tmp_path / "all.npy", x


def test_the_same_batches_on_every_run_from_every_kind_of_source(files):
    paths, whole, x = files
    first = list(streaming.stream(x, 7, 3, range(20)))
    assert len(first) == 20 and all(batch.shape == (7, 2) for batch in first)
    assert type(first[0]) is np.ndarray and first[0].dtype == np.int32
    mapped = np.load(whole, mmap_mode="r")
    for source in (x, mapped, whole, str(whole), [whole], paths):
        np.testing.assert_array_equal(list(streaming.stream(source, 7, 3, range(20))), first)


def test_a_resumed_run_sees_what_it_would_have_seen(files):
    x = files[2]
    whole = list(streaming.stream(x, 7, 3, range(20)))
    for k in (1, 13, 19):
        np.testing.assert_array_equal(list(streaming.stream(x, 7, 3, range(k, 20))), whole[k:])
    assert list(streaming.stream(x, 7, 3, range(20, 20))) == []
    again = list(streaming.stream(x, 7, 3, [5, 5, 2], ahead=1))
    np.testing.assert_array_equal(again, [whole[5], whole[5], whole[2]])


def test_rows_are_uniform_and_differ_between_steps_and_seeds():
    x = np.arange(10)
    drawn = np.stack(list(streaming.stream(x, 1000, 0, range(20))))
    share = np.bincount(drawn.ravel(), minlength=10) / drawn.size
    assert np.abs(share - 0.1).max() < 5 * np.sqrt(0.09 / drawn.size)
    assert len({batch.tobytes() for batch in drawn}) == 20
    other = np.stack(list(streaming.stream(x, 1000, 1, range(20))))
    assert (other == drawn).mean() == pytest.approx(0.1, abs=0.02)  # as of independent draws


def test_an_endless_stream_reads_ahead_only_so_far():
    made = []

    def read(item, rng):
        made.append(item)
        return np.zeros(2)

    batches = streaming.stream([0], 1, 0, count(), read, ahead=3)
    assert made == []  # not before the first batch is asked for
    next(batches)
    deadline = time.monotonic() + 5
    while len(made) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert len(made) == 5  # the one taken, three in the queue, one that waits for room
    batches.close()


def test_the_thread_ends_with_the_stream_however_it_ends():
    x = np.arange(10)
    batches = streaming.stream(x, 2, 0, count())
    next(batches)
    assert len(threads()) == 1
    batches.close()
    assert not threads()
    assert len(list(islice(streaming.stream(x, 2, 0, count()), 3))) == 3
    gc.collect()
    assert not threads()  # given up, not closed
    for _ in streaming.stream(x, 2, 0, range(3)):
        pass
    assert not threads()
    for _ in streaming.stream(x, 2, 0, count()):
        break
    gc.collect()
    assert not threads()


def test_an_error_while_reading_is_raised_where_the_batch_is_asked_for():
    def read(item, rng):
        if item == 3:
            raise OSError("disk on fire")
        return np.full(2, item)

    seen = []
    with pytest.raises(OSError, match="disk on fire") as caught:
        for batch in streaming.stream(range(10), 2, 0, count(), read):
            seen.append(batch)
    assert any("read" in str(entry.name) for entry in caught.traceback)  # where it came from
    # exactly the batches before the first that has a 3
    rows = list(islice(streaming.stream(np.arange(10), 2, 0, count()), len(seen) + 1))
    assert 3 in rows[-1] and not any(3 in batch for batch in rows[:-1])
    np.testing.assert_array_equal([batch[:, 0] for batch in seen], np.reshape(rows[:-1], (-1, 2)))
    gc.collect()


def test_crops_of_image_files(tmp_path):
    paths = []
    for i in range(3):
        paths.append(tmp_path / f"{i}.png")
        x = np.random.default_rng(i).integers(0, 256, (9, 8 + i), np.uint8)
        Image.fromarray(x).save(paths[-1])
    read = partial(folders.read_crop, size=6)
    first = list(streaming.stream(paths, 4, 0, range(5), read))
    assert all(batch.shape == (4, 6, 6, 1) and batch.dtype == np.uint8 for batch in first)
    np.testing.assert_array_equal(list(streaming.stream(paths, 4, 0, range(2, 5), read)), first[2:])
    paths[1].write_bytes(b"cut")
    with pytest.raises(ValueError, match=r"1.png: damaged or no image"):
        list(streaming.stream(paths, 4, 0, range(5), read))


def test_a_set_that_was_loaded_by_name_can_be_streamed(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (40, 4, 4), np.uint8)
    np.save(tmp_path / "x.npy", x)
    data = images.load(str(tmp_path / "x.npy"))
    (batch,) = streaming.stream(data.train, 8, 0, [0])
    assert batch.shape == (8, 4, 4, 1)
    assert {row.tobytes() for row in batch} <= {row.tobytes() for row in x[:36]}


def test_bad_arguments_are_refused_at_once(files, tmp_path):
    paths, _, x = files
    for name, arguments in (
        ("batch: expected at least 1, got 0", (x, 0, 0, [])),
        ("seed: expected at least 0, got -1", (x, 1, -1, [])),
        ("ahead: expected at least 1, got 0", (x, 1, 0, [], None, 0)),
        ("source: expected at least one example", (x[:0], 1, 0, [])),
        ("source: expected at least one example", ([], 1, 0, [])),
        ("source: expected at least one example", ([], 1, 0, [], folders.read_crop)),
        ("absent.npy: missing, damaged or no .npy file", (tmp_path / "absent.npy", 1, 0, [])),
    ):
        with pytest.raises(ValueError, match=name):
            streaming.stream(*arguments)
    np.save(paths[1], np.zeros((1, 3), np.int32))
    with pytest.raises(ValueError, match=r"1.npy: expected rows int32 \(2,\) as in .*0.npy, got "):
        streaming.stream(paths, 1, 0, [])


def test_examples_of_two_kinds_are_refused():
    def read(item, rng):
        return np.zeros(2, item)

    with pytest.raises(ValueError, match=r"expected uint(8|16) \(2,\) as from others, got uint"):
        list(streaming.stream([np.uint8, np.uint16], 8, 0, range(9), read))


# --- training from a stream -----------------------------------------------------------------------


def setting(tmp_path, **more):
    """A model of pairs, a file of 50 of them, and options."""
    steps = schedule.geometric(6, 1e-2)
    network = networks.MLP(width=4, depth=1)
    built = model.build(gaussian.family(), steps, network, (2,), "v", "posterior")
    path = tmp_path / "pairs.npy"
    np.save(path, np.random.default_rng(0).normal(size=(50, 2)).astype(np.float32))
    batch = 4 * jax.local_device_count()
    given = {"num_steps": 6, "batch_size": batch, "log_every": 3, "checkpoint_every": 2, **more}
    return built, path, training.Options(**given)


def assert_same(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)):
        np.testing.assert_array_equal(x, y)


def test_a_step_is_given_the_rows_of_its_batch_each_device_its_own(tmp_path):
    built, path, options = setting(tmp_path, num_steps=1)
    rows = next(streaming.stream(path, options.batch_size, options.seed, [0]))
    streamed = training.fit(built, streaming.Stream(path), options)
    held = training.fit(built, rows, options, lambda key, rows, n: parallel.shard(rows, n))
    assert_same(streamed, held)
    double = training.fit(built, streaming.Stream(path), options, lambda key, rows, n: 2 * rows)
    held = training.fit(built, 2 * rows, options, lambda key, rows, n: parallel.shard(rows, n))
    assert_same(double, held)


def test_a_run_from_a_stream_resumes_to_the_bit_and_leaves_no_thread(tmp_path):
    built, path, options = setting(tmp_path)
    source = streaming.Stream(path)
    whole = training.fit(built, source, options)
    asked = iter([False, False, True])
    run = Checkpoints(tmp_path / "run")
    stopped = training.fit(built, source, options, checkpoints=run, stop=lambda: next(asked))
    assert int(stopped.step) == 3
    resumed = training.fit(built, source, options, checkpoints=Checkpoints(tmp_path / "run"))
    assert_same(resumed, whole)
    assert not threads()


def test_a_stream_of_other_events_is_refused_before_any_work(tmp_path):
    built, path, options = setting(tmp_path)
    np.save(path, np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32))
    with pytest.raises(ValueError, match=r"data: expected shape \(n, 2\) .*got \(4, 3\)"):
        training.fit(built, streaming.Stream(path), options)
