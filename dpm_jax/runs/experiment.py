"""What an experiment is: presets, a problem made of them, figures; and how it is found by name."""

from __future__ import annotations  # JAX is not imported to read flags

import dataclasses
import importlib
import importlib.util
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dpm_jax.runs.flags import Flag

if TYPE_CHECKING:
    from dpm_jax.core.model import Model
    from dpm_jax.training import DrawBatch

Config = dict[str, Any]  # every flag of a run by name
Row = tuple[str, ...]  # of the final table: name, paper, ours, ceiling, unit
Figures = tuple[dict[str, str], dict[str, Any], list[Row]]  # paths by name, facts, rows


class Reported(NamedTuple):
    """A number of others to stand beside ours: minus a log probability, lower is better."""

    name: str  # of the model, with its paper
    value: str  # as it is quoted
    kind: str  # "exact", "bound" (upper) or "estimate"
    data: str  # what of

    def __str__(self) -> str:
        return {"bound": "≤ ", "estimate": "≈ "}.get(self.kind, "") + self.value


@dataclasses.dataclass(frozen=True, kw_only=True)
class Budget:
    """What evaluate.py and posterior.py can afford on one core in about a minute."""

    examples: int
    model_samples: int
    lanes: int  # trajectories that a device holds at once


@dataclasses.dataclass(frozen=True, kw_only=True)
class Exact:
    """What is known exactly of the data; what is not known is left out."""

    ceiling: Callable[[int, int | None], float | None] = lambda seed, steps: None
    # the most K can be in this very setting, nats
    entropies: Callable[[Any], Any] | None = None  # schedule -> eq. 24: lower, true, upper
    points: Callable[..., Any] | None = None  # (key, n) -> x, log w: E Σ w p(x) is 1 at most
    log_p: Callable[..., Any] | None = None  # examples -> log p of exact kernels, nats
    compare: Callable[..., dict] | None = None  # y, known, noise, x, weight -> numbers


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageScale:
    """What images add: how grey levels become the units of the model."""

    mean: float  # grey levels
    scale: float  # grey levels that one unit of the model is
    levels: int  # that a pixel can take
    enlarge: Callable[..., Model] | None = None  # shape -> the model of larger images
    whole: Any = ()  # held-out images larger than those of the test set, for figures
    intact: Any = ()  # whole held-out photographs, of any size, that filled ones are compared with


@dataclasses.dataclass(frozen=True, kw_only=True)
class Problem:
    """A configuration made real: the model, and the data that train and test it."""

    model: Model
    data: Any = None  # for training.fit: held in memory, or a Stream, read from disk step by step
    test: Any = None  # rows for K
    draw: DrawBatch | None = None  # as in training.fit
    prepare: Callable | None = None  # (key, rows) -> examples, of test rows
    validation: Any = None  # rows held out of both, on which samplers and widths are chosen
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # more for report.json
    budget: Budget = Budget(examples=100, model_samples=100, lanes=1024)
    exact: Exact = Exact()
    images: ImageScale | None = None
    identity: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    # JSON that tells these data from others, for data.json; without it data and test do
    fitted: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    # arrays that the model took from the data, for data.npz


DEFAULTS: Config = {
    "seed": 0,
    "last_step": "fixed",
    "num_steps": 2000,
    "batch_size": 128,
    "learning_rate": 1e-3,
    "optimizer": "adam",
    "weight_decay": 0.0,
    "lr_schedule": "cosine",
    "warmup": 0,
    "clip_norm": 1.0,
    "ema_decay": 0.999,
    "objective": "bound",
    "median_noise": 0.5,
    "num_t": -1,
    "microbatches": 1,
    "remat": False,
    "steps_per_dispatch": 0,
    "log_every": 100,
    "checkpoint_every": 1000,
    "num_eval": 1000,
    "figures": True,
    "learned": False,
    "pdf": False,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """One row of the paper's Table 1, or another experiment of the same form."""

    name: str
    unit: str = "bits"  # of K in the tables
    presets: Mapping[str, Config]  # by name: the values of all flags of its own, and others than
    # DEFAULTS; the first is that of the binary, and what a later one leaves out is as in the first
    helps: Mapping[str, str | Flag] = dataclasses.field(default_factory=dict)
    # of flags of its own: help, or also the values that they take
    setup: Callable[[Config], Problem]
    without_data: Callable[[Config], Problem] | None = None
    # model and scaling of a run, by what its directory keeps; None: setup makes its data itself
    figures: Callable[[Config, Problem, Any, Path], Figures] = lambda *_: ({}, {}, [])
    measures: Callable[..., tuple[dict, list[Row]]] = lambda *_: ({}, [])
    # problem, evaluation, ceiling -> facts, rows
    paper_K_bits: float | None = None
    paper_gain_bits: float | None = None  # K − L_null
    paper_error_bits: float | None = None  # ± of both, where the paper has it
    literature: tuple[Reported, ...] = ()  # of log probabilities, in the unit of its table
    flags: Mapping[str, str] = dataclasses.field(default_factory=dict)
    # argument of a library message -> the flag that gave it, where their names differ

    def __post_init__(self):
        if not self.presets:
            raise ValueError("presets: expected one or more, got none")
        first = next(iter(self.presets.values()))
        first = {**first, **{n: value for n, value in DEFAULTS.items() if n not in first}}
        whole = {name: {**first, **values} for name, values in self.presets.items()}
        object.__setattr__(self, "presets", whole)

    @property
    def preset(self) -> str:
        """The name of the first preset."""
        return next(iter(self.presets))


# experiments/
OWN = ("bark", "binary_mnist", "cifar10", "dead_leaves", "heartbeat", "mnist", "swiss_roll")
_REGISTERED: dict[str, Experiment] = {}


def register(experiment: Experiment) -> Experiment:
    """Make an experiment known by its name, so that `load` finds it; returns it.

    Raises:
        ValueError: for a name that an experiment of another file has.
    """
    held = _REGISTERED.get(experiment.name, experiment)
    made_in = {inspect.getsourcefile(inspect.unwrap(e.setup)) for e in (held, experiment)}
    if len(made_in) > 1:
        raise ValueError(f"name: {experiment.name!r} is that of another experiment")
    _REGISTERED[experiment.name] = experiment
    return experiment


def find(name: str) -> Experiment:
    """The experiment registered under a name, or the package's own.

    Raises:
        ValueError: for a name that neither has.
    """
    if name not in _REGISTERED and name in OWN:
        try:
            importlib.import_module(f"dpm_jax.experiments.{name}")
        except ModuleNotFoundError as error:
            if error.name != "dpm_jax.experiments":
                raise
            raise ValueError("experiment: dpm_jax is not installed (pip install -e .)") from error
    if name not in _REGISTERED:
        known = ", ".join(sorted({*OWN, *_REGISTERED}))
        raise ValueError(
            f"experiment: expected one of {known}, or one that runs.register has made known; got"
            f" {name!r}"
        )
    return _REGISTERED[name]


def import_file(path: str | Path) -> None:
    """Run the Python file of an experiment of your own, which registers itself.

    Raises:
        ValueError: for a path that is no Python file, and for one that does not run.
    """
    file = Path(path).expanduser()
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None or not file.is_file():
        raise ValueError(f"experiment: expected a Python file, got {path}")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        why = f"{type(error).__name__}: {error}"
        raise ValueError(f"experiment: expected a file that runs, got {path}: {why}") from error
