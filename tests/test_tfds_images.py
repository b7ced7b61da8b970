"""Any set of tensorflow-datasets: small builders of our own, CIFAR-10 from a file of its layout."""

import hashlib
import io
import shutil
import sys
import tarfile
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from dpm_jax.data import arrays, images, tfds_images
from dpm_jax.data import tfds_originals as originals
from dpm_jax.images import dequantisation

tfds = pytest.importorskip("tensorflow_datasets")


def pixels(n, *shape, dtype=np.uint8):
    return np.random.default_rng(n).integers(0, np.iinfo(dtype).max, (n, *shape), dtype)


def encoded(image):
    file = io.BytesIO()
    Image.fromarray(image.squeeze()).save(file, "png")
    file.seek(0)
    return file


class Tiny(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """What the builders below have in common; `splits` and `features` are theirs."""

    VERSION = tfds.core.Version("1.0.0")
    features = tfds.features.FeaturesDict({"image": tfds.features.Image(shape=(6, 5, 3))})

    def _info(self):
        return tfds.core.DatasetInfo(builder=self, features=type(self).features)

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(x) for split, x in self.splits.items()}

    def _generate_examples(self, x):
        (key,) = self.info.features
        for i, image in enumerate(x):
            yield i, {key: encoded(image)}


class DpmWithTest(Tiny):
    splits = {"train": pixels(12, 6, 5, 3), "test": pixels(4, 6, 5, 3)}  # noqa: RUF012


class DpmWithValidation(Tiny):
    features = tfds.features.FeaturesDict(
        {"scan": tfds.features.Image(shape=(4, 4, 1), dtype=np.uint16)}
    )
    splits = {  # noqa: RUF012
        "train": pixels(11, 4, 4, 1, dtype=np.uint16),
        "validation": pixels(3, 4, 4, 1, dtype=np.uint16),
    }


class DpmWithoutSplit(Tiny):
    splits = {"train": pixels(25, 6, 5, 3)}  # noqa: RUF012


class DpmLarge(Tiny):
    features = tfds.features.FeaturesDict({"image": tfds.features.Image(shape=(256, 256, 1))})
    splits = {  # noqa: RUF012
        split: (np.full((256, 256, 1), 40 + i % 50, np.uint8) for i in range(n))
        for split, n in (("train", 500), ("test", 2))
    }


class DpmManySizes(Tiny):
    features = tfds.features.FeaturesDict({"image": tfds.features.Image(shape=(None, None, 3))})
    splits = {"train": ()}  # noqa: RUF012


class DpmNoImages(Tiny):
    features = tfds.features.FeaturesDict({"text": tfds.features.Text(), "n": np.int64})
    splits = {"train": ()}  # noqa: RUF012


def rows(x):
    return sorted(map(bytes, x))


# --------------------------------------------------------------------------- the general path


@pytest.mark.parametrize(
    "name, split, known",
    [("dpm_with_test", "test", DpmWithTest), ("dpm_with_validation", "validation", None)],
)
def test_any_set_of_images_of_one_size_is_read_and_kept(tmp_path, name, split, known):
    known = (known or DpmWithValidation).splits
    before = "tensorflow" in sys.modules
    data = images.load(name, data_dir=tmp_path)
    assert before or "tensorflow" not in sys.modules
    assert data.train.dtype == known["train"].dtype
    assert rows(data.train) == rows(known["train"]) and rows(data.test) == rows(known[split])
    assert data.levels == np.iinfo(known["train"].dtype).max + 1
    assert (data.mean, data.scale) == dequantisation.mean_and_scale(known["train"])
    # the second time from the .npy files alone
    (tmp_path / name).rename(tmp_path / "gone")
    again = images.load(name, data_dir=tmp_path)
    assert np.array_equal(again.train, data.train) and np.array_equal(again.test, data.test)


def test_a_set_larger_than_memory_is_decoded_onto_disk_and_stays_there(tmp_path, monkeypatch):
    monkeypatch.setattr(tfds_images, "_PIECE", 2**20)
    held = images.load("dpm_large", data_dir=tmp_path)
    assert not isinstance(held.train, np.memmap)
    size, kept = held.train.nbytes, tmp_path / "dpm_jax"
    (kept / "dpm_large_train.npy").unlink()
    for _ in ("decoded", "from the .npy file"):
        tracemalloc.start()
        data = images.load("dpm_large", data_dir=tmp_path, memory_gib=0.01)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < size / 2, (peak, size)
        assert isinstance(data.train, np.memmap) and not isinstance(data.test, np.memmap)
        assert np.array_equal(data.train, held.train) and data[2:] == held[2:]
    shutil.rmtree(kept)
    kept.touch()  # a file where the folder was: root cannot write that either
    with pytest.warns(UserWarning, match=r"dpm_large_train.npy cannot be written: 0.0305 GiB are"):
        data = images.load("dpm_large", data_dir=tmp_path, memory_gib=0.01)
    assert np.array_equal(data.train, held.train)


def test_without_a_split_the_last_tenth_is_held_out(tmp_path):
    data = images.load("dpm_without_split", data_dir=tmp_path)
    assert data.train.shape == (23, 6, 5, 3) and data.test.shape == (2, 6, 5, 3)
    assert rows([*data.train, *data.test]) == rows(DpmWithoutSplit.splits["train"])


def test_records_prepared_elsewhere_are_enough(tmp_path):
    tfds.builder("dpm_with_test", data_dir=tmp_path / "there").download_and_prepare(
        file_format="array_record"
    )
    (tmp_path / "there" / "dpm_with_test").rename(tmp_path / "dpm_elsewhere")
    for info in tmp_path.glob("dpm_elsewhere/1.0.0/*"):  # under a name no builder has
        info.rename(info.with_name(info.name.replace("dpm_with_test", "dpm_elsewhere")))
        if info.suffix == ".json" and info.exists():
            info.write_text(info.read_text().replace("dpm_with_test", "dpm_elsewhere"))
    data = images.load("dpm_elsewhere", data_dir=tmp_path)
    assert rows(data.train) == rows(DpmWithTest.splits["train"])


