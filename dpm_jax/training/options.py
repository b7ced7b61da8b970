"""How to train: one record, which the experiments have as flags."""

from __future__ import annotations  # optax is not imported yet

import dataclasses
import math
import numbers

from dpm_jax import later, units

with later.imports(globals()):
    import optax

    from dpm_jax import parallel
    from dpm_jax.training import optimizers

OBJECTIVES = ("bound", "v")
MEDIAN_NOISE = (0.001, 0.999)  # beyond, the law of t may round to 0 at every t
MAX_SEED = 2**31 - 8  # experiments add small numbers to it for keys of their own


@dataclasses.dataclass(frozen=True)
class Options:
    """How to train; the experiments have them as flags."""

    num_steps: int = 2000
    batch_size: int = 128  # over all devices
    learning_rate: float = 1e-3
    optimizer: str = "adam"  # adam, muon
    lr_schedule: str = "cosine"  # constant, cosine, linear
    warmup: int = 0  # steps of linear warm-up
    clip_norm: float = 1.0
    weight_decay: float = 0.0  # of kernels, or of matrices where none are (optimizers.py)
    ema_decay: float = 0.999
    objective: str = "bound"  # bound (eq. 15), or v: K's terms reweighted to plain MSE of v
    median_noise: float = 0.5  # of objective v: half of its t are drawn where 1−ᾱ is below
    num_t: int = -1  # t drawn a device and step; −1: one for each example; 0: the sum over all t
    seed: int = 0
    microbatches: int = 1  # parts that a device takes its batch in; their gradients are added
    remat: bool = False  # compute again for the gradient what takes memory to keep
    steps_per_dispatch: int = 0  # at most; 0: 1 for convolutions on CPU, else log_every
    log_every: int = 100
    checkpoint_every: int = 1000


def check(options: Options) -> None:
    """Refuse bad options: ValueError that names the field, what was expected and what came."""
    check_values(options)
    make_optimizer(options)
    per_device = parallel.check_batch(options.batch_size)
    if options.num_t < -1 or (options.num_t > 0 and per_device % options.num_t):
        raise ValueError(
            f"num_t: expected −1, 0 or a divisor of the device's batch {per_device}, got"
            f" {options.num_t}"
        )
    parts, draws = options.microbatches, per_device if options.num_t == -1 else options.num_t
    if parts < 1 or per_device % parts or (draws and draws % parts and per_device // draws % parts):
        raise ValueError(
            "microbatches: expected a divisor of num_t or of the examples that share a t, of the"
            f" device's batch {per_device}; got {parts}"
        )


def check_values(options: Options) -> None:
    """The same, as far as it takes neither JAX nor devices."""
    _check_types(options)
    positive = ("num_steps", "learning_rate", "clip_norm", "log_every", "checkpoint_every")
    for name in positive:
        if not 0 < getattr(options, name) < math.inf:
            raise ValueError(f"{name}: expected more than 0, got {getattr(options, name)}")
    for name in ("warmup", "steps_per_dispatch", "weight_decay"):
        if not 0 <= getattr(options, name) < math.inf:
            raise ValueError(f"{name}: expected at least 0, got {getattr(options, name)}")
    if not 0 <= options.seed < MAX_SEED:
        raise ValueError(f"seed: expected 0..{MAX_SEED - 1}, got {options.seed}")
    if not 0 <= options.ema_decay < 1:
        raise ValueError(f"ema_decay: expected a number in [0, 1), got {options.ema_decay}")
    units.within("median_noise", options.median_noise, *MEDIAN_NOISE)
    if options.objective not in OBJECTIVES:
        raise ValueError(f"objective: expected one of {OBJECTIVES}, got {options.objective!r}")


def _check_types(options: Options) -> None:
    """A number where a number belongs, whole where the default is: 1.5 steps end nowhere."""
    kinds: dict[type, tuple[type, str]] = {str: (str, "a name"), bool: (bool, "true or false")}
    kinds |= {int: (numbers.Integral, "an integer"), float: (numbers.Real, "a number")}
    for field in dataclasses.fields(options):
        value, (kind, name) = getattr(options, field.name), kinds[type(field.default)]
        if (isinstance(value, bool) and kind is not bool) or not isinstance(value, kind):
            raise ValueError(f"{field.name}: expected {name}, got {value!r}")


def make_optimizer(options: Options) -> optax.GradientTransformation:
    """The optimizer that the options name."""
    rate = optimizers.make_rate(options.lr_schedule, options.num_steps, options.warmup)
    return optimizers.by_name(
        options.optimizer, rate, options.learning_rate, options.clip_norm, options.weight_decay
    )
