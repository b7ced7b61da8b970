"""Images: the moments and the noise of dequantisation, errors by message, MNIST from its files."""

import gzip
import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from dpm_jax.data import cache, images, mosaics, tfds_images
from dpm_jax.images import dequantisation

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
    mean, scale = dequantisation.mean_and_scale(x)
    exact = x.astype(np.float64)
    assert mean == pytest.approx(exact.mean() + 0.5, rel=1e-13)
    assert scale == pytest.approx(np.sqrt(exact.var() + 1 / 12), rel=1e-13)
    assert type(mean) is float and type(scale) is float  # weak types: float32 stays float32


def test_mean_and_scale_of_a_constant_image_are_those_of_the_noise():
    x = np.full((3, 2, 2, 1), 255, np.uint8)
    assert dequantisation.mean_and_scale(x) == pytest.approx((255.5, np.sqrt(1 / 12)))


def test_to_levels_undoes_dequantize_on_all_256_levels():
    x = np.arange(256, dtype=np.uint8).reshape(4, 8, 8, 1)
    mean, scale = dequantisation.mean_and_scale(x)
    for seed in range(4):
        z = dequantisation.dequantize(jax.random.key(seed), x, mean, scale)
        back = dequantisation.to_levels(z, mean, scale)
        assert z.dtype == jnp.float32 and z.shape == x.shape
        assert back.dtype == jnp.uint8
        np.testing.assert_array_equal(back, x)


def test_to_levels_clips_what_lies_outside_the_data_range():
    lo, hi = dequantisation.data_range(33.8, 78.6)
    x = jnp.array([lo - 9, lo, hi, hi + 9], jnp.float32)
    np.testing.assert_array_equal(dequantisation.to_levels(x, 33.8, 78.6), [0, 0, 255, 255])


def test_dequantised_data_have_mean_0_and_variance_1():
    x = skewed(1, (500, 8, 8, 1), high=4)  # four levels: the noise carries much of the variance
    mean, scale = dequantisation.mean_and_scale(x)
    z = np.asarray(dequantisation.dequantize(jax.random.key(0), x, mean, scale), np.float64)
    # Over the noise alone, for n pixels: Var[mean] = 1/12/n and, in units of scale^4,
    # Var[variance] = (4 Var[x]/12 + 1/180)/n, the covariance of x and u and the variance of u.
    mean_error = np.sqrt(1 / 12 / z.size) / scale
    variance_error = np.sqrt((4 * x.var() / 12 + 1 / 180) / z.size) / scale**2
    assert abs(z.mean()) < 4 * mean_error < 0.01
    assert abs(z.var() - 1) < 4 * variance_error < 0.03


def test_the_noise_is_uniform_within_the_level_and_fills_it():
    x = np.full((100, 10, 10, 1), 200, np.uint8)
    u = np.asarray(dequantisation.dequantize(jax.random.key(0), x, 0.0, 1.0), np.float64) - 200
    assert 0 <= u.min() < 1e-3 and 1 - 1e-3 < u.max() <= 1
    expected = (np.arange(10_000) + 0.5) / 10_000
    assert np.abs(np.sort(u.ravel()) - expected).max() < 0.02  # Kolmogorov-Smirnov, P < 1e-3


def test_data_range_is_reached_by_the_extreme_levels():
    x = skewed(2, (50, 8, 8, 1))
    x.flat[:2] = 0, 255
    mean, scale = dequantisation.mean_and_scale(x)
    lo, hi = dequantisation.data_range(mean, scale)
    z = np.asarray(dequantisation.dequantize(jax.random.key(0), x, mean, scale))
    assert lo <= z.min() < lo + 1 / scale and hi - 1 / scale <= z.max() <= hi
    assert hi - lo == pytest.approx(256 / scale)


