"""The page: the paper's tables and figures with ours beside them, as report.html and report.md."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from dpm_jax import files
from dpm_jax.reproduction import (
    claims,
    html,
    markdown,
    pictures,
    provenance,
    seeds,
    table1,
    table2,
    tables,
)
from dpm_jax.reproduction.ablation import Ablation
from dpm_jax.reproduction.document import (
    Block,
    Code,
    Document,
    Items,
    Link,
    Picture,
    Pictures,
    Section,
    Strong,
    words,
)
from dpm_jax.reproduction.document import pictures as pictures_of
from dpm_jax.reproduction.seeds import Group
from dpm_jax.sweeps.jobs import Outcome

TITLE = "Sohl-Dickstein et al. 2015, made anew by dpm_jax"


def write(
    folder: Path, outcomes: Sequence[Outcome], ablation: Ablation | None = None
) -> list[Path]:
    """report.html, one file with its pictures, and report.md, which links to those of the runs.

    Args:
        folder: an existing directory, that of the runs or one above it.
        outcomes: every run that was asked for, with its report or why there is none.
        ablation: of this directory, where there is one.

    Returns:
        Both paths.

    Raises:
        ValueError: for a folder that is none, or pictures that fit into no page.
        OSError: where nothing can be written; the old page stays.
    """
    folder = Path(folder).absolute()
    if not folder.is_dir():
        raise ValueError(f"folder: expected a directory, got {folder}")
    page = document(folder, outcomes, ablation)
    found = {
        "report.html": html.render(page, pictures.small(pictures_of(page))),
        "report.md": markdown.render(page, folder),
    }
    for name, text in found.items():
        with files.replacing(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return [folder / name for name in found]


def document(
    folder: Path, outcomes: Sequence[Outcome], ablation: Ablation | None = None
) -> Document:
    """What the page holds, for either form."""
    groups = seeds.gather(outcomes)
    sections = [
        Section("Table 1: K on held-out data", "table-1", (table1.table(groups),)),
        _table_2(groups),
        Section("Figures", "figures", tuple(_figures(groups))),
        _learned(groups),
        _by_t(groups),
        _jarzynski(groups),
    ]
    if ablation is not None:
        sections.append(_ablation(folder, ablation))
    sections.append(Section("Commands", "commands", (tables.runs(outcomes),)))
    glossary = tuple((Strong(name), ": " + meaning) for name, meaning in claims.GLOSSARY)
    sections.append(Section("Glossary", "glossary", (Items(glossary),)))
    return Document(TITLE, tuple(_head(folder, outcomes)), tuple(sections))


def _head(folder: Path, outcomes: Sequence[Outcome]) -> Iterator[Block]:
    yield (
        f"Every table and figure of {claims.PAPER}, beside what dpm_jax makes of it: the paper's"
        " number or figure first, ours below it with its error, its ceiling and its command."
    )
    done = [each for each in outcomes if each.report is not None]
    yield Items(tuple(provenance.facts(folder, done)))
    lacking = [each for each in outcomes if each.report is None]
    told = f"{len(done)} of {len(outcomes)} runs are done."
    yield told if not lacking else told + " Not made, and marked below where they would stand:"
    if lacking:
        named = (Link(each.job.name, seeds.anchor(each)) for each in lacking)
        yield Items(tuple((name, ": ", Code(o.why)) for name, o in zip(named, lacking)))


def _table_2(groups: Sequence[Group]) -> Section:
    leaves = (
        "The paper compares K at one noise that it does not state. Images with flat regions have no"
        " density of their own, so that a K is one of images with a noise: here all densities meet"
        " at the same noises, on the same test images, our fit of MCGSM among them where it was"
        " made. “Causal scale mixture” is our plain stand-in for it: one predictor of a pixel from"
        " those above and left of it, with an error of several scales."
    )
    return Section(
        "Table 2: beside other models",
        "table-2",
        (
            Section("Dead leaves", "table-2-leaves", (leaves, *table2.leaves(groups))),
            Section("MNIST, Parzen windows", "table-2-mnist", (table2.parzen(groups),)),
        ),
    )


def _figures(groups: Sequence[Group]) -> Iterator[Section]:
    for figure in claims.FIGURES:
        of_row = seeds.of(groups, figure.experiment, claims.PRESETS)
        shown = tuple(_figure(group, figure) for group in of_row)
        paper = (Strong("The paper's figure: "), figure.shows)
        ours = (Strong("Ours: "), figure.differs)
        title = f"Figure {figure.number}: {figure.title}"
        anchor = "figure-" + figure.number.lower().replace(".", "-")
        yield Section(title, anchor, (paper, ours, Pictures(shown)))


def _figure(group: Group, figure: claims.Figure) -> Picture:
    """Ours, with what the run measured of it."""
    alt = f"Figure {figure.number} of the paper, made by {group.name}"
    found = _picture(group, figure.name, alt)
    report = group.reports[0] if group.reports else {}
    told: list[str | Code] = [
        " " + said.format(report[key]) for key, said in figure.measured if key in report
    ]
    told += [Code(str(value)) for key, value in report.items() if key == f"{figure.name}_note"]
    return found._replace(caption=(*words(found.caption), "." if told else "", *told))


def _picture(group: Group, name: str, alt: str) -> Picture:
    """A figure of the first run of a group that ended, or why there is none."""
    label = words(seeds.label(group))
    if not group.done:
        return Picture(None, label, alt, group.why)
    run = group.done[0]
    caption = (*label, ", seed ", Link(str(seeds.seed(run)), seeds.anchor(run)))
    path = _path(run, (run.report or {}).get("figures", {}).get(name, ""))
    if path is None:
        return Picture(None, caption, alt, f"the run has no figure {name}")
    return Picture(path, caption, alt)


def _path(run: Outcome, told: str) -> Path | None:
    """The file of a figure that a report names, if it is one of the run's own."""
    place = run.place.absolute()
    path = place / str(told)
    inside = path.resolve().is_relative_to(place.resolve())
    return path if told and inside and path.is_file() else None


