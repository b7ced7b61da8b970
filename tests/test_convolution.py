"""Convolution against lax's, in every mode of derivative; Conv and LayerNorm against flax's."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from dpm_jax.networks.convolution import Conv, convolve
from dpm_jax.networks.norm import LayerNorm, normalise

N, SIDE, INPUTS, OUTPUTS = 11, 6, 3, 4  # more images than one part of the gradient takes


def reference(x, kernel):
    dims = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x[None], kernel, (1, 1), "SAME", dimension_numbers=dims)[0]


def of_all(conv):
    """A scalar of many images and one kernel, with curvature."""
    return lambda x, k: jnp.sum(jnp.sin(jax.vmap(lambda x: conv(x, k))(x)))


def in_a_direction(conv, x, k):
    gradient = jax.grad(of_all(conv), (0, 1))
    return jax.jvp(gradient, (x, k), (jnp.cos(x), jnp.sin(k)))


def of_each(conv, x, k):
    return jax.vmap(jax.grad(lambda k, x: jnp.sum(jnp.sin(conv(x, k)))), (None, 0))(k, x)


MODES = {
    "values": lambda conv, x, k: jax.vmap(conv, (0, None))(x, k),
    "groups of images": lambda conv, x, k: jax.vmap(jax.vmap(conv, (0, None)), (1, None))(
        x[:10].reshape(5, 2, *x.shape[1:]), k
    ),
    "kernels": lambda conv, x, k: jax.vmap(conv, (None, 0))(x[0], jnp.stack([k, 2 * k])),
    "a kernel each": lambda conv, x, k: jax.vmap(conv)(x[:2], jnp.stack([k, 2 * k])),
    "gradient and its derivative": in_a_direction,
    "gradient of the kernel by image": of_each,
    "gradient with layers computed again": lambda conv, x, k: jax.grad(
        jax.checkpoint(of_all(conv)), 1
    )(x, k),
}


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_convolution_and_its_derivatives(mode):
    keys = jax.random.split(jax.random.key(0))
    x = jax.random.normal(keys[0], (N, SIDE, SIDE, INPUTS))
    kernel = jax.random.normal(keys[1], (3, 3, INPUTS, OUTPUTS))
    got, wanted = (jax.jit(mode, static_argnums=0)(c, x, kernel) for c in (convolve, reference))
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * float(jnp.abs(b).max()))


@pytest.mark.parametrize("images", [0, 1, 7, 8, 9])
def test_gradient_of_any_number_of_images(images):
    x = jax.random.normal(jax.random.key(0), (images, SIDE, SIDE, INPUTS))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, INPUTS, OUTPUTS))
    got, wanted = (jax.grad(of_all(c), 1)(x, kernel) for c in (convolve, reference))
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5 * images)


def test_a_precision_that_holds_inside_of_a_program():
    """As of lax's own, in both directions, though it is lowered later."""

    def of(x, kernel):
        with jax.default_matmul_precision("highest"):
            return jax.value_and_grad(of_all(convolve), (0, 1))(x, kernel)

    x, kernel = jnp.ones((2, SIDE, SIDE, INPUTS)), jnp.ones((3, 3, INPUTS, OUTPUTS))
    made = jax.jit(of).lower(x, kernel).as_text()
    assert made.count("stablehlo.convolution") == 3 and made.count("HIGHEST") == 6


def test_other_channels_are_refused_where_it_is_called():
    with pytest.raises(ValueError, match="must equal the rhs input feature dimension"):
        jax.eval_shape(convolve, jnp.ones((SIDE, SIDE, 2)), jnp.ones((3, 3, INPUTS, OUTPUTS)))


