"""Table 1: K and K − L_null of each row, the paper's and ours, with what they depend on."""

from collections.abc import Mapping, Sequence
from typing import Any

from dpm_jax.reproduction import beyond, claims, seeds
from dpm_jax.reproduction.document import Code, Row, Strong, Table, Text
from dpm_jax.reproduction.seeds import Group, missing, shown, value

Report = Mapping[str, Any]


def table(groups: Sequence[Group], others: Mapping[str, Sequence[Group]]) -> Table:
    """Table 1: K and K − L_null of each row, paper and ours, with what they depend on.

    Args:
        groups: of the paper's rows.
        others: those beyond it, by title (`beyond.split`): a note says where they stand.
    """
    head = ("", "K", "K − L_null", "± is over", "ceiling of K", "gap", "β_1", "noise of the data")
    rows: list[Row] = []
    for claim in claims.TABLE_1:
        rows.append(Row((f"{claim.title}, {claim.unit}",), "title"))
        rows.append(_paper(claim))
        of_row = seeds.of(groups, claim.experiment, claims.PRESETS)
        rows += [_bound(group) for group in of_row]
        theirs = (Strong(f"{claim.title}, the paper's setting: "), claim.setting)
        against = (Strong(f"{claim.title}, what compares: "), claim.caveat)
        rows += [Row((theirs,), "note"), Row((against,), "note")]
        rows += [Row((note,), "note") for note in _notes(of_row)]
        rows += [Row((note,), "note") for note in beyond.note(claim.experiment, others)]
    caption = (
        "± in the paper is as printed there (most of its numbers have none). Ours is one standard"
        " error: over seeds, or over the examples that K was measured on where there is one seed or"
        " the seeds agree better than that. The gap is ceiling − K. Seeds lead to their commands,"
        " and flags beside a preset are values that it has not: trainings cut short among them."
        " Noise of the roll is in the unit of its generator (scikit-learn's), that of images is the"
        " standard deviation of β_1's step."
    )
    return Table((*head, "last step", "training, s", "seeds"), tuple(rows), caption)


def _paper(claim: claims.Bound) -> Row:
    numbers = [str(n) if n is not None else "not reported" for n in (claim.K, claim.gain)]
    has = claim.K is not None and claim.K.error
    error = "as printed" if has else "none printed" if claim.K is not None else "–"
    more = (claim.beta_1, claim.noise, claim.last_step, claims.UNSAID, "–")
    return Row(("the paper", *numbers, error, claims.UNSAID, "–", *more), "paper")


def _bound(group: Group) -> Row:
    reports = group.reports
    if not reports:
        return missing(seeds.label(group), group.why)
    K = value(reports, lambda r: per(r, "K_bits"), lambda r: per(r, "K_standard_error_bits"))
    gain = value(
        reports,
        lambda r: per(r, "K_minus_L_null_bits"),
        lambda r: per(r, "K_minus_L_null_standard_error_bits"),
    )
    ceiling = value(reports, lambda r: per(r, "ceiling_bits"))
    gap = value(reports, _gap, lambda r: per(r, "K_standard_error_bits"))
    known = ceiling.mean is not None
    cells = [str(K), str(gain), K.over]
    cells += [shown(ceiling.mean) if known else "none known", str(gap) if known else "–"]
    cells += [f"{reports[0]['beta_1']:.3g}", noise(reports[0]), reports[0]["last_step"]]
    cells += [f"{sum(r['seconds'] for r in reports) / len(reports):,.0f}"]
    return Row((seeds.label(group), *cells, seeds.links(group)))


def per(report: Report, name: str) -> float | None:
    """A number of bits an example in the paper's unit: of images a pixel, all its colours."""
    bits = report.get(name)
    return None if bits is None else bits / report.get("pixels", 1)


def _gap(report: Report) -> float | None:
    ceiling, K = report.get("ceiling_bits"), report.get("K_bits")
    return None if ceiling is None or K is None else (ceiling - K) / report.get("pixels", 1)


def noise(report: Report) -> str:
    """What noise the data of a K have, in the unit that its row is known by."""
    if "beta_1_noise_levels" in report:
        levels = report.get("levels", 256)
        return f"{report['beta_1_noise_levels']:.2g} of {levels} grey levels"
    roll = report.get("config", {}).get("noise")
    return "none: bits" if roll is None else f"of the roll: {roll:g}"


def _notes(groups: Sequence[Group]) -> list[Text]:
    """What the reports themselves say must be known beside their numbers."""
    found: list[Text] = []
    for group in groups:
        for report in group.reports[:1]:
            if "dataset" in report and report["dataset"] != "cifar10":
                found.append((_name(group), ": of ", Code(str(report["dataset"])), " instead."))
            for name in ("num_eval_note",):
                if name in report:
                    found.append((_name(group), ": ", Code(str(report[name]))))
    codes = [(g, r["bits_per_dim_8bit"]) for g in groups for r in g.reports[:1] if _coded(r)]
    if codes:
        each = ", ".join(f"preset {g.preset} {shown(code)}" for g, code in codes)
        found.append(f"{_title(groups)} in bits/dim of 8-bit values (lower is better): {each}.")
    return found


def _coded(report: Report) -> bool:
    return report.get("bits_per_dim_8bit") is not None


def _title(groups: Sequence[Group]) -> str:
    return next(c.title for c in claims.TABLE_1 if c.experiment == groups[0].experiment)


def _name(group: Group) -> str:
    return f"{_title([group])}, preset {group.preset}"
