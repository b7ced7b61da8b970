"""The seam measures against closed forms: a step edge, white noise, a texture that repeats."""

import numpy as np
import pytest

from dpm_jax.images import seam

SIZE = 24


def repeated(tiles=3, size=SIZE, seed=0):
    """A square of noise, tiles × tiles times: all its squares hold the same values."""
    tile = np.random.default_rng(seed).normal(size=(size, size))
    return np.tile(tile, (tiles, tiles))


def texture(rng, side):
    """Smooth Gaussian noise, the same everywhere: a photograph of nothing."""
    fold = np.hypot(*np.meshgrid(np.fft.fftfreq(side), np.fft.fftfreq(side)))
    spectrum = np.fft.fft2(rng.normal(size=(side, side))) / (1 + (20 * fold) ** 2)
    return np.fft.ifft2(spectrum).real


def inside(size=SIZE):
    """Where the middle of 3 × 3 squares is."""
    return slice(size, 2 * size), slice(size, 2 * size)


def test_a_step_adds_its_square_to_the_energy_across_the_border():
    """Of white noise of variance 1: 2 beside the border, 2 + s² across it; of blocks 2/b² each."""
    size, s = 240, 0.5
    x = np.random.default_rng(0).normal(size=(3 * size, 3 * size))
    flat = seam.measure(x, size, size, size)
    x[inside(size)] += s
    found, block = seam.measure(x, size, size, size), size // 12
    assert flat.border == pytest.approx(1, abs=0.1) and flat.step == pytest.approx(1, abs=0.7)
    assert found.border == pytest.approx(1 + s**2 / 2, abs=0.1)
    assert found.step == pytest.approx(1 + s**2 * block**2 / 2, rel=0.5)  # of 48 differences


@pytest.mark.parametrize("shift, factor", [(0.7, 1.0), (0.0, 1.5), (-0.4, 0.5)])
def test_brightness_and_contrast_in_closed_form(shift, factor):
    """Of squares that hold the same values before: W1 is the mean of |(f − 1) x + s|, over σ."""
    x = repeated()
    values = np.sort(x[inside()].ravel())
    x[inside()] = factor * x[inside()] + shift
    found = seam.measure(x, SIZE, SIZE, SIZE)
    at = np.quantile(values, (np.arange(256) + 0.5) / 256, method="inverted_cdf")
    assert found.histogram == pytest.approx(np.abs((factor - 1) * at + shift).mean() / values.std())
    assert found.spectrum == pytest.approx(abs(2 * np.log(factor)), abs=1e-6)


def test_a_scale_for_all_changes_nothing_and_colours_are_averaged():
    x = texture(np.random.default_rng(1), 3 * SIZE)
    plain = seam.measure(x, SIZE, SIZE, SIZE)
    grey = seam.measure(np.stack([x, x, x], axis=-1), SIZE, SIZE, SIZE)
    scaled = seam.measure(5 * x + 100, SIZE, SIZE, SIZE)
    for other in (grey, scaled):
        np.testing.assert_allclose(other, plain, rtol=1e-6)


def test_the_border_is_found_on_each_side():
    for turns in range(4):
        x = repeated(seed=3)
        before = seam.measure(x, SIZE, SIZE, SIZE).border
        x[SIZE, SIZE : 2 * SIZE] += 3  # the first row inside
        turned = seam.measure(np.rot90(x, turns), SIZE, SIZE, SIZE)
        assert turned.border > before + 0.2
        np.testing.assert_allclose(turned, seam.measure(x, SIZE, SIZE, SIZE), rtol=1e-9)


def test_an_intact_square_is_standard_normal_among_others():
    rng = np.random.default_rng(2)
    among = seam.intact([texture(rng, 6 * SIZE) for _ in range(40)], SIZE)
    fresh = seam.intact([texture(rng, 6 * SIZE) for _ in range(20)], SIZE)
    assert among.border.shape == (40 * 7 * 7,)
    for z in seam.scores(fresh, among):
        assert abs(z.mean()) < 0.25 and 0.85 < z.std() < 1.15  # errors 0.06 to 0.1, 0.04
        assert (np.abs(z) > 2).mean() < 0.09


@pytest.mark.parametrize("what, field", [("brighter", "step"), ("noise", "spectrum")])
def test_what_does_not_belong_there_stands_out(what, field):
    rng = np.random.default_rng(4)
    photographs = [texture(rng, 6 * SIZE) for _ in range(20)]
    among, x = seam.intact(photographs, SIZE), photographs[0].copy()
    place = slice(2 * SIZE, 3 * SIZE), slice(2 * SIZE, 3 * SIZE)
    x[place] = x[place] + x.std() if what == "brighter" else x.std() * rng.normal(size=(SIZE, SIZE))
    z = seam.scores(seam.measure(x, 2 * SIZE, 2 * SIZE, SIZE), among)
    assert getattr(z, field) > 4


@pytest.mark.parametrize("top, size", [(SIZE - 1, SIZE), (SIZE + 1, SIZE), (7, 7)])
def test_a_square_needs_neighbours(top, size):
    with pytest.raises(ValueError, match=r"^size: expected a square of 8 pixels or more.*got"):
        seam.measure(repeated(), top, SIZE, size)


def test_photographs_without_room_are_refused():
    with pytest.raises(
        ValueError, match=r"^photographs: expected room for 10 squares of 24.*got 3"
    ):
        seam.intact([repeated(2), *[repeated()] * 3], SIZE)


def test_a_large_photograph_gives_no_more_squares_than_it_must():
    found = seam.intact([repeated(20, 12)], 12)  # of 35 × 35 places
    assert 49 <= len(found.border) <= 81
