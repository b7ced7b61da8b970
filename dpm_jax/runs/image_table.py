"""The table of a run on images: K a pixel or dim beside the paper's, and the code length."""

from dpm_jax import units
from dpm_jax.images import dequantisation
from dpm_jax.likelihood import Evaluation
from dpm_jax.runs.experiment import Problem, Row
from dpm_jax.runs.images import scale_of


def measures(
    problem: Problem, result: Evaluation, ceiling: float | None, per: str = "pixel"
) -> tuple[dict[str, float], list[Row]]:
    """K per pixel (all its colours) or dim, and bits/dim of a level, which is lower the better."""
    bits, dims, scale = units.bits, problem.facts["dims"], scale_of(problem).scale
    size = dims if per == "dim" else problem.facts["pixels"]
    whole = callable(problem.model.last_step)  # K is then a log probability of integers
    level = dequantisation.name(scale_of(problem).levels)
    key = f"bits_per_dim_{'lossless' if whole else level.replace('-', '')}"
    code = f"{'lossless ' if whole else ''}code length per {level} level"

    def code_length(K: float) -> float:
        return -bits(K) / dims if whole else units.bits_per_dim(K, dims, scale)

    error, gain_error = bits(result.K_error), bits(result.K_minus_L_null_error)
    ours = {
        f"K_bits_per_{per}": bits(result.K) / size,
        f"K_minus_L_null_bits_per_{per}": bits(result.K_minus_L_null) / size,
        f"K_minus_L_null_standard_error_bits_per_{per}": gain_error / size,
        key: code_length(result.K),
    }
    most: list[float | None] = [None] * 3
    if ceiling is not None:
        most = [bits(ceiling) / size, bits(ceiling - result.L_null) / size, code_length(ceiling)]
    density = f"log probability of the integers, per {per}" if whole else f"K per {per}"
    K_key, gain_key, number, facts = *list(ours)[:2], units.number, problem.facts
    paper = [facts["paper_K_bits"], facts["paper_K_minus_L_null_bits"], None]
    rows = [
        (density, K_key, error / size, f"bits/{per}"),
        (f"K − L_null per {per}", gain_key, gain_error / size, f"bits/{per}"),
        (f"{code} (lower is better)", key, error / dims, "bits/dim"),
    ]
    told = [_told(value, facts["paper_error_bits"], size) for value in paper]
    return ours, [
        (name, p, number(ours[key], e, 4), number(c, digits=4), unit)
        for p, (name, key, e, unit), c in zip(told, rows, most)
    ]


def _told(bits: float | None, error: float | None, size: int) -> str:
    """The paper's number as it has it, from bits an image."""
    parts = [f"{v / size:.6g}".replace("-", "−") for v in (bits, error) if v is not None]
    return " ± ".join(parts) if bits is not None else "–"
