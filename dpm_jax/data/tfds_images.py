"""Image sets of tensorflow-datasets, without TensorFlow.

MNIST and CIFAR-10 are prepared from their original files, offline too: the steps of their builders
that need TensorFlow are replaced; images and order are those of tensorflow-datasets. Any other set
is prepared by its own builder, and where that needs TensorFlow the error says what to do.
"""

import contextlib
import difflib
import functools
import io
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dpm_jax.data import arrays
from dpm_jax.data import tfds_originals as originals
from dpm_jax.data.cache import Pieces

_PIECE = 2**25  # bytes decoded at once, at most


def shapes(name: str) -> dict[str, tuple[int, ...] | None]:
    """The shapes (N, H, W, C) of the splits "train" and "test"; None where they are not known."""
    source = originals.SOURCES.get(name)
    return dict(source.shapes) if source else {"train": None, "test": None}


def reader(name: str, data_dir: Path, manual_dir: Path | None) -> Callable[[str], Pieces]:
    """A function that reads a split; the set is prepared when it is first called.

    Args:
        name: as tensorflow-datasets has it, "set" or "set/config".
        data_dir: folder that keeps the prepared data.
        manual_dir: folder with the original files, or None.

    Returns:
        "train" or "test" -> (N, H, W, C) uint8 or uint16, decoded as they are asked for. Where the
        set has no split "test" it is "validation", and where it lacks that too the last tenth of
        "train" (`arrays.hold_out`).

    Raises:
        ValueError: for a manual_dir without the original files of MNIST or CIFAR-10; when called,
            for an unknown name, a set not of images of one size, a damaged original file.
        OSError: when called, where the set cannot be had or read: one line, with what to fetch.
    """
    if name in originals.SOURCES and manual_dir:
        originals.check_present(manual_dir, originals.SOURCES[name])
    prepared = functools.cache(lambda: _prepare(name, data_dir, manual_dir))

    def read(split: str) -> Pieces:
        known = prepared().info.splits
        if "train" not in known:
            raise ValueError(f'name: {name} has no split "train", only {sorted(known)}')
        test = next((other for other in ("test", "validation") if other in known), None)
        which = test if test and split == "test" else "train"
        rows = np.arange(known[which].num_examples)
        if not test:
            rows = arrays.hold_out(rows)[split == "test"]
        return _read_split(name, prepared(), which, rows)

    return read


@contextlib.contextmanager
def _one_line(what: str, advice: str = "") -> Iterator[None]:
    """An OSError of one line from whatever tensorflow-datasets and its readers raise."""
    try:
        yield
    except Exception as error:
        why = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise OSError(f"{what}: {why}{advice}") from error


def _prepare(name: str, data: Path, manual: Path | None) -> Any:
    """The builder of tensorflow-datasets, its records in place below `data`."""
    source, advice = originals.SOURCES.get(name), ""
    make, builder = _open(name, source, data)
    _image_feature(name, builder)
    if builder.data_path.exists():
        return builder
    if source is None:
        advice = f"; {_check_obtainable(name, builder.url_infos or {}, manual)}"
    elif manual:
        originals.check_originals(manual, source, make.parent)
    else:
        _check_network(source.url + source.files[0], source.advice)
    with _one_line(f"{name}: cannot prepare it in {data} (data_dir)", advice):
        import tensorflow_datasets as tfds

        config = tfds.download.DownloadConfig(manual_dir=manual, try_download_gcs=False)
        try:
            builder.download_and_prepare(download_config=config, file_format="array_record")
        except OSError:
            if not builder.data_path.exists():  # else another process was faster
                raise
        return make(data_dir=str(builder.data_dir_root))


