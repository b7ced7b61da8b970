"""Reverse kernels and terms of K of the Gaussian family in PyTorch, for a batch of examples.

What is known of a schedule is in tables, made once in float64, as a careful user has it.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from dpm_jax.images.dct import matrix
from dpm_jax.images.kernel import Z_RANGE

Range = tuple[float, float] | None


class Tables:
    """Coefficients by t, (T+1,) float32, of a schedule's β and log ᾱ."""

    def __init__(self, schedule: Sequence[np.ndarray], device):
        beta, log_alpha_bar = (np.asarray(value, np.float64) for value in schedule[:2])
        noise = -np.expm1(log_alpha_bar)
        before = np.concatenate([[0.0], log_alpha_bar[:-1]])
        earlier = -np.expm1(before)
        safe = np.where(noise > 0, noise, 1)
        log_snr = log_alpha_bar - np.log(-np.expm1(np.minimum(log_alpha_bar, -1e-9)))
        later = np.maximum(np.arange(len(beta)), 2)
        with np.errstate(divide="ignore"):
            values = {
                "beta": beta,
                "log_beta": np.log(beta),
                "logit_beta": np.log(beta) - np.log1p(-beta),
                "log_alpha_bar": log_alpha_bar,
                "signal": np.exp(0.5 * log_alpha_bar),
                "deviation": np.sqrt(noise),
                "log_snr": np.clip(log_snr, -20, 20),
                "kept": np.sqrt(1 - beta),  # of x^{t-1} in a forward step
                # q(x^{t-1} | x^t, x^0) = N(from_x0 x^0 + from_xt x^t, variance)
                "from_x0": np.exp(0.5 * before) * beta / safe,
                "from_xt": np.sqrt(1 - beta) * earlier / safe,
                "variance": beta * earlier / safe,
                "least": (beta * earlier / safe)[later],
            }
        self.T = len(beta) - 1
        self.network_t = torch.tensor(schedule[2], dtype=torch.long, device=device)
        self.at = {
            name: torch.tensor(value, dtype=torch.float32, device=device)
            for name, value in values.items()
        }

    def __call__(self, name: str, t: Tensor, like: Tensor) -> Tensor:
        """A coefficient at t (G,), to meet a batch."""
        found = self.at[name][t]
        if 1 < len(t) < len(like):
            found = found.repeat_interleave(len(like) // len(t))
        return found.view(-1, *[1] * (like.ndim - 1))


class Chain(nn.Module):
    """A network with a readout by name (gaussian.readout) on a schedule."""

    def __init__(self, net: nn.Module, tables: Tables, mean: str, variance: str, bfloat16: bool):
        super().__init__()
        self.net, self.tables, self.bfloat16 = net, tables, bfloat16
        self.mean, self.variance = mean, variance

    def forward(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """−KL_t (B,), t >= 2: the term of K at x^t = √ᾱ x^0 + √(1−ᾱ) noise."""
        at = self.tables
        xt = at("signal", t, x0) * x0 + at("deviation", t, x0) * noise
        x0_hat, mean, variance = self.read(xt, t)
        of_q = at("variance", t, x0)
        if x0_hat is None:
            off = at("from_x0", t, x0) * x0 + at("from_xt", t, x0) * xt - mean
        else:  # what the two means share is left out of both
            off = at("from_x0", t, x0) * (x0 - x0_hat)
        log_ratio = torch.log(of_q) - torch.log(variance)
        each = off**2 / variance + torch.expm1(log_ratio) - log_ratio
        return -0.5 * each.flatten(1).sum(1)

    def kernel(self, xt: Tensor, t: Tensor, clip: Range = None) -> tuple[Tensor, Tensor]:
        """Mean and variance of p(x^{t-1} | x^t), t >= 2; x̂^0 clipped where a range is given."""
        return self.read(xt, t, clip)[1:]

    def read(self, xt: Tensor, t: Tensor, clip: Range = None):
        """x̂^0 where the readout has one, mean and variance."""
        raw, at = self._raw(xt, t), self.tables
        z = raw[..., 0]
        variance = self._variance(raw, xt, t)
        if self.mean == "eq65":
            return None, (xt - z) * (1 - variance) + z, variance
        if self.mean == "code":
            return None, at("kept", t, xt) * xt + torch.sqrt(at("beta", t, xt)) * z, variance
        x0 = z
        if self.mean == "v":
            x0 = at("signal", t, xt) * xt - at("deviation", t, xt) * z
        x0 = x0 if clip is None else x0.clamp(*clip)
        return x0, at("from_x0", t, xt) * x0 + at("from_xt", t, xt) * xt, variance

    def _raw(self, x: Tensor, t: Tensor) -> Tensor:
        at = self.tables
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.bfloat16):
            raw = self.net(x, at.network_t[t], at.at["log_snr"][t])
        return raw.float()

    def _variance(self, raw: Tensor, xt: Tensor, t: Tensor) -> Tensor:
        at = self.tables
        if self.variance == "eq64":
            return torch.sigmoid(raw[..., 1] + at("logit_beta", t, xt))
        least = at("least", t, xt)
        if self.variance == "posterior":
            return least
        fraction = torch.sigmoid(raw[..., 1])
        return torch.exp(fraction * at("log_beta", t, xt) + (1 - fraction) * torch.log(least))


class SkipChain(Chain):
    """The same on the linear skip (images.kernel)."""

    def __init__(self, net: nn.Module, tables: Tables, skip, bfloat16: bool):
        super().__init__(net, tables, "skip", "", bfloat16)
        height, width = skip.power.shape[:2]
        mean = np.broadcast_to(skip.mean, skip.power.shape)
        buffers = {"m": mean, "axes": skip.axes, "power": skip.power}
        buffers |= {"vertical": matrix(height), "horizontal": matrix(width)}
        for name, value in buffers.items():
            self.register_buffer(name, torch.tensor(np.array(value), dtype=torch.float32))

    def read(self, xt: Tensor, t: Tensor, clip: Range = None):
        """x̂^0, mean and variance."""
        at = self.tables
        x0, error, look = self._wiener(xt, t)
        raw = self._raw(look, t).view(*xt.shape[:3], 2, xt.shape[3])
        x0 = x0 + torch.sqrt(error) * raw[..., 0, :]
        x0 = x0 if clip is None else x0.clamp(*clip)
        from_x0 = at("from_x0", t, xt)
        left = from_x0**2 * error * torch.exp(raw[..., 1, :].clamp(*Z_RANGE))
        mean = from_x0 * x0 + at("from_xt", t, xt) * xt
        return x0, mean, at("variance", t, xt) + left

    def _wiener(self, xt: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x̂ and its error (G, 1, 1, C), and what the network sees."""
        at = self.tables
        log_alpha_bar, signal = at("log_alpha_bar", t, xt), at("signal", t, xt)
        noise = -torch.expm1(log_alpha_bar)
        total = torch.exp(log_alpha_bar) * self.power + noise
        z = self._analyse(xt - signal * self.m)
        both = torch.cat([(self.power - 1) / total * z, z / torch.sqrt(total)])
        correction, residual = self._synthesise(both).chunk(2)
        x0 = signal * xt + noise * (self.m + signal * correction)
        error, of_noise = self._by_channel(self.power * noise / total), noise / total
        scale = torch.sqrt(self._by_channel(of_noise.expand_as(total)))
        return x0, error, torch.cat([x0, torch.asinh(residual / scale)], dim=-1)

    def _by_channel(self, variance: Tensor) -> Tensor:
        return (variance.mean((1, 2)) @ (self.axes**2).T)[:, None, None]

    def _analyse(self, x: Tensor) -> Tensor:
        rows = torch.matmul(self.vertical, x.flatten(2)).view(x.shape)
        return torch.matmul(self.horizontal, rows) @ self.axes

    def _synthesise(self, z: Tensor) -> Tensor:
        rows = torch.matmul(self.vertical.T, z.flatten(2)).view(z.shape)
        return torch.matmul(self.horizontal.T, rows) @ self.axes.T
