"""From networks and kinds of measurement to results, one after the other, most important first."""

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from dpm_jax.benchmarks import startup, timing
from dpm_jax.benchmarks.worker import GIVE_BACK, KEEP_MEMORY, Failed, Worker

SIZES = {"train": "B", "sample": "N", "K": "examples", "log_p": "M", "particles": "N"}
KINDS = ("peak", *SIZES, "startup", "growth")
PEAKS = ("float32", "float32 highest", "tf32", "bfloat16", "copy")
_OURS, _PEERS = "dpm_jax.benchmarks.workloads", "dpm_jax.benchmarks.peers"
# Of PyTorch. fused: Adam in one kernel; compile: torch.compile, with that too.
VARIANTS = {"train": ("eager", "fused", "compile"), "sample": ("eager", "compile")}
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
Tell = Callable[[str, int], None]  # what begins now, and how many groups have ended


class Plan(NamedTuple):
    """What is measured, and how long."""

    networks: tuple[str, ...]
    kinds: tuple[str, ...]
    seconds: float  # for each number
    rounds: int
    folder: Path  # for data that are made
    given: Mapping[str, Any] = {}  # flags of the experiments
    batches: tuple[int, ...] = ()  # of training; (): from _SIZES
    compare: bool = False  # with PyTorch

    @property
    def total(self) -> int:
        """How many groups of measurements there are."""
        own = [kind for kind in self.kinds if kind != "peak"]
        return len(self.networks) * len(own) + ("peak" in self.kinds)


def run(plan: Plan, tell: Tell) -> Iterator[Entry]:
    """The results of a plan, each as soon as it is there.

    Args:
        plan: what to measure.
        tell: told of what begins and ends.
    """
    if "peak" in plan.kinds:
        tell("peak", 0)
        yield from _peaks(plan)
        tell("peak", 1)
    for name in plan.networks:
        with contextlib.ExitStack() as stack:
            yield from _Network(plan, name, tell, stack).measure()


def _peaks(plan: Plan) -> Iterator[Entry]:
    with Worker(_OURS, KEEP_MEMORY) as ours:
        which = timing.clock(ours.call("device")["backend"])
        amounts, left_out = {}, {}
        for mode in PEAKS:
            try:
                amounts[mode] = ours.call("prepare_peak", mode)
            except Failed as error:
                left_out[mode] = str(error)
        runs = {mode: _block(ours, mode) for mode in amounts}
        found = timing.contest(runs, plan.seconds, plan.rounds, which)
        for mode, values in found.items():
            rates = timing.spread([amounts[mode] / value for value in values])
            entry = {"kind": "peak", "mode": mode, "rate": rates, "load": timing.load()}
            yield entry | {"time": which}
        for mode, why in left_out.items():
            yield {"kind": "peak", "mode": mode, "left_out": why}


