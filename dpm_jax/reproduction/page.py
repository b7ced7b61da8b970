"""The page: the paper's tables and figures with ours beside them, as report.html and report.md."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from dpm_jax import files
from dpm_jax.reproduction import (
    beyond,
    claims,
    figures,
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
            # Paths may hold bytes that are no letters.
            temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
    return [folder / name for name in found]


def document(
    folder: Path, outcomes: Sequence[Outcome], ablation: Ablation | None = None
) -> Document:
    """What the page holds, for either form."""
    outcomes = _shown(outcomes)
    groups = seeds.gather(outcomes)
    sections = [*_of_runs(groups)]
    if ablation is not None:
        sections.append(_ablation(folder / "ablation", ablation))
    sections.append(Section("Commands", "commands", (tables.runs(outcomes),)))
    glossary = tuple((Strong(name), ": " + meaning) for name, meaning in claims.GLOSSARY)
    sections.append(Section("Glossary", "glossary", (Items(glossary),)))
    return Document(TITLE, tuple(_head(folder, outcomes)), tuple(sections))


def _shown(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """The runs; one whose report holds what no run writes there is named, and spoils nothing."""
    found: list[Outcome] = []
    for each in outcomes:
        try:
            alone: tuple[Block, ...] = (
                *_of_runs(seeds.gather([*found, each])),
                tables.runs([each]),
            )
            markdown.render(Document(TITLE, alone, ()), each.place)
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            told = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            why = f"{each.place / 'report.json'} is not as a run writes it ({told})"
            each = each._replace(report=None, why=why)
        found.append(each)
    return found


def _of_runs(groups: Sequence[Group]) -> tuple[Section, ...]:
    groups, others = beyond.split(groups)
    return (
        Section("Table 1: K on held-out data", "table-1", (table1.table(groups, others),)),
        _table_2(groups),
        Section("Figures", "figures", tuple(_figures(groups))),
        _learned(groups),
        _by_t(groups),
        _jarzynski(groups),
        beyond.section(others),
    )


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
        yield Items(tuple(_lacking(why, lacking) for why in dict.fromkeys(o.why for o in lacking)))


def _lacking(why: str, lacking: Sequence[Outcome]) -> tuple[str | Link | Code, ...]:
    """One reason, and every run that is not there for it."""
    parts: list[str | Link | Code] = [Code(why), ": "]
    for each in (each for each in lacking if each.why == why):
        parts += [Link(each.job.name, seeds.anchor(each)), ", "]
    return tuple(parts[:-1])


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
        shown = tuple(figures.of_paper(group, figure) for group in of_row)
        paper = (Strong("The paper's figure: "), figure.shows)
        ours = (Strong("Ours: "), figure.differs)
        title = f"Figure {figure.number}: {figure.title}"
        anchor = "figure-" + figure.number.lower().replace(".", "-")
        yield Section(title, anchor, (paper, ours, Pictures(shown)))


def _learned(groups: Sequence[Group]) -> Section:
    blocks: list[Block] = [
        "Pictures of the parameters behind the numbers: the learned β_t beside the constant"
        " fraction of the binomial case, the learned mean f_μ and variance f_Σ at some t, and how"
        " the bumps in t (eq. 63) weigh what a convolutional network gives."
    ]
    for claim in claims.TABLE_1:
        of_row = seeds.of(groups, claim.experiment, claims.PRESETS)
        shown = tuple(map(figures.learned, of_row))
        blocks.append(Section(claim.title, f"learned-{claim.experiment}", shown))
    return Section("What is learned", "learned", tuple(blocks))


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
    by_t = (figures.row(groups, experiment, "bound_terms", "KL by t") for experiment in every)
    by_noise = (
        figures.row(groups, experiment, "noise_floor", "K by noise") for experiment in images
    )
    return Section(
        "Where the bits are",
        "by-t",
        (
            Section("K by t", "bound-terms", (terms, *by_t)),
            Section("K by noise", "noise-floor", (floors, *by_noise)),
        ),
    )


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
    picture = figures.of_run(group, "jarzynski", "Work and free energy by switching time")
    return Section("Jarzynski's equality", "jarzynski", (*blocks, Pictures((picture,))))


def write_ablation(folder: Path, ablation: Ablation) -> Path:
    """ablation.md in the directory of an ablation: what the page has of it."""
    of = Document(f"Effort {ablation.effort}", (), (_ablation(folder, ablation),))
    with files.replacing(folder / "ablation.md") as temporary:
        temporary.write_text(markdown.render(of, folder), encoding="utf-8")
    return folder / "ablation.md"


def _ablation(folder: Path, ablation: Ablation) -> Section:
    blocks: list[Block] = [ablation.paragraph]
    drawn = folder / "figures" / "ablation.png"
    if drawn.is_file() and drawn.resolve().is_relative_to(folder.resolve()):
        caption = "The same as a picture: each change with its error, by data set."
        blocks.append(Pictures((Picture(drawn, caption, "changes of K by module"),)))
    if ablation.effects:
        blocks.append(tables.effects(ablation))
    if ablation.failed:
        blocks.append(Items(tuple(("not measured: ", Code(each)) for each in ablation.failed)))
    return Section("Ablation: which module matters", "ablation", tuple(blocks))