def test_sets_that_do_not_fit_are_refused_before_anything_is_fetched(tmp_path):
    with pytest.raises(
        ValueError, match=r"dpm_many_sizes are uint8 \(None, None, 3\); .*folders.read"
    ):
        images.load("dpm_many_sizes", data_dir=tmp_path)
    with pytest.raises(ValueError, match=r"dpm_no_images is no set of images: .*\['n', 'text'\]"):
        images.load("dpm_no_images", data_dir=tmp_path)
    assert not list(tmp_path.iterdir())


def no_network(monkeypatch):
    requests = pytest.importorskip("requests")

    def refuse(*_, **__):
        raise requests.ConnectionError("Name or service not known")

    monkeypatch.setattr(requests, "head", refuse)
    monkeypatch.setattr(requests.Session, "get", refuse)


def test_without_network_the_files_and_the_way_around_tensorflow_are_named(tmp_path, monkeypatch):
    no_network(monkeypatch)
    with pytest.raises(OSError, match="ConnectionError") as caught:
        images.load("kmnist", data_dir=tmp_path)
    message = str(caught.value)
    assert "\n" not in message and "manual_dir" in message and "data_dir" in message
    assert "t10k-images-idx3-ubyte.gz from http" in message and "and 1 more" in message
    assert "tfds build kmnist --file_format=array_record" in message


def test_what_cannot_be_prepared_is_told_in_one_line(tmp_path, monkeypatch):
    no_network(monkeypatch)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(b"not it")
    with pytest.raises(OSError, match=r"kmnist: cannot prepare it in .*tfds build") as caught:
        images.load("kmnist", data_dir=tmp_path / "data", manual_dir=tmp_path)
    assert "\n" not in str(caught.value)


# ----------------------------------------------------------------------------------- CIFAR-10

LABELS = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


@pytest.fixture
def cifar10(tmp_path, monkeypatch):
    """An archive of 5 x 3 training and 4 test images in the layout of the original."""
    train, test = pixels(15, 32, 32, 3), pixels(4, 32, 32, 3)
    labels = np.arange(15, dtype=np.uint8) % 10

    def batch(x, y):
        planes = x.transpose(0, 3, 1, 2).reshape(len(x), -1)
        return np.concatenate([y[:, None], planes], axis=1).tobytes()

    files = {f"data_batch_{i + 1}.bin": slice(3 * i, 3 * i + 3) for i in range(5)}
    files = {name: batch(train[at], labels[at]) for name, at in files.items()}
    files["test_batch.bin"] = batch(test, labels[:4])
    files["batches.meta.txt"] = "\n".join([*LABELS, ""]).encode()
    archive = tmp_path / "cifar-10-binary.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    source = originals.SOURCES["cifar10"]
    shapes = {"train": train.shape, "test": test.shape}
    monkeypatch.setitem(originals.SOURCES, "cifar10", source._replace(shapes=shapes))
    infos = tfds.builder_cls("cifar10").url_infos
    checksums = tfds.core.download.checksums
    info = checksums.UrlInfo(
        size=archive.stat().st_size,
        checksum=hashlib.sha256(archive.read_bytes()).hexdigest(),
        filename=archive.name,
    )
    (url,) = infos
    assert url == source.url + source.files[0]
    monkeypatch.setitem(infos, url, info)
    monkeypatch.setattr(checksums, "get_all_url_infos", lambda: {url: info})
    return tmp_path, train, test, labels


def test_cifar10_is_read_from_its_original_archive(cifar10):
    folder, train, test, labels = cifar10
    data = images.load("cifar10", data_dir=folder / "data", manual_dir=folder)
    assert rows(data.train) == rows(train) and rows(data.test) == rows(test)
    # The registered builder reads the same records: images, labels and their names.
    source = tfds.data_source("cifar10", split="train", data_dir=folder / "data", download=False)
    for record, image in zip(source, data.train):
        np.testing.assert_array_equal(record["image"], image)
        i = int(record["id"].decode().removeprefix("train_"))
        np.testing.assert_array_equal(train[i], image)
        assert record["label"] == labels[i]
    builder = tfds.builder("cifar10", data_dir=folder / "data")
    assert builder.info.features["label"].names == LABELS


def test_cifar10_says_what_to_fetch(tmp_path):
    with pytest.raises(ValueError, match=r"has no cifar-10-binary.tar.gz; put .*cs.toronto.edu"):
        images.load("cifar10", data_dir=tmp_path, manual_dir=tmp_path)
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(b"not it")
    with pytest.raises(ValueError, match=r"cifar-10-binary.tar.gz is damaged or not the original"):
        images.load("cifar10", data_dir=tmp_path / "data", manual_dir=tmp_path)


def test_a_page_that_is_gone_is_told_with_its_status(tmp_path, monkeypatch):
    requests = pytest.importorskip("requests")

    class Gone:
        status_code = 404

    monkeypatch.setattr(requests, "head", lambda *_, **__: Gone)
    with pytest.raises(OSError, match=r"no https.*status 404\); .*put cifar-10-binary.tar.gz"):
        images.load("cifar10", data_dir=tmp_path)


def test_hold_out_takes_the_last_tenth_and_at_least_one():
    for n, m in ((2, 1), (19, 1), (20, 2), (1000, 100)):
        train, test = arrays.hold_out(np.arange(n))
        assert len(test) == m
        np.testing.assert_array_equal(np.concatenate([train, test]), np.arange(n))
