"""Training step and sampler in PyTorch, as a careful user writes them."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from dpm_jax.benchmarks.torch_chain import Chain, Range
from dpm_jax.training.optimizers import MUON_RATE

_DECAY = 0.95  # of Muon's momentum
_NEWTON_SCHULZ = 3.4445, -4.7750, 2.0315


class Muon:
    """Muon of kernels, or of matrices where none are, equal shapes at once; NAdam of the rest."""

    def __init__(self, parameters: Iterable[nn.Parameter], rate: float, weight_decay: float):
        every = list(parameters)
        axes = 4 if any(p.ndim == 4 for p in every) else 2
        self.matrices = [p for p in every if p.ndim == axes]
        self.momentum = [torch.zeros_like(p) for p in self.matrices]
        self.shapes: dict[tuple[int, ...], list[int]] = {}
        for i, p in enumerate(self.matrices):
            self.shapes.setdefault(tuple(p.flatten(1).shape), []).append(i)
        rest = [p for p in every if p.ndim != axes]
        self.rest = torch.optim.NAdam(rest, lr=rate, foreach=True)
        self.rate, self.weight_decay, self.steps = MUON_RATE * rate, weight_decay, 0

    @torch.no_grad()
    def step(self) -> None:
        """One step along the gradients."""
        gradients = [p.grad for p in self.matrices]
        self.steps += 1
        torch._foreach_lerp_(self.momentum, gradients, 1 - _DECAY)
        # Nesterov's, of moments each corrected for its start at 0; what is orthogonal has no scale.
        old = _DECAY / (1 - _DECAY ** (self.steps + 1))
        new = (1 - _DECAY) / (1 - _DECAY**self.steps)
        ahead = torch._foreach_lerp(self.momentum, gradients, new / (old + new))
        updates = list(ahead)
        for (units, inputs), which in self.shapes.items():
            x = torch.stack([ahead[i].flatten(1) for i in which])
            x = orthogonal(x.mT).mT if units > inputs else orthogonal(x)
            x = x * max(1.0, units / inputs) ** 0.5
            for i, update in zip(which, x):
                updates[i] = update.view(self.matrices[i].shape)
        torch._foreach_add_(updates, self.matrices, alpha=self.weight_decay)
        torch._foreach_add_(self.matrices, updates, alpha=-self.rate)
        self.rest.step()

    def zero_grad(self) -> None:
        """Drop the gradients."""
        for p in self.matrices:
            p.grad = None
        self.rest.zero_grad()


def orthogonal(x: Tensor) -> Tensor:
    """About the nearest orthogonal matrices (n, rows, columns), rows <= columns."""
    a, b, c = _NEWTON_SCHULZ
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-8)
    for _ in range(5):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def make_optimizer(name: str, parameters, rate: float, weight_decay: float, fused: bool) -> Any:
    """The optimizer of that name; Adam over all parameters at once, fused where asked."""
    if name == "muon":
        return Muon(parameters, rate, weight_decay)
    way = {"fused": True} if fused else {"foreach": True}
    return torch.optim.Adam(parameters, lr=rate, **way)


class Draws(NamedTuple):
    """Data on the device, and how a batch is drawn of them."""

    rows: Tensor  # (N, *event): grey levels, or examples as they are
    mean: float | None  # grey levels; None of examples
    scale: float
    flip: bool

    def __call__(self, n: int) -> Tensor:
        """n examples, rows with replacement, mirrored and dequantised where they are images."""
        device = self.rows.device
        x = self.rows[torch.randint(len(self.rows), (n,), device=device)]
        if self.mean is None:
            return x
        x = x.float()
        if self.flip:
            mirrored = torch.rand(n, 1, 1, 1, device=device) < 0.5
            x = torch.where(mirrored, x.flip(2), x)
        return (x + torch.rand_like(x) - self.mean) / self.scale


class Times(NamedTuple):
    """The law of t (T+1,), and the weights of an objective other than the bound."""

    law: Tensor
    cumulative: Tensor
    weights: Tensor | None

    def draw(self, n: int) -> Tensor:
        """n stratified draws in random order."""
        device = self.law.device
        u = (torch.arange(n, device=device) + torch.rand(n, device=device)) / n
        t = torch.searchsorted(self.cumulative, u, right=True).clamp_(max=len(self.law) - 1)
        return t[torch.randperm(n, device=device)]

    def loss(self, terms: Tensor, t: Tensor, dims: int) -> Tensor:
        """Minus the mean of weighted terms (B,) at t (G,), a dimension."""
        weights = 1 / self.law if self.weights is None else self.weights
        each = weights[t].repeat_interleave(len(terms) // len(t))
        return -(terms * each).mean() / dims


def times(law: np.ndarray, weights: np.ndarray | None, device) -> Times:
    """The record, on a device."""
    total = np.cumsum(law, dtype=np.float64)
    total /= total[-1]
    tables = [None if v is None else torch.tensor(np.float32(v)) for v in (law, total, weights)]
    return Times(*(None if v is None else v.to(device) for v in tables))


class Training(NamedTuple):
    """How a step is made."""

    batch: int
    num_t: int  # distinct t, −1 for one an example
    clip_norm: float
    ema_decay: float


def make_step(
    chain: Chain, terms: Callable[..., Tensor], of: Training, optimizer, draws: Draws, law: Times
) -> Callable[[], Tensor]:
    """One whole training step: draw, loss, gradient, clipping, optimizer, moving average."""
    parameters = list(chain.parameters())
    plain = [p.detach() for p in parameters]
    ema = [p.clone() for p in plain]
    num_t = of.batch if of.num_t == -1 else of.num_t

    def step() -> Tensor:
        x0, t = draws(of.batch), law.draw(num_t)
        found = law.loss(terms(x0, t, torch.randn_like(x0)), t, x0[0].numel())
        found.backward()
        torch.nn.utils.clip_grad_norm_(parameters, of.clip_norm, foreach=True)
        optimizer.step()
        optimizer.zero_grad()
        torch._foreach_lerp_(ema, plain, 1 - of.ema_decay)
        return found.detach()

    return step


@torch.inference_mode()
def sample(chain: Chain, kernel: Callable, shape: tuple[int, ...], clip: Range) -> Tensor:
    """Draws x^0 by ancestral sampling, the last step fixed (App. B.2); t is one for all."""
    at = chain.tables
    x = torch.randn(shape, device=at.at["beta"].device)
    every = torch.arange(at.T + 1, device=x.device)
    for t in range(at.T, 1, -1):
        mean, variance = kernel(x, every[t : t + 1], clip)
        x = mean + torch.sqrt(variance) * torch.randn_like(x)
    last = at.at["beta"][1]
    return at.at["kept"][1] * x + torch.sqrt(last) * torch.randn_like(x)
