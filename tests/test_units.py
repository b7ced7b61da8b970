"""Units by worked numbers, and numbers as text."""

import math

import pytest

from dpm_jax import units


def test_bits():
    assert units.bits(math.log(8)) == pytest.approx(3)


def test_the_papers_cifar_number_in_bits_per_dim():
    """5.4 bits a pixel of 3 colours at 64.15 levels is 4.20 bits/dim."""
    K = 5.4 * math.log(2)
    assert units.bits_per_dim_8bit(K, 3, 64.15) == pytest.approx(4.203, abs=1e-3)
    # A uniform density over the 256 levels costs 8 bits at any scale.
    for scale in (1.0, 64.15):
        K = -10 * math.log(256 / scale)
        assert units.bits_per_dim_8bit(K, 10, scale) == pytest.approx(8)


@pytest.mark.parametrize("scale", [None, 0.0, -1.0, math.nan])
def test_bits_per_dim_needs_a_scale(scale):
    with pytest.raises(ValueError, match=f"scale: expected grey levels above 0, got {scale}"):
        units.bits_per_dim_8bit(1.0, 3, scale)


def test_or_null():
    assert [units.or_null(v) for v in (1, None, math.nan, -math.inf)] == [1.0, None, None, None]


def test_number():
    number = units.number
    assert number(1.23456) == "1.235" and number(-0.5, digits=1) == "−0.5"
    assert number(1.0, 0.25, digits=2) == "1.00 ± 0.25"
    assert number(1.0, math.nan) == "1.000" and number(1.0, None) == "1.000"
    assert number(None) == number(math.nan) == number(math.inf, 1.0) == "–"
    assert number(-math.inf) == "−inf"


def test_constants():
    assert math.exp(units.LN2) == pytest.approx(2)
    assert math.exp(units.LOG_2PI) == pytest.approx(2 * math.pi)
