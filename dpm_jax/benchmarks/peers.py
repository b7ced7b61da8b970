"""The ports of a network to PyTorch, in a process of their own: checked first, then timed."""

import copy
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dpm_jax.benchmarks import timing, torch_networks, torch_training, worker
from dpm_jax.benchmarks.handover import Checks, Port
from dpm_jax.benchmarks.torch_chain import Chain, SkipChain, Tables

_DENSE: dict[str, Callable[..., nn.Module]] = {
    "MLP": torch_networks.MLP,
    "BumpDense": torch_networks.BumpDense,
}
_OF_IMAGES: dict[str, Callable[..., nn.Module]] = {
    "MultiScaleConv": torch_networks.MultiScaleConv,
    "UNet": torch_networks.UNet,
}
_TOLERANCE = {False: 1e-4, True: 0.02}  # of float32, of bfloat16; see `check`


class _Held:
    """What this process holds: one network."""

    port: Port
    chain: Chain

    def __init__(self) -> None:
        self.runs: dict[str, Callable[[int], Any]] = {}


_held = _Held()
_device = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def begin(port: Port) -> dict[str, float]:
    """Build the port of a network; how far it is from ours (see `check`).

    Raises:
        ValueError: where that is more than rounding explains.
    """
    torch.set_num_threads(len(timing.affinity()))
    torch.manual_seed(0)
    _held.port, _held.chain = port, build(port)
    # TF32 differs from float32 in the fourth digit: the check is without.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    errors = check(_held.chain, port.checks)
    worst = max(errors, key=lambda name: errors[name])
    if not errors[worst] <= _TOLERANCE[port.bfloat16]:
        raise ValueError(f"the port's {worst} is off by {errors[worst]:.2g} of its spread")
    if _device.type == "cuda":  # as JAX has them by default; the DCT of the skip needs all bits
        torch.backends.cuda.matmul.allow_tf32 = port.skip is None
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
    return errors


def build(port: Port) -> Chain:
    """The chain of a port, on the device, with its parameters."""
    network, event = port.network, port.event
    net: nn.Module
    if network.kind in _DENSE:
        net = _DENSE[network.kind](network, int(np.prod(event)))
    else:
        seen = event[2] * (1 if port.skip is None else 2)
        net = _OF_IMAGES[network.kind](network, (*event[:2], seen))
    torch_networks.load(net, port.parameters)
    tables = Tables(port.schedule, _device)
    chain: Chain
    if port.skip is None:
        chain = Chain(net, tables, *port.readout, port.bfloat16)
    else:
        chain = SkipChain(net, tables, port.skip, port.bfloat16)
    return chain.to(_device).to(memory_format=torch.channels_last)


@torch.no_grad()
def check(chain: Chain, ours: Checks) -> dict[str, float]:
    """How far a port is from our values.

    Returns:
        The largest differences, in standard deviations of our values, of the means of the reverse
        kernel, the logarithms of its variances and the terms of K; and the relative one of the loss
        that these terms are.
    """
    x0, xt, noise = (_tensor(value) for value in (ours.x0, ours.xt, ours.noise))
    t = _tensor(ours.t).long()
    if not isinstance(chain.net, torch_networks.BumpDense):  # which takes groups
        t = t.repeat_interleave(len(xt) // len(t))
    mean, variance = chain.kernel(xt, t)
    terms = chain(x0, t, noise)
    found = {
        "mean": _off(mean, ours.mean),
        "log variance": _off(torch.log(variance).expand_as(mean), np.log(ours.variance)),
        "terms": _off(terms, ours.terms),
    }
    return found | {"loss": abs(float(terms.mean()) / float(ours.terms.mean()) - 1)}


def prepare(kind: str, variant: str, size: int, schedule: tuple | None = None) -> dict[str, Any]:
    """Compile a measurement and run it twice; what that took.

    Args:
        kind: "train" or "sample".
        variant: one of measure.VARIANTS.
        size: images of it.
        schedule: β, log ᾱ and the t of the network, of the respaced chain that is sampled.

    Raises:
        ValueError: for a variant that this network does not have.
    """
    before = worker.resident()
    worker.forget_peak()
    if _device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    if variant == "compile":
        torch._dynamo.reset()  # or programs of other sizes count against its limit
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the compiler
        begun = worker.timed(lambda n: _make(kind, variant, size, schedule)(n), 1)
        run = _held.runs[variant]
        again = worker.timed(run, 1)
    first = {name: max(begun[name] - again[name], 0.0) for name in begun}
    peak = worker.resident(peak=True)
    grown = None if peak is None or before is None else peak - before
    memory = torch.cuda.max_memory_allocated() if _device.type == "cuda" else grown
    return {"compile": first, "once": again, "memory": memory}


def forget() -> None:
    """Drop what was prepared."""
    _held.runs.clear()


def block(variant: str, repeats: int) -> dict[str, float]:
    """Seconds of some repeats of what was prepared."""
    return worker.timed(_held.runs[variant], repeats)


def version() -> dict[str, Any]:
    """Of PyTorch, and where it runs."""
    name = torch.cuda.get_device_name() if _device.type == "cuda" else "cpu"
    return {"torch": torch.__version__, "torch_device": name}


def _make(kind: str, variant: str, size: int, schedule) -> Callable[[int], None]:
    once = _step(variant, size) if kind == "train" else _sampler(variant, size, schedule)

    def run(repeats: int) -> None:
        for _ in range(repeats):
            once()
        if _device.type == "cuda":
            torch.cuda.synchronize()

    _held.runs[variant] = run
    return run


def _step(variant: str, size: int) -> Callable[[], Tensor]:
    port, chain, of = _held.port, _held.chain, _held.port.options
    muon = of["optimizer"] == "muon"
    if muon and variant == "fused":
        raise ValueError("fused: Adam alone has that")
    fused = variant != "eager"
    optimizer = torch_training.make_optimizer(
        of["optimizer"], chain.parameters(), of["learning_rate"], of["weight_decay"], fused
    )
    draws = torch_training.Draws(_tensor(port.rows), port.mean, port.scale, port.flip)
    training = torch_training.Training(size, of["num_t"], of["clip_norm"], of["ema_decay"])
    law = torch_training.times(port.law, port.weights, _device)
    terms = torch.compile(chain) if variant == "compile" else chain
    return torch_training.make_step(chain, terms, training, optimizer, draws, law)


def _sampler(variant: str, size: int, schedule) -> Callable[[], Tensor]:
    chain = copy.copy(_held.chain)  # of the same parameters
    chain.tables = Tables(schedule, _device)
    kernel = torch.compile(chain.kernel) if variant == "compile" else chain.kernel
    shape, clip = (size, *_held.port.event), _held.port.x0_range
    return lambda: torch_training.sample(chain, kernel, shape, clip)


def _tensor(value: np.ndarray) -> Tensor:
    return torch.tensor(np.ascontiguousarray(value), device=_device)


def _off(theirs: Tensor, ours: np.ndarray) -> float:
    return float(np.abs(theirs.cpu().numpy() - ours).max() / max(ours.std(), 1e-12))