def test_dequantize_is_pure_and_compiles():
    x = skewed(3, (4, 3, 3, 1))
    key, other = jax.random.split(jax.random.key(0))
    plain = dequantisation.dequantize(key, x, 40.0, 70.0)
    np.testing.assert_allclose(
        jax.jit(dequantisation.dequantize)(key, x, 40.0, 70.0), plain, atol=1e-6
    )
    assert not jnp.array_equal(plain, dequantisation.dequantize(other, x, 40.0, 70.0))


# ---------------------------------------------------------------------------------- 16 bits


def test_sixteen_bits_have_65536_levels_of_their_own():
    x = np.arange(65536, dtype=np.uint16).reshape(16, 64, 64, 1)
    mean, scale = dequantisation.mean_and_scale(x)
    exact = np.arange(65536.0)
    assert (mean, scale) == pytest.approx((exact.mean() + 0.5, np.sqrt(exact.var() + 1 / 12)))
    assert dequantisation.levels_of(x) == 65536
    z = dequantisation.dequantize(jax.random.key(0), x, mean, scale)
    lo, hi = dequantisation.data_range(mean, scale, 65536)
    assert z.dtype == jnp.float32 and lo - 1e-6 <= z.min() and z.max() <= hi + 1e-6
    back = np.asarray(dequantisation.to_levels(z, mean, scale, 65536))
    assert back.dtype == np.uint16
    wrong = back != x
    # float32 knows z·scale to 0.02 of a level: that share of the levels may be one off, no more
    assert wrong.mean() < 0.02 and np.abs(back[wrong].astype(int) - x[wrong]).max(initial=0) <= 1
    # The noise fills one bin of 65536 and not one of 256.
    u = np.asarray(z, np.float64) * scale + mean - x
    assert u.min() >= -0.02 and u.max() <= 1.02
    assert u.mean() == pytest.approx(0.5, abs=0.005) and u.var() == pytest.approx(1 / 12, rel=0.02)


def test_sixteen_bits_are_whitened():
    x = np.random.default_rng(7).integers(100, 104, (500, 8, 8, 1), np.uint16)
    mean, scale = dequantisation.mean_and_scale(x)
    z = np.asarray(dequantisation.dequantize(jax.random.key(0), x, mean, scale), np.float64)
    assert abs(z.mean()) < 0.01 and abs(z.var() - 1) < 0.03
    lo, hi = dequantisation.data_range(mean, scale, 65536)
    far = jnp.array([lo - 1, hi + 1], jnp.float32)
    np.testing.assert_array_equal(dequantisation.to_levels(far, mean, scale, 65536), [0, 65535])


# --------------------------------------------------------------------------------- .npy files


def save(path, x):
    np.save(path, x)
    return str(path)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_npy_file_is_a_set_whose_last_tenth_is_the_test(tmp_path, dtype):
    x = skewed(8, (25, 4, 3)).astype(dtype)
    data = images.load(save(tmp_path / "x.npy", x))
    np.testing.assert_array_equal(data.train, x[:23, ..., None])
    np.testing.assert_array_equal(data.test, x[23:, ..., None])
    assert (data.mean, data.scale) == dequantisation.mean_and_scale(x[:23])
    assert data.levels == np.iinfo(dtype).max + 1
    assert isinstance(data.train, np.memmap)  # a set may be larger than memory


def test_a_npy_file_has_its_test_set_beside_it(tmp_path, monkeypatch):
    x, y = skewed(9, (5, 4, 3, 3)), skewed(10, (2, 4, 3, 3))
    save(tmp_path / "x_test.npy", y)
    monkeypatch.setenv("HOME", str(tmp_path))
    save(tmp_path / "x.npy", x)
    data = images.load("~/x.npy")
    np.testing.assert_array_equal(data.train, x)
    np.testing.assert_array_equal(data.test, y)


