"""The paper's network for images: multi-scale convolutions, read out by bumps (App. D.2).

Convolutions alone, so that the same parameters serve images of every size; an option adds the
dense pathway over the whole image, which fixes the size. Another tells the layers the noise level.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from dpm_jax.networks.convolution import Conv
from dpm_jax.networks.dense import log_snr_features, remat
from dpm_jax.networks.paper import bumps
from dpm_jax.networks.promotion import promoting

# Means over a standard normal, which the nonlinearities below are less: constants that the next
# layer's bias could take up, but for the zeros that pad a border. Left in, they are most of what
# random weights pass on, and training stands still for hundreds of steps.
SOFTPLUS_MEAN = 0.80605918334744
LEAKY_RELU_MEAN = 0.37899

# XLA forms a sum or a choice of two arrays once, but anything less in each of the three places
# that read it. So the constant is not what comes last below: 1.7x the training step on CPU.


@jax.custom_jvp
def softplus(x: Array) -> Array:
    """log(1 + e^x), elementwise, less its mean over a standard normal."""
    return (jnp.maximum(x, 0) - SOFTPLUS_MEAN) + jnp.log1p(jnp.exp(-jnp.abs(x)))


@softplus.defjvp
def _softplus_jvp(primals, tangents):
    """σ(x) = 1 − e^−log(1 + e^x), from the value, which the next layer keeps anyway."""
    y = softplus(primals[0])
    return y, (1 - jnp.exp(-SOFTPLUS_MEAN - y)) * tangents[0]


def leaky_relu(x: Array) -> Array:
    """x, or x/20 where negative (the authors' code), elementwise, less its mean likewise."""
    return jnp.where(x < 0, 0.05 * x - LEAKY_RELU_MEAN, x - LEAKY_RELU_MEAN)


NONLINEARITIES: dict[str, Callable[[Array], Array]] = {
    "softplus": softplus,
    "leaky_relu": leaky_relu,
}
CONDITIONS = ("t", "log_snr")


class MultiScaleLayer(nn.Module):
    """Mean-pool to scales 2^k, convolve at each, upsample all, sum, one nonlinearity (App. D.2)."""

    channels: int
    num_scales: int
    kernel: int = 3
    gain: float = 1.0
    nonlinearity: Callable[[Array], Array] = softplus
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, time: Array | None = None) -> Array:
        """x (H, W, C) -> (H, W, channels); 2^(num_scales−1) divides H and W; time: for FiLM."""
        init = nn.initializers.variance_scaling(self.gain / self.num_scales, "fan_in", "normal")
        pyramid = [x]
        for _ in range(1, self.num_scales):
            pyramid.append(_pool(pyramid[-1]))
        maps = [
            Conv(
                self.channels,
                self.kernel,
                use_bias=k == 0,  # one bias serves the sum
                kernel_init=init,
                dtype=self.dtype,
                name=f"scale_{k}",
            )(pyramid[k])
            for k in range(self.num_scales)
        ]
        # From coarse to fine, each sum doubled once, rather than each map up to full size.
        total = maps.pop()
        while maps:
            total = maps.pop() + _upsample(total)
        return self.nonlinearity(total if time is None else self._film(total, time))

    def _film(self, total: Array, time: Array) -> Array:
        """Each channel scaled and shifted by functions of the features of log-SNR, (n,)."""
        zeros = nn.initializers.zeros_init()
        made = nn.Dense(2 * self.channels, kernel_init=zeros, dtype=self.dtype, name="film")
        scale, shift = jnp.split(made(time)[None, None, :], 2, axis=-1)
        return total * (1 + scale) + shift


