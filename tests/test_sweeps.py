"""Sweeps: grids of flags, the pool of processes, runs side by side, and the ablation's pairs."""

import json
import math
import os
import shlex
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from dpm_jax.reproduction import ablation, efforts, page, variants
from dpm_jax.runs import arguments, binary
from dpm_jax.runs import config as configs
from dpm_jax.runs.experiment import OWN, find
from dpm_jax.sweeps import compare, folder, grid, jobs, pool

TINY = {"T": 4, "width": 4, "num_steps": 4, "batch_size": 8, "num_eval": 20, "figures": False}


def tiny(seed, **more):
    return jobs.Job(f"swiss_roll-{seed}", "swiss_roll", "paper", {**TINY, "seed": seed, **more}, 10)


# --- what a sweep is asked for --------------------------------------------------------------------


def test_lists_reads_names_with_their_values():
    found = grid.lists("vary", ["T=20", "40", "schedule=cosine", "dataset=a=b"])
    assert found == {"T": ["20", "40"], "schedule": ["cosine"], "dataset": ["a=b"]}


def test_a_grid_has_every_combination_for_every_seed():
    vary = {"T": ["5", "6"], "schedule": ["cosine", "linear", "geometric"]}
    found = grid.jobs("swiss_roll", None, ["0", "3"], vary, {"figures": ["false"]})
    points = {(j.flags["T"], j.flags["schedule"], j.flags["seed"]) for j in found}
    assert len(found) == len(points) == len({j.name for j in found}) == 12
    assert all(j.flags["figures"] is False and j.preset == "paper" for j in found)


def test_names_of_jobs_are_single_short_and_their_own_whatever_the_values():
    values = ["a/b", "a_b", "../x", "ü\n", "\udcff", "x" * 300, "x" * 301, "a", "'q' \"=,"]
    found = grid.jobs("mnist", None, ["0"], {"manual_dir": values}, {})
    names = [job.name for job in found]
    assert len(set(names)) == len(values)
    for name in names:
        assert Path(name).name == name and name.isprintable() and len(name.encode()) < 240
    assert names[7] == "manual_dir=a-0"


BAD_GRIDS = [
    (["0"], ["20"], [], "vary: expected NAME=VALUE"),
    (["0"], ["T=2", "T=3"], [], "vary: expected each name once, got 'T' twice"),
    (["0"], ["bogus=1"], [], "vary: expected a flag of swiss_roll.py, got 'bogus'"),
    (["0"], ["seed=1"], [], "vary: expected a flag of swiss_roll.py, got 'seed'"),
    (["0"], ["T=x"], [], "vary: expected int for T, got 'x'"),
    (["0"], ["T=1"], [], "T: expected at least 2, got 1"),
    (["0"], [], ["figures=maybe"], "set: expected bool for figures, got 'maybe'"),
    (["0"], ["T=2"], ["T=3"], "set: expected one value for T"),
    (["0"], [], ["T=3", "4"], "set: expected one value for T"),
    (["0"], ["T=20", "020"], [], "vary: expected each value of T once, got 20 twice"),
    (["7", "007"], [], [], "seeds: expected whole numbers"),
    (["x"], [], [], "seeds: expected whole numbers"),
    (["1", "1"], [], [], "seeds: expected whole numbers"),
    ([], [], [], "seeds: expected whole numbers"),
]


@pytest.mark.parametrize("seeds, vary, fixed, line", BAD_GRIDS)
def test_a_grid_refuses_what_the_experiment_does_not_have(seeds, vary, fixed, line):
    with pytest.raises(ValueError, match="^" + line.replace("(", r"\(")):
        of = grid.lists("vary", vary), grid.lists("set", fixed)
        grid.jobs("swiss_roll", None, seeds, *of)


