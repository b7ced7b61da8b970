"""The multi-scale convolutional network of App. D.2: a layer by hand, eq. 62–63, sizes, scale."""

import functools

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpm_jax import networks
from dpm_jax.core import gaussian, model, schedule
from dpm_jax.networks.multiscale_conv import NONLINEARITIES, MultiScaleLayer

T = 100
NOWHERE = jnp.asarray(0.0)  # the log-SNR, where the bumps look at t
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(80)


def small(**fields):
    """A network of two layers at scales 1, 2, 4."""
    settings = {"channels": 3, "layers": 2, "num_scales": 3, "pointwise": (4,), "num_bumps": 3}
    return networks.MultiScaleConv(T, **{**settings, **fields})


@functools.lru_cache
def initial(network, shape):
    example = (jnp.zeros(shape), jnp.asarray(1), NOWHERE)
    return jax.jit(network.init)(jax.random.key(0), *example)


def start(network, shape=(8, 8, 1)):
    """Parameters, and an image of white noise."""
    # Fields that parameters do not depend on go, so that few initialisers are compiled.
    network = network.clone(condition="t", nonlinearity="softplus", dtype=None)
    return initial(network, shape), jax.random.normal(jax.random.key(1), shape)


def shapes_of(network, shape):
    """The shapes of the parameters: nothing is computed."""
    example = (jnp.zeros(shape), jnp.asarray(1), NOWHERE)
    return jax.eval_shape(network.init, jax.random.key(0), *example)


def with_readout(params, kernel, bias):
    leaves = params["params"]
    kernel = jnp.broadcast_to(kernel, leaves["readout_kernel"].shape)
    return {"params": {**leaves, "readout_kernel": kernel, "readout_bias": jnp.asarray(bias)}}


def convolved(x, kernel):
    """A convolution as deep learning means it, the border padded with zeros."""
    size = len(kernel) // 2
    height, width, _ = x.shape
    padded = np.pad(x, ((size, size), (size, size), (0, 0)))
    out = np.zeros((height, width, kernel.shape[-1]))
    for r in range(height):
        for c in range(width):
            patch = padded[r : r + len(kernel), c : c + len(kernel)]
            out[r, c] = np.einsum("ijk,ijkl->l", patch, kernel)
    return out


