"""Escorted work: maps that carry a driven system along, so that a fast driving wastes less.

Before the energy changes from E_{j−1} to E_j an invertible map M_j moves x, and the work is
W = Σ_j E_j(M_j x) − E_{j−1}(x) − log |dM_j/dx|. Change by change, e^{−W} is the ratio of canonical
weights, with the volume that the map makes: ⟨e^{−W}⟩ = e^{−ΔF} for any maps and any speed, and
Crooks' theorem holds with the reverse process carried by the inverse maps, in reverse order. Maps
that take each canonical law to the next make W = ΔF of every trajectory; others waste
⟨W⟩ − ΔF = what the carried laws lack to the canonical ones.

Source: Vaikuntanathan and Jarzynski 2008, Phys. Rev. Lett. 100, 190601; 2011, J. Chem. Phys. 134,
054107.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array


class Escort(NamedTuple):
    """Affine maps x → a_j x + b_j, one before each of n changes."""

    scale: Array  # (n,) a_j > 0
    shift: Array  # (n,) b_j

    def reversed(self) -> "Escort":
        """The inverse maps, the last first: those of the reverse process."""
        return Escort(1 / self.scale[::-1], (-self.shift / self.scale)[::-1])


def carry(centre: Array, stiffness: Array) -> Escort:
    """The maps that take the canonical law of each harmonic trap to the next; both (n+1,).

    Of equal stiffnesses they are translations by c_j − c_{j−1}.
    """
    scale = jnp.sqrt(stiffness[:-1] / stiffness[1:])
    return Escort(scale, centre[1:] - scale * centre[:-1])


def matched(x: Array, log_weight: Array) -> Escort:
    """The affine map that gives a sample (P,) the mean and variance that it has when weighted.

    With log w = −W the latter are those of the canonical law, by Jarzynski's equality; no free
    energy is needed. Both are of one sample, most of whose noise they share.

    Source: Hummer and Szabo 2001, Proc. Natl. Acad. Sci. 98, 3658, for the weights.
    """
    weight = jax.nn.softmax(log_weight)
    mean, wanted = jnp.mean(x), jnp.sum(weight * x)
    scale = jnp.sqrt(jnp.sum(weight * (x - wanted) ** 2) / jnp.var(x))
    return Escort(scale, wanted - scale * mean)


def log_scale(maps: Escort) -> Array:
    """log |dM/dx| of each map; NaN where the scale is not above 0."""
    return jnp.log(jnp.where(maps.scale > 0, maps.scale, jnp.nan))


def check(maps: Escort, n: int) -> Escort:
    """The maps; ValueError where they are not n, or a scale that is known is not above 0."""
    for name, value in maps._asdict().items():
        if value.shape != (n,):
            raise ValueError(f"maps.{name}: expected shape ({n},), got {value.shape}")
    if not isinstance(maps.scale, jax.core.Tracer):
        least = float(np.min(maps.scale))
        if not least > 0:
            raise ValueError(f"maps.scale: expected numbers above 0, got {least}")
    return maps
