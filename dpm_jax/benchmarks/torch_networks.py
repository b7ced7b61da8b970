"""The networks of dpm_jax/networks in PyTorch: the same functions, the same work.

Images are (B, H, W, C) throughout, which seen as (B, C, H, W) is PyTorch's channels_last: no layout
is ever changed, a 1×1 convolution is one matrix product, and a channel norm one layer_norm. Modules
have the names that flax gives, so that `load` copies parameters by name. t and log_snr are (G,):
one for all examples, one for each, or one for each of G groups of them.
"""

import itertools
from collections.abc import Callable, Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dpm_jax.networks.multiscale_conv import LEAKY_RELU_MEAN, SOFTPLUS_MEAN

NONLINEARITIES: dict[str, Callable[[Tensor], Tensor]] = {
    "leaky_relu": lambda x: F.leaky_relu(x, 0.05) - LEAKY_RELU_MEAN,
    "softplus": lambda x: F.softplus(x) - SOFTPLUS_MEAN,
}


def load(module: nn.Module, parameters: Mapping[str, np.ndarray]) -> None:
    """Copy the parameters of a flax network, by name: "Dense_0/kernel" to Dense_0.weight.

    Raises:
        ValueError: where the two have not as many.
    """
    count = sum(p.numel() for p in module.parameters())
    expected = sum(value.size for value in parameters.values())
    if count != expected:
        raise ValueError(f"a port of {count} parameters, of a network of {expected}")
    with torch.no_grad():
        for path, value in parameters.items():
            *place, leaf = path.split("/")
            owner = module.get_submodule(".".join(place))
            target = getattr(owner, {"kernel": "weight", "scale": "weight"}.get(leaf, leaf))
            if leaf == "kernel":  # inputs before units there
                value = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T
            target.copy_(torch.tensor(np.ascontiguousarray(value)))


def features(log_snr: Tensor, num: int = 16) -> Tensor:
    """Smooth features of log-SNR, (G, 2 num + 1)."""
    frequency = 0.1 * 2.0 ** torch.linspace(0.0, 5.0, num, device=log_snr.device)
    phase = log_snr[:, None] * frequency
    return torch.cat([log_snr[:, None] / 10, torch.sin(phase), torch.cos(phase)], dim=-1)


def bumps(place: Tensor, num: int) -> Tensor:
    """g_j of eq. 63, (G, num), of places in units of the centres' spacing."""
    centres = torch.arange(num, device=place.device) + 0.5
    return torch.softmax(-0.5 * (place[:, None] - centres) ** 2, dim=-1)