@pytest.mark.parametrize("shape, num_scales, kernel", [((4, 8, 2), 3, 3), ((4, 2, 1), 2, 5)])
def test_a_layer_by_hand(shape, num_scales, kernel):
    layer = MultiScaleLayer(3, num_scales, kernel)
    x = jax.random.normal(jax.random.key(1), shape)
    params = jax.jit(layer.init)(jax.random.key(0), x)["params"]
    params["scale_0"]["bias"] = jnp.asarray([0.3, -0.2, 1.5])
    total = np.zeros((*shape[:2], 3)) + np.asarray(params["scale_0"]["bias"])
    for k in range(num_scales):
        block = 2**k
        pooled = np.zeros((shape[0] // block, shape[1] // block, shape[2]))
        for r, c in np.ndindex(*pooled.shape[:2]):
            rows, columns = slice(r * block, (r + 1) * block), slice(c * block, (c + 1) * block)
            pooled[r, c] = np.asarray(x)[rows, columns].mean(axis=(0, 1))
        here = convolved(pooled, np.asarray(params[f"scale_{k}"]["kernel"]))
        total += np.kron(here, np.ones((block, block, 1)))
    mean = WEIGHTS @ np.logaddexp(NODES, 0) / WEIGHTS.sum()
    np.testing.assert_allclose(
        jax.jit(layer.apply)({"params": params}, x), np.logaddexp(total, 0) - mean, atol=2e-6
    )
    assert [name for name, leaf in params.items() if "bias" in leaf] == ["scale_0"]


@pytest.mark.parametrize("nonlinearity", NONLINEARITIES)
def test_film_scales_and_shifts_each_channel_of_the_sum(nonlinearity):
    """Set by biases, so that scale and shift are known; the plain layer says what the sum is."""
    plain = MultiScaleLayer(3, 2, nonlinearity=lambda x: x)
    layer = plain.clone(nonlinearity=NONLINEARITIES[nonlinearity])
    x, time = jax.random.normal(jax.random.key(1), (4, 6, 2)), jnp.ones(5)
    params = jax.jit(layer.init)(jax.random.key(0), x, time)["params"]
    total = jax.jit(plain.apply)({"params": {k: params[k] for k in ("scale_0", "scale_1")}}, x)
    scale, shift = np.asarray([[0.5, -1.0, 2.0], [0.3, 0.0, -4.0]], np.float32)
    params["film"]["bias"] = jnp.concatenate([scale, shift])
    expected = NONLINEARITIES[nonlinearity](total * (1 + scale)[None, None] + shift[None, None])
    found = jax.jit(layer.apply)({"params": params}, x, time)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_softplus_and_its_derivatives_at_all_sizes():
    softplus = NONLINEARITIES["softplus"]
    x = np.array([-200.0, -30.0, -3.0, -1e-3, 0.0, 0.7, 20.0, 200.0])
    mean = WEIGHTS @ np.logaddexp(NODES, 0) / WEIGHTS.sum()
    np.testing.assert_allclose(softplus(jnp.asarray(x)), np.logaddexp(x, 0) - mean, rtol=3e-7)
    first = jax.vmap(jax.grad(softplus))(jnp.asarray(x))
    second = jax.vmap(jax.grad(jax.grad(softplus)))(jnp.asarray(x))
    sigmoid = np.exp(-np.logaddexp(-x, 0))
    np.testing.assert_allclose(first, sigmoid, atol=3e-7)
    np.testing.assert_allclose(second, sigmoid * (1 - sigmoid), atol=3e-7)


@pytest.mark.parametrize("name", NONLINEARITIES)
def test_nonlinearities_have_mean_0_over_a_standard_normal(name):
    # A kink at 0 leaves Gauss-Hermite an error: a fine grid, symmetric about it, does not mind.
    z = np.linspace(-10, 10, 200_001)
    density = np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)
    values = np.asarray(NONLINEARITIES[name](jnp.asarray(z)), np.float64)
    assert abs(np.trapezoid(values * density, z)) < 1e-5


def test_leaky_relu_has_the_slopes_of_the_authors_code():
    slope = jax.vmap(jax.grad(NONLINEARITIES["leaky_relu"]))(jnp.asarray([-2.0, 3.0]))
    np.testing.assert_allclose(slope, [0.05, 1.0], rtol=1e-6)


def gaussian_bumps(place, centres, width):
    """eq. 63."""
    g = np.exp(-((place - centres) ** 2) / (2 * width**2))
    return g / g.sum()


@pytest.mark.parametrize("condition", ["t", "log_snr"])
def test_the_readout_is_the_bumps_average_of_its_coefficients(condition):
    """eq. 62, with coefficients that the bias alone gives: they are known."""
    network = small(num_bumps=4, condition=condition, log_snr_range=(-6.0, 2.0))
    params, x = start(network, (8, 8, 2))
    y = np.random.default_rng(0).normal(size=(4, 2, 2))  # bump, channel, output
    apply = jax.jit(
        lambda y, t, log_snr: network.apply(
            with_readout(params, 0.0, y.reshape(4, 4)), x, t, log_snr
        )
    )
    for t, log_snr in ((1, 0.0), (37, -5.0), (37, 5.0), (100, 1.3)):
        g = (
            gaussian_bumps(t, np.array([12.5, 37.5, 62.5, 87.5]), 25.0)
            if condition == "t"
            else gaussian_bumps(log_snr, np.array([-5.0, -3.0, -1.0, 1.0]), 2.0)
        )
        raw = apply(y, jnp.asarray(t), jnp.asarray(log_snr))
        expected = np.broadcast_to(np.tensordot(g, y, 1), (*x.shape, 2))
        np.testing.assert_allclose(raw, expected, rtol=1e-4, atol=1e-6)
    # A partition of unity; and far from all other centres one coefficient is all there is.
    np.testing.assert_allclose(apply(np.ones_like(y), jnp.asarray(5), NOWHERE), 1.0, rtol=1e-6)
    if condition == "log_snr":
        for log_snr, row in ((-20.0, 0), (20.0, 3)):
            raw = apply(y, jnp.asarray(1), jnp.asarray(log_snr))
            np.testing.assert_allclose(raw, np.broadcast_to(y[row], raw.shape), atol=2e-3)


def test_contracting_the_weights_is_eq_62_on_the_outputs():
    network = small(num_bumps=4)
    params, x = start(network, (8, 8, 2))
    kernel = params["params"]["readout_kernel"]
    bias = np.random.default_rng(0).normal(size=params["params"]["readout_bias"].shape)
    apply = jax.jit(
        lambda kernel, bias, t: network.apply(with_readout(params, kernel, bias), x, t, NOWHERE)
    )
    # With the coefficients of bump j in every place, the network's output is y_j whatever t.
    y = [
        apply(jnp.stack([kernel[j]] * 4), np.stack([bias[j]] * 4), jnp.asarray(9)) for j in range(4)
    ]
    g = gaussian_bumps(60, np.array([12.5, 37.5, 62.5, 87.5]), 25.0)
    raw = apply(kernel, bias, jnp.asarray(60))
    np.testing.assert_allclose(raw, np.tensordot(g, np.stack(y), 1), rtol=1e-4, atol=1e-6)


def test_the_same_parameters_serve_larger_images():
    network = small()
    params, _ = start(network, (32, 32, 1))
    large = jax.random.normal(jax.random.key(5), (64, 96, 1))
    t = jnp.asarray(30)
    apply = jax.jit(network.apply)
    raw = apply(params, large, t, NOWHERE)
    assert raw.shape == (64, 96, 1, 2)
    # Two layers see 4 + 3 pixels each at the coarsest scale: a crop agrees further inside.
    crop = apply(params, large[16:48, 32:64], t, NOWHERE)
    np.testing.assert_allclose(crop[14:18, 14:18], raw[30:34, 46:50], rtol=1e-4, atol=1e-6)
    assert jnp.max(jnp.abs(crop[:2] - raw[16:18, 32:64])) > 1e-3


def test_film_starts_as_the_plain_trunk_and_then_tells_noise_levels_apart():
    """With bumps in t, so that log-SNR enters by FiLM alone; at a second size too."""
    network = small(film=True)
    params, _ = start(network)
    flat = flax.traverse_util.flatten_dict(params)
    flat = {path: leaf for path, leaf in flat.items() if not {"time", "film"} & set(path)}
    plain = flax.traverse_util.unflatten_dict(flat)
    apply, t = jax.jit(network.apply), jnp.asarray(30)
    for shape in ((8, 8, 1), (12, 16, 1)):
        x = jax.random.normal(jax.random.key(5), shape)
        expected = jax.jit(small().apply)(plain, x, t, NOWHERE)
        for log_snr in (-7.0, 9.0):
            np.testing.assert_array_equal(apply(params, x, t, jnp.asarray(log_snr)), expected)
        moved = jax.tree.map(lambda leaf: leaf + 0.1, params)
        found = [apply(moved, x, t, jnp.asarray(log_snr)) for log_snr in (-7.0, 9.0)]
        assert jnp.max(jnp.abs(found[0] - found[1])) > 1e-3


@pytest.mark.parametrize("nonlinearity", NONLINEARITIES)
def test_a_shift_by_the_coarsest_scale_shifts_the_output(nonlinearity):
    network = small(nonlinearity=nonlinearity)
    params, _ = start(network, (32, 32, 1))
    x = jax.random.normal(jax.random.key(6), (40, 48, 1))
    apply = jax.jit(lambda x: network.apply(params, x, jnp.asarray(30), NOWHERE))
    inside = np.s_[20:24, 20:24]
    still = apply(x)[inside]
    np.testing.assert_allclose(
        apply(jnp.roll(x, (4, -4), (0, 1)))[24:28, 16:20], still, rtol=1e-4, atol=1e-6
    )
    # By less it does not: pooling cuts the image into blocks.
    assert jnp.max(jnp.abs(apply(jnp.roll(x, 1, 0))[21:25, 20:24] - still)) > 1e-3


def test_the_dense_pathway_alone_sees_the_whole_image():
    t = jnp.asarray(30)
    for dense in ((), (5,)):
        network = small(layers=1, num_scales=1, dense=dense)
        params, x = start(network)
        corner = jax.jit(jax.grad(lambda x: jnp.sum(network.apply(params, x, t, NOWHERE)[0, 0])))  # noqa: B023
        seen = np.asarray(corner(x))[..., 0] != 0
        assert seen[:2, :2].all()
        assert seen.all() if dense else seen.sum() == 4
    leaves = shapes_of(small(dense=(7, 5), dense_channels=6), (8, 8, 1))["params"]
    sizes = {name: leaf["kernel"].shape for name, leaf in leaves.items() if "Dense" in name}
    assert list(sizes.values()) == [(64, 7), (7, 5), (5, 8 * 8 * 6), (3 + 6, 4)]


@pytest.mark.parametrize("nonlinearity, condition", [("softplus", "t"), ("leaky_relu", "log_snr")])
def test_gradients_are_finite_and_reach_every_parameter(nonlinearity, condition):
    network = small(nonlinearity=nonlinearity, condition=condition, dense=(5,))
    params, x = start(network)

    def loss(params, x, t, log_snr):
        return jnp.sum(network.apply(params, x, t, log_snr) ** 2)

    gradient = jax.jit(jax.grad(loss, (0, 1)))
    for t, log_snr, scale in ((1, 20.0, 1.0), (T, -20.0, 1.0), (50, 0.0, 300.0)):
        leaves = gradient(params, scale * x, jnp.asarray(t), jnp.asarray(log_snr))
        leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(leaves)]
        assert all(np.isfinite(leaf).all() for leaf in leaves)
        assert scale > 1 or all(np.any(leaf != 0) for leaf in leaves)  # tanh saturates