def _learned(groups: Sequence[Group]) -> Section:
    """Pictures of what runs learned: by name in their reports, or found beside their figures."""
    blocks: list[Block] = [
        "Pictures of the parameters behind the numbers: the learned β_t beside the constant"
        " fraction of the binomial case, the learned mean f_μ and variance f_Σ at some t, and how"
        " the bumps in t (eq. 63) weigh what a convolutional network gives."
    ]
    for claim in claims.TABLE_1:
        of_row = seeds.of(groups, claim.experiment, claims.PRESETS)
        shown = tuple(each for group in of_row for each in _learned_of(group))
        blocks.append(Section(claim.title, f"learned-{claim.experiment}", (Pictures(shown),)))
    return Section("What is learned", "learned", tuple(blocks))


def _learned_of(group: Group) -> list[Picture]:
    if not group.done:
        return [_picture(group, "learned", f"what {group.name} learned")]
    run = group.done[0]
    named = [str(path) for path in (run.report or {}).get("figures", {}).values()]
    found = sorted((run.place / "figures").glob("*.png"))
    every = dict.fromkeys([*named, *(str(path.relative_to(run.place)) for path in found)])
    mine = [path for path in every if Path(path).name.startswith(("learned", "schedule"))]
    if not mine:
        return [_picture(group, "learned", f"what {group.name} learned")]
    pictures = []
    for told in mine:
        what = Path(told).stem.replace("_", " ")
        words_of = _picture(group, "", "").caption
        pictures.append(
            Picture(_path(run, told), (f"{what}; ", *words(words_of)), f"{what} of {group.name}")
        )
    return pictures


def _by_t(groups: Sequence[Group]) -> Section:
    terms = (
        "Where each model spends its bound: the mean KL_t of eq. 14 at each t, and the noise there."
    )
    floors = (
        "K − L_null of the same images at every noise, beside other densities and the ceiling: how"
        " much of a number is the noise at which it was taken."
    )
    every = [claim.experiment for claim in claims.TABLE_1]
    images = ("bark", "dead_leaves", "cifar10")
    by_t = (_row(groups, experiment, "bound_terms", "KL by t") for experiment in every)
    by_noise = (_row(groups, experiment, "noise_floor", "K by noise") for experiment in images)
    return Section(
        "Where the bits are",
        "by-t",
        (
            Section("K by t", "bound-terms", (terms, *by_t)),
            Section("K by noise", "noise-floor", (floors, *by_noise)),
        ),
    )


def _row(groups: Sequence[Group], experiment: str, name: str, what: str) -> Pictures:
    """One figure of every preset of a row of Table 1."""
    title = next(claim.title for claim in claims.TABLE_1 if claim.experiment == experiment)
    shown = []
    for group in seeds.of(groups, experiment, claims.PRESETS):
        found = _picture(group, name, f"{what}, {group.name}")
        shown.append(found._replace(caption=(f"{title}: ", *words(found.caption))))
    return Pictures(tuple(shown))


def _jarzynski(groups: Sequence[Group]) -> Section:
    told = (
        "The equality behind eq. 9 (Jarzynski 1997): the mean of e^−W over trajectories gives the"
        " free energy at any speed, and fast switching costs trajectories, not truth. −log p(x^0)"
        " is the free energy of a diffusion model, W the work, K = −⟨W⟩."
    )
    group = next(
        (g for g in groups if g.experiment == "jarzynski"), Group("jarzynski", "", "jarzynski")
    )
    blocks: list[Block] = [told]
    blocks += [block for report in group.reports[:1] for block in tables.drivings(report)]
    picture = _picture(group, "jarzynski", "Work and free energy by switching time")
    return Section("Jarzynski's equality", "jarzynski", (*blocks, Pictures((picture,))))


def _ablation(folder: Path, ablation: Ablation) -> Section:
    blocks: list[Block] = [ablation.paragraph]
    drawn = folder / "ablation" / "figures" / "ablation.png"
    if drawn.is_file():
        caption = "The same as a picture: each change with its error, by data set."
        blocks.append(Pictures((Picture(drawn, caption, "changes of K by module"),)))
    if ablation.effects:
        blocks.append(tables.effects(ablation))
    if ablation.failed:
        blocks.append(Items(tuple(("not measured: ", Code(each)) for each in ablation.failed)))
    return Section("Ablation: which module matters", "ablation", tuple(blocks))
