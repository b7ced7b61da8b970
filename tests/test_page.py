"""The page of the paper: every number of its, ours beside it, nothing blank and nothing fetched."""

import html.parser
import json
import math
import re
from urllib.parse import unquote

import jarzynski
import numpy as np
import pytest
from PIL import Image

from dpm_jax import runs
from dpm_jax.reproduction import claims, page, pictures, provenance, seeds
from dpm_jax.reproduction.ablation import Ablation, Effect
from dpm_jax.sweeps.jobs import Job, Outcome, command

# Matplotlib warns where a legend took a second to place, as on a machine with much else to do.
pytestmark = pytest.mark.filterwarnings("ignore:Creating legend with loc")
LIMIT = 10_000_000  # bytes of report.html
IMAGES = ("bark", "dead_leaves", "cifar10")
EVIL = (
    "<script>alert(1)</script><img src=x onerror=alert(1)> \"' | ` [a](http://evil.example) \n# b"
)
NUMBERS = [
    str(number)
    for each in (*claims.TABLE_1, *claims.LEAVES, *claims.PARZEN)
    for number in (each[3:5] if isinstance(each, claims.Bound) else each[1:])
    if number is not None
]


class Page(html.parser.HTMLParser):
    """What a browser would see: elements with attributes, rows of cells, text."""

    def __init__(self, path):
        super().__init__()
        self.elements, self.rows, self.text, self.open = [], [], [], []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data):
        self.text.append(data)
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data

    def values(self, name):
        return [attrs[name] for _, attrs in self.elements if name in attrs]

    def below(self, title):
        """The rows of Table 1 below a title."""
        start = next(i for i, row in enumerate(self.rows) if row[0].startswith(title))
        return self.rows[start + 1 : start + 6]


