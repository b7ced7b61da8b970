"""From networks and kinds of measurement to results, one after the other, most important first."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from dpm_jax.benchmarks import timing
from dpm_jax.benchmarks.peak import MODES
from dpm_jax.benchmarks.worker import KEEP_MEMORY, Failed, Worker

SIZES = {"train": "B", "sample": "N", "K": "examples", "log_p": "M", "particles": "N"}
KINDS = ("peak", *SIZES)
_OURS = "dpm_jax.benchmarks.workloads"
# Sizes of each kind: on CPU, elsewhere. Of training they multiply the preset's batch.
_SIZES: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "train": ((1, 4), (1, 8, 32)),
    "sample": ((1, 64, 256), (1, 64, 1024)),
    "K": ((100, 1000), (100, 1000)),
    "log_p": ((16, 256), (16, 256)),
    "particles": ((16, 1024), (16, 1024)),
}
_STEPS = 10, 100  # to which chains are respaced at most, on CPU and elsewhere
_PATIENCE = 5.0  # repeats that would take more than so many times --seconds are left out

Entry = dict[str, Any]


class Plan(NamedTuple):
    """What is measured, and how long."""

    networks: tuple[str, ...]
    kinds: tuple[str, ...]
    seconds: float  # for each number
    rounds: int
    folder: Path  # for data that are made
    given: Mapping[str, Any] = {}  # flags of the experiments
    batches: tuple[int, ...] = ()  # of training; (): from _SIZES

    @property
    def total(self) -> int:
        """How many groups of measurements there are."""
        own = [kind for kind in self.kinds if kind != "peak"]
        return len(self.networks) * len(own) + ("peak" in self.kinds)


def run(plan: Plan, begin: Callable[[str], None]) -> Iterator[Entry]:
    """The results of a plan, each as soon as it is there.

    Args:
        plan: what to measure.
        begin: told of each group before it begins.
    """
    if "peak" in plan.kinds:
        begin("peak")
        yield from _peaks(plan)
    for name in plan.networks:
        yield from _network(plan, name, begin)


def _peaks(plan: Plan) -> Iterator[Entry]:
    which = timing.clock()
    with Worker(_OURS, KEEP_MEMORY) as ours:
        amounts, left_out = {}, {}
        for mode in MODES:
            try:
                amounts[mode] = ours.call("prepare_peak", mode)
            except Failed as error:
                left_out[mode] = str(error)
        runs = {mode: _block(ours, mode) for mode in amounts}
        found = timing.contest(runs, plan.seconds, plan.rounds, which)
        for mode, values in found.items():
            rates = timing.spread([amounts[mode] / value for value in values])
            yield {"kind": "peak", "mode": mode, "rate": rates, "load": timing.load()}
        for mode, why in left_out.items():
            yield {"kind": "peak", "mode": mode, "left_out": why}


def _network(plan: Plan, name: str, begin: Callable[[str], None]) -> Iterator[Entry]:
    """All kinds of one network, in one process; a new one after a failure."""
    ours, facts = None, {}
    try:
        for kind in (kind for kind in plan.kinds if kind != "peak"):
            begin(f"{name} {kind}")
            try:
                if ours is None:
                    ours = Worker(_OURS, KEEP_MEMORY)
                    facts = _facts(plan, name, ours)
                    yield {"network": name, "kind": "network", **facts}
                yield from _sizes(plan, name, kind, ours, facts)
            except Failed as error:
                yield {"network": name, "kind": kind, "left_out": str(error)}
                if ours is not None:
                    ours.close()
                ours = None
    finally:
        if ours is not None:
            ours.close()


def _facts(plan: Plan, name: str, ours: Worker) -> Entry:
    facts = ours.call("begin", name, str(plan.folder), dict(plan.given)) | ours.call("device")
    return facts | {"peak_flop": ours.call("prepare_peak", facts["peak"])}


def _sizes(plan: Plan, name: str, kind: str, ours: Worker, facts: Entry) -> Iterator[Entry]:
    on_cpu = facts["backend"] == "cpu"
    steps = min(facts["sample_steps"], _STEPS[0 if on_cpu else 1])
    last = 0.0
    sizes = _SIZES[kind][0 if on_cpu else 1]
    if kind == "train":
        sizes = plan.batches or tuple(facts["batch_size"] * by for by in sizes)
    for before, size in zip((0, *sizes), sizes):
        entry: Entry = {"network": name, "kind": kind, "size": size}
        expected = last * size / before if before else 0.0
        if expected > _PATIENCE * plan.seconds:
            yield entry | {"left_out": f"one repeat would take about {expected:.2g} s"}
            continue
        prepared = ours.call("prepare", kind, size, steps)
        found = _measure(plan, kind, ours, facts, prepared)
        last = found.pop("repeat")
        yield entry | found


def _measure(plan: Plan, kind: str, ours: Worker, facts: Entry, prepared: Entry) -> Entry:
    """One measurement beside the peak, interleaved."""
    which = timing.clock()
    runs = {"ours": _block(ours, kind), "peak": _block(ours, facts["peak"])}
    found = timing.contest(
        runs, plan.seconds, plan.rounds, which, {"ours": prepared["once"][which]}
    )
    peaks = [facts["peak_flop"] / value for value in found["peak"]]
    entry: Entry = {"repeat": timing.spread(found["ours"]).median, "load": timing.load()}
    for key in ("flop", "flop_xla"):
        if prepared[key] is not None:
            rates = [prepared[key] / value for value in found["ours"]]
            shares = [rate / most for rate, most in zip(rates, peaks)]
            entry |= {key: prepared[key], f"of_peak_{key}": timing.spread(shares)}
    steps = prepared["steps"]
    whole = facts["sample_steps"] if kind == "sample" else facts["T"] if steps > 1 else 1
    each = [prepared["images"] * steps / (value * whole) for value in found["ours"]]
    return entry | {
        "ms": timing.spread(found["ours"]).scaled(1e3 / steps),
        "steps": steps,
        "per_second": timing.spread(each),
        "compile_seconds": prepared["compile"][which],
        "memory": prepared["memory"],
    }


def _block(of: Worker, name: str) -> timing.Run:
    return lambda repeats: of.call("block", name, repeats)
