"""Images as 8-bit grey levels: MNIST through tensorflow-datasets, without TensorFlow.

Pixels are integers, the model is a density: ``dequantize`` adds U[0, 1) grey levels of noise and
whitens with one mean and one scale for the whole set. The integers then cost at most −log2 density
+ log2 scale bits a pixel (Theis et al. 2016, Sec. 3.1), so the scale belongs beside every K.
"""

import contextlib
import gzip
import hashlib
import io
import os
import uuid
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array
Folder = str | os.PathLike | None
LEVELS = 256  # grey levels of an 8-bit pixel


class ImageData(NamedTuple):
    """A set of 8-bit images, and the mean and scale that whiten it once it is dequantised."""

    train: np.ndarray  # (N, H, W, C) uint8
    test: np.ndarray  # (M, H, W, C) uint8
    mean: float  # of the dequantised training set, grey levels
    scale: float  # its standard deviation over all pixels, grey levels

    @property
    def levels(self) -> int:
        """Number of values a pixel can take, 256."""
        return LEVELS


class _Source(NamedTuple):
    """What must be known of a data set before tensorflow-datasets is imported."""

    url: str  # the folder that holds the original files
    files: tuple[str, ...]
    shapes: dict[str, tuple[int, ...]]  # of the split "train" and the split "test"
    builder: Callable[["_Source"], Any]  # imports tensorflow-datasets, returns the builder class

    @property
    def advice(self) -> str:
        return f"put {', '.join(self.files)} from {self.url} into a folder, pass it as --manual_dir"


def load(name: str = "mnist", data_dir: Folder = None, manual_dir: Folder = None) -> ImageData:
    """A data set through tensorflow-datasets; from the second call on, from its .npy files.

    Args:
        name: "mnist": 60,000 and 10,000 images, (28, 28, 1), in the order of tensorflow-datasets.
        data_dir: folder that keeps the prepared data (--data_dir); where not given, $TFDS_DATA_DIR
            or ~/tensorflow_datasets.
        manual_dir: folder with the original files (--manual_dir), where there is no network.

    Raises:
        ValueError: for an unknown name, a manual_dir without the original files, a damaged one.
        OSError: where there is neither network nor manual_dir, or data_dir cannot be written.
    """
    if name not in _SOURCES:
        raise ValueError(f"name: expected one of {sorted(_SOURCES)}, got {name!r}")
    source = _SOURCES[name]
    manual = Path(manual_dir).expanduser().absolute() if manual_dir else None
    if manual:
        _check_present(manual, source)
    data_dir = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    data = Path(data_dir).expanduser().absolute()
    splits, builder = {}, None
    for split, shape in source.shapes.items():
        cache = data / "dpm_jax" / f"{name}_{split}.npy"
        images = _read_cache(cache, shape)
        if images is None:
            builder = builder or _prepare(name, data, manual)
            images = _read_split(builder, split, shape)
            _write_cache(cache, images)
        splits[split] = images
    return ImageData(splits["train"], splits["test"], *mean_and_scale(splits["train"]))


