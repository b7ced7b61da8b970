"""Muon (Jordan et al. 2024): steps of matrices along the nearest orthogonal matrix, by optax.

The iteration of Newton and Schulz runs on the Gram matrix of a matrix's short side, so that the
long side enters two products in all, untransposed, and not three an iteration as in optax.
"""

import jax
import jax.numpy as jnp
import optax
import optax.contrib
from jax import Array

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of X, (X Xᵀ) X and (X Xᵀ)² X in one iteration
_ITERATIONS = 5
_MOMENTUM = 0.95
_EPSILON = 1e-8


def muon(
    learning_rate: optax.Schedule, weight_decay: float, adam_learning_rate: optax.Schedule
) -> optax.GradientTransformation:
    """Muon of what `is_stepped`, Adam with Nesterov's momentum of all others.

    As optax.contrib.muon, state included, to rounding. A kernel of a convolution, (.., inputs,
    units), is the matrix from all inputs of a unit to the units.

    Args:
        learning_rate, weight_decay: of the matrices.
        adam_learning_rate: of all else.
    """
    by_muon = optax.chain(
        _orthogonal_momentum(),
        optax.stateless(lambda updates, _: jax.tree.map(_by_shape, updates)),
        optax.add_decayed_weights(weight_decay),
        optax.scale_by_learning_rate(learning_rate),
    )
    by_adam = optax.adamw(adam_learning_rate, eps=_EPSILON, weight_decay=0.0, nesterov=True)
    return optax.partition({"muon": by_muon, "adam": by_adam}, _labels)


def is_stepped(params):
    """Whether Muon steps each parameter: kernels of convolutions, or matrices where none are.

    Dense layers beside convolutions, those of each pixel among them, are left to Adam: with them
    K was the same, and one over the whole image costs Muon more than all kernels.
    """
    axes = 4 if any(leaf.ndim == 4 for leaf in jax.tree.leaves(params)) else 2
    return jax.tree.map(lambda p: p.ndim == axes, params)


def orthogonalised(x: Array) -> Array:
    """About U Vᵀ of the matrix x = U S Vᵀ (.., n), whose leading axes are one: (.., n).

    Five iterations bring every singular value to 0.7..1.2, wherever above 0 it was.
    """
    matrix = x.reshape(-1, x.shape[-1])
    rows, columns = matrix.shape
    inner: tuple[int] = (0,) if rows >= columns else (1,)
    gram = jax.lax.dot_general(matrix, matrix, ((inner, inner), ((), ())))
    scale = 1 / (jnp.sqrt(jnp.trace(gram)) + _EPSILON)
    product = _newton_schulz(gram * scale * scale) * scale  # scale**2 may be below all floats
    y = matrix @ product if rows >= columns else product @ matrix
    return y.reshape(x.shape)


def _newton_schulz(gram: Array) -> Array:
    """The product of all iterations' factors M = a I + b A + c A², where A becomes M A M."""
    a, b, c = _COEFFICIENTS
    identity = jnp.eye(len(gram), dtype=gram.dtype)
    product = identity
    for _ in range(_ITERATIONS):
        factor = a * identity + b * gram + c * gram @ gram
        product = factor @ product
        gram = factor @ gram @ factor
    return product


def _orthogonal_momentum() -> optax.GradientTransformation:
    def init(params) -> optax.contrib.MuonState:
        zeros = jax.tree.map(jnp.zeros_like, params)
        return optax.contrib.MuonState(jnp.zeros([], jnp.int32), zeros, jnp.asarray(_COEFFICIENTS))

    def update(gradient, state: optax.contrib.MuonState, params=None):
        count = optax.safe_increment(state.count)
        age = jnp.asarray([count + 1, count], jnp.result_type(float))
        ours, theirs = jnp.asarray([_MOMENTUM, 1 - _MOMENTUM]) / (1 - _MOMENTUM**age)
        mu = jax.tree.map(lambda m, g: _MOMENTUM * m + (1 - _MOMENTUM) * g, state.mu, gradient)
        ahead = jax.tree.map(lambda m, g: ours * m + theirs * g, mu, gradient)  # Nesterov's
        return _orthogonalised_tree(ahead), state._replace(count=count, mu=mu)

    return optax.GradientTransformation(init, update)


def _orthogonalised_tree(tree):
    """All matrices of one shape at once: to an accelerator one of them is little work."""
    leaves, structure = jax.tree.flatten(tree)
    shapes = [leaf.shape for leaf in leaves]
    for shape in dict.fromkeys(shapes):
        places = [i for i, found in enumerate(shapes) if found == shape]
        made = jax.vmap(orthogonalised)(jnp.stack([leaves[i] for i in places]))
        for i, leaf in zip(places, made):
            leaves[i] = leaf
    return jax.tree.unflatten(structure, leaves)


def _by_shape(update: Array) -> Array:
    """Of equal effect on outputs of any size: times √max(1, units/inputs)."""
    units = update.shape[-1]
    return update * max(1.0, units / (update.size // units)) ** 0.5


def _labels(params):
    return jax.tree.map(lambda chosen: "muon" if chosen else "adam", is_stepped(params))