class _Network:
    """One network in a process, its port in another; new ones after failures."""

    def __init__(self, plan: Plan, name: str, tell: Tell, stack: contextlib.ExitStack):
        self.plan, self.name, self.tell, self.stack = plan, name, tell, stack
        self.ours: Worker | None = None
        self.peers: Worker | None = None
        self.facts: Entry = {}

    def measure(self) -> Iterator[Entry]:
        """The results, kind by kind."""
        for kind in (kind for kind in self.plan.kinds if kind != "peak"):
            self.tell(f"{self.name} {kind}", 0)
            try:
                if kind in _APART:
                    yield from _APART[kind](self.plan, self.name)
                    continue
                if self.ours is None:
                    yield from self._begin()
                yield from self._sizes(kind)
            except Failed as error:
                yield {"network": self.name, "kind": kind, "left_out": str(error)}
                self.stack.close()
                self.ours = self.peers = None
            finally:
                self.tell(f"{self.name} {kind}", 1)

    def _begin(self) -> Iterator[Entry]:
        plan = self.plan
        self.ours = self.stack.enter_context(Worker(_OURS, KEEP_MEMORY))
        facts = self.ours.call("begin", self.name, str(plan.folder), dict(plan.given))
        self.facts = facts | self.ours.call("device")
        self.facts |= {"peak_flop": self.ours.call("prepare_peak", facts["peak"])}
        entry: Entry = {"network": self.name, "kind": "network", **self.facts}
        if plan.compare and facts["has_port"]:
            self.tell(f"{self.name}, checking the port", 0)
            peers = self.stack.enter_context(Worker(_PEERS, KEEP_MEMORY))
            try:
                entry["port_errors"] = peers.call("begin", self.ours.call("port"))
                entry |= peers.call("version")
                self.peers = peers
            except Failed as error:
                entry["port_left_out"] = str(error)
        yield entry

    def _sizes(self, kind: str) -> Iterator[Entry]:
        on_cpu = self.facts["backend"] == "cpu"
        steps = min(self.facts["sample_steps"], _STEPS[0 if on_cpu else 1])
        sizes = _SIZES[kind][0 if on_cpu else 1]
        if kind == "train":
            sizes = self.plan.batches or tuple(self.facts["batch_size"] * by for by in sizes)
        last, before = 0.0, 1
        for size in sizes:
            entry: Entry = {"network": self.name, "kind": kind, "size": size}
            expected = last * size / before
            if expected > _PATIENCE * self.plan.seconds:
                yield entry | {"left_out": f"one repeat would take about {expected:.2g} s"}
                continue
            found = self._measure(kind, size, steps)
            last, before = found.pop("repeat"), size
            yield entry | found

    def _measure(self, kind: str, size: int, steps: int) -> Entry:
        """One measurement beside the peak and the peers, interleaved."""
        ours, facts, which = self.ours, self.facts, timing.clock(self.facts["backend"])
        assert ours is not None
        prepared = ours.call("prepare", kind, size, steps)
        runs = {"ours": _block(ours, kind), "peak": _block(ours, facts["peak"])}
        once = {"ours": prepared["once"][which]}
        peers, left_out = self._peers(kind, size, steps)
        assert self.peers is not None or not peers
        runs |= {name: _block(self.peers, name) for name in peers if self.peers}
        once |= {name: peer["once"][which] for name, peer in peers.items()}
        self.tell(f"{self.name} {kind} {size}", 0)
        found = timing.contest(runs, self.plan.seconds, self.plan.rounds, which, once)
        entry = {"time": which, **_told(kind, facts, prepared, found)}
        entry["compile_seconds"] = prepared["compile"][which]
        for name, peer in peers.items():
            entry["peers"][name] = {
                "ms": timing.spread(found[name]).scaled(1e3 / prepared["steps"]),
                "compile_seconds": peer["compile"][which],
                "memory": peer["memory"],
            }
            entry["ratio"][name] = timing.ratio(found["ours"], found[name])
        return entry | ({"peers_left_out": left_out} if left_out else {})

    def _peers(self, kind: str, size: int, steps: int) -> tuple[dict[str, Entry], dict[str, str]]:
        """What was prepared of the port, and why the rest was not."""
        prepared, left_out = {}, {}
        if self.peers is None or self.ours is None or kind not in VARIANTS:
            return {}, {}
        self.peers.call("forget")
        schedule = self.ours.call("schedule", steps) if kind == "sample" else None
        for variant in VARIANTS[kind]:
            self.tell(f"{self.name} {kind} {size}, torch {variant}", 0)
            try:
                prepared[variant] = self.peers.call("prepare", kind, variant, size, schedule)
            except Failed as error:
                left_out[variant] = str(error)
                if self.peers.process.poll() is not None:
                    self.peers = None
                    return {}, left_out
        return prepared, left_out


def _told(kind: str, facts: Entry, prepared: Entry, found: Mapping[str, list[float]]) -> Entry:
    """What the seconds of a measurement mean."""
    ours = found["ours"]
    entry: Entry = {"repeat": timing.spread(ours).median, "load": timing.load()}
    peaks = [facts["peak_flop"] / value for value in found["peak"]]
    for key in ("flop", "flop_xla"):
        if prepared[key] is not None:
            shares = [prepared[key] / value / most for value, most in zip(ours, peaks)]
            entry |= {key: prepared[key], f"of_peak_{key}": timing.spread(shares)}
    steps = prepared["steps"]
    whole = facts["sample_steps"] if kind == "sample" else facts["T"] if steps > 1 else 1
    return entry | {
        "ms": timing.spread(ours).scaled(1e3 / steps),
        "steps": steps,
        "per_second": timing.spread([prepared["images"] * steps / (v * whole) for v in ours]),
        "memory": prepared["memory"],
        "peers": {},
        "ratio": {},
    }


def _startup(plan: Plan, name: str) -> Iterator[Entry]:
    """The first and the second start of a network's binary."""
    with tempfile.TemporaryDirectory() as cache:
        arguments = name, plan.folder, plan.given, Path(cache)
        first, second = (startup.first_step(*arguments) for _ in range(2))
    entry: Entry = {"network": name, "kind": "startup", "first": first, "second": second}
    yield entry | {"load": timing.load()}


def _growth(plan: Plan, name: str) -> Iterator[Entry]:
    """Time and memory of a repeat as T, M and the number of examples grow."""
    with Worker(_OURS, GIVE_BACK) as ours:
        facts = ours.call("begin", name, str(plan.folder), dict(plan.given))
        which = timing.clock(ours.call("device")["backend"])
        most = min(facts["T"], 100)
        grown = {
            "T": [("sample", 16, most // by) for by in (4, 2, 1)],
            "M": [("log_p", size, 10) for size in (64, 256, 1024)],
            "examples": [("K", size, most) for size in (200, 400, 800)],
        }
        for of, calls in grown.items():
            found = [ours.call("grow", *call) for call in calls]
            yield {
                "network": name,
                "kind": "growth",
                "of": of,
                "values": [steps if of == "T" else size for _, size, steps in calls],
                "seconds": [each["seconds"][which] for each in found],
                "memory": [each["memory"] for each in found],
                "load": timing.load(),
            }


_APART: dict[str, Callable[[Plan, str], Iterator[Entry]]] = {
    "startup": _startup,
    "growth": _growth,
}


def _block(of: Worker, name: str) -> timing.Run:
    return lambda repeats: of.call("block", name, repeats)
