"""Beyond the paper: log probabilities that it does not have, beside those that others report."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dpm_jax import units
from dpm_jax.reproduction import claims, figures, seeds
from dpm_jax.reproduction.document import Block, Link, Pictures, Row, Section, Table, Text, words
from dpm_jax.reproduction.seeds import Group, Value, missing
from dpm_jax.runs.experiment import find
from dpm_jax.sweeps.jobs import Job

ANCHOR = "beyond"
_PRESETS = ("best",)  # the one that stands here even where it was not made
_KINDS = {"exact": "exact", "bound": "an upper bound", "estimate": "an estimate"}


def row_of(job: Job) -> claims.Beyond | None:
    """The row that a run belongs to; None: to the paper's."""
    for row in claims.BEYOND:
        if job.experiment == row.experiment and row.flags.items() <= job.flags.items():
            return row
    return None


def split(groups: Iterable[Group]) -> tuple[list[Group], dict[str, list[Group]]]:
    """The groups of the paper's rows, and by title those of the rows beyond it."""
    ours: list[Group] = []
    beyond: dict[str, list[Group]] = {row.title: [] for row in claims.BEYOND}
    for group in groups:
        row = row_of(group.outcomes[0].job) if group.outcomes else None
        (ours if row is None else beyond[row.title]).append(group)
    return ours, beyond


def value(row: claims.Beyond, reports: Sequence[Mapping[str, Any]]) -> Value:
    """−K in the unit of a row, with its error."""

    def scale(report: Mapping[str, Any]) -> float:
        return units.LN2 if row.unit == "nats/image" else 1 / report["dims"]

    def of(report: Mapping[str, Any], name: str, sign: int) -> float | None:
        return None if report.get(name) is None else sign * report[name] * scale(report)

    return seeds.value(
        reports,
        lambda report: of(report, "K_bits", -1),
        lambda report: of(report, "K_standard_error_bits", 1),
    )


def section(beyond: Mapping[str, Sequence[Group]]) -> Section:
    """Every row beyond the paper: its table, its pictures."""
    blocks: list[Block] = [
        "What the paper has no number for, and others have. All are minus a log probability, lower"
        " is better. Ours are −K (eq. 14), an upper bound on minus log p."
    ]
    for row in claims.BEYOND:
        groups = seeds.of(beyond[row.title], row.experiment, _PRESETS)
        anchor = f"{ANCHOR}-{row.experiment}"
        blocks.append(
            Section(row.title, anchor, (row.says, _table(row, groups), *_drawn(row, groups)))
        )
    return Section("Beyond the paper", ANCHOR, tuple(blocks))


def note(experiment: str, beyond: Mapping[str, Sequence[Group]]) -> list[Text]:
    """What Table 1 says of it where K of a row stands: the numbers, and where their table is."""
    found: list[Text] = []
    for row in (row for row in claims.BEYOND if row.experiment == experiment):
        groups = seeds.of(beyond[row.title], row.experiment, _PRESETS)
        told = ", ".join(f"preset {g.preset} {_number(row, g)}" for g in groups)
        link = Link(f"{ANCHOR.capitalize()} the paper", f"{ANCHOR}-{experiment}")
        found.append((f"{row.title}, {row.unit}: {told}; beside others in ", link, "."))
    return found


def _number(row: claims.Beyond, group: Group) -> str:
    if not group.reports:
        return "not made"
    found = value(row, group.reports)
    return str(found) if found.mean is None else f"≤ {found}"


def _table(row: claims.Beyond, groups: Sequence[Group]) -> Table:
    head = ("", row.unit, "which is", "data", "± is over", "β_1", "training, s", "seeds")
    reported = sorted(find(row.experiment).literature, key=lambda of: -float(of.value))
    rows = [Row(("Others, as their papers are quoted",), "title")]
    rows += [
        Row((of.name, str(of), _KINDS[of.kind], of.data, *["–"] * 4), "paper") for of in reported
    ]
    rows.append(Row(("dpm_jax",), "title"))
    rows += [_ours(row, group) for group in groups]
    return Table(head, tuple(rows))


def _ours(row: claims.Beyond, group: Group) -> Row:
    reports = group.reports
    if not reports:
        return missing(seeds.label(group), group.why)
    found, data = value(row, reports), row.data.format(**reports[0]["config"])
    cells = [_number(row, group), _KINDS["bound"], data, found.over, f"{reports[0]['beta_1']:.3g}"]
    seconds = sum(report["seconds"] for report in reports) / len(reports)
    return Row((seeds.label(group), *cells, f"{seconds:,.0f}", seeds.links(group)))


def _drawn(row: claims.Beyond, groups: Sequence[Group]) -> list[Pictures]:
    """The figures that a row names, of every group, and what these learned; of no names, none."""
    found = []
    for name, told in row.figures:
        for group in groups:
            picture = figures.of_run(group, name, f"{row.title}, {told}, {group.name}")
            found.append(picture._replace(caption=(f"{told}: ", *words(picture.caption))))
    return [Pictures(tuple(found)), *map(figures.learned, groups)] if found else []