def test_a_npy_file_that_is_no_set_of_images_is_named(tmp_path):
    with pytest.raises(ValueError, match=f"{tmp_path}/absent.npy: no such file; expected an array"):
        images.load(str(tmp_path / "absent.npy"))
    whole = save(tmp_path / "whole.npy", skewed(11, (9, 4, 4)))
    for size in (0, 5, 100, 200):
        (tmp_path / "cut.npy").write_bytes(Path(whole).read_bytes()[:size])
        with pytest.raises(ValueError, match=r"cut.npy: damaged or no .npy file \(") as caught:
            images.load(str(tmp_path / "cut.npy"))
        assert "\n" not in str(caught.value)
    for x, got in (
        (np.zeros((3, 4, 4), np.float32), r"float32 \(3, 4, 4\)"),
        (np.zeros((3, 4), np.uint8), r"uint8 \(3, 4\)"),
        (np.zeros((0, 4, 4), np.uint8), r"uint8 \(0, 4, 4\)"),
    ):
        with pytest.raises(ValueError, match=f"x.npy: expected an array .*, got {got}"):
            images.load(save(tmp_path / "x.npy", x))
    one = save(tmp_path / "one.npy", skewed(12, (1, 4, 4)))
    with pytest.raises(ValueError, match=r"one.npy: expected at least 2 images, or one_test.npy"):
        images.load(one)
    save(tmp_path / "one_test.npy", skewed(12, (1, 4, 5)))
    with pytest.raises(ValueError, match=r"one_test.npy: expected images uint8 \(4, 4, 1\) as in"):
        images.load(one)


def test_a_folder_with_two_npy_files_stands_for_any_name(tmp_path):
    x, y = skewed(13, (5, 32, 32, 3)), skewed(14, (2, 32, 32, 3))
    save(tmp_path / "train.npy", x)
    with pytest.raises(ValueError, match=r"test.npy: no such file"):
        images.load("cifar10", manual_dir=tmp_path)
    save(tmp_path / "test.npy", y)
    for name in ("cifar10", "my_own"):
        data = images.load(name, data_dir=tmp_path / "data", manual_dir=tmp_path)
        np.testing.assert_array_equal(data.train, x)
        np.testing.assert_array_equal(data.test, y)
    with pytest.raises(ValueError, match=r"train.npy: expected images \(28, 28, 1\), got \(32, 32"):
        images.load("mnist", manual_dir=tmp_path)
    assert not (tmp_path / "data").exists()


# ------------------------------------------------------------------------------------ mosaics


def tiles(seed):
    """1,000 images that compress well and are all different: (1000, 32, 32, 3)."""
    x = np.zeros((1000, 32, 32, 3), np.uint8)
    number = 1000 * seed + np.arange(1000)
    x[:, 0, :16] = (number[:, None] >> np.arange(16) & 1)[..., None]
    x[:, 1:, 1:, 1] = np.random.default_rng(seed).integers(0, 256, (1000, 1, 1))
    return x


def save_mosaic(path, x):
    mosaic = x.reshape(25, 40, 32, 32, 3).transpose(0, 2, 1, 3, 4).reshape(800, 1280, 3)
    Image.fromarray(mosaic).save(path, lossless=True)  # Pillow's PNG writer ignores it


@pytest.fixture
def cifar10(tmp_path):
    folder = tmp_path / "mosaics"
    folder.mkdir()
    for seed, name in enumerate(["train_00.webp", "train_01.png", "test_00.webp"]):
        save_mosaic(folder / name, tiles(seed))
    return folder


