"""Dead leaves: the law against closed forms, painting against the definition, sets from files.

The first disc that covers x or y, seen from above, decides whether they share a leaf: it covers
both at rate E γ_r(d) and one of them at rate 2πE r² − E γ_r(d), where γ_r(d) is the area of the
intersection of two discs of radius r at distance d. The same holds for more than two pixels.
"""

import hashlib
import itertools

import numpy as np
import pytest
from scipy import integrate, io, stats

from cases import mean_is
from dpm_jax.data import dead_leaves

SHA256_OF_THE_FIRST_10 = "52f2344717c9af78be6bb56dcbecc99a6c99d5bb8b1b4312d72065d75b4d17bd"
LAWS = [(2.0, 256.0), (1.5, 6.0), (3.0, 3.0)]  # radii: the paper's, two octaves, one radius


def over_radii(f, r_min, r_max):
    """E f(r) for the density ∝ r^-3 on [r_min, r_max]."""
    if r_min == r_max:
        return f(r_min)
    # In log r the density is ∝ r^-2; the kink of γ where r = d/2 needs subdivision.
    integral = integrate.quad(
        lambda s: f(np.exp(s)) * np.exp(-2 * s), np.log(r_min), np.log(r_max), limit=200
    )
    return integral[0] / ((r_min**-2 - r_max**-2) / 2)


def area(*radii):
    return over_radii(lambda r: np.pi * r**2, *radii)


def gamma(d, *radii):
    """E γ_r(d)."""

    def of(r):
        if d >= 2 * r:
            return 0.0
        return 2 * r**2 * np.arccos(d / (2 * r)) - d / 2 * np.sqrt(4 * r**2 - d**2)

    return over_radii(of, *radii)


def same_leaf(d, *radii):
    """P(two pixels at distance d lie in one leaf)."""
    return gamma(d, *radii) / (2 * area(*radii) - gamma(d, *radii))


def same_grey(p):
    """P(equal greys) of two pixels that share a leaf with probability p."""
    return p + (1 - p) / 256


def images(n, size, radii, seed=0):
    return dead_leaves.sample(n, seed, size, *radii)[..., 0].astype(float)


# -------------------------------------------------------------------------------------- the law


def test_the_closed_form_has_its_limits():
    assert area(2, 256) == pytest.approx(2 * np.pi * np.log(128) / (1 / 4 - 1 / 65536))
    assert gamma(0, 2, 256) == pytest.approx(area(2, 256))
    assert same_leaf(0, 3, 3) == pytest.approx(1)
    assert same_leaf(6, 3, 3) == 0 < same_leaf(5.9, 3, 3) < 0.01


@pytest.mark.parametrize("radii", LAWS)
def test_two_pixels_share_a_leaf_with_the_probability_of_the_closed_form(radii):
    x = images(1500, (20, 31), radii)
    for i, j in [(0, 1), (1, 0), (1, 1), (0, 3), (4, 3), (0, 7), (12, 5), (0, 30)]:
        a, b = x[:, : 20 - i, : 31 - j], x[:, i:, j:]
        p = same_leaf(np.hypot(i, j), *radii)
        mean_is((a == b).mean(axis=(1, 2)), same_grey(p))
        # The covariance of the greys, with their exact mean and variance (256² − 1)/12.
        mean_is(((a - 127.5) * (b - 127.5)).mean(axis=(1, 2)), p * (256**2 - 1) / 12)


@pytest.mark.parametrize("radii", LAWS)
def test_every_pair_of_neighbours_has_the_same_law(radii):
    """Stationary: corners and edges are as the centre is, each place for itself."""
    x = images(3000, (6, 8), radii, seed=1)
    p = same_grey(same_leaf(1, *radii))
    mean_is(x[:, 1:] == x[:, :-1], p)
    mean_is(x[:, :, 1:] == x[:, :, :-1], p)
    mean_is(x, 127.5)
    mean_is((x - 127.5) ** 2, (256**2 - 1) / 12)


def test_the_grey_of_a_pixel_is_uniform_at_a_corner_and_at_the_centre():
    x = dead_leaves.sample(6000, seed=2, size=(3, 5))[..., 0]
    for pixel in ((0, 0), (2, 4), (1, 2)):
        assert stats.chisquare(np.bincount(x[:, *pixel], minlength=256)).pvalue > 1e-4


