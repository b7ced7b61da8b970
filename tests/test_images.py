"""Images: the moments and the noise of dequantisation, errors by message, MNIST from its files."""

import gzip
import os
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpm_jax.data import images

ROOT = Path(__file__).resolve().parents[1]
MNIST = ROOT / os.environ.get("DPM_DATA", "../shared/data") / "mnist"  # absolute paths win
FILES = [
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
]
ADDRESS = "https://storage.googleapis.com/cvdf-datasets/mnist/"


def skewed(seed, shape, high=256):
    """Grey levels below `high` with most of their mass at 0, as in MNIST."""
    rng = np.random.default_rng(seed)
    return np.floor(high * rng.uniform(size=shape) ** 4).astype(np.uint8)


# ------------------------------------------------------------------------------ mathematics


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (7, 5, 4, 3), (2500, 3, 2, 1)])
def test_mean_and_scale_equal_the_direct_float64_moments(shape):
    x = skewed(0, shape)
    mean, scale = images.mean_and_scale(x)
    exact = x.astype(np.float64)
    assert mean == pytest.approx(exact.mean() + 0.5, rel=1e-13)
    assert scale == pytest.approx(np.sqrt(exact.var() + 1 / 12), rel=1e-13)
    assert type(mean) is float and type(scale) is float  # weak types: float32 stays float32


def test_mean_and_scale_of_a_constant_image_are_those_of_the_noise():
    x = np.full((3, 2, 2, 1), 255, np.uint8)
    assert images.mean_and_scale(x) == pytest.approx((255.5, np.sqrt(1 / 12)))


def test_to_levels_undoes_dequantize_on_all_256_levels():
    x = np.arange(256, dtype=np.uint8).reshape(4, 8, 8, 1)
    mean, scale = images.mean_and_scale(x)
    for seed in range(4):
        z = images.dequantize(jax.random.key(seed), x, mean, scale)
        back = images.to_levels(z, mean, scale)
        assert z.dtype == jnp.float32 and z.shape == x.shape
        assert back.dtype == jnp.uint8
        np.testing.assert_array_equal(back, x)


def test_to_levels_clips_what_lies_outside_the_data_range():
    lo, hi = images.data_range(33.8, 78.6)
    x = jnp.array([lo - 9, lo, hi, hi + 9], jnp.float32)
    np.testing.assert_array_equal(images.to_levels(x, 33.8, 78.6), [0, 0, 255, 255])


def test_dequantised_data_have_mean_0_and_variance_1():
    x = skewed(1, (500, 8, 8, 1), high=4)  # four levels: the noise carries much of the variance
    mean, scale = images.mean_and_scale(x)
    z = np.asarray(images.dequantize(jax.random.key(0), x, mean, scale), np.float64)
    # Over the noise alone, for n pixels: Var[mean] = 1/12/n and, in units of scale^4,
    # Var[variance] = (4 Var[x]/12 + 1/180)/n, the covariance of x and u and the variance of u.
    mean_error = np.sqrt(1 / 12 / z.size) / scale
    variance_error = np.sqrt((4 * x.var() / 12 + 1 / 180) / z.size) / scale**2
    assert abs(z.mean()) < 4 * mean_error < 0.01
    assert abs(z.var() - 1) < 4 * variance_error < 0.03


def test_the_noise_is_uniform_within_the_level_and_fills_it():
    x = np.full((100, 10, 10, 1), 200, np.uint8)
    u = np.asarray(images.dequantize(jax.random.key(0), x, 0.0, 1.0), np.float64) - 200
    assert 0 <= u.min() < 1e-3 and 1 - 1e-3 < u.max() <= 1
    expected = (np.arange(10_000) + 0.5) / 10_000
    assert np.abs(np.sort(u.ravel()) - expected).max() < 0.02  # Kolmogorov-Smirnov, P < 1e-3


def test_data_range_is_reached_by_the_extreme_levels():
    x = skewed(2, (50, 8, 8, 1))
    x.flat[:2] = 0, 255
    mean, scale = images.mean_and_scale(x)
    lo, hi = images.data_range(mean, scale)
    z = np.asarray(images.dequantize(jax.random.key(0), x, mean, scale))
    assert lo <= z.min() < lo + 1 / scale and hi - 1 / scale <= z.max() <= hi
    assert hi - lo == pytest.approx(256 / scale)


def test_dequantize_is_pure_and_compiles():
    x = skewed(3, (4, 3, 3, 1))
    key, other = jax.random.split(jax.random.key(0))
    plain = images.dequantize(key, x, 40.0, 70.0)
    np.testing.assert_allclose(jax.jit(images.dequantize)(key, x, 40.0, 70.0), plain, atol=1e-6)
    assert not jnp.array_equal(plain, images.dequantize(other, x, 40.0, 70.0))