def test_mosaics_are_read_in_order_and_kept(cifar10, tmp_path, monkeypatch):
    data_dir = tmp_path / "data"
    data = images.load("cifar10", data_dir=data_dir, manual_dir=cifar10)
    np.testing.assert_array_equal(data.train, np.concatenate([tiles(0), tiles(1)]))
    np.testing.assert_array_equal(data.test, tiles(2))
    with monkeypatch.context() as patch:
        patch.setattr(mosaics, "read", lambda files: pytest.fail("decoded again"))
        again = images.load("cifar10", data_dir=data_dir, manual_dir=cifar10)
    np.testing.assert_array_equal(again.train, data.train)
    np.testing.assert_array_equal(again.test, data.test)
    # Other files are another set: what was kept is not taken for it.
    (cifar10 / "train_00.webp").unlink()
    fewer = images.load("cifar10", data_dir=data_dir, manual_dir=cifar10)
    np.testing.assert_array_equal(fewer.train, tiles(1))
    save_mosaic(cifar10 / "train_01.png", tiles(3))
    other = images.load("cifar10", data_dir=data_dir, manual_dir=cifar10)
    np.testing.assert_array_equal(other.train, tiles(3))


def test_a_wrong_mosaic_is_named(cifar10, tmp_path):
    wrong = cifar10 / "train_01.png"
    wrong.write_bytes(wrong.read_bytes()[:3000])
    with pytest.raises(ValueError, match=f"{wrong}: cannot be read, it is damaged or no image"):
        images.load("cifar10", data_dir=tmp_path, manual_dir=cifar10)
    Image.new("RGB", (1280, 832)).save(wrong)
    with pytest.raises(ValueError, match=r"expected a mosaic of 1280 x 800 .*, got 1280 x 832"):
        images.load("cifar10", data_dir=tmp_path, manual_dir=cifar10)
    Image.new("L", (1280, 800)).save(wrong)
    with pytest.raises(ValueError, match=r"of 1280 x 800 pixels, RGB, got 1280 x 800 pixels, L"):
        images.load("cifar10", data_dir=tmp_path, manual_dir=cifar10)
    (cifar10 / "test_00.webp").unlink()
    with pytest.raises(ValueError, match=f"{cifar10} has mosaics, but no test_"):
        images.load("cifar10", data_dir=tmp_path, manual_dir=cifar10)


def test_the_first_1000_test_images_of_cifar10(dpm_data):
    path = dpm_data / "cifar10" / "test_00.webp"
    if not path.is_file():
        pytest.skip(f"no {path}")
    x = mosaics.read([path]).whole()
    assert x.shape == (1000, 32, 32, 3)
    known = "da362006b99671213d1a5d856cab2bedf64d40bad4501630ee60f4ceb2d3ec7f"
    assert hashlib.sha256(x.tobytes()).hexdigest() == known


# ---------------------------------------------------------------------------------- errors


def test_unknown_name_is_refused_with_close_matches(tmp_path):
    pytest.importorskip("tensorflow_datasets")
    for name, close in (
        ("mnits", "'mnist'"),
        ("cifar_10/x", "'cifar10'"),
        ("zzzzzzzz", "none"),
        ("", "none"),
    ):
        message = rf"name: expected a data set .* or a .npy file, got '{name}'; close.*: {close}"
        with pytest.raises(ValueError, match=message):
            images.load(name, data_dir=tmp_path)


def test_images_of_another_type_are_refused():
    with pytest.raises(
        ValueError, match=r"images: expected uint8 or uint16 pixels, got float64 \(2, 3"
    ):
        dequantisation.mean_and_scale(np.zeros((2, 3)))
    with pytest.raises(ValueError, match=r"got uint8 \(0, 3\)"):
        dequantisation.mean_and_scale(np.zeros((0, 3), np.uint8))
    with pytest.raises(
        ValueError, match="images: expected uint8 or uint16 grey levels, got float32"
    ):
        dequantisation.dequantize(jax.random.key(0), jnp.zeros((2, 3), jnp.float32), 0.0, 1.0)


def test_missing_manual_dir_is_named(tmp_path):
    absent = tmp_path / "absent"
    with pytest.raises(ValueError, match=f"manual_dir: {absent} is not a folder; put {FILES[0]}"):
        images.load(data_dir=tmp_path, manual_dir=absent)