@pytest.mark.parametrize("pixels", [3, 7])
@pytest.mark.parametrize("radii", [(2.0, 256.0), (4.0, 4.0)])
def test_a_row_lies_in_one_leaf_with_the_probability_of_the_closed_form(radii, pixels):
    """A law of many pixels: discs along a line meet in that of the ends, and each adds A − γ(1)."""
    x = images(4000, (pixels, 1), radii, seed=3)
    union = area(*radii) + (pixels - 1) * (area(*radii) - gamma(1, *radii))
    p = gamma(pixels - 1, *radii) / union
    shared = np.all(x == x[:, :1], axis=(1, 2))
    error = np.sqrt(p * (1 - p) / len(x))
    assert error < 0.01
    # Two leaves or more of one grey can add (1 − p)/256.
    assert -4 * error < shared.mean() - p < 4 * error + (1 - p) / 256


@pytest.mark.parametrize(("shape", "radii"), [((256, 256), (2, 256)), ((1, 9), (1.5, 6))])
def test_discs_that_touch_have_their_radius_law_and_uniform_centres(shape, radii):
    law = dead_leaves._RadiusLaw.touching(shape, *radii)
    blocks = dead_leaves._blocks(np.random.PCG64(0), law)
    y, x, r, grey = (np.concatenate(z) for z in zip(*itertools.islice(blocks, 16)))
    h, w = shape[0] - 1, shape[1] - 1

    def mass(r):
        """∫ s^-3 (h + 2s)(w + 2s) ds from r_min to r."""
        s = radii[0]
        constant = h * w / 2 * (s**-2 - r**-2) + 2 * (h + w) * (1 / s - 1 / r)
        return constant + 4 * np.log(r / s)

    assert len(r) > 8000 and radii[0] <= r.min() and r.max() <= radii[1]
    assert stats.kstest(r, lambda r: mass(r) / mass(radii[1])).pvalue > 1e-4
    for u in ((y + r) / (h + 2 * r), (x + r) / (w + 2 * r)):
        assert stats.kstest(u, "uniform").pvalue > 1e-4
        assert abs(stats.spearmanr(u, r).statistic) < 5 / np.sqrt(len(r))
    counts = np.bincount(grey, minlength=256)
    assert stats.chisquare(counts).pvalue > 1e-4 and counts.min() > 0


# ------------------------------------------------------------------------------------- painting


