"""The pictures of the page: which file of which run, its caption, or why there is none."""

from collections.abc import Sequence
from pathlib import Path

from dpm_jax.reproduction import claims, seeds
from dpm_jax.reproduction.document import Code, Link, Picture, Pictures, words
from dpm_jax.reproduction.seeds import Group
from dpm_jax.sweeps.jobs import Outcome

# What was learned, by the beginning of a file's name, and words for what is known.
_LEARNED = ("learned", "schedule")
_SHOWS = {
    "learned_schedule": "the rate β_t beside the constant fraction",
    "learned_kernel": "the reverse kernel p(x^{t−1}|x^t) at some t",
    "learned_bumps": "the bumps in t and the weights that meet them",
}


def of_paper(group: Group, figure: claims.Figure) -> Picture:
    """A figure of the paper as a run drew it, with what the run measured of it."""
    alt = f"Figure {figure.number} of the paper, made by {group.name}"
    found = of_run(group, figure.name, alt)
    report = group.reports[0] if group.reports else {}
    told: list[str | Code] = [
        " " + said.format(report[key]) for key, said in figure.measured if key in report
    ]
    told += [Code(str(value)) for key, value in report.items() if key == f"{figure.name}_note"]
    return found._replace(caption=(*words(found.caption), "." if told else "", *told))


def of_run(group: Group, name: str, alt: str) -> Picture:
    """A figure of the first run of a group that ended, or why there is none."""
    if not group.done:
        return Picture(None, seeds.label(group), alt, group.why)
    run = group.done[0]
    path = _path(run, (run.report or {}).get("figures", {}).get(name, ""))
    why = "" if path is not None else f"the run has no figure {name}"
    return Picture(path, _caption(group, run), alt, why)


def row(groups: Sequence[Group], experiment: str, name: str, what: str) -> Pictures:
    """One figure of every preset of a row of Table 1."""
    title = next(claim.title for claim in claims.TABLE_1 if claim.experiment == experiment)
    shown = []
    for group in seeds.of(groups, experiment, claims.PRESETS):
        found = of_run(group, name, f"{what}, {group.name}")
        shown.append(found._replace(caption=(f"{title}: ", *words(found.caption))))
    return Pictures(tuple(shown))


def learned(group: Group) -> Pictures:
    """What the first run of a group learned: named in its report, or found beside its figures."""
    nothing = of_run(group, "learned", f"what {group.name} learned")
    if not group.done:
        return Pictures((nothing,))
    run = group.done[0]
    named = [str(path) for path in (run.report or {}).get("figures", {}).values()]
    named += [str(path.relative_to(run.place)) for path in (run.place / "figures").glob("*.png")]
    paths = [path for told in dict.fromkeys(named) if (path := _path(run, told)) is not None]
    mine = [path for path in paths if path.name.startswith(_LEARNED)]
    order = list(_SHOWS)
    mine.sort(key=lambda path: (order.index(path.stem) if path.stem in order else 99, path.stem))
    shown = []
    for path in mine:
        what = _SHOWS.get(path.stem, path.stem.replace("_", " "))
        caption = (*_caption(group, run), f": {what}")
        shown.append(Picture(path, caption, f"{path.stem.replace('_', ' ')} of {group.name}"))
    return Pictures(tuple(shown) or (nothing,))


def _caption(group: Group, run: Outcome) -> tuple:
    return (*words(seeds.label(group)), ", seed ", Link(str(seeds.seed(run)), seeds.anchor(run)))


def _path(run: Outcome, told: str) -> Path | None:
    """The file of a figure that a report names, if it is one of the run's own."""
    place = run.place.absolute()
    path = place / str(told)
    inside = path.resolve().is_relative_to(place.resolve())
    return path if told and inside and path.is_file() else None