# ---------------------------------------------------------------------------------- errors


def test_unknown_name_is_refused_with_what_is_known():
    with pytest.raises(ValueError, match=r"name: expected one of \['mnist'\], got 'mnits'"):
        images.load("mnits")


def test_images_of_another_type_are_refused():
    with pytest.raises(ValueError, match=r"images: expected uint8 pixels, got float64 \(2, 3\)"):
        images.mean_and_scale(np.zeros((2, 3)))
    with pytest.raises(ValueError, match=r"got uint8 \(0, 3\)"):
        images.mean_and_scale(np.zeros((0, 3), np.uint8))
    with pytest.raises(ValueError, match="images_uint8: expected uint8 grey levels, got float32"):
        images.dequantize(jax.random.key(0), jnp.zeros((2, 3), jnp.float32), 0.0, 1.0)


def test_missing_manual_dir_is_named(tmp_path):
    absent = tmp_path / "absent"
    with pytest.raises(ValueError, match=f"--manual_dir: {absent} is not a folder; put {FILES[0]}"):
        images.load(data_dir=tmp_path, manual_dir=absent)


def test_missing_original_file_is_named(tmp_path):
    for file in (FILES[0], FILES[1], FILES[3]):
        (tmp_path / file).touch()
    with pytest.raises(ValueError, match=f"--manual_dir: {tmp_path} has no {FILES[2]}; put"):
        images.load(data_dir=tmp_path / "data", manual_dir=tmp_path)