@pytest.mark.parametrize("effort", efforts.EFFORTS)
def test_the_commands_of_the_paper_are_taken_by_their_binaries(effort):
    """Each command that the page prints parses to the very flags of its run."""
    data = {"mnist": "/a b", "cifar10": "/c", "bark": "/d", "binary_mnist": "/a b"}
    found = efforts.jobs(effort, data)
    assert {job.experiment for job in found} == set(efforts.ROWS)
    assert len({job.name for job in found}) == len(found)
    for job in (job for job in found if job.preset):
        python, _, module, *argv = shlex.split(jobs.command(job))
        assert (python, module) == ("python", f"dpm_jax.experiments.{job.experiment}")
        experiment = find(job.experiment)
        given = arguments.parse("x.py", binary._with_presets(experiment), argv)
        assert {name: given[name] for name in job.flags} == dict(job.flags)
        more = {n: v for n, v in given.items() if n not in ("preset", "workdir")}
        configs.check(configs.configure(experiment, given["preset"], "run", more), experiment)


def test_an_accelerator_takes_the_preset_that_fills_it_of_every_experiment_that_has_one():
    """Read from the experiments themselves, and without JAX, since no device is for a sweep."""
    hours, filling = (efforts.jobs(effort, {}) for effort in ("hours", "accelerator"))
    have = {row for row in efforts.ROWS if row in OWN and "accelerator" in find(row).presets}
    assert {"binary_mnist", "cifar10"} <= have < set(efforts.ROWS)
    assert have == {job.experiment for job in filling if job.preset == "accelerator"}
    assert not [job for job in filling if job.experiment in have and job.preset == "best"]
    rest = [[job for job in found if job.experiment not in have] for found in (hours, filling)]
    assert rest[0] == rest[1]
    lossless = [job for job in filling if job.flags.get("last_step") == "discretized"]
    assert [job.name for job in lossless] == [f"cifar10-accelerator_lossless-{i}" for i in range(3)]
    code = "import sys; from dpm_jax.reproduction import efforts; efforts.jobs('accelerator', {})"
    told = subprocess.run([sys.executable, "-c", f"{code}; print('jax' in sys.modules)"],
                          capture_output=True, text=True)  # fmt: skip
    assert (told.stdout, told.stderr) == ("False\n", "")


@pytest.mark.parametrize("effort", variants.EFFORTS)
def test_every_variant_differs_from_its_base_and_is_taken(effort):
    found = ablation.jobs(effort, {})
    assert len({job.name for job in found}) == len(found)
    for subject in variants.SUBJECTS:
        experiment = find(subject.data)
        base = configs.configure(experiment, "paper", None, dict(subject.base))
        for variant in subject.variants:
            changed = configs.configure(
                experiment, "paper", None, {**subject.base, **variant.flags}
            )
            configs.check(changed, experiment)
            assert all(changed[name] != base[name] for name in variant.flags), variant


def test_only_takes_rows_tables_and_figures():
    assert efforts.rows(["table2", "figure1"]) == ("swiss_roll", "dead_leaves", "mnist")
    with pytest.raises(ValueError, match=r"only: expected some of swiss_roll, .*, got 'figure9'"):
        efforts.rows(["figure9"])


def test_a_directory_of_another_sweep_or_owner_is_refused(tmp_path):
    root = folder.claim(tmp_path / "a", "sweep.json", {"effort": "minutes"})
    assert folder.claim(root, "sweep.json", {"effort": "minutes"}) == root
    with pytest.raises(ValueError, match="effort = minutes there, hours here"):
        folder.claim(root, "sweep.json", {"effort": "hours"})
    (root / "sweep.json").write_text('{"format": 0, "effort": "minutes"}')
    with pytest.raises(ValueError, match="format = 0 there, 1 here"):
        folder.claim(root, "sweep.json", {"effort": "minutes"})
    (tmp_path / "b" / "runs").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"holds runs but no sweep\.json: not overwritten"):
        folder.claim(tmp_path / "b", "sweep.json", {})
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "table.md").write_text("mine")
    with pytest.raises(ValueError, match=r"holds table\.md but no sweep\.json: not overwritten"):
        folder.claim(tmp_path / "c", "sweep.json", {}, ("table.md",))