def report(experiment, seed=0, **more):
    """report.json of a run, as its binary writes it, with numbers that are easy to follow."""
    pixels = {"bark": 4096, "dead_leaves": 1024, "cifar10": 1024, "mnist": 784}.get(experiment, 1)
    told = {
        "experiment": experiment, "K_bits": (1.5 + seed) * pixels,
        "K_standard_error_bits": 0.25 * pixels, "K_minus_L_null_bits": 3.5 * pixels,
        "K_minus_L_null_standard_error_bits": 0.25 * pixels, "examples": 1000,
        "ceiling_bits": 4.0 * pixels, "beta_1": 0.001, "last_step": "fixed", "seconds": 12.3,
        "config": {"noise": 0.0}, "devices": 1, "backend": "cpu", "jax": "0.10.2", "figures": {},
    }  # fmt: skip
    if pixels > 1:
        dims = pixels * (3 if experiment == "cifar10" else 1)
        told |= {"pixels": pixels, "dims": dims, "levels": 256, "beta_1_noise_levels": 0.497}
        told |= {"scale_levels": 64.0, "bits_per_dim_8bit": 3.25}
    if experiment in IMAGES:
        told["noise_floor"] = floor(told["dims"] // pixels)
    if experiment == "binary_mnist":
        told |= {"K_bits": -120.0 - seed, "config": {"binarise": "dynamic"}, "ceiling_bits": None}
    if experiment == "mnist":
        for key in ("parzen", "parzen_perfect_model"):
            told |= {f"{key}_bits": 300.0 + seed, f"{key}_standard_error_bits": 2.5}
            told |= {f"{key}_width": 0.25, "samples": 10_000, "parzen_note": "do not rank"}
    return told | more


def floor(colours):
    """Curves of data of variance 1: L_null is −½ log2(2πe) a colour whatever the noise."""
    null = -0.5 * colours * math.log2(2 * math.pi * math.e)
    v = [0.002, 0.1, 0.4]
    most = [-0.5 * colours * math.log2(2 * math.pi * math.e * x) - null for x in v]
    ours = {"noise_variance": v, "ceiling_bits_per_pixel": most}
    ours |= {"K_minus_L_null_bits_per_pixel": [3.0, 2.0, 1.0]}
    ours |= {"standard_error_bits_per_pixel": [0.5, 0.25, 0.125]}
    other = {name: values[:2] for name, values in ours.items()}
    other |= {"K_minus_L_null_bits_per_pixel": [2.5, 1.75]}
    other |= {"lead_of_diffusion_bits_per_pixel": [0.5, 0.25]}
    other |= {"lead_standard_error_bits_per_pixel": [0.0625, 0.03125]}
    return {"diffusion": ours, "MCGSM": other}


def outcome(folder, experiment, preset="paper", seed=0, why="", variant="", told=None, **flags):
    name = f"{experiment}-{preset}{variant}-{seed}"
    job = Job(name, experiment, preset, {"seed": seed, **flags}, 1.0)
    place = folder / "runs" / name
    if why:
        return Outcome(job, place, None, why)
    told = told or report(experiment, seed)
    figures = {"bound_terms": "bound_terms", "noise_floor": "noise_floor", "learned_mu": "learned"}
    figures |= {"samples": "samples"} if experiment == "binary_mnist" else {}
    known = {f.name: f.name for f in claims.FIGURES if f.experiment == experiment}
    (place / "figures").mkdir(parents=True, exist_ok=True)
    for i, (key, file) in enumerate((figures | known).items()):
        picture(place / "figures" / f"{file}.png", 40 + i)
        told["figures"].setdefault(key, f"figures/{file}.png")
    return Outcome(job, place, told, "")


def integers(folder, preset="best", **more):
    """CIFAR-10 as integers: K is a log probability of theirs, of no unit of Table 1."""
    K = {
        "K_bits": -3.5 * 3072,
        "K_standard_error_bits": 0.25 * 3072,
        "config": {"dataset": "cifar10"},
    }
    told = report("cifar10", last_step="discretized", **K)
    flags = {"last_step": "discretized", "figures": False}
    return outcome(folder, "cifar10", preset, variant="_lossless", told=told, **flags, **more)


def picture(path, width, height=30, kind="drawn"):
    rng = np.random.default_rng(width)
    most = {"drawn": 4, "noise": 256, "photograph": 5}[kind]
    pixels = rng.integers(0, most, (height, width, 3), np.uint8)
    if kind == "photograph":  # neighbours are alike, and no colour comes twice
        pixels = np.cumsum(np.cumsum(pixels.astype(float), 0), 1)
        pixels = (pixels * 255 / pixels.max()).astype(np.uint8)
    Image.fromarray(60 * pixels if kind == "drawn" else pixels).save(path)


def written(folder, outcomes, ablation=None):
    paths = page.write(folder, outcomes, ablation)
    assert paths == [folder / "report.html", folder / "report.md"]
    return Page(paths[0]), paths[1].read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder with two real runs of few steps, the rest from recorded reports; bark failed."""
    folder = tmp_path_factory.mktemp("reproduction")
    place = folder / "runs" / "swiss_roll-paper-0"
    runs.start(place, "swiss_roll", "paper", num_steps=2, num_eval=40, T=6, batch_size=8)
    trap = folder / "runs" / "jarzynski"
    flags = {"workdir": str(trap), "durations": ["0.1", "10"], "num_trajectories": 300}
    jarzynski.execute({n: flag.default for n, flag in jarzynski.FLAGS.items()} | flags)
    told = [json.loads((path / "report.json").read_text()) for path in (place, trap)]
    swiss = Job("swiss_roll-paper-0", "swiss_roll", "paper", {"seed": 0, "num_steps": 2}, 1.0)
    found = [Outcome(swiss, place, told[0], "")]
    found += [outcome(folder, "swiss_roll", "best", seed) for seed in range(3)]
    found += [outcome(folder, "swiss_roll", "best", 0, variant="_3e-6", beta_1=3e-6)]
    for experiment in ("heartbeat", "dead_leaves", "cifar10", "mnist"):
        found += [outcome(folder, experiment, preset) for preset in claims.PRESETS]
    found += [outcome(folder, "bark", p, why="image_dir: no photographs") for p in claims.PRESETS]
    found += [outcome(folder, "binary_mnist", "best", seed) for seed in range(2)]
    found += [integers(folder)]
    found += [Outcome(Job("jarzynski", "jarzynski", "", {"seed": 0}, 1.0), trap, told[1], "")]
    (folder / "reproduction.json").write_text('{"effort": "minutes"}')
    return folder, found, *written(folder, found)


# --- what the paper says ------------------------------------------------------------------------


@pytest.mark.parametrize("number", NUMBERS)
def test_every_number_of_the_paper_stands_in_both_files(whole, number):
    _, _, seen, markdown = whole
    assert number in "".join(seen.text)
    assert f"| {number} |" in markdown or f" {number}," in markdown


def test_the_papers_numbers_are_those_that_the_experiments_print():
    for claim in claims.TABLE_1:
        known = runs.find(claim.experiment)
        pixels = 1024 if claim.experiment == "cifar10" else 1
        for number, bits in (
            (claim.K, known.paper_K_bits),
            (claim.gain, known.paper_gain_bits),
        ):
            if bits is not None:
                assert float(number.text) == pytest.approx(bits / pixels)
    assert {claim.experiment for claim in claims.TABLE_1} >= {f.experiment for f in claims.FIGURES}
    gap = [float(c.K.text) - float(c.gain.text) for c in claims.TABLE_1 if c.K is not None]
    null = -0.5 * math.log2(2 * math.pi * math.e)  # of a dimension of variance 1
    assert gap == pytest.approx([2 * null, -14.438, null, null, 3 * null], abs=0.06)


def test_each_figure_of_the_paper_is_described_and_ours_stands_beside_it(whole):
    _, _, seen, markdown = whole
    text = " ".join("".join(seen.text).split())
    for figure in claims.FIGURES:
        assert f"Figure {figure.number}: {figure.title}" in text
        assert figure.shows.split(":")[0] in text
        if figure.experiment != "bark":
            for preset in claims.PRESETS:
                assert f"runs/{figure.experiment}-{preset}-0/figures/{figure.name}.png" in markdown
    alts = seen.values("alt")
    assert all(alts) and sum(f"Figure {f.number} of" in a for f in claims.FIGURES for a in alts) > 9


# --- ours ---------------------------------------------------------------------------------------


def test_rows_have_means_errors_and_what_they_are_over(whole):
    _, _, seen, _ = whole
    best, small_beta = seen.below("Swiss roll")[2:4]
    assert best[:6] == [
        "ours, preset best", "2.50 ± 0.58", "3.50 ± 0.25", "3 seeds", "4.000", "1.50 ± 0.58"
    ]  # fmt: skip
    assert best[6:] == ["0.001", "of the roll: 0", "fixed", "12", "0, 1, 2"]
    assert small_beta[0] == "ours, preset best, beta_1=3e-06"
    assert small_beta[1:4] == ["1.50 ± 0.25", "3.50 ± 0.25", "1,000 examples"]


def test_images_are_told_a_pixel_as_the_paper_does(whole):
    _, _, seen, _ = whole
    row = seen.below("CIFAR-10")[2]
    assert row[1:6] == [
        "1.50 ± 0.25", "3.50 ± 0.25", "1,000 examples", "4.000", "2.50 ± 0.25"
    ]  # fmt: skip
    assert row[7] == "0.5 of 256 grey levels"


def test_seeds_that_agree_by_luck_are_not_better_than_their_examples():
    reports = [report("heartbeat", K_bits=k) for k in (-2.5, -2.5001)]
    found = seeds.value(reports, lambda r: r["K_bits"], lambda r: r["K_standard_error_bits"])
    assert (found.error, found.over) == (0.25, "1,000 examples")
    found = seeds.value(reports, lambda r: r["K_bits"])
    assert found.error == pytest.approx(0.00005) and found.over == "2 seeds"
    assert str(seeds.value([report("bark", K_bits=None)], lambda r: r["K_bits"])) == "not finite"


def test_table_2_has_K_at_each_noise_and_leads(whole):
    _, _, seen, _ = whole
    rows = {row[0]: row[1:] for row in seen.rows}
    null = -0.5 * math.log2(2 * math.pi * math.e)
    assert rows["diffusion ahead of MCGSM by"] == ["0.500 ± 0.062", "0.250 ± 0.031"]
    assert rows["MCGSM"] == [
        f"{2.5 + null:.2f} ± 0.50",
        f"{1.75 + null:.2f} ± 0.25".replace("-", "−"),
    ]
    most = [-0.5 * math.log2(2 * math.pi * math.e * v) for v in (0.002, 0.1)]
    assert rows["ceiling of any density"] == [f"{m:.3f}".replace("-", "−") for m in most]
    text = "".join(seen.text)
    assert "± one standard error over 1,000 test images." in text
    windows = [row for row in seen.rows if row[0] == "diffusion" and "300.0 ± 2.5" in row]
    assert len(windows) == 2 and windows[0][3] == "10,000"


def test_the_trap_and_the_ring_are_told(whole):
    _, found, seen, _ = whole
    told = found[-1].report
    rows = {row[0]: row for row in seen.rows if len(row) == 8}
    for each in told["drivings"]:
        row = rows[f"{each['duration']:g}"]
        assert row[1] == seeds.shown(each["dissipation"], each["dissipation_error"])
        assert row[-1] == (each["warning"].replace("_", "") or "a value with its error")
    ring = next(row for row in seen.rows if row[0] == "1,000" and len(row) == 3)
    assert ring[1] == f"{told['ring'][-1]['dissipation']:.5f}"


def test_what_the_paper_has_not_stands_beside_what_others_report(whole):
    _, _, seen, markdown = whole
    rows = [row[:4] for row in seen.rows if len(row) == 8]
    for row in claims.BEYOND:
        reported = runs.find(row.experiment).literature
        assert {of.kind for of in reported} <= {"exact", "bound", "estimate"} and len(reported) > 2
        for of in reported:
            mark = {"exact": "", "bound": "≤ ", "estimate": "≈ "}[of.kind]
            told = [r for r in rows if r[0] == of.name]
            assert len(told) == 1 and told[0][1] == f"{mark}{of.value}" and told[0][3] == of.data
    nats, error = 120.5 * math.log(2), 0.5 * math.log(2)
    data = "trained on dynamic bits, tested on a fixed draw"
    assert ["ours, preset best", f"≤ {nats:.2f} ± {error:.2f}", "an upper bound", data] in rows
    lossless = ["ours, preset best, last_step=discretized", "≤ 3.50 ± 0.25", "an upper bound"]
    assert [*lossless, "8-bit integers, cifar10"] in rows
    assert re.search(
        r"!\[Binarised MNIST, Samples[^]]*\]\([^)]*best-0/figures/samples.png", markdown
    )


def test_a_probability_is_in_no_table_of_densities_and_is_said_where_they_are(whole):
    _, _, seen, markdown = whole
    table_1, beyond = markdown.split("## Table 2")[0], markdown.split("## Beyond the paper")[1]
    assert "discretized" not in table_1 and "discretized" in beyond
    told = "CIFAR-10, lossless, bits/dim: preset best ≤ 3.50 ± 0.25; beside others in"
    assert f"- {told} [Beyond the paper](#beyond-cifar10)." in table_1
    commands = {row[0]: row[2] for row in seen.rows if len(row) == 5}
    assert commands["cifar10-best_lossless-0"] == "3.50 ± 0.25 bits/dim"
    assert commands["binary_mnist-best-0"].endswith(" nats/image")


def test_every_run_has_its_command_and_each_row_leads_to_it(whole):
    _, found, seen, markdown = whole
    text = "".join(seen.text)
    for each in found:
        assert command(each.job) in text and f"`{command(each.job)}`" in markdown
        assert seen.values("href").count(f"#{seeds.anchor(each)}") >= 1


def test_head_says_how_the_numbers_came_about(whole):
    folder, found, seen, _ = whole
    text = "".join(seen.text)
    done = sum(each.report is not None for each in found)
    for told in ("Effort: minutes", "1 × cpu", "JAX ", f"{done} of {len(found)} runs are done"):
        assert told in text
    assert provenance.effort(folder / "runs") == "not recorded"
    assert re.fullmatch(r"[0-9a-f]{12}|", provenance.revision())


def test_the_same_runs_give_the_same_bytes(whole, tmp_path):
    folder, found, _, markdown = whole
    before = (folder / "report.html").read_bytes()
    page.write(folder, list(found))
    assert (folder / "report.html").read_bytes() == before
    assert (folder / "report.md").read_text(encoding="utf-8") == markdown


def test_figures_of_what_was_learned_are_found_by_name_or_on_disk(tmp_path):
    found = outcome(tmp_path, "swiss_roll")
    for name in ("learned_bumps", "learned_schedule", "learned_other"):
        picture(found.place / "figures" / f"{name}.png", 77)
    (found.place / "figures" / "learned_schedule.pdf").write_bytes(b"%PDF")
    seen, markdown = written(tmp_path, [found])
    shown = re.findall(r"swiss_roll-paper-0/figures/(learned\w*)\.png", markdown)
    assert shown == ["learned_schedule", "learned_bumps", "learned", "learned_other"]
    assert "learned schedule of swiss_roll-paper" in seen.values("alt")
    assert "the rate β_t beside the constant fraction" in markdown


def test_a_probability_that_is_not_finite_is_no_bound(tmp_path):
    told = report("binary_mnist") | {"K_bits": None, "K_standard_error_bits": None}
    found = [outcome(tmp_path, "binary_mnist", "best", told=told)]
    seen, markdown = written(tmp_path, found)
    ours = [row[1] for row in seen.rows if row[0] == "ours, preset best" and len(row) == 8]
    assert ours == ["not finite"] and "≤ not finite" not in markdown


def test_a_preset_that_takes_the_place_of_another_leaves_no_gap(tmp_path):
    found = [outcome(tmp_path, "cifar10", preset) for preset in ("accelerator", "paper")]
    found += [outcome(tmp_path, "binary_mnist", "accelerator"), integers(tmp_path, "accelerator")]
    seen, markdown = written(tmp_path, found)
    rows = seen.below("CIFAR-10")
    assert [row[0] for row in rows[1:3]] == ["ours, preset paper", "ours, preset accelerator"]
    assert seeds.NOT_ASKED not in "".join(map("".join, rows))
    assert seeds.NOT_ASKED not in markdown.split("## Beyond the paper")[1]


# --- what is missing ----------------------------------------------------------------------------


def test_a_run_that_failed_is_named_where_it_would_stand(whole):
    _, _, seen, markdown = whole
    reason = "not made: image_dir: no photographs"
    assert [row[:2] for row in seen.below("Bark")[1:3]] == [
        [f"ours, preset {preset}", reason] for preset in claims.PRESETS
    ]
    assert "".join(seen.text).count(reason) >= 2 * 4 + 2  # row, figure, learned, K by t and noise
    assert "| ours, preset paper | not made: `image_dir: no photographs` |" in markdown
    assert "image_dir: no photographs: bark-paper-0, bark-best-0" in "".join(seen.text)


def test_no_cell_is_blank(whole, tmp_path):
    for seen in (whole[2], written(tmp_path, [])[0]):
        heads = [i for i, (tag, _) in enumerate(seen.elements) if tag == "thead"]
        assert heads
        for row in seen.rows:
            assert all(cell.strip() for cell in row[1:]) and (row[0].strip() or row[1] != ""), row


def test_without_any_run_every_row_and_figure_stands_and_says_so(tmp_path):
    seen, markdown = written(tmp_path, [])
    for claim in claims.TABLE_1:
        assert [row[1] for row in seen.below(claim.title)[1:3]] == [
            f"not made: {seeds.NOT_ASKED}"
        ] * 2
    beyond = markdown.split("## Beyond the paper")[1]
    for row in claims.BEYOND:
        assert f"{row.title}</a>" not in beyond and f"### {row.title}\n" in beyond
        assert all(str(of) in beyond for of in runs.find(row.experiment).literature)
    assert beyond.count(f"| ours, preset best | not made: `{seeds.NOT_ASKED}`") == 2
    assert "bits/dim: preset best not made; beside others in" in markdown
    assert "".join(seen.text).count(seeds.NOT_ASKED) == markdown.count(seeds.NOT_ASKED) > 40
    assert not seen.values("src") and "0 of 0 runs are done" in markdown


def test_a_report_that_no_run_writes_is_named_and_spoils_nothing(tmp_path):
    bad = [("heartbeat", {"figures": []}), ("heartbeat", {"last_step": 5})]
    bad += [("heartbeat", {"beta_1": None}), ("heartbeat", {"figures": {"bound_terms": "\0"}})]
    bad += [("dead_leaves", {"noise_floor": 1}), ("jarzynski", {"drivings": None})]
    found = []
    for name, wrong in bad:
        each = outcome(tmp_path, name, "" if name == "jarzynski" else "paper")
        found.append(each._replace(report={**(each.report or {}), **wrong}))
    for each in found:
        seen, _ = written(tmp_path, [each, outcome(tmp_path, "swiss_roll")])
        text = "".join(seen.text)
        assert "1 of 2 runs are done" in text and "report.json is not as a run writes it" in text
        assert seen.below("Swiss roll")[1][1].startswith("not made") is False


def test_the_command_of_a_path_with_any_letters_is_copied_as_it_is(tmp_path):
    place = "/data/it's  two spaces|`x`\udcff"
    found = outcome(tmp_path, "mnist", why="no data", manual_dir=place)
    seen, markdown = written(tmp_path, [found])
    typed = command(found.job).replace("\udcff", r"\udcff")
    assert typed in "".join(seen.text) and typed.replace("|", r"\|") in markdown


def test_one_seed_of_three_that_failed_is_named_in_its_row(tmp_path):
    found = [outcome(tmp_path, "heartbeat", "paper", s, why="killed" * (s == 1)) for s in range(3)]
    seen, _ = written(tmp_path, found)
    row = seen.below("Binary heartbeat")[1]
    assert row[3] == "2 seeds" and row[-1] == "0, 1 (not made), 2"
    assert "killed: heartbeat-paper-1" in "".join(seen.text)


def test_a_damaged_figure_and_one_elsewhere_are_not_shown(tmp_path):
    (tmp_path / "secret.png").write_bytes(b"secret")
    told = report("heartbeat")
    told["figures"] = {"bound_terms": "../../secret.png"}
    found = outcome(tmp_path, "heartbeat", told=told)
    (found.place / "figures" / "figure2.png").write_bytes(b"\x89PNG half")
    seen, markdown = written(tmp_path, [found])
    text = "".join(seen.text)
    assert "not made: figure2.png cannot be read" in text and "secret" not in markdown
    assert "not made: the run has no figure bound_terms" in text


# --- one file, safe to send ---------------------------------------------------------------------


def test_nothing_is_fetched_and_every_link_leads_somewhere(whole):
    _, _, seen, _ = whole
    ids, links = seen.values("id"), seen.values("href")
    assert len(set(ids)) == len(ids) and links
    assert {link[1:] for link in links} <= set(ids) and all(link[0] == "#" for link in links)
    assert seen.values("src") and all(s.startswith("data:image/") for s in seen.values("src"))
    tags = {tag for tag, _ in seen.elements}
    assert not tags & {"script", "link", "iframe", "object", "embed", "base", "form"}
    style = (whole[0] / "report.html").read_text(encoding="utf-8").partition("</style>")[0]
    assert "url(" not in style and "@import" not in style and "http" not in style


def test_links_of_the_markdown_lead_to_files_and_places(whole):
    folder, _, _, markdown = whole
    files = re.findall(r"!\[[^\]]*\]\(([^)]*)\)", markdown)
    assert len(files) > 20
    assert all((folder / unquote(file)).is_file() for file in files)
    assert all(not file.startswith(("/", "http")) for file in files)
    anchors = re.findall(r'<a id="([^"]*)"></a>', markdown)
    assert set(re.findall(r"\]\(#([^)]*)\)", markdown)) <= set(anchors)
    for table in re.findall(r"(?:^\|.*\n)+", markdown, re.MULTILINE):
        bars = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(bars) == 1, table


def test_nothing_of_a_report_becomes_markup(tmp_path):
    told = report("cifar10", last_step=EVIL, num_eval_note=EVIL, dataset=EVIL, jax=EVIL)
    found = [
        outcome(tmp_path, "cifar10", told=told, dataset=EVIL, num_steps=EVIL),
        outcome(tmp_path, "mnist", told=report("mnist", parzen_note=EVIL)),
        Outcome(Job(f"bark{EVIL}", "bark", "paper", {"seed": 0}, 1.0), tmp_path, None, EVIL),
    ]
    ablation = Ablation("minutes", (), (EVIL,), EVIL)
    seen, markdown = written(tmp_path, found, ablation)
    plain, _ = written(tmp_path, [])
    assert {tag for tag, _ in seen.elements} <= {tag for tag, _ in plain.elements} | {"img"}
    allowed = {"id", "class", "href", "src", "alt", "colspan", "scope", "lang", "charset"}
    assert {n for _, a in seen.elements for n in a} <= allowed | {"name", "content", "tabindex"}
    assert all(link[0] == "#" for link in seen.values("href"))
    outside_code = re.sub(r"(`+).*?\1", "", markdown.replace(r"\`", ""))
    assert "<script" not in outside_code and "<img" not in outside_code
    assert not re.search(r"(?<!\\)\]\(http", outside_code) and "\n# b" not in markdown


def test_big_figures_become_small_enough_for_one_file(tmp_path):
    found = [outcome(tmp_path, "dead_leaves", preset) for preset in claims.PRESETS]
    for each in found:
        for path in (each.place / "figures").glob("*.png"):
            picture(path, 1100, 900, "noise")
    seen, _ = written(tmp_path, found)
    assert (tmp_path / "report.html").stat().st_size < LIMIT
    assert len(seen.values("src")) == 8


def test_pictures_narrow_until_they_fit_and_keep_few_colours_as_they_are(tmp_path):
    drawn, photograph = tmp_path / "drawn.png", tmp_path / "photograph.png"
    picture(drawn, 300)
    picture(photograph, 1300, 300, "photograph")
    media, content = pictures.encoded(drawn, 1100)
    (tmp_path / "made.png").write_bytes(content)
    assert media == "image/png"
    with Image.open(tmp_path / "made.png") as made, Image.open(drawn) as was:
        assert np.array_equal(np.asarray(made.convert("RGB")), np.asarray(was.convert("RGB")))
    media, content = pictures.encoded(photograph, 1100)
    assert media == "image/jpeg"
    most = len(content) // 2
    assert sum(len(c) for _, c in pictures.small([photograph], most).values()) <= most
    with pytest.raises(ValueError, match="pictures: expected 1 to fit into 100 bytes"):
        pictures.small([photograph], 100)


def test_an_old_page_stays_where_a_new_one_cannot_be_written(tmp_path, monkeypatch):
    page.write(tmp_path, [])
    before = (tmp_path / "report.html").read_bytes()
    monkeypatch.setattr(pictures, "MOST", 10)
    monkeypatch.setattr(pictures.small, "__defaults__", (10,))
    with pytest.raises(ValueError, match="pictures"):
        page.write(tmp_path, [outcome(tmp_path, "heartbeat")])
    assert (tmp_path / "report.html").read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"report.html", "report.md", "runs"}
    with pytest.raises(ValueError, match="folder: expected a directory, got "):
        page.write(tmp_path / "nowhere", [])


# --- the ablation -------------------------------------------------------------------------------


def test_an_ablation_has_its_paragraph_first_and_its_effects_in_order(tmp_path):
    (tmp_path / "ablation" / "figures").mkdir(parents=True)
    picture(tmp_path / "ablation" / "figures" / "ablation.png", 50)
    effects = (
        Effect("mnist", "EMA", "with → without", -0.5, 0.0625, 3, 1.0, 1.5, True),
        Effect("mnist", "EMA", "0.9 → 0.99", 0.25, 0.125, 3, 1.75, 1.5, False),
    )
    found = Ablation("minutes", effects, ("mnist, T: killed",), "The average matters.")
    seen, markdown = written(tmp_path, [], found)
    rows = [row for row in seen.rows if row[0] == "EMA"]
    assert [(row[3], row[-1]) for row in rows] == [
        ("−0.5000 ± 0.0625", "yes"), ("+0.2500 ± 0.1250", "no")
    ]  # fmt: skip
    assert len(seen.values("src")) == 1 and "mnist, T: killed" in "".join(seen.text)
    assert markdown.index("The average matters.") < markdown.index("| EMA | with → without")
    assert "Ablation" not in written(tmp_path, [])[1]