def test_paths_may_be_relative_or_start_with_a_tilde(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for path in ("absent", "~/absent"):
        with pytest.raises(ValueError, match=f"--manual_dir: {tmp_path / 'absent'} is not"):
            images.load(data_dir=".", manual_dir=path)


def test_corrupt_original_file_is_named_and_nothing_is_prepared(tmp_path):
    pytest.importorskip("tensorflow_datasets")
    for file in FILES:
        (tmp_path / file).write_bytes(gzip.compress(b"not an image"))
    with pytest.raises(ValueError, match=f"--manual_dir: {tmp_path / FILES[0]} is damaged"):
        images.load(data_dir=tmp_path / "data", manual_dir=str(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(FILES)


def test_without_network_and_files_the_error_says_what_to_do_at_once(tmp_path, monkeypatch):
    pytest.importorskip("tensorflow_datasets")
    requests = pytest.importorskip("requests")

    def no_network(*_, **__):
        raise requests.ConnectionError("Name or service not known")

    monkeypatch.setattr(requests, "head", no_network)
    monkeypatch.setattr(requests.Session, "get", no_network)
    start = time.monotonic()
    with pytest.raises(OSError, match="--manual_dir") as caught:
        images.load(data_dir=tmp_path)
    assert time.monotonic() - start < 10
    message = str(caught.value)
    assert all(word in message for word in [*FILES, ADDRESS, "ConnectionError"])
    assert "\n" not in message


def test_data_dir_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    pytest.importorskip("tensorflow_datasets")
    monkeypatch.setattr(images, "_check_network", lambda source: None)
    (tmp_path / "file").touch()  # a file where a folder is needed: root cannot write that either
    with pytest.raises(OSError, match=rf"mnist: cannot prepare it in {tmp_path}/file \(--data_dir"):
        images.load(data_dir=tmp_path / "file")


def test_importing_the_module_does_not_import_tensorflow_datasets():
    code = (
        "import sys, dpm_jax.data.images;"
        "print([m for m in ('tensorflow', 'tensorflow_datasets') if m in sys.modules])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[]"


# ----------------------------------------------------------------------------------- cache


def test_cache_gives_back_the_images(tmp_path):
    x = skewed(4, (5, 4, 4, 1))
    images._write_cache(tmp_path / "new" / "x.npy", x)
    np.testing.assert_array_equal(images._read_cache(tmp_path / "new" / "x.npy", x.shape), x)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["x.npy"]
    np.testing.assert_array_equal(np.load(tmp_path / "new" / "x.npy"), x)  # a plain .npy file
    assert images._read_cache(tmp_path / "new" / "x.npy", (5, 4, 4, 3)) is None
    assert images._read_cache(tmp_path / "absent.npy", x.shape) is None


@pytest.mark.parametrize("position", [0, 7, 20, 70, 130, 150, -1])
def test_a_changed_byte_anywhere_voids_the_cache(tmp_path, position):
    x = skewed(5, (5, 4, 4, 1))
    images._write_cache(tmp_path / "x.npy", x)
    content = bytearray((tmp_path / "x.npy").read_bytes())
    content[position] ^= 255
    (tmp_path / "x.npy").write_bytes(content)
    assert images._read_cache(tmp_path / "x.npy", x.shape) is None


def test_cache_that_cannot_be_written_is_no_error(tmp_path):
    (tmp_path / "file").touch()
    images._write_cache(tmp_path / "file" / "x.npy", skewed(6, (2, 2, 2, 1)))


# ------------------------------------------------------------------------------- real data


def read_idx(name, header, shape):
    """The pixels of an original file, by its documented layout and nothing of the library."""
    content = gzip.decompress((MNIST / name).read_bytes())
    return np.frombuffer(content[header:], np.uint8).reshape(shape)


@pytest.fixture(scope="module")
def mnist(tmp_path_factory):
    """MNIST as prepared once from the original files, and the data_dir it was prepared in."""
    pytest.importorskip("tensorflow_datasets")
    if not all((MNIST / file).is_file() for file in FILES):
        pytest.skip(f"no MNIST in {MNIST}; set DPM_DATA")
    data_dir = tmp_path_factory.mktemp("data")
    before = "tensorflow" in sys.modules  # another test may have reasons of its own
    data = images.load("mnist", data_dir=data_dir, manual_dir=MNIST)
    assert before or "tensorflow" not in sys.modules
    return data, data_dir


def test_mnist_has_the_known_shapes_and_scale(mnist):
    data, _ = mnist
    assert data.train.shape == (60000, 28, 28, 1) and data.train.dtype == np.uint8
    assert data.test.shape == (10000, 28, 28, 1) and data.test.dtype == np.uint8
    assert abs(data.scale - 78.6) < 0.1
    assert abs(data.mean - (33.318 + 0.5)) < 0.001
    assert data.levels == 256


def test_mnist_holds_the_original_images(mnist):
    data, _ = mnist
    for split, prefix in ((data.train, "train"), (data.test, "t10k")):
        original = read_idx(f"{prefix}-images-idx3-ubyte.gz", 16, (-1, 784))
        # tensorflow-datasets shuffles by a hash of the key: equal as sets, not in order.
        prepared = split.reshape(original.shape)
        assert sorted(map(bytes, prepared)) == sorted(map(bytes, original))


def test_the_registered_builder_reads_the_same_records_in_the_same_order(mnist):
    import tensorflow_datasets as tfds

    data, data_dir = mnist
    source = tfds.data_source("mnist", split="train", data_dir=data_dir, download=False)
    labels = read_idx("train-labels-idx1-ubyte.gz", 8, (-1,))
    original = read_idx("train-images-idx3-ubyte.gz", 16, (-1, 28, 28, 1))
    assert len(source) == 60000
    for i in (0, 1, 31234, 59999):
        np.testing.assert_array_equal(source[i]["image"], data.train[i])
        (where,) = np.nonzero((original == data.train[i]).all((1, 2, 3)))
        assert labels[where].tolist() == [source[i]["label"]]
    assert source[0]["label"] == 4  # the first of tensorflow-datasets' own mnist, as prepared by TF


def test_second_load_is_fast_equal_and_needs_no_originals(mnist):
    data, data_dir = mnist
    seconds = []
    for _ in range(3):  # the fastest of three: the machine may be busy
        start = time.monotonic()
        again = images.load("mnist", data_dir=data_dir)
        seconds.append(time.monotonic() - start)
    assert min(seconds) < 1
    assert np.array_equal(again.train, data.train) and np.array_equal(again.test, data.test)
    assert (again.mean, again.scale) == (data.mean, data.scale)


def test_truncated_cache_is_rebuilt(mnist):
    data, data_dir = mnist
    cache = data_dir / "dpm_jax" / "mnist_test.npy"
    size = cache.stat().st_size
    os.truncate(cache, size // 2)
    again = images.load("mnist", data_dir=data_dir)
    assert np.array_equal(again.test, data.test)
    assert cache.stat().st_size == size


def test_damaged_records_are_named(mnist, tmp_path):
    _, data_dir = mnist
    folder = tmp_path / "mnist" / "3.0.1"
    folder.mkdir(parents=True)
    for path in (data_dir / "mnist" / "3.0.1").iterdir():
        (folder / path.name).write_bytes(path.read_bytes()[:1000000])
    with pytest.raises(OSError, match=f"cannot read {folder}; delete it where it is damaged"):
        images.load("mnist", data_dir=tmp_path)


def test_records_that_only_tensorflow_can_read_are_left_alone(mnist, tmp_path):
    _, data_dir = mnist
    theirs = tmp_path / "mnist" / "3.0.1" / "mnist-test.tfrecord-00000-of-00001"
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes(b"theirs")
    (tmp_path / "dpm_jax").mkdir()
    (tmp_path / "dpm_jax" / "mnist").symlink_to(data_dir / "mnist")
    builder = images._prepare("mnist", tmp_path, None)
    assert Path(builder.data_dir) == tmp_path / "dpm_jax" / "mnist" / "3.0.1"
    assert theirs.read_bytes() == b"theirs"