def convolutions(jaxpr):
    """The convolutions of a jaxpr, those of its inner jaxprs too."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "convolve":
            yield equation
        for inner in jax.tree.leaves(
            equation.params, is_leaf=lambda leaf: hasattr(leaf, "eqns") or hasattr(leaf, "jaxpr")
        ):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from convolutions(inner)


@pytest.mark.parametrize("dtype", [None, jnp.bfloat16])
def test_vmap_makes_one_convolution_of_a_batch(dtype):
    network = small(dtype=dtype)
    params, x = start(network)
    batch, t = jnp.stack([x, -x, 2 * x]), jnp.asarray([1, 30, 99])

    def each(params, batch, t):
        return jax.vmap(lambda x, t: network.apply(params, x, t, NOWHERE))(batch, t)

    found = list(convolutions(jax.make_jaxpr(each)(params, batch, t).jaxpr))
    assert len(found) == 2 * 3
    for equation in found:
        assert equation.invars[0].aval.shape[0] == 3
        assert equation.invars[0].aval.dtype == (dtype or jnp.float32)
    one = jax.jit(network.apply)(params, batch[2], t[2], NOWHERE)
    tolerance = 1e-5 if dtype is None else 1e-3
    np.testing.assert_allclose(jax.jit(each)(params, batch, t)[2], one, atol=tolerance)


def test_bfloat16_inside_is_close_and_float32_outside():
    exact, rough = small(dense=(5,)), small(dense=(5,), dtype=jnp.bfloat16)
    params, x = start(exact)
    t = jnp.asarray(30)
    leaves = jax.tree.leaves(shapes_of(rough, x.shape))
    assert all(leaf.dtype == jnp.float32 for leaf in leaves)
    apply = jax.jit(lambda params: [n.apply(params, x, t, NOWHERE) for n in (exact, rough)])
    expected, raw = apply(params)
    assert raw.dtype == expected.dtype == jnp.float32
    error = jnp.sqrt(jnp.mean((raw - expected) ** 2)) / jnp.std(expected)
    assert 1e-4 < error < 0.03


@pytest.mark.parametrize("nonlinearity", NONLINEARITIES)
def test_the_signal_keeps_its_scale_over_the_layers(nonlinearity):
    """Variation over pixels in each channel, of white noise and of an image without detail."""
    network = networks.MultiScaleConv(T, nonlinearity=nonlinearity)
    params, noise = start(network, (32, 32, 1))
    wave = np.sin(np.arange(32) * np.pi / 16)
    smooth = jnp.asarray((wave[:, None] + wave)[..., None], jnp.float32)
    apply = jax.jit(
        lambda x: network.apply(params, x, jnp.asarray(50), NOWHERE, capture_intermediates=True)
    )
    for x in (noise, smooth):
        raw, state = apply(x)
        seen = flax.traverse_util.flatten_dict(state["intermediates"], sep="/")
        variances = [
            float(jnp.mean(jnp.var(seen[f"MultiScaleLayer_{layer}/__call__"][0], axis=(0, 1))))
            for layer in range(4)
        ]
        assert all(0.01 < variance < 2 for variance in variances), variances
        assert 1e-3 < jnp.sqrt(jnp.mean(raw**2)) < 0.1


def test_the_first_reverse_kernel_is_close_to_the_readouts_own():
    steps = schedule.geometric(T, 1e-3)
    params, x = start(small())
    built = model.build(gaussian.family(), steps, small(), x.shape, "code", "eq64")
    mean, variance, _ = jax.jit(built.chain({"network": params}).reverse)(x, jnp.asarray(50))
    beta = float(steps.beta[50])
    assert np.max(np.abs(mean - np.sqrt(1 - beta) * x)) < 0.3 * np.sqrt(beta)
    np.testing.assert_allclose(variance, np.full(x.shape, beta), rtol=0.3)


def test_the_number_of_parameters():
    def count(shape):
        leaves = jax.tree.leaves(shapes_of(networks.MultiScaleConv(1000), shape))
        return sum(leaf.size for leaf in leaves)

    layers = 4 * 9 * 32 * (1 + 3 * 32) + 4 * 32
    pointwise, readout = 2 * (32 * 32 + 32), 10 * 2 * (32 + 1)
    assert count((32, 32, 1)) == layers + pointwise + readout == 114_644
    assert count((256, 256, 1)) == 114_644


@pytest.mark.parametrize(
    "shape, message",
    [
        ((12, 16, 1), r"sides 2\^\(num_scales-1\) = 8 divides, got height 12 in \(12, 16, 1\)"),
        ((16, 4, 1), r"sides 2\^\(num_scales-1\) = 8 divides, got width 4 in \(16, 4, 1\)"),
        ((16, 16), r"takes images \(H, W, C\), got an event of shape \(16, 16\)"),
    ],
)
def test_images_that_the_scales_do_not_divide_are_refused(shape, message):
    with pytest.raises(ValueError, match=message):
        shapes_of(small(num_scales=4), shape)
    with pytest.raises(ValueError, match=rf"network: MultiScaleConv does not take .*{message}"):
        model.build(gaussian.family(), schedule.linear(T), small(num_scales=4), shape)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"nonlinearity": "relu"}, r"nonlinearity: expected one of \('softplus', 'leaky_relu'\)"),
        ({"condition": "beta"}, r"condition: expected one of \('t', 'log_snr'\), got 'beta'"),
        ({"num_scales": 0}, "num_scales: expected at least 1, got 0"),
        ({"num_bumps": 0}, "num_bumps: expected at least 1, got 0"),
        ({"log_snr_range": (3.0, -3.0)}, r"log_snr_range: expected \(low, high\)"),
    ],
)
def test_unknown_settings_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        shapes_of(small(**fields), (8, 8, 1))
