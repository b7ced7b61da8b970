"""MNIST and CIFAR-10 from their original files: builders of tensorflow-datasets without TensorFlow.

Each is the builder of tensorflow-datasets with the steps replaced that need TensorFlow, so images
and order are the same, and the records can be read by the original too.
"""

import gzip
import hashlib
import io
import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np


class Source(NamedTuple):
    """What must be known of a data set before tensorflow-datasets is imported."""

    url: str  # the folder that holds the original files
    files: tuple[str, ...]  # in the order in which the builder unpacks them
    shapes: dict[str, tuple[int, ...]]  # of the split "train" and the split "test"
    builder: Callable[["Source"], Any]  # imports tensorflow-datasets, returns the builder class

    @property
    def advice(self) -> str:
        """What to fetch, and where to put it."""
        return f"put {', '.join(self.files)} from {self.url} into a folder, pass it as manual_dir"


def check_present(manual: Path, source: Source) -> None:
    """ValueError where the folder lacks one of the original files."""
    lacking = [file for file in source.files if not (manual / file).is_file()]
    if lacking:
        what = f"has no {', '.join(lacking)}" if manual.is_dir() else "is not a folder"
        raise ValueError(f"manual_dir: {manual} {what}; {source.advice}")


def check_originals(manual: Path, source: Source, parent: Any) -> None:
    """ValueError where an original file has another sha256 than `parent`, the builder, knows."""
    expected = {info.filename: info.checksum for info in parent.url_infos.values()}
    for path in (manual / file for file in source.files):
        if hashlib.sha256(path.read_bytes()).hexdigest() != expected[path.name]:
            raise ValueError(f"manual_dir: {path} is damaged or not the original")


def _png(image: np.ndarray) -> io.BytesIO:
    from PIL import Image

    png = io.BytesIO()
    Image.fromarray(image).save(png, "png", compress_level=1)
    png.seek(0)
    return png


def _mnist_builder(source: Source) -> Any:
    """The builder of tensorflow-datasets, with the three steps that need TensorFlow replaced."""
    import tensorflow_datasets as tfds

    mnist: Any = tfds.builder_cls("mnist")

    class Mnist(mnist, skip_registration=True):  # type: ignore[call-arg]
        """MNIST (LeCun et al. 1998): unpacked by gzip, read by NumPy, encoded by Pillow."""

        name = "mnist"
        parent = mnist  # which has the checksums

        def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
            urls = [source.url + file for file in source.files]
            parts = [_read_idx(path) for path in dl_manager.download(urls)]
            return {
                "train": self._generate_examples(*parts[:2]),
                "test": self._generate_examples(*parts[2:]),
            }

        def _generate_examples(self, images: np.ndarray, labels: np.ndarray) -> Iterator:
            for i, (image, label) in enumerate(zip(images, labels)):
                yield i, {"image": _png(image), "label": label}

    return Mnist


def _read_idx(path: str | os.PathLike) -> np.ndarray:
    """An idx file, gzip: 2 zero bytes, type, rank, the shape as big-endian int32, then uint8."""
    content = gzip.decompress(Path(path).read_bytes())
    rank = content[3]
    shape = np.frombuffer(content, ">u4", rank, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape)


def _cifar10_builder(source: Source) -> Any:
    """As `_mnist_builder`, for CIFAR-10."""
    import tensorflow_datasets as tfds

    cifar10: Any = tfds.builder_cls("cifar10")

    class Cifar10(cifar10, skip_registration=True):  # type: ignore[call-arg]
        """CIFAR-10 (Krizhevsky 2009): unpacked by tarfile, read by NumPy, encoded by Pillow."""

        name = "cifar10"
        parent = cifar10

        def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
            with tarfile.open(dl_manager.download(source.url + source.files[0])) as tar:
                files = {
                    Path(member.name).name: tar.extractfile(member).read()  # type: ignore[union-attr]
                    for member in tar
                    if member.isfile()
                }
            names = files["batches.meta.txt"].decode().split()
            self.info.features["label"].names = names
            train = b"".join(files[f"data_batch_{i}.bin"] for i in range(1, 6))
            return {
                "train": self._generate_examples("train_", train),
                "test": self._generate_examples("test_", files["test_batch.bin"]),
            }

        def _generate_examples(self, prefix: str, content: bytes) -> Iterator:
            rows = np.frombuffer(content, np.uint8).reshape(-1, 1 + 3 * 32 * 32)  # the label first
            images = rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
            for i, (image, label) in enumerate(zip(images, rows[:, 0])):
                png = _png(np.ascontiguousarray(image))
                yield i, {"id": f"{prefix}{i:05d}", "image": png, "label": label}

    return Cifar10


SOURCES = {
    "mnist": Source(
        url="https://storage.googleapis.com/cvdf-datasets/mnist/",
        files=(
            "train-images-idx3-ubyte.gz",
            "train-labels-idx1-ubyte.gz",
            "t10k-images-idx3-ubyte.gz",
            "t10k-labels-idx1-ubyte.gz",
        ),
        shapes={"train": (60000, 28, 28, 1), "test": (10000, 28, 28, 1)},
        builder=_mnist_builder,
    ),
    "cifar10": Source(
        url="https://www.cs.toronto.edu/~kriz/",
        files=("cifar-10-binary.tar.gz",),
        shapes={"train": (50000, 32, 32, 3), "test": (10000, 32, 32, 3)},
        builder=_cifar10_builder,
    ),
}
