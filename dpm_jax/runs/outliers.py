"""Images that are not those of the test set, and how well a score of them tells them from it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from dpm_jax import later

with later.imports(globals()):
    import numpy as np
    from scipy import ndimage

_NOISE = 0.1  # s.d. of the noise that is added, of the range of grey levels
_BLUR = 1.0  # s.d. in pixels


def _rotated(images: np.ndarray, levels: int, rng: np.random.Generator) -> np.ndarray:
    return np.rot90(images, axes=(1, 2))


def _mirrored(images: np.ndarray, levels: int, rng: np.random.Generator) -> np.ndarray:
    return images[:, :, ::-1]


def _inverted(images: np.ndarray, levels: int, rng: np.random.Generator) -> np.ndarray:
    return levels - 1 - images.astype(np.int32)


def _noisy(images: np.ndarray, levels: int, rng: np.random.Generator) -> np.ndarray:
    noise = rng.normal(0, _NOISE * levels, images.shape)
    return np.clip(np.rint(images + noise), 0, levels - 1)


def _blurred(images: np.ndarray, levels: int, rng: np.random.Generator) -> np.ndarray:
    sigma = (0, _BLUR, _BLUR, 0)
    return np.rint(ndimage.gaussian_filter(images.astype(np.float64), sigma, mode="nearest"))


def _shuffled(images: np.ndarray, levels: int, rng: np.random.Generator) -> np.ndarray:
    n, height, width, colours = images.shape
    order = rng.permutation(height * width)
    return images.reshape(n, -1, colours)[:, order].reshape(images.shape)


def _blank(images: np.ndarray, levels: int, rng: np.random.Generator) -> np.ndarray:
    return np.zeros_like(images)


def _grey(images: np.ndarray, levels: int, rng: np.random.Generator) -> np.ndarray:
    return np.full_like(images, levels // 2)


CHANGES: dict[str, Callable[[np.ndarray, int, np.random.Generator], np.ndarray]] = {
    "rotated": _rotated,
    "mirrored": _mirrored,
    "inverted": _inverted,
    "noisy": _noisy,
    "blurred": _blurred,
    "shuffled": _shuffled,
    "blank": _blank,
    "grey": _grey,
}


def changed(name: str, images: np.ndarray, levels: int, seed: int) -> np.ndarray:
    """Images (n, H, W, C) of `levels` grey levels, changed as one of CHANGES says; the same type.

    rotated: by 90 degrees; mirrored: left to right; inverted: low for high levels; noisy: with a
    tenth of the range, clipped; blurred: by a pixel; shuffled: the pixels, by one permutation of
    all images; blank: of level 0; grey: of the middle level.
    """
    found = CHANGES[name](images, levels, np.random.default_rng(seed))
    return np.ascontiguousarray(found.astype(images.dtype))


class Told(NamedTuple):
    """How well a score tells two sets apart."""

    auc: float  # P(score inside > score outside) + P(the same)/2; NaN where a score is none
    error: float  # standard error, DeLong et al. 1988; 0 where no pair is out of order


def auc(inside: np.ndarray, outside: np.ndarray) -> Told:
    """Area under the curve of true over false positives, from all pairs of (n,) and (m,) scores."""
    return _told(_wins(inside, outside))


def gain(inside: np.ndarray, outside: np.ndarray, over: tuple[np.ndarray, np.ndarray]) -> Told:
    """By how much the AUC is above that of other scores `over` of the same images, with its error.

    The error is that of the difference: scores that go together tell the same pairs apart.
    """
    return _told(_wins(inside, outside) - _wins(*over))


def _wins(inside: np.ndarray, outside: np.ndarray) -> np.ndarray:
    """(n, m): 1 where the one inside scores higher, ½ where they score the same; NaN of NaN."""
    one, other = np.asarray(inside, np.float64)[:, None], np.asarray(outside, np.float64)
    wins = (one > other) + 0.5 * (one == other)
    return np.where(np.isnan(one) | np.isnan(other), np.nan, wins)


def _told(wins: np.ndarray) -> Told:
    parts = (wins.mean(axis=axis) for axis in (1, 0))
    variance = sum(np.var(part, ddof=1) / len(part) for part in parts)
    return Told(float(wins.mean()), float(np.sqrt(variance)))


class Measured(NamedTuple):
    """What was measured of the images of one set, (n,) nats each."""

    log_p: np.ndarray  # of M works (eq. 9): in the mean too low
    spread: np.ndarray  # s.d. of log p of one work, over them
    K: np.ndarray  # eq. 14
    K_error: np.ndarray  # standard error, over draws of x^t
    L_null: np.ndarray


def measured(works: np.ndarray, K: np.ndarray, L_null: np.ndarray) -> Measured:
    """Of works (n, M) of eq. 9, K by several draws (n, passes), and L_null (n,); nats."""
    log_p = np.logaddexp.reduce(-works, axis=1) - np.log(works.shape[1])
    K_error = K.std(axis=1, ddof=1) / np.sqrt(K.shape[1])
    return Measured(log_p, works.std(axis=1, ddof=1), K.mean(axis=1), K_error, L_null)


def scores(found: Measured, typical: Measured | None) -> dict[str, np.ndarray]:
    """What a set is told by, higher for what the model takes for its own.

    Args:
        found: the set.
        typical: images that are in neither set, from whose means "typical" is the distance, with
            the sign changed; without them there is none.
    """
    every = {"K": found.K, "log_p": found.log_p, "K_minus_log_p": found.K - found.log_p}
    every["L_null"] = found.L_null
    if typical is not None:
        every["typical_K"] = -np.abs(found.K - typical.K.mean())
        every["typical_log_p"] = -np.abs(found.log_p - typical.log_p.mean())
    return every