def definition(bits, law, shape):
    """Each pixel has the grey of the first disc with distance² <= r² from its centre."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    image, bare = np.zeros(shape, np.uint8), np.ones(shape, bool)
    for block in dead_leaves._blocks(bits, law):
        for y, x, r, grey in zip(*block):
            new = bare & ((rows - y) ** 2 + (columns - x) ** 2 <= r * r)
            image[new], bare[new] = grey, False
        if not bare.any():
            break
    return image


@pytest.mark.parametrize("radii", [*LAWS, (40.0, 1000.0)])
@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (23, 1), (17, 30)])
def test_painting_is_the_definition(shape, radii):
    law = dead_leaves._RadiusLaw.touching(shape, *radii)
    for number in range(3):
        key = np.random.SeedSequence(5, spawn_key=(number,))
        expected = definition(np.random.PCG64(key), law, shape)
        x = dead_leaves.sample(1, 5, shape, *radii, start=number)
        assert x.shape == (1, *shape, 1) and x.dtype == np.uint8
        np.testing.assert_array_equal(x[0, ..., 0], expected)


def test_images_do_not_depend_on_the_blocks_in_which_discs_are_drawn(monkeypatch):
    x = dead_leaves.sample(3, size=64)
    monkeypatch.setattr(dead_leaves, "_FIRST", 7)
    monkeypatch.setattr(dead_leaves, "_LARGEST", 100)
    np.testing.assert_array_equal(dead_leaves.sample(3, size=64), x)


# ------------------------------------------------------------------------------ reproducibility


def test_the_first_images_are_the_same_everywhere():
    x = dead_leaves.sample(10)
    assert x.shape == (10, 256, 256, 1)
    assert hashlib.sha256(x.tobytes()).hexdigest() == SHA256_OF_THE_FIRST_10


def test_a_set_can_be_made_in_parts():
    whole = dead_leaves.sample(5, seed=3, size=(9, 12))
    parts = [dead_leaves.sample(n, 3, (9, 12), start=s) for n, s in ((2, 0), (0, 2), (3, 2))]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    others = [dead_leaves.sample(5, seed, (9, 12)) for seed in (0, 4, 2**70)]
    distinct = {image.tobytes() for image in np.concatenate([whole, *others])}
    assert len(distinct) == 20


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": -1}, "n: expected a whole number, at least 0, got -1"),
        ({"n": 1.5}, "n: expected a whole number"),
        ({"seed": -1}, "seed: expected a whole number"),
        ({"start": -1}, "start: expected a whole number"),
        ({"size": 0}, "size: expected a whole number, at least 1, got 0"),
        ({"size": (4, 0)}, "size: expected a whole number, at least 1, got 0"),
        ({"size": (4, 4, 1)}, r"size: expected a side or \(height, width\), got \(4, 4, 1\)"),
        ({"r_min": 0.0}, "r_min: expected a finite radius > 0, got 0.0"),
        ({"r_min": float("nan")}, "r_min: expected"),
        ({"r_max": 1.5}, "r_max: expected a finite radius, at least r_min = 2.0, got 1.5"),
        ({"r_max": float("inf")}, "r_max: expected a finite"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        dead_leaves.sample(**{"n": 1, **arguments})


# ------------------------------------------------------------------------------------- from files

X = dead_leaves.sample(3, seed=1, size=(6, 5))


def saved(folder, suffix, **arrays):
    path = folder / f"set{suffix}"
    if suffix == ".mat":
        io.savemat(path, arrays)
    else:
        np.save(path, *arrays.values())
    return path


@pytest.mark.parametrize("suffix", [".npy", ".mat"])
@pytest.mark.parametrize("shape", [(3, 6, 5), (3, 6, 5, 1)])
@pytest.mark.parametrize(
    "data",
    [X, X.astype(np.int16), X.astype(float), X.astype(np.float32), X / 255, np.float32(X) / 255],
    ids=["uint8", "int16", "float64", "float32", "float64 / 255", "float32 / 255"],
)
def test_load_gives_the_grey_levels_that_were_saved(tmp_path, suffix, shape, data):
    data = data.reshape(shape)
    loaded = dead_leaves.load(saved(tmp_path, suffix, data=data))
    assert loaded.dtype == np.uint8 and loaded.flags.writeable
    np.testing.assert_array_equal(loaded, X)


def test_load_takes_the_one_array_that_has_the_shape_of_images(tmp_path):
    path = saved(tmp_path, ".mat", data=X[..., 0], radii=np.array([2.0, 256.0]), name="leaves")
    np.testing.assert_array_equal(dead_leaves.load(path), X)
    path = saved(tmp_path, ".mat", train=X, test=X)
    with pytest.raises(ValueError, match=r"expected one array .*, got train .* uint8, test "):
        dead_leaves.load(path)


def test_load_takes_8_bit_images_of_two_levels(tmp_path):
    data = np.array([0, 1, 1, 0], np.uint8).reshape(1, 2, 2)
    np.testing.assert_array_equal(
        dead_leaves.load(saved(tmp_path, ".npy", data=data)), data[..., None]
    )


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (X + 0.5, "expected whole levels 0..255, or these / 255, got values from"),
        (X * 1.0 - 300, "expected whole levels"),
        (X.astype(np.int32) + 255, "expected whole levels"),
        (X / 256, "expected whole levels"),
        (np.where(X > 9, np.nan, X), "expected whole levels"),
        (np.where(X > 9, np.inf, X), "expected whole levels"),
        (np.round(X / 255.0), "only 0 and 1"),
        (X[:0], "expected one array"),
        (X[0, ..., 0], r"expected one array .* got .*\(6, 5\) uint8"),
        (np.repeat(X, 3, axis=3), "expected one array"),
        (np.zeros((5, 5, 100), np.uint8), r"may be \(H, W, n\)"),
    ],
)
@pytest.mark.parametrize("suffix", [".npy", ".mat"])
def test_load_refuses_what_is_not_grey_levels_or_not_images(tmp_path, suffix, data, message):
    with pytest.raises(ValueError, match=message):
        dead_leaves.load(saved(tmp_path, suffix, data=data))


def test_load_says_what_it_cannot_read(tmp_path):
    with pytest.raises(FileNotFoundError):
        dead_leaves.load(tmp_path / "none.mat")
    with pytest.raises(ValueError, match=r"path: expected a \.npy or \.mat file, got '.*\.png'"):
        dead_leaves.load(tmp_path / "set.png")
    for suffix in (".npy", ".mat"):
        path = tmp_path / f"set{suffix}"
        for content in (
            b"",
            b"no such format" * 50,
            b"\x93NUMPY\x01\x00v\x00{",
            b"MATLAB 7.3" * 60,
        ):
            path.write_bytes(content)
            with pytest.raises(ValueError, match=rf"set\{suffix}: cannot be read as \{suffix}"):
                dead_leaves.load(path)
    path = tmp_path / "set.npy"
    np.save(path, X == 7)
    with pytest.raises(ValueError, match="expected one array"):
        dead_leaves.load(path)
    np.save(path, np.array([{}]), allow_pickle=True)
    with pytest.raises(ValueError, match="Object arrays cannot be loaded"):
        dead_leaves.load(path)