@pytest.mark.parametrize("link", ["runs", "logs", "runs/x", "logs/x.log", "page.html"])
def test_no_link_leads_a_sweep_out_of_its_directory(tmp_path, link):
    root = folder.claim(tmp_path / "a", "sweep.json", {}, ("page.html",))
    (tmp_path / "out").mkdir()
    (root / link).parent.mkdir(exist_ok=True)
    (root / link).symlink_to(tmp_path / "out")
    with pytest.raises(ValueError, match=f"workdir: .*{link} is a link to .*: not followed"):
        folder.claim(root, "sweep.json", {}, ("page.html",))


@pytest.mark.parametrize("told", ["", "~nobody-of-this-name/data", "no\\such"])
def test_an_environment_that_leads_to_no_data_is_told_of(monkeypatch, tmp_path, told):
    monkeypatch.setenv("DPM_DATA", told and f"{told}")
    if not told:
        assert efforts.data_folders(None) == {}
        return
    with pytest.raises(ValueError, match=r"^data_root: expected a folder, got .*, of \$DPM_DATA"):
        efforts.data_folders(None)
    (tmp_path / "mnist").mkdir()
    there = str(tmp_path / "mnist")  # of both experiments on it
    assert efforts.data_folders(str(tmp_path)) == {"mnist": there, "binary_mnist": there}


# --- the pool -----------------------------------------------------------------------------------


def measured(place):
    report = json.loads((place / "report.json").read_text())
    del report["seconds"], report["trained_on"]
    return report


@pytest.mark.parametrize(
    "command, told",
    [
        ("import os; os.kill(os.getpid(), 9)", "killed by SIGKILL, as the system does where"),
        ("import os; os.kill(os.getpid(), 11)", "killed by SIGSEGV; the same command goes on"),
        ("raise SystemExit(3)", "ended with code 3, without a word but its log"),
    ],
)
def test_a_process_that_says_nothing_is_said_how_it_ended(tmp_path, command, told):
    (tmp_path / "logs").mkdir()
    jobs.log_of(tiny(0), tmp_path).write_text("half a line")
    process = subprocess.Popen([sys.executable, "-c", command], stdin=subprocess.PIPE)
    process.communicate()
    running = pool._Running(tiny(0), process, pool.Slot((), {}), time.monotonic())
    pool._ended(running, tmp_path, [])
    assert jobs.outcome(tiny(0), tmp_path).why.startswith(f"swiss_roll.py: {told}")


SCRIPT = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a job of the shell ignores
from pathlib import Path
from dpm_jax.runs import binary
from dpm_jax.sweeps import jobs, pool
flags = {flags!r}
job = jobs.Job("swiss_roll-0", "swiss_roll", "paper", flags, 10)
binary.direct("x.py", {{}}, lambda _: pool.run([job], Path(sys.argv[1]), "sweep")[0].why, argv=[])
"""


def lines_of(path):
    return path.read_bytes().count(b"\n") if path.exists() else 1  # at first the heading alone


def end_early(number, flags, root):
    """A sweep that gets this signal once its run has logged eight steps more."""
    script, run = SCRIPT.format(flags=flags), root / "runs" / "swiss_roll-0"
    before, end = lines_of(run / "metrics.csv"), time.monotonic() + 60
    sweep = subprocess.Popen([sys.executable, "-c", script, str(root)], cwd=root)
    while lines_of(run / "metrics.csv") < before + 8:
        assert time.monotonic() < end and sweep.poll() is None
        time.sleep(0.05)
    os.kill(sweep.pid, number)
    assert sweep.wait(60) == (-number if number == signal.SIGKILL else 130)
    while pool.in_use(run):
        assert time.monotonic() < end
        time.sleep(0.05)
    assert not (run / "report.json").exists()
    newest = max(int(path.name) for path in (run / "checkpoints").iterdir())
    rows = (run / "metrics.csv").read_text().splitlines()
    assert newest == int(rows[-1].split(",")[0]) < flags["num_steps"]  # saved as it was told to end


LONG = {**TINY, "seed": 0, "num_steps": 800, "log_every": 1, "steps_per_dispatch": 1}
LONG["checkpoint_every"] = 500


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A run through three ends of its sweep, one that nothing interrupts, and one that fails."""
    root = tmp_path_factory.mktemp("sweep")
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT):
        end_early(number, LONG, root)
    both = [jobs.Job(name, "swiss_roll", "paper", LONG, 10) for name in ("swiss_roll-0", "whole")]
    no_data = {"seed": 0, "image_dir": str(root / "no")}
    asked = [*both, jobs.Job("bark-0", "bark", "paper", no_data, 1)]
    return root, asked, pool.run(asked, root, "sweep")