class MultiScaleConv(nn.Module):
    """Multi-scale convolutions, 1×1 tanh layers, readout by bumps (eq. 62, 63; App. D.2, images).

    The defaults give 114,644 parameters for grey images.

    Fields:
        T: number of steps, over which the bumps in t lie.
        channels, layers, num_scales, kernel: of the multi-scale convolutions.
        pointwise: widths of the 1×1 convolutions with tanh.
        num_bumps: J; the readout has num_bumps · outputs coefficients a value of x.
        dense: widths of a dense tanh pathway over the whole image, () for none (CIFAR-10). A
            further tanh layer gives it dense_channels values a pixel, which join the
            convolutions' features before the 1×1 layers.
        nonlinearity: "softplus" (the paper) or "leaky_relu" (the authors' code), less its mean.
        condition: what the bumps are functions of, "t" (the paper) or "log_snr", which lets one
            network serve every schedule; then the centres lie over log_snr_range.
        dtype: of the computation, None for that of x; parameters and outputs stay float32.
        remat: compute layers again for the gradient: less memory, a third more work.
        film: scale and shift each channel of every layer by functions of log-SNR (FiLM, Perez et
            al. 2018); starts as without. Else the layers know the noise by their input alone.
    """

    T: int
    channels: int = 32
    layers: int = 4
    num_scales: int = 4
    kernel: int = 3
    pointwise: tuple[int, ...] = (32, 32)
    num_bumps: int = 10
    outputs: int = 2
    dense: tuple[int, ...] = ()
    dense_channels: int = 2
    nonlinearity: str = "softplus"
    condition: str = "t"
    log_snr_range: tuple[float, float] = (-10.0, 10.0)
    dtype: Any = None
    remat: bool = False
    film: bool = False

    @nn.compact
    @promoting
    def __call__(self, x: Array, t: Array, log_snr: Array) -> Array:
        """x (H, W, C) -> raw outputs (H, W, C, outputs)."""
        self._check(x.shape)
        hidden = x
        time = self._time(log_snr) if self.film else None
        make = remat(MultiScaleLayer, self.remat)
        for layer in range(self.layers):
            hidden = make(
                self.channels,
                self.num_scales,
                self.kernel,
                # About what the nonlinearity before takes (3.7 or 2.8), and pooling from noise.
                gain=4.0 if layer else 2.0,
                nonlinearity=NONLINEARITIES[self.nonlinearity],
                dtype=self.dtype,
                name=f"MultiScaleLayer_{layer}",  # that without remat
            )(hidden, time)
        if self.dense:
            hidden = jnp.concatenate([hidden, self._whole_image(x)], axis=-1)
        for width in self.pointwise:
            hidden = jnp.tanh(nn.Dense(width, dtype=self.dtype)(hidden))
        return self._read_out(hidden, x, t, log_snr)

    def _time(self, log_snr: Array) -> Array:
        """Features of log-SNR that all layers share, (2 channels,)."""
        made = nn.Dense(2 * self.channels, dtype=self.dtype, name="time")
        return jax.nn.silu(made(log_snr_features(log_snr)))

    def _whole_image(self, x: Array) -> Array:
        """The dense tanh pathway, (H, W, dense_channels)."""
        height, width, _ = x.shape
        hidden = x.reshape(-1)
        for units in (*self.dense, height * width * self.dense_channels):
            hidden = jnp.tanh(nn.Dense(units, dtype=self.dtype)(hidden))
        return hidden.reshape(height, width, self.dense_channels)

    def _read_out(self, hidden: Array, x: Array, t: Array, log_snr: Array) -> Array:
        """eq. 62 in float32 or better, whatever the dtype inside."""
        exact = jnp.promote_types(x.dtype, jnp.float32)
        shape = (self.num_bumps, hidden.shape[-1], x.shape[-1] * self.outputs)
        # Small, so that the first reverse kernel is close to the readout's own.
        init = nn.initializers.normal(0.1 * hidden.shape[-1] ** -0.5)
        kernel = self.param("readout_kernel", init, shape).astype(exact)
        bias = self.param("readout_bias", nn.initializers.zeros_init(), (shape[0], shape[2]))
        g = self.bumps(t, log_snr).astype(exact)
        # Bumps meet the weights before the product, not the outputs after it.
        z = hidden.astype(exact) @ jnp.tensordot(g, kernel, 1)
        z = z + (g @ bias.astype(exact))[None, None, :]
        return z.reshape(*x.shape, self.outputs)

    def bumps(self, t: Array, log_snr: Array) -> Array:
        """g_j of eq. 63, (num_bumps,), of t or of log-SNR, as `condition` says."""
        if self.condition == "t":
            return bumps(t.astype(jnp.result_type(float)), self.T, self.num_bumps)
        low, high = self.log_snr_range
        # In units of the centres' spacing, log_snr_range is (0, num_bumps).
        place = (log_snr - low) * (self.num_bumps / (high - low))
        return bumps(place, self.num_bumps, self.num_bumps)

    def _check(self, shape: tuple[int, ...]) -> None:
        for name, known in (("nonlinearity", NONLINEARITIES), ("condition", CONDITIONS)):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"{name}: expected one of {tuple(known)}, got {getattr(self, name)!r}"
                )
        for name in ("num_scales", "num_bumps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")
        if not self.log_snr_range[0] < self.log_snr_range[1]:
            raise ValueError(
                f"log_snr_range: expected (low, high) with low < high, got {self.log_snr_range}"
            )
        _check_sides(shape, 2 ** (self.num_scales - 1))


def _check_sides(shape: tuple[int, ...], divisor: int) -> None:
    if len(shape) != 3:
        raise ValueError(f"MultiScaleConv takes images (H, W, C), got an event of shape {shape}")
    for side, size in (("height", shape[0]), ("width", shape[1])):
        if size % divisor:
            raise ValueError(
                "MultiScaleConv takes images whose sides 2^(num_scales-1) ="
                f" {divisor} divides, got {side} {size} in {shape}"
            )


def _pool(x: Array) -> Array:
    """Means over blocks of 2×2, (H, W, C) -> (H/2, W/2, C)."""
    height, width, channels = x.shape
    return x.reshape(height // 2, 2, width // 2, 2, channels).mean((1, 3))


def _upsample(x: Array) -> Array:
    """Each pixel four times, (H, W, C) -> (2H, 2W, C); a broadcast, where jnp.repeat gathers."""
    height, width, channels = x.shape
    wide = jnp.broadcast_to(x[:, None, :, None, :], (height, 2, width, 2, channels))
    return wide.reshape(2 * height, 2 * width, channels)