def read_out(hidden: Tensor, g: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
    """eq. 62, (B, n, features) by bumps (G, J): they meet the weights before the product."""
    weights = (g @ kernel.flatten(1)).view(-1, *kernel.shape[1:])
    offset = (g @ bias)[:, None]
    if len(g) == 1:
        return torch.addmm(offset[0], hidden.flatten(0, 1), weights[0]).view(*hidden.shape[:2], -1)
    return torch.baddbmm(offset, hidden, weights)


class Conv(nn.Conv2d):
    """3×3 convolution of (B, H, W, C)."""

    def __init__(self, inputs: int, units: int, bias: bool = True):
        super().__init__(inputs, units, 3, padding=1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, inputs) -> (B, H, W, units)."""
        return super().forward(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class MLP(nn.Module):
    """networks.MLP."""

    def __init__(self, network, size: int):
        super().__init__()
        self.of, octaves = network, network.octaves
        hidden = [network.width] * network.depth
        widths = [size * (1 + 2 * octaves) + 33, *hidden, size * network.outputs]
        for i, (inputs, units) in enumerate(itertools.pairwise(widths)):
            self.add_module(f"Dense_{i}", nn.Linear(inputs, units))
        self.register_buffer("octaves", 2.0 ** torch.arange(octaves))

    def forward(self, x: Tensor, t: Tensor, log_snr: Tensor) -> Tensor:
        """(B, size) -> (B, size, outputs)."""
        phase = (x[:, :, None] * self.octaves).flatten(1)
        time = features(log_snr).expand(len(x), -1)
        hidden = torch.cat([x, torch.sin(phase), torch.cos(phase), time], dim=-1)
        for i in range(self.of.depth):
            hidden = F.silu(self.get_submodule(f"Dense_{i}")(hidden))
        last = self.get_submodule(f"Dense_{self.of.depth}")
        return last(hidden).view(*x.shape, self.of.outputs)


class BumpDense(nn.Module):
    """networks.BumpDense."""

    def __init__(self, network, size: int):
        super().__init__()
        self.of = network
        for i, (inputs, units) in enumerate(itertools.pairwise([size, *network.units])):
            self.add_module(f"Dense_{i}", nn.Linear(inputs, units))
        shape = network.num_bumps, network.units[-1], size * network.outputs
        self.readout_kernel = nn.Parameter(torch.zeros(shape))
        self.readout_bias = nn.Parameter(torch.zeros(shape[0], shape[2]))

    def forward(self, x: Tensor, t: Tensor, log_snr: Tensor) -> Tensor:
        """(B, *event) -> (B, *event, outputs)."""
        hidden = x.flatten(1)
        for i in range(len(self.of.units)):
            hidden = torch.tanh(self.get_submodule(f"Dense_{i}")(hidden))
        g = bumps(t.float() * (self.of.num_bumps / self.of.T), self.of.num_bumps)
        hidden = hidden.view(len(g), -1, hidden.shape[-1])
        z = read_out(hidden, g, self.readout_kernel, self.readout_bias)
        return z.view(*x.shape, self.of.outputs)


class MultiScaleLayer(nn.Module):
    """networks.multiscale_conv.MultiScaleLayer."""

    def __init__(self, inputs: int, channels: int, num_scales: int, nonlinearity: str, film: bool):
        super().__init__()
        self.num_scales, self.nonlinearity = num_scales, NONLINEARITIES[nonlinearity]
        if film:
            self.film = nn.Linear(2 * channels, 2 * channels)
        for k in range(num_scales):
            self.add_module(f"scale_{k}", Conv(inputs, channels, bias=k == 0))

    def forward(self, x: Tensor, time: Tensor | None) -> Tensor:
        """(B, H, W, C) -> (B, H, W, channels)."""
        pyramid = [x]
        for _ in range(1, self.num_scales):
            pooled = F.avg_pool2d(pyramid[-1].permute(0, 3, 1, 2), 2)
            pyramid.append(pooled.permute(0, 2, 3, 1))
        last = self.num_scales - 1
        total = self.get_submodule(f"scale_{last}")(pyramid[last])
        for k in range(last - 1, -1, -1):
            wide = F.interpolate(total.permute(0, 3, 1, 2), scale_factor=2, mode="nearest")
            total = self.get_submodule(f"scale_{k}")(pyramid[k]) + wide.permute(0, 2, 3, 1)
        if time is not None:
            scale, shift = self.film(time)[:, None, None].chunk(2, dim=-1)
            total = total * (1 + scale) + shift
        return self.nonlinearity(total)


class MultiScaleConv(nn.Module):
    """networks.MultiScaleConv."""

    def __init__(self, network, event: tuple[int, int, int]):
        super().__init__()
        height, width, inputs = event
        self.of, channels = network, network.channels
        for i in range(network.layers):
            of = (inputs if i == 0 else channels, channels, network.num_scales)
            layer = MultiScaleLayer(*of, network.nonlinearity, network.film)
            self.add_module(f"MultiScaleLayer_{i}", layer)
        if network.film:
            self.time = nn.Linear(33, 2 * channels)
        dense = network.dense and (*network.dense, height * width * network.dense_channels)
        joined = channels + (network.dense_channels if dense else 0)
        widths = [height * width * inputs, *dense], [joined, *network.pointwise]
        pairs = [pair for each in widths for pair in itertools.pairwise(each)]
        for i, (before, units) in enumerate(pairs):
            self.add_module(f"Dense_{i}", nn.Linear(before, units))
        self.whole_image = range(len(dense))
        self.pointwise = range(len(dense), len(pairs))
        shape = network.num_bumps, widths[1][-1], inputs * network.outputs
        self.readout_kernel = nn.Parameter(torch.zeros(shape))
        self.readout_bias = nn.Parameter(torch.zeros(shape[0], shape[2]))

    def forward(self, x: Tensor, t: Tensor, log_snr: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C, outputs)."""
        hidden, time = x, F.silu(self.time(features(log_snr))) if self.of.film else None
        for i in range(self.of.layers):
            hidden = self.get_submodule(f"MultiScaleLayer_{i}")(hidden, time)
        if len(self.whole_image):
            flat = x.flatten(1)
            for i in self.whole_image:
                flat = torch.tanh(self.get_submodule(f"Dense_{i}")(flat))
            hidden = torch.cat([hidden, flat.view(*x.shape[:3], -1)], dim=-1)
        for i in self.pointwise:
            hidden = torch.tanh(self.get_submodule(f"Dense_{i}")(hidden))
        with torch.autocast(x.device.type, enabled=False):
            flat = hidden.float().flatten(1, 2)
            z = read_out(flat, self._bumps(t, log_snr), self.readout_kernel, self.readout_bias)
        return z.view(*x.shape, self.of.outputs)

    def _bumps(self, t: Tensor, log_snr: Tensor) -> Tensor:
        num, (low, high) = self.of.num_bumps, self.of.log_snr_range
        if self.of.condition == "t":
            return bumps(t.float() * (num / self.of.T), num)
        return bumps((log_snr - low) * (num / (high - low)), num)


class Block(nn.Module):
    """The residual block of networks.UNet."""

    def __init__(self, inputs: int, channels: int, time: int):
        super().__init__()
        self.inputs, self.channels = inputs, channels
        self.LayerNorm_0 = nn.LayerNorm(inputs, eps=1e-6)
        self.Conv_0, self.Conv_1 = Conv(inputs, channels), Conv(channels, channels)
        self.Dense_0 = nn.Linear(time, 2 * channels)
        if inputs != channels:
            self.Dense_1 = nn.Linear(inputs, channels)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """(B, H, W, inputs) -> (B, H, W, channels)."""
        hidden = self.Conv_0(F.silu(self.LayerNorm_0(x)))
        scale, shift = self.Dense_0(time)[:, None, None].chunk(2, dim=-1)
        hidden = F.layer_norm(hidden, (self.channels,), eps=1e-6) * (1 + scale) + shift
        hidden = self.Conv_1(F.silu(hidden))
        return hidden + (x if self.inputs == self.channels else self.Dense_1(x))


class UNet(nn.Module):
    """networks.UNet."""

    def __init__(self, network, event: tuple[int, int, int]):
        super().__init__()
        self.of, (fine, coarse) = network, network.channels
        time, blocks, squeezed = 2 * coarse, network.blocks, event[0] * event[1]
        self.Dense_0 = nn.Linear(33, time)
        self.Conv_0, self.Conv_1 = Conv(4 * event[2], fine), Conv(4 * fine, coarse)
        sizes = [(fine, fine)] * blocks + [(coarse, coarse)] * 2 * blocks
        sizes += [(2 * fine, fine)] + [(fine, fine)] * (blocks - 1)
        for i, (inputs, channels) in enumerate(sizes):
            self.add_module(f"_Block_{i}", Block(inputs, channels, time))
        last, every = 2 * blocks - 1, range(4 * blocks)
        mixed = {"middle": [last], "coarse": every[blocks : 3 * blocks], "all": every}
        wide = network.bottleneck
        self.mixed = list(mixed[network.mixing]) if wide else []  # blocks that one follows
        maps = [(16, coarse) if blocks <= i < 3 * blocks else (4, fine) for i in self.mixed]
        inside = [(squeezed, wide), (time, wide), (wide, squeezed)]
        made = [pair for thin, of in maps for pair in ((of, thin), *inside, (thin, of))]
        self.up = 5 * sum(i < 3 * blocks for i in self.mixed)  # the layer before the last blocks
        made.insert(self.up, (coarse, 4 * fine))
        for i, (inputs, units) in enumerate(made):
            self.add_module(f"Dense_{i + 1}", nn.Linear(inputs, units))
        for i, channels in enumerate([*(of for _, of in maps), fine]):
            self.add_module(f"LayerNorm_{i}", nn.LayerNorm(channels, eps=1e-6))
        self.Conv_2 = Conv(fine, 4 * event[2] * network.outputs)

    def forward(self, x: Tensor, t: Tensor, log_snr: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C, outputs)."""
        blocks, time = self.of.blocks, F.silu(self.Dense_0(features(log_snr)))
        hidden = skip = self._blocks(self.Conv_0(_space_to_depth(x)), time, 0, blocks)
        hidden = self._blocks(self.Conv_1(_space_to_depth(hidden)), time, blocks, 3 * blocks)
        hidden = _depth_to_space(self.get_submodule(f"Dense_{self.up + 1}")(hidden))
        hidden = torch.cat([hidden, skip], dim=-1)
        hidden = self._blocks(hidden, time, 3 * blocks, 4 * blocks)
        norm = self.get_submodule(f"LayerNorm_{len(self.mixed)}")
        hidden = self.Conv_2(F.silu(norm(hidden)))
        return _depth_to_space(hidden).view(*x.shape, self.of.outputs)

    def _blocks(self, hidden: Tensor, time: Tensor, first: int, last: int) -> Tensor:
        for i in range(first, last):
            hidden = self.get_submodule(f"_Block_{i}")(hidden, time)
            if i in self.mixed:
                hidden = hidden + self._whole_image(hidden, time, self.mixed.index(i))
        return hidden

    def _whole_image(self, hidden: Tensor, time: Tensor, number: int) -> Tensor:
        first = 5 * number + (5 * number >= self.up)  # Dense_0 is of the time
        made = [self.get_submodule(f"Dense_{first + i}") for i in range(1, 6)]
        squeezed = made[0](self.get_submodule(f"LayerNorm_{number}")(hidden))
        flat = made[1](squeezed.flatten(1)) + made[2](time)
        return made[4](made[3](F.silu(flat)).view(squeezed.shape))


def _space_to_depth(x: Tensor) -> Tensor:
    num, height, width, channels = x.shape
    x = x.view(num, height // 2, 2, width // 2, 2, channels).transpose(2, 3)
    return x.reshape(num, height // 2, width // 2, 4 * channels)


def _depth_to_space(x: Tensor) -> Tensor:
    num, height, width, channels = x.shape
    x = x.view(num, height, width, 2, 2, channels // 4).transpose(2, 3)
    return x.reshape(num, 2 * height, 2 * width, channels // 4)