def test_a_sweep_that_ends_early_leaves_no_process_and_goes_on_to_the_same_report(swept):
    _, _, (ended, whole, _) = swept
    assert ended.why == whole.why == ""
    assert measured(ended.place) == measured(whole.place)


def test_what_fails_is_named_and_stops_nothing_and_what_is_there_is_taken(swept):
    root, (_, job, _), (_, good, failed) = swept
    assert (good.why, good.report["train_steps"]) == ("", 800)
    assert failed.report is None and failed.why.startswith("bark.py: --image_dir: ")
    before = (good.place / "report.json").stat().st_mtime_ns
    assert pool.run([job], root, "sweep")[0].report == good.report
    assert (good.place / "report.json").stat().st_mtime_ns == before
    other = job._replace(flags={**LONG, "num_eval": 30})  # measured on other examples: not it
    assert jobs.outcome(other, root).report is None


def test_parts_of_the_machine_are_disjoint_and_all_of_it(monkeypatch):
    monkeypatch.setattr(pool, "_gpus", list)
    cores = sorted(os.sched_getaffinity(0))
    for workers in (1, 2, 0):
        found = [core for slot in pool.slots(workers) for core in slot.cores]
        assert sorted(found) == cores
    monkeypatch.setattr(pool, "_gpus", lambda: ["0", "1", "2"])
    assert [s.environment["CUDA_VISIBLE_DEVICES"] for s in pool.slots(2)] == ["0", "1"]
    assert len(pool.slots()) == 3


# --- runs side by side --------------------------------------------------------------------------


def report(K, seed=0, **config):
    config = {"seed": seed, "T": 40, **config}
    return {
        "experiment": "swiss_roll", "preset": "paper", "K_bits": K, "K_standard_error_bits": 0.25,
        "K_minus_L_null_bits": K + 4, "K_minus_L_null_standard_error_bits": 0.5,
        "ceiling_bits": 1.0, "beta_1": 1e-3, "seconds": 3.0, "config": config,
    }  # fmt: skip


def test_seeds_are_one_row_with_the_error_over_them():
    values = [-1.0, -1.5, -1.1]
    rows = compare.table([*(report(K, i) for i, K in enumerate(values)), report(-2.0, T=80)])
    heading, three, one = rows
    error = statistics.stdev(values) / math.sqrt(3)
    assert three[:3] == ("swiss_roll paper T=40", "3", f"−1.200 ± {error:.3f}")
    assert three[heading.index("gap")] == "2.200"
    assert one[:3] == ("swiss_roll paper T=80", "1", "−2.000 ± 0.250*")


def test_what_leaves_K_alone_makes_no_other_row_and_what_is_missing_is_as_it_was():
    """Seed 0 of the paper draws what it learned; older runs do not say which optimizer they had."""
    drawn, older = report(-1.0, 0, learned=True), report(-1.5, 1, optimizer="adam")
    assert [row[1] for row in compare.table([drawn, older])] == ["seeds", "2"]
    other = [report(-1.0, 0, dataset="a.npy"), report(-1.5, 1, dataset="b.npy")]
    assert [row[0] for row in compare.table(other)[1:]] == [
        "swiss_roll paper dataset=a.npy", "swiss_roll paper dataset=b.npy"
    ]  # fmt: skip