def _open(name: str, source: originals.Source | None, data: Path) -> tuple[Any, Any]:
    """What makes the builder from a data_dir, and the builder in `data`, prepared or not."""
    with _one_line(f"{name}: cannot use tensorflow-datasets in {data} (data_dir)"):
        import tensorflow_datasets as tfds

        known = tfds.list_builders(with_community_datasets=False)
    plain = name.partition("/")[0].partition(":")[0]
    if not plain or (plain not in known and not (data / plain).is_dir()):
        close = ", ".join(map(repr, difflib.get_close_matches(plain, known))) or "none"
        raise ValueError(
            f"name: expected a data set of tensorflow-datasets or a .npy file, got {name!r};"
            f" close matches: {close}"
        )
    with _one_line(f"{name}: cannot use tensorflow-datasets in {data} (data_dir)"):
        make = source.builder(source) if source else functools.partial(tfds.builder, name)
        builder = make(data_dir=str(data))
        formats = {form.value for form in builder.info.available_file_formats()}
        if builder.data_path.exists() and "array_record" not in formats:
            # Records that TensorFlow wrote and only TensorFlow can read: ours go beside them.
            builder = make(data_dir=str(data / "dpm_jax"))
        return make, builder


def _image_feature(name: str, builder: Any) -> tuple[str, tuple[int, ...], np.dtype]:
    """Key, shape (H, W, C) and type of the images in the records."""
    import tensorflow_datasets as tfds

    features = dict(builder.info.features.items())
    images = [key for key, value in features.items() if isinstance(value, tfds.features.Image)]
    if "image" not in images and len(images) != 1:
        raise ValueError(f"name: {name} is no set of images: its records hold {sorted(features)}")
    key = "image" if "image" in images else images[0]
    shape, dtype = features[key].shape, np.dtype(features[key].np_dtype)
    if None in shape or dtype not in (np.uint8, np.uint16):
        raise ValueError(
            f"name: the images of {name} are {dtype} {shape}; expected one size, uint8 or uint16"
            " (a folder of images may hold many sizes: `folders.read`)"
        )
    return key, shape, dtype


def _check_obtainable(name: str, infos: dict[str, Any], manual: Path | None) -> str:
    """What to do where a set that has no special treatment here cannot be prepared."""
    files = [f"{info.filename} from {url}" for url, info in infos.items()]
    more = f" and {len(files) - 3} more" if len(files) > 3 else ""
    fetch = f"put {', '.join(files[:3])}{more} into a folder, pass it as manual_dir, or "
    build = f"run tfds build {name} --file_format=array_record where TensorFlow is installed"
    advice = f"{fetch if files else ''}{build} and copy the folder it writes into data_dir"
    at_hand = manual and any((manual / info.filename).is_file() for info in infos.values())
    if files and not at_hand:
        _check_network(next(iter(infos)), advice)
    return advice


def _check_network(url: str, advice: str) -> None:
    # tensorflow-datasets asks ten times, minutes in all, before it gives up; and without timeout.
    import requests

    try:
        status = requests.head(url, timeout=5, allow_redirects=True).status_code
        why = f"no {url} (status {status})" if status in (404, 410) or status >= 500 else ""
    except requests.RequestException as error:
        why = f"no answer from {url} ({type(error).__name__})"
    if why:
        raise OSError(f"{why}; without network, {advice}")


def _read_split(name: str, builder: Any, split: str, rows: np.ndarray) -> Pieces:
    """The images of these records."""
    key, shape, dtype = _image_feature(name, builder)
    # In blocks: three times as fast as one by one.
    block = max(1, min(1000, _PIECE // (math.prod(shape) * dtype.itemsize)))

    def decoded() -> Iterator[np.ndarray]:
        with _one_line(f"cannot read {builder.data_dir}; delete it where it is damaged"):
            import tensorflow_datasets as tfds

            # Decoding here is what tensorflow-datasets would do, less its advice to install OpenCV.
            records = builder.as_data_source(split, decoders={key: tfds.decode.SkipDecoding()})
            for start in range(0, len(rows), block):
                some = records.__getitems__(rows[start : start + block].tolist())
                yield np.stack([_decode(record[key], shape, dtype) for record in some])

    return Pieces((len(rows), *shape), dtype, decoded())


def _decode(content: bytes, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    from PIL import Image

    image: Image.Image = Image.open(io.BytesIO(content))
    mode = {1: "L", 3: "RGB", 4: "RGBA"}.get(shape[-1], image.mode)
    if dtype == np.uint8 and image.mode != mode:
        image = image.convert(mode)
    return np.asarray(image).reshape(shape)
