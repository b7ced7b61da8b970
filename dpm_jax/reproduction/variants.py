"""The ablation as data: the paper's model of four data sets, and one module changed at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

EFFORTS = ("minutes", "hours")
SEEDS = {"minutes": 3, "hours": 5}


class Variant(NamedTuple):
    """The base model with one module changed."""

    module: str  # of the paper
    change: str  # from what to what
    flags: Mapping[str, Any]
    cost: float = 1.0  # times that of the base


class Subject(NamedTuple):
    """A data set with the paper's model for it."""

    data: str  # experiment, and row of the page
    base: Mapping[str, Any]  # other flags than preset paper's
    steps: tuple[int, int]  # of training: minutes, hours
    seconds: tuple[float, float]  # of one core, a run of the base
    variants: tuple[Variant, ...]


_FIXED_BETA = ("constant_fraction", "geometric", "linear", "cosine")


def _schedules(base: str) -> tuple[Variant, ...]:
    """β_t: the other schedules."""
    names = [name for name in ("learned", *_FIXED_BETA) if name != base]
    said = {"learned": "learned"} | {name: f"fixed, {_words(name)}" for name in _FIXED_BETA}
    return tuple(Variant("β_t", f"{said[base]} → {said[n]}", {"schedule": n}) for n in names)


def _words(name: str) -> str:
    return name.replace("_", " ")


def _means(base: str, *others: str) -> tuple[Variant, ...]:
    return tuple(
        Variant("readout of the mean", f"{base} → {name}", {"readout": name}) for name in others
    )


def _variances(base: str, *others: str) -> tuple[Variant, ...]:
    return tuple(
        Variant("readout of the variance", f"{base} → {name}", {"variance": name})
        for name in others
    )


_LAST = Variant("last step", "fixed → learned", {"last_step": "learned"})
_NO_EMA = Variant("average of parameters", "0.999 → none", {"ema_decay": 0.0})
_MUON = {"optimizer": "muon"}
_UPDATES = (
    Variant("optimizer", "Adam → Muon", {**_MUON, "learning_rate": 3e-3}),
    Variant("learning rate", "cosine → constant", {"lr_schedule": "constant"}),
)