def test_runs_of_one_seed_are_no_error_over_seeds(tmp_path):
    """Copies of a run, and models of your own, whose data no flag tells."""
    for name, told in (("a", report(-1.0)), ("b", report(-1.0))):
        (tmp_path / name).mkdir()
        own = {"model": {"readout": "v"}} if name == "b" else {"model": {"readout": "x0"}}
        told = {**told, "experiment": None, "preset": None, "config": {"seed": 0, **own}}
        (tmp_path / name / "report.json").write_text(json.dumps(told))
    kinds = [report(-1.0), {**report(-1.0), "preset": "best"}]
    kinds[1]["config"] = {"T": 80, "seed": 0}
    names = [row[0] for row in compare.table(kinds)[1:]]
    assert names == ["swiss_roll paper", "swiss_roll best"]
    first, twice = compare.table([report(-1.0), report(-1.0)])[1:]
    assert (first[1], twice[1]) == ("1", "1")
    rows = compare.table([compare.read(tmp_path / name) for name in "ab"])[1:]
    assert [row[0] for row in rows] == [f"own in {tmp_path / name}" for name in "ab"]


def test_a_K_that_is_not_finite_is_said_and_spoils_no_other_row():
    lost, known = report(-1.0), report(-1.0, T=80)
    lost |= {"K_bits": None, "beta_1": None, "seconds": None}
    rows = compare.table([lost, report(-1.0, 1), known])
    assert (*rows[1][1:3], *rows[1][5:8]) == ("2", "not finite", "–", "–", "–")
    assert rows[2][2] == "−1.000 ± 0.250*"


DAMAGED = ['{"K_bits": ', "[]", '{"K_bits": "x", "config": {}}', '{"K_bits": 1, "config": []}']
DAMAGED += ['{"K_bits": NaN, "config": {}}', '{"K_bits": 1, "config": {}, "seconds": [1]}', "7"]


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_report_is_refused_by_its_file_and_made_again(tmp_path, content):
    place = tmp_path / "runs" / "swiss_roll-0"
    place.mkdir(parents=True)
    (place / "report.json").write_text(content)
    with pytest.raises(ValueError, match=r"^runs: .*report\.json"):
        compare.read(place)
    found = jobs.outcome(tiny(0), tmp_path)
    assert found.report is None and "report.json" in found.why and "\n" not in found.why


def test_a_report_of_other_flags_is_not_taken_and_says_which(tmp_path):
    place = tmp_path / "runs" / "swiss_roll-0"
    place.mkdir(parents=True)
    config = dict(find("swiss_roll").presets["paper"]) | tiny(0).flags
    write = (place / "report.json").write_text
    write(json.dumps({"K_bits": 1.0, "config": config}))
    assert jobs.outcome(tiny(0), tmp_path).why == ""
    assert "num_eval" in jobs.outcome(tiny(0, num_eval=30), tmp_path).why
    older = {name: v for name, v in config.items() if name not in ("optimizer", "learned")}
    write(json.dumps({"K_bits": 1.0, "config": older}))
    assert jobs.outcome(tiny(0), tmp_path).why == ""
    for flags in ({"optimizer": "muon"}, {"learned": True}):
        assert next(iter(flags)) in jobs.outcome(tiny(0, **flags), tmp_path).why
    write(json.dumps({"K_bits": 1.0, "config": {}}))
    assert jobs.outcome(tiny(0), tmp_path).report is None


def test_what_is_no_finished_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match="runs: expected directories of runs that ended, got"):
        compare.read(tmp_path)
    (tmp_path / "report.json").write_text('{"config": {}}')
    with pytest.raises(ValueError, match="runs: expected a report with K, got"):
        compare.read(tmp_path)


# --- the ablation -------------------------------------------------------------------------------


def made_up(root, subject, variant, values):
    """Reports of runs with these K in bits an example, as the ablation finds them."""
    for seed, K in enumerate(values):
        job = ablation._job(subject, variant, seed, "minutes", {})
        config = dict(find(job.experiment).presets["paper"]) | job.flags
        place = root / "runs" / job.name
        place.mkdir(parents=True)
        (place / "report.json").write_text(json.dumps({"K_bits": K, "config": config}))


