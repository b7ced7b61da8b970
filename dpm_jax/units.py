"""Units of K and of numbers on paper: the one place where nats become bits.

K is a log likelihood (binomial) or log density (Gaussian) in nats per example, of the data as the
model sees them: scaled to unit variance. Higher is better. 8-bit bits/dim is a code length per
pixel value of the unscaled data; lower is better. Of other depths it is per level of the file.
"""

import math
import operator
import statistics
from collections.abc import Sequence
from typing import Any

LN2 = math.log(2)
LOG_2PI = math.log(2 * math.pi)


def bits(nats: float) -> float:
    """Nats to bits: divide by ln 2."""
    return nats / LN2


def bits_per_dim_8bit(K_nats: float, dims: int, scale: float) -> float:
    """8-bit bits/dim: `bits_per_dim` where `scale` counts levels of 256."""
    return bits_per_dim(K_nats, dims, scale)


def bits_per_dim(K_nats: float, dims: int, scale: float) -> float:
    """Bits/dim of grey levels, log2(scale) − K/dims: what K of scaled data is for unscaled ones.

    Args:
        K_nats: K of one example in nats, of data (levels − mean)/scale, uniformly dequantised.
        dims: number of pixel values of an example.
        scale: grey levels of the file that 1 unit of the scaled data is. Bits are those of a level
            of the file: of 16-bit files about 8 more than of the same images in 8 bits.

    Raises:
        ValueError: without a positive scale, since K alone does not determine bits/dim.
    """
    if scale is None or not scale > 0:
        raise ValueError(f"scale: expected grey levels above 0, got {scale}")
    return math.log2(scale) - bits(K_nats) / dims


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """The mean of two or more numbers and its standard error over them, of seeds say."""
    return statistics.fmean(values), statistics.stdev(values) / math.sqrt(len(values))


def number(value: float | None, error: float | None = None, digits: int = 3) -> str:
    """A number with its standard error for a table; "–" where it is unknown."""
    if value == -math.inf:
        return "−inf"  # a fact about data without support, not an unknown
    if value is None or not math.isfinite(value):
        return "–"
    text = f"{value:.{digits}f}".replace("-", "−")
    return text if error is None or not math.isfinite(error) else f"{text} ± {error:.{digits}f}"


def bounded(value: float, low: float, high: float, unit: str = "nats") -> str:
    """An estimate with its 95 % interval; without an upper end it is a bound, and no error."""
    if value == -math.inf or not math.isfinite(value):
        return f"{number(value)} {unit}"
    if not math.isfinite(high):
        return f"{number(value)} {unit}, in the mean a lower bound; 95 % above {number(low)}"
    return f"{number(value)} {unit}, 95 % in {number(low)} … {number(high)}"


def or_null(value: float | None) -> float | None:
    """The value for JSON: null where it is unknown or not finite."""
    return None if value is None or not math.isfinite(value) else float(value)


def whole(name: str, value: Any, least: int = 1, most: int | None = None) -> int:
    """The value as an int; ValueError, naming it, for none, or one outside least..most."""
    bounds = f"at least {least}" if most is None else f"{least}..{most}"
    try:
        number = operator.index(value)
    except TypeError as error:
        raise ValueError(f"{name}: expected a whole number, {bounds}, got {value!r}") from error
    if isinstance(value, bool) or number < least or (most is not None and number > most):
        raise ValueError(f"{name}: expected {bounds}, got {value}")
    return number


def within(name: str, value: float, low: float, high: float) -> None:
    """ValueError, naming the value, where it is outside low..high or nan."""
    if not low <= value <= high:
        raise ValueError(f"{name}: expected a number in [{low}, {high}], got {value}")