def test_missing_original_file_is_named(tmp_path):
    for file in (FILES[0], FILES[1], FILES[3]):
        (tmp_path / file).touch()
    with pytest.raises(ValueError, match=f"manual_dir: {tmp_path} has no {FILES[2]}; put"):
        images.load(data_dir=tmp_path / "data", manual_dir=tmp_path)


def test_paths_may_be_relative_or_start_with_a_tilde(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for path in ("absent", "~/absent"):
        with pytest.raises(ValueError, match=f"manual_dir: {tmp_path / 'absent'} is not"):
            images.load(data_dir=".", manual_dir=path)


def test_corrupt_original_file_is_named_and_nothing_is_prepared(tmp_path):
    pytest.importorskip("tensorflow_datasets")
    for file in FILES:
        (tmp_path / file).write_bytes(gzip.compress(b"not an image"))
    with pytest.raises(ValueError, match=f"manual_dir: {tmp_path / FILES[0]} is damaged"):
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
    with pytest.raises(OSError, match="manual_dir") as caught:
        images.load(data_dir=tmp_path)
    assert time.monotonic() - start < 10
    message = str(caught.value)
    assert all(word in message for word in [*FILES, ADDRESS, "ConnectionError"])
    assert "\n" not in message


def test_data_dir_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    pytest.importorskip("tensorflow_datasets")
    monkeypatch.setattr(tfds_images, "_check_network", lambda url, advice: None)
    (tmp_path / "file").touch()  # a file where a folder is needed: root cannot write that either
    with pytest.raises(OSError, match=rf"mnist: cannot prepare it in {tmp_path}/file \(data_dir"):
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


def written(path, x):
    return cache.write(path, cache.Pieces(x.shape, x.dtype, np.array_split(x, 2)))


def test_cache_gives_back_the_images(tmp_path):
    x = skewed(4, (5, 4, 4, 1))
    assert written(tmp_path / "new" / "x.npy", x)
    mapped = cache.read(tmp_path / "new" / "x.npy", x.shape, most=x.nbytes - 1)
    assert isinstance(mapped, np.memmap) and np.array_equal(mapped, x)
    assert not isinstance(cache.read(tmp_path / "new" / "x.npy", most=x.nbytes), np.memmap)
    np.testing.assert_array_equal(cache.read(tmp_path / "new" / "x.npy", x.shape), x)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["x.npy"]
    np.testing.assert_array_equal(np.load(tmp_path / "new" / "x.npy"), x)  # a plain .npy file
    assert cache.read(tmp_path / "new" / "x.npy", (5, 4, 4, 3)) is None
    assert cache.read(tmp_path / "absent.npy", x.shape) is None


@pytest.mark.parametrize("position", [0, 7, 20, 70, 130, 150, -1])
def test_a_changed_byte_anywhere_voids_the_cache(tmp_path, position):
    x = skewed(5, (5, 4, 4, 1))
    written(tmp_path / "x.npy", x)
    content = bytearray((tmp_path / "x.npy").read_bytes())
    content[position] ^= 255
    (tmp_path / "x.npy").write_bytes(content)
    assert cache.read(tmp_path / "x.npy", x.shape) is None


def test_cache_that_cannot_be_written_is_no_error(tmp_path):
    (tmp_path / "file").touch()
    assert not written(tmp_path / "file" / "x.npy", skewed(6, (2, 2, 2, 1)))


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
    kept = data_dir / "dpm_jax" / "mnist_test.npy"
    size = kept.stat().st_size
    os.truncate(kept, size // 2)
    again = images.load("mnist", data_dir=data_dir)
    assert np.array_equal(again.test, data.test)
    assert kept.stat().st_size == size


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
    builder = tfds_images._prepare("mnist", tmp_path, None)
    assert Path(builder.data_dir) == tmp_path / "dpm_jax" / "mnist" / "3.0.1"
    assert theirs.read_bytes() == b"theirs"