@pytest.mark.parametrize("inside", [False, True], ids=["gradient of it", "gradient in it"])
def test_under_shard_map_that_checks_what_varies(inside):
    devices = jax.device_count()
    x = jax.random.normal(jax.random.key(0), (3 * devices, SIDE, SIDE, INPUTS))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, INPUTS, OUTPUTS))
    mesh, axis = jax.sharding.Mesh(jax.devices(), ("b",)), jax.sharding.PartitionSpec("b")

    def part(x, kernel):
        if inside:
            return jax.grad(of_all(convolve), (0, 1))(x, kernel)
        return jax.lax.psum(of_all(convolve)(x, kernel), "b")

    whole = jax.sharding.PartitionSpec()
    specs = {"in_specs": (axis, whole), "out_specs": (axis, whole) if inside else whole}
    mapped = jax.shard_map(part, mesh=mesh, **specs)
    got = jax.jit(mapped if inside else jax.grad(mapped, (0, 1)))(x, kernel)
    for a, b in zip(got, jax.grad(of_all(reference), (0, 1))(x, kernel), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4)


def test_exported_for_any_number_of_images():
    shape = (*export.symbolic_shape("n"), SIDE, SIDE, INPUTS)
    kernel = jax.random.normal(jax.random.key(1), (3, 3, INPUTS, OUTPUTS))
    made = export.export(jax.jit(jax.grad(of_all(convolve), 1)))(
        jax.ShapeDtypeStruct(shape, jnp.float32), jax.ShapeDtypeStruct(kernel.shape, jnp.float32)
    )
    x = jax.random.normal(jax.random.key(0), (N, *shape[1:]))
    wanted = jax.grad(of_all(reference), 1)(x, kernel)
    np.testing.assert_allclose(made.call(x, kernel), wanted, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    "ours, flaxs, shape",
    [
        (Conv(OUTPUTS), nn.Conv(OUTPUTS, (3, 3)), (SIDE, SIDE, INPUTS)),
        (Conv(2, 2, use_bias=False), nn.Conv(2, (2, 2), use_bias=False), (4, 8, INPUTS)),
        (LayerNorm(), nn.LayerNorm(), (SIDE, 5)),
        (
            LayerNorm(use_bias=False, use_scale=False),
            nn.LayerNorm(use_bias=False, use_scale=False),
            (SIDE, 5),
        ),
        (LayerNorm(dtype=jnp.bfloat16), nn.LayerNorm(dtype=jnp.bfloat16), (SIDE, 5)),
    ],
    ids=["conv", "even kernel", "norm", "plain norm", "norm in bfloat16"],
)
def test_modules_are_flaxs(ours, flaxs, shape):
    x = 3 * jax.random.normal(jax.random.key(1), shape) + 2

    def of(module):
        def value(params, x):
            y = module.apply(params, x)
            return jnp.sum(jnp.sin(y.astype(jnp.float32))), y

        with jax.numpy_dtype_promotion("standard"):  # flax's bfloat16 needs it
            params = module.init(jax.random.key(2), x)
            found = jax.jit(jax.value_and_grad(value, (0, 1), has_aux=True))(params, x)
        return *found, params

    got, wanted = of(ours), of(flaxs)
    assert got[0][1].dtype == wanted[0][1].dtype
    close = 2e-2 if ours.dtype is not None else 1e-5
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
        np.testing.assert_allclose(a, b, rtol=close, atol=close * np.abs(b).max())


def plain(x):
    """The normalisation of norm.py, for JAX to differentiate."""
    mean = jnp.mean(x, -1, keepdims=True)
    variance = jnp.mean(x * x, -1, keepdims=True) - mean * mean
    return (x - mean) * jax.lax.rsqrt(variance + 1e-6)


@pytest.mark.parametrize(
    "mode",
    [
        lambda f: jax.grad(f),
        lambda f: jax.jacfwd(jax.jacrev(f)),
        lambda f: jax.grad(lambda x: jnp.sum(jax.grad(f)(x) ** 2)),
        lambda f: jax.vmap(jax.grad(f)),
    ],
    ids=["gradient", "Hessian", "gradient of a gradient", "of many"],
)
def test_the_derivatives_of_normalise(mode):
    x = jax.random.normal(jax.random.key(3), (4, 3, 5))
    weights = jnp.arange(15.0).reshape(3, 5)

    def of(normalised):
        return mode(lambda x: jnp.sum(jnp.sin(normalised(x)) * jnp.broadcast_to(weights, x.shape)))

    got, wanted = jax.jit(of(normalise))(x), jax.jit(of(plain))(x)
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5 * float(jnp.abs(wanted).max()))