def test_effects_are_of_pairs_and_told_by_students_t(tmp_path):
    subject = variants.SWISS_ROLL
    clear, unclear, half = subject.variants[:3]
    base, better, noisy = [-1.0, -2.0, -3.0], [-0.5, -1.4, -2.6], [-1.0, -1.0, -3.5]
    for variant, values in ((ablation._BASE, base), (clear, better), (unclear, noisy)):
        made_up(tmp_path, subject, variant, values)
    made_up(tmp_path, subject, half, [-1.0])
    assert ablation.read(tmp_path) is None
    folder.claim(tmp_path / "new", ablation.SETTINGS, {"effort": "minutes"})
    os.rename(tmp_path / "runs", tmp_path / "new" / "runs")
    found = ablation.read(tmp_path / "new")
    for effect, changed in zip(found.effects, (better, noisy)):
        pairs = np.subtract(changed, base) / 2  # dimensions
        assert effect.delta == pytest.approx(pairs.mean())
        assert effect.error == pytest.approx(stats.sem(pairs))
        low, high = stats.t.interval(0.95, 2, pairs.mean(), stats.sem(pairs))
        assert effect.told == (not low < 0 < high) == (changed is better)
    assert len(found.effects) == 2
    others = sum(len(subject.variants) for subject in variants.SUBJECTS) - 2
    assert len(found.failed) == others
    assert f"{clear.module}, {clear.change} (" in found.paragraph
    assert f"is that of the {clear.module} on 1 of 1 data sets" in found.paragraph
    assert "1 of 2 changes are not told from none" in found.paragraph
    text = page.write_ablation(tmp_path / "new", found).read_text()
    assert all(f"| {e.change} |" in text for e in found.effects)


def test_a_change_whose_K_is_not_finite_is_named_and_spoils_no_other(tmp_path):
    subject = variants.SWISS_ROLL
    lost, known = subject.variants[:2]
    for variant, values in ((ablation._BASE, [-1, -2]), (lost, [None, -1]), (known, [-3, -4.5])):
        made_up(tmp_path, subject, variant, values)
    found = ablation.of(tmp_path, "minutes")
    assert [each.change for each in found.effects] == [known.change]
    assert f"swiss_roll, {lost.module}, {lost.change}: K is not finite" in found.failed
    for settings in ("{}", "[]", '{"effort": "x"}', '{"effort": ["minutes"]}'):
        (tmp_path / ablation.SETTINGS).write_text(settings)
        assert ablation.read(tmp_path) is None


def test_of_images_the_code_length_counts_and_integers_compare_with_densities():
    density, integers = {"bits_per_dim_8bit": 4.5}, {"bits_per_dim_lossless": 4.25}
    of = [ablation.value({"K_bits": 9.0, **each}, "mnist") for each in (density, integers)]
    assert of == [-4.5, -4.25]


def test_binaries_of_runs_take_directories_by_place(tmp_path, capsys, monkeypatch):
    import compare as program

    for i in range(2):
        (tmp_path / f"r{i}").mkdir()
        (tmp_path / f"r{i}" / "report.json").write_text(json.dumps(report(-1.0 - i, i)))
    argv = [str(tmp_path / "r0"), str(tmp_path / "r1"), f"--out={tmp_path / 'x.csv'}"]
    with pytest.raises(SystemExit) as left:
        binary.direct("compare.py", program.FLAGS, program.execute, argv=argv, check=program.check)
    assert left.value.code == 0
    assert "−1.500 ± 0.500" in capsys.readouterr().out
    assert "−1.500 ± 0.500" in (tmp_path / "x.csv").read_text()
    with pytest.raises(SystemExit) as left:
        binary.direct("compare.py", program.FLAGS, program.execute, argv=argv, check=program.check)
    assert left.value.code == 2 and "--out: expected a new file" in capsys.readouterr().err
    assert Path(tmp_path / "x.csv").read_text()
    again, nowhere = f"{argv[0]}/../r0", f"--out={tmp_path / 'no' / 'x.csv'}"
    for wrong, told in (([*argv[:2], again], "--runs: "), ([argv[0], nowhere], "--out: ")):
        with pytest.raises(SystemExit) as left:
            binary.direct("c.py", program.FLAGS, program.execute, argv=wrong, check=program.check)
        assert left.value.code == 2 and capsys.readouterr().err.startswith(f"c.py: {told}expected")


