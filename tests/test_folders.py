"""Folders of photographs: what is read, what is skipped and named, where crops may lie."""

import tracemalloc
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from dpm_jax.data import folders, surveys
from dpm_jax.images import dequantisation


def pixels(seed, *shape, dtype=np.uint8):
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def save(path, x, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(x).save(path, **options)


def fill(folder, n, *shape, dtype=np.uint8):
    """n grey PNG files 00.png ..., and their pixels."""
    x = [pixels(seed, *shape, dtype=dtype) for seed in range(n)]
    for i, image in enumerate(x):
        save(folder / f"{i:02}.png", image)
    return np.stack(x)


# ------------------------------------------------------------------------------------- reading


def test_photographs_are_read_as_they_are_and_held_out_by_file(tmp_path):
    x = fill(tmp_path, 20, 9, 7)
    save(tmp_path / ".hidden.png", x[0])
    data = folders.read(tmp_path, 4)
    # Two of twenty, evenly spaced: each the middle of its half.
    assert data.test.files == ("05.png", "15.png")
    rest = [i for i in range(20) if i not in (5, 15)]
    assert data.train.files == tuple(f"{i:02}.png" for i in rest)
    np.testing.assert_array_equal(data.test.photos, x[[5, 15], ..., None])
    np.testing.assert_array_equal(data.train.photos, x[rest][..., None])
    np.testing.assert_array_equal(data.train.sizes, [[9, 7]] * 18)
    assert (data.mean, data.scale) == pytest.approx(
        dequantisation.mean_and_scale(x[rest]), rel=1e-12
    )
    assert data.skipped == data.notes == () and data.levels == 256


@pytest.mark.parametrize("memory", [0.0, 3 * 9 * 8 / 2**30])  # none, and three of the photographs
def test_a_folder_larger_than_memory_is_known_as_one_in_memory_and_streams_crops(tmp_path, memory):
    for i in range(70):
        save(tmp_path / f"{i:02}.png", pixels(i, 9 - i % 3, 8))
    save(tmp_path / "small.png", pixels(0, 3, 8))
    frames = [Image.fromarray(pixels(i, 9, 8)) for i in range(3)]
    frames[0].save(tmp_path / "pages.tif", save_all=True, append_images=frames[1:])
    (tmp_path / "40.png").write_bytes(b"cut")  # so that other files are held out than it seemed
    with pytest.warns(UserWarning, match="2 of 74 left out"):
        held = folders.read(tmp_path, 4, levels=256)
    with pytest.warns(UserWarning, match="2 of 74 left out"):
        data = folders.read(tmp_path, 4, levels=256, memory_gib=memory)
    stream = data.train.photos
    for one, other in ((held.train, data.train), (held.test, data.test)):
        np.testing.assert_array_equal(one.sizes, other.sizes)
        assert one.files == other.files and one.digests == other.digests
    np.testing.assert_array_equal(held.test.photos, data.test.photos)
    assert held[2:] == data[2:]
    shares = [dequantisation.histogram(p[:h, :w]) / (h * w) for p, (h, w) in zip(*held.train[:2])]
    assert held[2:4] == dequantisation.moments(np.mean(shares, axis=0))
    # Each photograph is one item, pages too, and its crops are its own.
    assert len(stream.source) == len(held.train.files)
    crops = stream.spread(len(stream.source))
    for crop, photo, (height, width) in zip(crops, *held.train[:2]):
        windows = np.lib.stride_tricks.sliding_window_view(photo[:height, :width, 0], (4, 4))
        assert (windows == crop[..., 0]).all(axis=(2, 3)).any()
    np.testing.assert_array_equal(crops, stream._replace(threads=1).spread(len(stream.source)))


def test_a_folder_larger_than_memory_takes_the_memory_of_a_few_files(tmp_path, monkeypatch):
    monkeypatch.setattr(surveys, "_FILES", 2)
    for i in range(100):
        save(tmp_path / f"{i:02}.png", np.full((600, 600), i, np.uint8))
    tracemalloc.start()
    data = folders.read(tmp_path, 4, test=1, memory_gib=0.001)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(data.train.files) == 99 and peak < 15e6, peak  # 36e6 are all


def test_subfolders_are_read_and_names_sorted(tmp_path):
    for name in ("b/1.png", "a/2.png", "c.JPG", "a/1.png"):
        save(tmp_path / name, pixels(0, 5, 5))
    data = folders.read(str(tmp_path), 4, test=["c.JPG"])
    assert data.train.files == ("a/1.png", "a/2.png", "b/1.png")
    assert data.test.files == ("c.JPG",)


@pytest.mark.parametrize(
    "test, expected",
    [(0.1, [5]), (0.3, [1, 5, 8]), (0.01, [5]), (1, [5]), (4, [1, 3, 6, 8]), (9, None)],
)
def test_the_split_is_a_fraction_or_a_number_of_files(tmp_path, test, expected):
    fill(tmp_path, 10, 5, 5)
    data = folders.read(tmp_path, 4, test=test)
    if expected:
        assert data.test.files == tuple(f"{i:02}.png" for i in expected)
    assert len(data.test.files) + len(data.train.files) == 10
    assert not set(data.test.files) & set(data.train.files)


def test_the_split_depends_on_neither_the_crop_nor_the_colour(tmp_path):
    fill(tmp_path, 10, 9, 9)
    save(tmp_path / "00.png", pixels(0, 5, 5))
    before = folders.read(tmp_path, 4, test=3)
    with pytest.warns(UserWarning, match=r"1 of 10 left out: 00.png: 5 x 5 pixels"):
        after = folders.read(tmp_path, 8, test=3)
    assert after.test.files == before.test.files
    assert after.train.files == before.train.files[1:]
    assert folders.read(tmp_path, 4, colour=True, test=3).test.files == before.test.files


@pytest.mark.parametrize("test", [0, -1, 10, 1.5, 0.99, ["00.png", "absent.png"], []])
def test_a_split_that_cannot_be_is_refused(tmp_path, test):
    fill(tmp_path, 10, 5, 5)
    with pytest.raises(ValueError, match="test: expected"):
        folders.read(tmp_path, 4, test=test)


def test_damaged_files_are_named_counted_and_skipped(tmp_path):
    x = fill(tmp_path, 6, 40, 30)
    save(tmp_path / "06.jpg", x[0])
    for name in ("01.png", "06.jpg"):
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[: len(content) // 2])
    (tmp_path / "07.png").write_bytes(b"not an image")
    (tmp_path / "08.png").touch()
    with pytest.warns(UserWarning) as caught:
        data = folders.read(tmp_path, 20, test=["00.png"])
    assert [line.split(":")[0] for line in data.skipped] == ["01.png", "06.jpg", "07.png", "08.png"]
    assert data.train.files == ("02.png", "03.png", "04.png", "05.png")
    np.testing.assert_array_equal(data.train.photos, x[2:, ..., None])
    (warning,) = caught
    assert "4 of 9 left out" in str(warning.message) and "06.jpg: damaged" in str(warning.message)
    assert warning.filename == __file__


def test_nothing_left_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=f"image_dir: {tmp_path}/absent is not a folder"):
        folders.read(tmp_path / "absent", 4)
    (tmp_path / "README.md").touch()
    with pytest.raises(ValueError, match=f"image_dir: {tmp_path} has no images: README.md: no im"):
        folders.read(tmp_path, 4)
    (tmp_path / "README.md").unlink()
    fill(tmp_path, 4, 5, 5)
    with (
        pytest.warns(UserWarning, match=r"4 of 4 .* 00.png: 5 x 5 pixels, less than a crop of 6"),
        pytest.raises(ValueError, match=r"no image left for training, all were skipped"),
    ):
        folders.read(tmp_path, 6)
    (tmp_path / "02.png").write_bytes(b"")
    with (
        pytest.warns(UserWarning, match=r"1 of 4 .* 02.png: damaged"),
        pytest.raises(ValueError, match=r"no image left for testing, all were skipped"),
    ):
        folders.read(tmp_path, 5, test=["02.png"])
    for i in range(4):
        (tmp_path / f"{i:02}.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"has no image that is whole: 00.png: damaged .*; 03.png"):
        folders.read(tmp_path, 5)
    with pytest.raises(ValueError, match="size: expected at least 1 pixel, got 0"):
        folders.read(tmp_path, 0)


def test_mixed_sizes_are_padded_and_the_padding_counts_for_nothing(tmp_path):
    x = {"a.png": pixels(1, 6, 9), "b.png": pixels(2, 8, 4), "c.png": pixels(3, 4, 4)}
    for name, image in x.items():
        save(tmp_path / name, image)
    data = folders.read(tmp_path, 4, test=["c.png"])
    assert data.train.photos.shape == (2, 8, 9, 1) and data.test.photos.shape == (1, 4, 4, 1)
    assert data.train.sizes.tolist() == [[6, 9], [8, 4]]
    for photo, (h, w), name in zip(data.train.photos, data.train.sizes, data.train.files):
        np.testing.assert_array_equal(photo[:h, :w, 0], x[name])
        assert photo.astype(int).sum() == x[name].astype(int).sum()
    # Each photograph has the same weight: a mixture of the two, not of all their pixels.
    parts = [x[name].astype(np.float64) for name in data.train.files]
    mean = np.mean([part.mean() for part in parts])
    variance = np.mean([((part - mean) ** 2).mean() for part in parts])
    assert data.mean == pytest.approx(mean + 0.5, rel=1e-12)
    assert data.scale == pytest.approx(np.sqrt(variance + 1 / 12), rel=1e-12)


# -------------------------------------------------------------------------------------- colours


def test_colour_becomes_grey_and_grey_colour_with_a_note(tmp_path):
    rgb, grey = pixels(1, 6, 6, 3), pixels(2, 6, 6)
    save(tmp_path / "a.png", rgb)
    save(tmp_path / "b.png", grey)
    save(tmp_path / "c.png", grey)
    as_grey = folders.read(tmp_path, 4, test=["c.png"])
    luma = rgb @ np.array([0.299, 0.587, 0.114])
    assert np.abs(as_grey.train.photos[0, ..., 0] - luma).max() <= 1  # rounded
    np.testing.assert_array_equal(as_grey.train.photos[1, ..., 0], grey)
    assert as_grey.notes == ("1 of 3 files converted, RGB to L: a.png",)
    as_colour = folders.read(tmp_path, 4, colour=True, test=["c.png"])
    np.testing.assert_array_equal(as_colour.train.photos[0], rgb)
    np.testing.assert_array_equal(as_colour.train.photos[1], np.stack([grey] * 3, axis=-1))
    assert as_colour.notes == ("2 of 3 files converted, L to RGB: b.png; c.png",)


def test_other_modes_are_converted_without_a_warning(tmp_path):
    rgb = Image.fromarray(pixels(3, 6, 6, 3))
    rgba = rgb.copy()
    rgba.putalpha(Image.fromarray(pixels(4, 6, 6)))
    rgba.save(tmp_path / "a.png")
    palette = rgb.quantize(8)
    palette.save(tmp_path / "b.png", transparency=bytes(range(8)))
    Image.fromarray(pixels(5, 6, 6) > 99).save(tmp_path / "c.png")
    rgb.convert("CMYK").save(tmp_path / "d.tif")
    data = folders.read(tmp_path, 4, colour=True, test=["d.tif"])
    np.testing.assert_array_equal(data.train.photos[0], np.asarray(rgb))
    np.testing.assert_array_equal(data.train.photos[1], np.asarray(palette.convert("RGB")))
    np.testing.assert_array_equal(data.train.photos[2, ..., 0], 255 * (pixels(5, 6, 6) > 99))
    assert not data.skipped and len(data.notes) == 4


def test_a_photograph_is_turned_upright(tmp_path):
    x = pixels(6, 5, 8)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise to see it upright
    save(tmp_path / "a.png", x, exif=exif)
    save(tmp_path / "b.png", x)
    data = folders.read(tmp_path, 4, test=["b.png"])
    np.testing.assert_array_equal(data.train.photos[0, ..., 0], np.rot90(x, -1))


# -------------------------------------------------------------------------------------- 16 bits


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_stay_sixteen_bits(tmp_path, suffix):
    x = [pixels(seed, 6, 5, dtype=np.uint16) for seed in range(3)]
    for i, image in enumerate(x):
        save(tmp_path / f"{i}.{suffix}", image)
    data = folders.read(tmp_path, 4, test=[f"2.{suffix}"])
    assert data.train.photos.dtype == np.uint16 and data.levels == 65536
    np.testing.assert_array_equal(data.train.photos[..., 0], x[:2])
    assert (data.mean, data.scale) == pytest.approx(dequantisation.mean_and_scale(np.stack(x[:2])))
    colour = folders.read(tmp_path, 4, colour=True, test=[f"2.{suffix}"])
    np.testing.assert_array_equal(colour.train.photos, np.stack([x[:2]] * 3, axis=-1))
    assert colour.train.photos.dtype == np.uint16 and "16-bit grey" in colour.notes[0]


def test_eight_bits_beside_sixteen_are_refused(tmp_path):
    """Of 12 bits in files of 16 the upper 8 would be 16 levels."""
    save(tmp_path / "a.png", pixels(1, 6, 5, dtype=np.uint16) // 16)
    save(tmp_path / "b.png", pixels(2, 6, 5))
    save(tmp_path / "c.png", pixels(3, 6, 5))
    what = (
        r"^image_dir: expected .* one depth, got 2 of 8 bits \(b.png; c.png\) and 1 of 16 \(a.png"
    )
    with pytest.raises(ValueError, match=what):
        folders.read(tmp_path, 4, test=["c.png"])


def test_twelve_bits_have_their_levels(tmp_path):
    for i in range(3):
        save(tmp_path / f"{i}.png", pixels(i, 6, 5, dtype=np.uint16) // 16)
    assert folders.read(tmp_path, 4, levels=4096).levels == 4096
    assert folders.read(tmp_path, 4).levels == 65536
    with pytest.raises(ValueError, match=r"^levels: expected pixels below 2048, .*, got \d{4}"):
        folders.read(tmp_path, 4, levels=2048)
    for bad in (1, -1, 65537):
        with pytest.raises(ValueError, match=rf"^levels: expected 2\.\.65536 .*, got {bad}"):
            folders.read(tmp_path, 4, levels=bad)


def test_colours_of_sixteen_bits_are_named_on_the_terminal(tmp_path):
    fill(tmp_path, 2, 6, 6)
    deep = b"P6 6 6 65535\n" + pixels(3, 6, 6, 3, dtype=np.uint16).byteswap().tobytes()
    (tmp_path / "z.ppm").write_bytes(deep)
    with pytest.warns(UserWarning, match=r"1 of 3 files converted, .*16 bits.*upper 8.*: z.ppm"):
        assert folders.read(tmp_path, 4, test=["00.png"]).levels == 256


# ------------------------------------------------------------------------- links, pages, suffixes


def test_every_suffix_that_pillow_reads_is_read(tmp_path):
    suffixes = ("bmp", "gif", "jfif", "jp2", "jpe", "pbm", "pcx", "ppm", "tga", "TIFF", "webp")
    for end in suffixes:
        save(tmp_path / f"x.{end}", pixels(1, 8, 8) // 255 * 255)
    assert {*folders.read(tmp_path, 4, test=1).train.files, "x.jpe"} == {
        f"x.{end}" for end in suffixes
    }


def test_what_is_no_image_is_named(tmp_path):
    x = fill(tmp_path, 3, 5, 5)
    for name in ("a.heic", "notes.txt", "b.png.part"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.warns(UserWarning, match=r"4 of 7 left out: a.heic: no image .*; b.png.part: "):
        data = folders.read(tmp_path, 4)
    assert [line.split(":")[0] for line in data.skipped] == [
        "a.heic", "b.png.part", "gone.png", "notes.txt",
    ]  # fmt: skip
    assert len(data.train.files) + len(data.test.files) == len(x)


def test_linked_folders_are_read_once_and_cycles_end(tmp_path):
    inside = tmp_path / "set"
    fill(inside, 2, 5, 5)
    fill(tmp_path / "elsewhere", 2, 6, 6)
    (inside / "more").symlink_to(tmp_path / "elsewhere")
    (inside / "again").symlink_to(inside / "more")
    (inside / "more" / "round").symlink_to(inside / "more")
    (inside / "up").symlink_to(tmp_path)
    (inside / "copy.png").symlink_to(inside / "00.png")
    with pytest.warns(UserWarning, match=r"2 of 6 left out: .*same file as 00.png; up: a link to"):
        data = folders.read(inside, 4, test=["00.png"])
    assert len(data.train.files) == 3 and "01.png" in data.train.files
    linked = {name.split("/")[0] for name in data.train.files if "/" in name}
    assert len(linked) == 1 and linked <= {"more", "again"}


@pytest.mark.parametrize("suffix", ["tif", "gif", "webp"])
def test_every_page_is_a_photograph_of_its_file(tmp_path, suffix):
    fill(tmp_path, 2, 9, 9)
    x = [Image.fromarray(pixels(9 + i, 9, 9)) for i in range(3)]
    lossless = {"lossless": True} if suffix == "webp" else {}
    x[0].save(tmp_path / f"p.{suffix}", save_all=True, append_images=x[1:], **lossless)
    data = folders.read(tmp_path, 4, test=["00.png"])
    assert data.train.files == ("01.png", *[f"p.{suffix}"] * 3) and not data.skipped
    held = folders.read(tmp_path, 4, test=data.train.files[1:])  # whole files, pages and all
    assert held.train.files == ("00.png", "01.png")
    if suffix == "tif":
        np.testing.assert_array_equal(data.train.photos[1:, ..., 0], [np.asarray(p) for p in x])
    rng = np.random.default_rng(0)
    cuts = [folders.read_crop(tmp_path / f"p.{suffix}", rng, 9) for _ in range(20)]
    assert len({cut.tobytes() for cut in cuts}) == 3


def test_previews_and_damaged_pages_are_named(tmp_path):
    fill(tmp_path, 3, 9, 9)
    x = [Image.fromarray(pixels(i, 9, 9, 3)) for i in range(2)]
    x[0].save(tmp_path / "phone.jpg", "MPO", save_all=True, append_images=x[1:])
    with pytest.warns(UserWarning, match=r"1 of 5 left out: phone.jpg, page 2: no picture of its"):
        assert folders.read(tmp_path, 4, test=1).train.files.count("phone.jpg") == 1


def test_what_is_neither_eight_nor_sixteen_bits_is_skipped(tmp_path):
    fill(tmp_path, 2, 5, 5)
    save(tmp_path / "x.tif", np.ones((5, 5), np.float32))
    save(tmp_path / "y.tif", np.full((5, 5), 70000, np.int32))
    with pytest.warns(UserWarning, match=r"x.tif: .*floating-point.*; y.tif: .*outside 0..65535"):
        data = folders.read(tmp_path, 4)
    assert len(data.skipped) == 2


# ---------------------------------------------------------------------------------------- crops


def places(sizes, height, width):
    """Photographs whose pixels say where they are: [photo, row, column]; −1 in the padding."""
    x = np.full((len(sizes), height, width, 3), -1, np.int32)
    for i, (h, w) in enumerate(sizes):
        x[i, :h, :w] = np.stack(
            [np.full((h, w), i), *np.meshgrid(range(h), range(w), indexing="ij")], axis=-1
        )
    return x


def test_crops_are_uniform_over_photographs_and_places_and_stay_inside():
    sizes = np.array([[5, 4], [3, 6], [3, 3]], np.int32)
    x = places(sizes, 5, 6)
    n = 12_000
    crops = jax.jit(jax.vmap(lambda key: folders.crop(key, x, 3, sizes)))(
        jax.random.split(jax.random.key(0), n)
    )
    crops = np.asarray(crops)
    assert crops.shape == (n, 3, 3, 3) and crops.min() >= 0  # never in the padding
    corner = crops[:, :1, :1]
    offset = np.stack([np.zeros((3, 3)), *np.indices((3, 3))], axis=-1)
    np.testing.assert_array_equal(crops - corner, np.broadcast_to(offset, crops.shape))
    counts = Counter(map(tuple, corner.reshape(n, 3)))
    expected = {
        (i, top, left): 1 / 3 / ((h - 2) * (w - 2))
        for i, (h, w) in enumerate(sizes.tolist())
        for top in range(h - 2)
        for left in range(w - 2)
    }
    assert set(counts) == set(expected)  # every place, and no other
    for place, p in expected.items():
        assert abs(counts[place] / n - p) < 5 * np.sqrt(p * (1 - p) / n)


def test_crops_of_equal_photographs_need_no_sizes():
    x = pixels(7, 4, 6, 8, 1)
    sizes = np.tile(np.array([6, 8], np.int32), (4, 1))
    for key in jax.random.split(jax.random.key(1), 5):
        plain = folders.crop(key, x, 5)
        assert plain.dtype == jnp.uint8 and plain.shape == (5, 5, 1)
        np.testing.assert_array_equal(plain, folders.crop(key, jnp.asarray(x), 5, sizes))
    np.testing.assert_array_equal(folders.crop(key, x[:1, :6, :6], 6), x[0, :6, :6])


def test_crop_runs_in_float64_mode(x64):
    assert folders.crop(jax.random.key(0), pixels(8, 2, 6, 8, 3), 5).shape == (5, 5, 3)


def test_a_crop_larger_than_the_photographs_is_refused():
    for size in (0, 7):
        with pytest.raises(ValueError, match=f"size: expected 1..6 pixels, got {size}"):
            folders.crop(jax.random.key(0), pixels(9, 2, 6, 8, 1), size)


def test_read_crop_cuts_any_place_of_a_file(tmp_path):
    x = pixels(10, 5, 4)
    save(tmp_path / "a.png", x)
    rng = np.random.default_rng(0)
    cuts = {folders.read_crop(tmp_path / "a.png", rng, 3).tobytes() for _ in range(200)}
    assert cuts == {x[i : i + 3, j : j + 3].tobytes() for i in range(3) for j in range(2)}
    assert folders.read_crop(tmp_path / "a.png", rng, 4, colour=True).shape == (4, 4, 3)
    with pytest.raises(ValueError, match=r"a.png: 4 x 5 pixels, less than a crop of 5"):
        folders.read_crop(tmp_path / "a.png", rng, 5)
    with pytest.raises(ValueError, match=r"absent.png: damaged or no image"):
        folders.read_crop(tmp_path / "absent.png", rng, 5)


# ------------------------------------------------------------------------------------ real data


def test_bark_photographs_are_grey_and_640_by_480(dpm_data, tmp_path):
    if not (dpm_data / "bark").is_dir():
        pytest.skip(f"no bark in {dpm_data}")
    for name in ("T01_01.jpg", "T04_40.jpg"):
        (tmp_path / name).symlink_to(dpm_data / "bark" / name)
    data = folders.read(tmp_path, 256, test=1)
    assert data.train.photos.shape == data.test.photos.shape == (1, 480, 640, 1)
    assert data.skipped == data.notes == ()
    assert 20 < data.scale < 90