SWISS_ROLL = Subject(
    "swiss_roll",
    {"num_eval": 5000},
    (4000, 12_000),
    (12, 22),
    (
        *_schedules("learned"),
        Variant("T", "40 → 10", {"T": 10}, 0.7),
        Variant("T", "40 → 20", {"T": 20}, 0.8),
        Variant("T", "40 → 100", {"T": 100}, 1.7),
        Variant("T", "40 → 400", {"T": 400}, 5.0),
        Variant("T", "40 → 2,000, one t an example", {"T": 2000, "num_t": -1}, 2.0),
        *_means("x0", "eq65", "code", "v"),
        *_variances("between", "eq64", "posterior"),
        _LAST,
        Variant("network", "RBF, 16 → 4 units", {"width": 4}),
        Variant("network", "RBF, 16 → 64 units", {"width": 64}),
        Variant(
            "network",
            "RBF → MLP, 3 layers of 128, log-SNR",
            {"network": "mlp", "width": 128, "depth": 3, "learning_rate": 2e-3},
            4.0,
        ),
        Variant("law of t", "all t → one an example", {"num_t": -1}, 0.8),
        Variant("law of t", "all t → 8 a step", {"num_t": 8}, 0.8),
        _NO_EMA,
        *_UPDATES,
    ),
)
HEARTBEAT = Subject(
    "heartbeat",
    {"num_eval": 1000},
    (200, 2000),
    (20, 130),
    (
        *(v for v in _schedules("constant_fraction") if v.flags["schedule"] != "learned"),
        Variant("T", "2,000 → 20, β_1 = 1/T", {"T": 20, "beta_1": 0.05}, 0.4),
        Variant("T", "2,000 → 100, β_1 = 1/T", {"T": 100, "beta_1": 0.01}, 0.4),
        Variant("T", "2,000 → 500, β_1 = 1/T", {"T": 500, "beta_1": 0.002}, 0.6),
        *_means("x0", "step", "sigmoid"),
        Variant("ρ", "0.2 → 0.1", {"rate": 0.1}),
        Variant("ρ", "0.2 → 0.5", {"rate": 0.5}),
        _LAST,
        Variant("network", "perceptron, 50 → 20 units", {"width": 20}),
        Variant("network", "perceptron, 50 → 100 units", {"width": 100}, 1.3),
        Variant(
            "network",
            "perceptron → MLP, 2 layers of 128, log-SNR",
            {"network": "mlp", "width": 128, "depth": 2, "learning_rate": 2e-3},
            3.0,
        ),
        Variant("law of t", "all t → one an example", {"num_t": -1}, 0.6),
        Variant("average of parameters", "0.99 → none", {"ema_decay": 0.0}),
        *_UPDATES,
    ),
)
MNIST = Subject(
    "mnist",
    {"num_eval": 1000},
    (300, 4000),
    (24, 170),
    (
        *_schedules("geometric"),
        Variant("T", "1,000 → 50", {"T": 50, "sample_steps": 50}),
        Variant("T", "1,000 → 250", {"T": 250, "sample_steps": 250}),
        Variant("T", "1,000 → 2,000", {"T": 2000}),
        *_means("code", "eq65", "x0", "v"),
        *_variances("eq64", "between"),
        _LAST,
        Variant("last step", "fixed → discretised", {"last_step": "discretized"}),
        Variant("network", "dense, 500 → 250 units", {"width": 250}, 0.8),
        Variant("network", "dense → residual MLP, log-SNR", {"network": "residual_mlp"}, 1.0),
        Variant(
            "network",
            "dense → U-Net of 16 channels, log-SNR",
            {"network": "unet", "width": 16, "depth": 1},
            2.5,
        ),
        Variant(
            "network",
            "dense → the same U-Net, a dense layer after each coarse block",
            {"network": "unet", "width": 16, "depth": 1, "mixing": "coarse"},
            2.6,
        ),
        Variant(
            "network",
            "dense → the same U-Net, a dense layer after each block",
            {"network": "unet", "width": 16, "depth": 1, "mixing": "all"},
            3.2,
        ),
        Variant("objective", "eq. 15 → squared error of v", {"objective": "v"}),
        Variant(
            "objective",
            "eq. 15 → squared error of v, median noise 0.8",
            {"objective": "v", "median_noise": 0.8},
        ),
        Variant("law of t", "8 a step → one an example", {"num_t": -1}),
        Variant("law of t", "8 a step → 1", {"num_t": 1}),
        _NO_EMA,
        Variant("optimizer", "Adam → Muon", _MUON, 1.6),
    ),
)
CIFAR10 = Subject(
    "cifar10",
    {"num_eval": 200, "passes": 8},
    (150, 5000),
    (27, 300),
    (
        *_schedules("geometric"),
        Variant("T", "1,000 → 100", {"T": 100, "sample_steps": 100}),
        *_means("eq65", "code", "x0", "v", "skip"),
        *_variances("eq64", "between"),
        Variant("bumps in", "t → log-SNR", {"bumps": "log_snr"}),
        Variant("scales", "4 → 1", {"scales": 1}, 0.9),
        Variant("scales", "4 → 2", {"scales": 2}, 0.95),
        Variant("dense pathway", "with → without", {"dense": 0}, 0.9),
        Variant("1×1 layers", "2 → none", {"pointwise": 0}, 0.9),
        Variant("noise level", "in the readout → in every layer (FiLM)", {"film": True}, 1.1),
        Variant("nonlinearity", "softplus → leaky ReLU", {"nonlinearity": "leaky_relu"}, 0.9),
        Variant("network", "32 → 16 channels", {"width": 16}, 0.8),
        Variant("network", "4 → 2 layers", {"depth": 2}, 0.8),
        Variant("network", "4 → 6 layers", {"depth": 6}, 1.5),
        Variant("objective", "eq. 15 → squared error of v", {"objective": "v"}),
        _NO_EMA,
        Variant("optimizer", "Adam → Muon with decay", {**_MUON, "weight_decay": 0.2}, 1.3),
    ),
)
SUBJECTS = (SWISS_ROLL, HEARTBEAT, MNIST, CIFAR10)