# --- reproduce.py and ablation.py -----------------------------------------------------------------


def call(program, *argv):
    """A binary that uses no devices, by its entrance; its exit code."""
    with pytest.raises(SystemExit) as left:
        module = __import__(program)
        more = {"argv": argv, "check": module.check}
        binary.direct(f"{program}.py", module.FLAGS, module.execute, **more)
    return left.value.code


def begun(root, program, settings):
    """The directory of such a sweep, without a run."""
    return folder.claim(root, settings, {"experiment": program, "effort": "minutes"})


def test_reproduce_marks_what_is_missing_and_writes_the_same_page_again(
    tmp_path, capsys, monkeypatch
):
    plans = [efforts.Plan("swiss_roll", "paper", 2, 10, {**TINY, "figures": True})]
    plans += [efforts.Plan("bark", "best", 1, 10), efforts.Plan("heartbeat", "paper", 1, 10)]
    monkeypatch.setitem(efforts._OF, "minutes", plans)
    monkeypatch.setenv("DPM_DATA", str(tmp_path))  # has no photographs
    root = begun(tmp_path / "paper", "reproduce", "reproduction.json")
    there = root / "runs" / "swiss_roll-paper-1" / "report.json"
    there.parent.mkdir(parents=True)
    config = {**find("swiss_roll").presets["paper"], **plans[0].flags, "seed": 1}
    there.write_text(json.dumps(report(-1.0, **config)))
    argv = ("reproduce", f"--workdir={root}", "--only=swiss_roll,bark")
    assert call(*argv) == 0
    out = capsys.readouterr().out
    assert "2 of 3 runs made" in out and "bark-best-0: no photographs" in out
    pages = [(root / f"report.{kind}").read_text() for kind in ("html", "md")]
    for text in pages:
        assert "no photographs: --data_root has no folder bark" in text
        assert "left out by --only" in text and "swiss_roll-paper-1" in text
    assert call(*argv) == 0
    assert [(root / f"report.{kind}").read_text() for kind in ("html", "md")] == pages
    capsys.readouterr()
    assert call("reproduce", f"--workdir={root}", "--effort=hours") == 2
    assert "--workdir: " in capsys.readouterr().err


@pytest.mark.parametrize("gpus", [[], ["0"]])
def test_effort_accelerator_without_one_is_said_and_not_refused(
    tmp_path, capsys, monkeypatch, gpus
):
    monkeypatch.setattr(pool, "_gpus", lambda: gpus)
    monkeypatch.setattr(pool, "_has", lambda package: False)
    monkeypatch.setitem(efforts._OF, "accelerator", ())
    assert call("reproduce", f"--workdir={tmp_path / 'paper'}", "--effort=accelerator") == 0
    assert ("found no GPU or TPU" in capsys.readouterr().err) == (not gpus)


def test_the_ablation_goes_from_its_command_to_table_and_picture(tmp_path, capsys, monkeypatch):
    changed = variants.Variant("T", "4 → 6", {"T": 6})
    subject = variants.Subject("swiss_roll", {**TINY, "log_every": 2}, (4, 4), (5, 5), (changed,))
    subject.base.pop("num_steps")
    monkeypatch.setattr(ablation, "SUBJECTS", (subject,))
    monkeypatch.setitem(ablation.SEEDS, "minutes", 2)
    begun(tmp_path, "ablation", ablation.SETTINGS)
    for variant in (ablation._BASE, changed):  # the pair of seed 0 is there
        made_up(tmp_path, subject, variant, [-1.0])
    assert call("ablation", f"--workdir={tmp_path}", "--only=swiss_roll") == 0
    assert "4 → 6" in capsys.readouterr().out
    assert "| T | 4 → 6 | swiss_roll |" in (tmp_path / "ablation.md").read_text()
    assert (tmp_path / "figures" / "ablation.png").stat().st_size > 5000
