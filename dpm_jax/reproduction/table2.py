"""Table 2: other densities at the same noise on dead leaves, Parzen windows on MNIST."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from dpm_jax.reproduction import claims, seeds
from dpm_jax.reproduction.document import Row, Table, words
from dpm_jax.reproduction.seeds import Group, missing, value

Report = Mapping[str, Any]


def leaves(groups: Sequence[Group]) -> list[Table]:
    """Table 2, dead leaves: every density at every noise, in bits a pixel, a table a preset."""
    mcgsm, diffusion = claims.LEAVES
    lead = float(diffusion.value.text) - float(mcgsm.value.text)
    printed = f"MCGSM {mcgsm.value}, diffusion {diffusion.value}, ahead by {lead:.3f} bits/pixel,"
    rows = [Row(("the paper", f"{printed} of K; at a noise that is not stated"), "paper")]
    tables = []
    for group in seeds.of(groups, "dead_leaves", claims.PRESETS):
        reports = [report for report in group.reports if "noise_floor" in report]
        if not reports:
            why = group.why if not group.reports else "the run has no noise-floor curve"
            empty = missing(seeds.label(group), why)
            tables.append(Table(("K, bits/pixel", "at noise"), (*rows, empty)))
            continue
        tables.append(_densities(group, reports, rows))
    return tables


def _densities(group: Group, reports: Sequence[Report], rows: list[Row]) -> Table:
    """Rows are densities, columns the noises at which they were measured."""
    names = [name for name in reports[0]["noise_floor"] if name != "diffusion"]
    floors = _floors(reports[0])
    found = [*rows, Row((seeds.label(group),), "title")]
    for name in ("diffusion", *names):
        found.append(Row((name, *(str(density(reports, name, v)) for v in floors))))
    for name in names:
        leads = [str(density(reports, name, v, "lead_of_diffusion_bits_per_pixel")) for v in floors]
        found.append(Row((f"diffusion ahead of {name} by", *leads)))
    if "MCGSM" not in names:
        found.append(missing("MCGSM", "not in --baselines of these runs"))
    ceilings = [str(density(reports, "diffusion", v, "ceiling_bits_per_pixel")) for v in floors]
    found.append(Row(("ceiling of any density", *ceilings)))
    scale = reports[0].get("scale_levels")
    head = [f"at noise variance {v:.4f}" + _levels(v, scale) for v in floors]
    over = f"{reports[0]['examples']:,} test images"
    if len(reports) > 1:
        over = f"{len(reports)} seeds, or over {over} where that is larger"
    caption = (
        "K in bits/pixel of images with Gaussian noise of that variance (they have variance 1), of"
        " one and the same test images; leads are differences image by image. ± one standard error"
        f" over {over}. Seeds: "
    )
    told = (caption, *words(seeds.links(group)))
    return Table(("K, bits/pixel", *head), tuple(found), told)


def _levels(variance: float, scale: float | None) -> str:
    """The noise beside the image in grey levels: the image is scaled by √(1 − v) at variance v."""
    return "" if scale is None else f" ({scale * (variance / (1 - variance)) ** 0.5:.1f} levels)"


def _floors(report: Report) -> list[float]:
    """The noises at which other densities were measured, or else all of the curve."""
    curves = report["noise_floor"]
    others = [curve for name, curve in curves.items() if name != "diffusion"]
    return (others[0] if others else curves["diffusion"])["noise_variance"]


def density(reports, name: str, variance: float, what: str = "K_minus_L_null_bits_per_pixel"):
    """One number of the curves nearest to a noise, over seeds; K and ceilings with their L_null."""
    known = {
        "K_minus_L_null_bits_per_pixel": "standard_error_bits_per_pixel",
        "lead_of_diffusion_bits_per_pixel": "lead_standard_error_bits_per_pixel",
    }

    def take(report: Report, key: str) -> float:
        curve = report["noise_floor"][name]
        at = [abs(v - variance) for v in curve["noise_variance"]]
        i = at.index(min(at))
        null = 0.0 if "lead" in key or "error" in key else _null(report, curve, i)
        return curve[key][i] + null

    error = known.get(what)
    own = None if error is None else partial(take, key=error)
    return value(reports, partial(take, key=what), own)


def _null(report: Report, curve: Report, i: int) -> float:
    """L_null of the noised images: the curve's ceiling is −h of its noise, less it."""
    colours = report["dims"] / report["pixels"]
    entropy = 0.5 * colours * math.log2(2 * math.pi * math.e * curve["noise_variance"][i])
    return -entropy - curve["ceiling_bits_per_pixel"][i]


def parzen(groups: Sequence[Group]) -> Table:
    """Table 2, MNIST: Parzen windows of samples, beside the literature's as the paper has them."""
    head = ("", "log likelihood, bits", "± is over", "samples", "width of windows", "seeds")
    rows = [Row(("As the paper has them",), "title")]
    rows += [
        Row((s.name, str(s.value), "as printed", "–", "–", "–"), "paper") for s in claims.PARZEN
    ]
    note = ""
    for group in seeds.of(groups, "mnist", claims.PRESETS):
        rows.append(Row((seeds.label(group),), "title"))
        reports = [report for report in group.reports if "parzen_bits" in report]
        if not reports:
            why = group.why if not group.reports else "samples are not finite, or too few"
            rows.append(missing("diffusion", why))
            continue
        note = reports[0].get("parzen_note", note)
        rows.append(_windows("diffusion", reports, "parzen", group))
        rows.append(
            _windows("perfect model (training images)", reports, "parzen_perfect_model", group)
        )
    return Table(head, tuple(rows), note)


def _windows(name: str, reports: Sequence[Report], key: str, group: Group) -> Row:
    found = value(reports, lambda r: r[f"{key}_bits"], lambda r: r[f"{key}_standard_error_bits"])
    over = "test images" if "examples" in found.over else found.over  # all, whatever K is over
    samples, width = f"{reports[0]['samples']:,}", f"{reports[0][f'{key}_width']:.3f}"
    return Row((name, str(found), over, samples, width, seeds.links(group)))