def mean_and_scale(images: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation of x + U[0, 1) over all pixels of `images`, in grey levels.

    The uniform noise adds 1/2 to the mean and 1/12 to the variance. Exact, from the histogram.

    Args:
        images: (N, ...) uint8, at least one pixel.

    Raises:
        ValueError: for another dtype or no pixels.
    """
    if images.dtype != np.uint8 or images.size == 0:
        raise ValueError(f"images: expected uint8 pixels, got {images.dtype} {images.shape}")
    # bincount makes an int64 copy of what it counts: 1,000 images at a time keep that small.
    parts = (images[i : i + 1000].ravel() for i in range(0, len(images), 1000))
    counts = sum(np.bincount(part, minlength=LEVELS) for part in parts)
    levels = np.arange(LEVELS, dtype=np.float64)
    mean = np.average(levels, weights=counts)
    variance = np.average((levels - mean) ** 2, weights=counts)
    return float(mean + 0.5), float(np.sqrt(variance + 1 / 12))


def dequantize(key: Array, images_uint8: Array, mean: float, scale: float) -> Array:
    """(x + u − mean)/scale with u ~ U[0, 1) grey levels (Theis et al. 2016, Sec. 3.1).

    Args:
        key: a typed JAX key.
        images_uint8: any shape, uint8 grey levels.
        mean, scale: of the dequantised training set, grey levels; those of `ImageData`.

    Returns:
        float32 of the same shape, in units of `scale`: mean 0 and variance 1 over the training set.

    Raises:
        ValueError: where the images are not uint8.
    """
    if images_uint8.dtype != jnp.uint8:
        raise ValueError(f"images_uint8: expected uint8 grey levels, got {images_uint8.dtype}")
    levels = jnp.asarray(images_uint8).astype(jnp.float32)
    return (levels + jax.random.uniform(key, levels.shape, jnp.float32) - mean) / scale


def to_levels(x: Array, mean: float, scale: float) -> Array:
    """The grey level that x lies in, ⌊x·scale + mean⌋ clipped to 0..255: undoes `dequantize`.

    Args:
        x: any shape, float, in units of `scale`.
        mean, scale: as in `dequantize`, grey levels.

    Returns:
        uint8 of the same shape; float32 may round to the next level within 1e-4 of an edge.
    """
    return jnp.clip(jnp.floor(jnp.asarray(x) * scale + mean), 0, LEVELS - 1).astype(jnp.uint8)


def data_range(mean: float, scale: float) -> tuple[float, float]:
    """Smallest and largest value that `dequantize` can give, in units of `scale`."""
    return (0 - mean) / scale, (LEVELS - mean) / scale


def _check_present(manual: Path, source: _Source) -> None:
    lacking = [file for file in source.files if not (manual / file).is_file()]
    if lacking:
        what = f"has no {', '.join(lacking)}" if manual.is_dir() else "is not a folder"
        raise ValueError(f"--manual_dir: {manual} {what}; {source.advice}")


def _read_cache(path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """The images of `_write_cache`, or None where the file is missing, cut short or altered."""
    try:
        with open(path, "rb") as file:
            images, checksum = np.load(file), np.load(file)
        known = images.dtype == np.uint8 and images.shape == shape
        return images if known and zlib.crc32(images.tobytes()) == checksum else None
    except Exception:  # a damaged header makes np.load raise anything, tokenize errors too
        return None


def _write_cache(path: Path, images: np.ndarray) -> None:
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    with contextlib.suppress(OSError):  # a read-only data_dir only makes the next start slower
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            np.save(file, images)
            np.save(file, zlib.crc32(images.tobytes()))  # a second array behind the first
        os.replace(temporary, path)
    with contextlib.suppress(OSError):
        temporary.unlink()


@contextlib.contextmanager
def _one_line(what: str) -> Iterator[None]:
    """An OSError of one line from whatever tensorflow-datasets and its readers raise."""
    try:
        yield
    except Exception as error:
        raise OSError(f"{what}: {type(error).__name__}: {' '.join(str(error).split())}") from error


def _prepare(name: str, data: Path, manual: Path | None) -> Any:
    """The builder of tensorflow-datasets, its records in place below `data`."""
    source = _SOURCES[name]
    with _one_line(f"{name}: cannot use tensorflow-datasets in {data} (--data_dir)"):
        import tensorflow_datasets as tfds

        builder_class = source.builder(source)
        builder = builder_class(data_dir=str(data))
        formats = {form.value for form in builder.info.available_file_formats()}
        if builder.data_path.exists() and "array_record" not in formats:
            # Records that TensorFlow wrote and only TensorFlow can read: ours go beside them.
            builder = builder_class(data_dir=str(data / "dpm_jax"))
    if builder.data_path.exists():
        return builder
    if manual:
        _check_originals(manual, source, builder_class)
    else:
        _check_network(source)
    with _one_line(f"{name}: cannot prepare it in {data} (--data_dir)"):
        config = tfds.download.DownloadConfig(manual_dir=manual, try_download_gcs=False)
        try:
            builder.download_and_prepare(download_config=config, file_format="array_record")
        except OSError:
            if not builder.data_path.exists():  # else another process was faster
                raise
        return builder_class(data_dir=str(builder.data_dir_root))


def _check_originals(manual: Path, source: _Source, builder_class: Any) -> None:
    expected = {info.filename: info.checksum for info in builder_class.parent.url_infos.values()}
    for path in (manual / file for file in source.files):
        if hashlib.sha256(path.read_bytes()).hexdigest() != expected[path.name]:
            raise ValueError(f"--manual_dir: {path} is damaged or not the original")


def _check_network(source: _Source) -> None:
    # tensorflow-datasets asks ten times, minutes in all, before it gives up; and without timeout.
    import requests

    try:
        requests.head(source.url + source.files[0], timeout=5).raise_for_status()
    except requests.RequestException as error:
        why = f"no answer from {source.url} ({type(error).__name__})"
        raise OSError(f"{why}; without network, {source.advice}") from error


def _read_split(builder: Any, split: str, shape: tuple[int, ...]) -> np.ndarray:
    images = np.empty(shape, np.uint8)
    with _one_line(f"cannot read {builder.data_dir}; delete it where it is damaged"):
        import tensorflow_datasets as tfds
        from PIL import Image

        # Decoding here is what tensorflow-datasets would do, less its advice to install OpenCV.
        records = builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
        for start in range(0, shape[0], 1000):  # in blocks: three times as fast as one by one
            block = range(start, min(start + 1000, shape[0]))
            for i, record in zip(block, records.__getitems__(block)):
                images[i] = np.asarray(Image.open(io.BytesIO(record["image"]))).reshape(shape[1:])
    return images


def _mnist_builder(source: _Source) -> Any:
    """The builder of tensorflow-datasets, with the three steps that need TensorFlow replaced."""
    import tensorflow_datasets as tfds
    from PIL import Image

    mnist: Any = tfds.builder_cls("mnist")

    class Mnist(mnist, skip_registration=True):  # type: ignore[call-arg]
        """MNIST (LeCun et al. 1998): unpacked by gzip, read by NumPy, encoded by Pillow."""

        name = "mnist"
        parent = mnist  # which has the checksums

        def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
            urls = [source.url + file for file in source.files]
            arrays = [_read_idx(path) for path in dl_manager.download(urls)]
            return {
                "train": self._generate_examples(*arrays[:2]),
                "test": self._generate_examples(*arrays[2:]),
            }

        def _generate_examples(self, images: np.ndarray, labels: np.ndarray) -> Iterator:
            for i, (image, label) in enumerate(zip(images, labels)):
                png = io.BytesIO()
                Image.fromarray(image).save(png, "png", compress_level=1)
                png.seek(0)
                yield i, {"image": png, "label": label}

    return Mnist


def _read_idx(path: str | os.PathLike) -> np.ndarray:
    """An idx file, gzip: 2 zero bytes, type, rank, the shape as big-endian int32, then uint8."""
    content = gzip.decompress(Path(path).read_bytes())
    rank = content[3]
    shape = np.frombuffer(content, ">u4", rank, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape)


_SOURCES = {
    "mnist": _Source(
        url="https://storage.googleapis.com/cvdf-datasets/mnist/",
        files=(  # in the order in which the builder unpacks them
            "train-images-idx3-ubyte.gz",
            "train-labels-idx1-ubyte.gz",
            "t10k-images-idx3-ubyte.gz",
            "t10k-labels-idx1-ubyte.gz",
        ),
        shapes={"train": (60000, 28, 28, 1), "test": (10000, 28, 28, 1)},
        builder=_mnist_builder,
    ),
}
