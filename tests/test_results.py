"""Results: renewed by the same question alone, and whole after a kill."""

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import test_run_files
from PIL import Image
from test_run_files import OPTIONS, events, flags_of, pairs, plain, small, steps_of

from dpm_jax import files, runs
from dpm_jax.experiments import evaluate, posterior, swiss_roll
from dpm_jax.runs import Invalid


def contents(folder):
    """But for the seconds that an answer took."""
    found = test_run_files.contents(folder).items()
    return {path: re.sub(rb'"seconds": [^,]*', b"", held) for path, held in found}


SMALL = {"trajectories": "2", "examples": 2, "model_samples": 2, "lanes": 4}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A run of a model of one's own, and two inputs of one name."""
    folder = tmp_path_factory.mktemp("saved")
    built = small()
    runs.save(folder / "run", built, built.init(jax.random.key(0)))
    for i, name in enumerate(("x.npy", "other/x.npy")):
        (folder / name).parent.mkdir(exist_ok=True)
        np.save(folder / name, pairs(3, i))
    return folder


def measure(folder, name="x.npy", **given):
    given = SMALL | {"workdir": str(folder / "run"), "input": str(folder / name)} | given
    return evaluate.execute(flags_of(evaluate, **given))


def ask(folder, name="x.npy", **given):
    given = {"workdir": str(folder / "run"), "input": str(folder / name), "num_samples": 8} | given
    return posterior.execute(flags_of(posterior, out=str(folder / "out"), **given))


# --- what may be replaced ------------------------------------------------------------------------


def test_a_measurement_is_renewed_by_the_same_question_alone(saved):
    run = saved / "run"
    measure(saved)
    held = json.loads((run / "likelihood_x.json").read_text())["settings"]
    assert held["steps"] is None and held["data"]["test"]["rows"] == 3
    before = contents(saved)
    what = r"^--input: .*likelihood_x\.json holds another result \(test: other content, projection"
    with pytest.raises(Invalid, match=what):
        measure(saved, "other/x.npy")
    assert contents(saved) == before
    measure(saved, seed=3)
    assert contents(saved)[Path("run/likelihood_x.json")] != before[Path("run/likelihood_x.json")]


@pytest.mark.parametrize(
    "name, content, what",
    [
        ("likelihood_x.json", '{"mine": 1}', r"likelihood_x\.json does not say what it is of"),
        ("likelihood_x.json", "mine", r"likelihood_x\.json does not read"),
        ("likelihood_x.json", "[1]", r"likelihood_x\.json holds no JSON object"),
        ("likelihood_x.json/mine", "mine", r"likelihood_x\.json does not read"),
        ("figures/dissipation_x.png", "mine", r"dissipation_x\.png exists, without likelihood_x"),
    ],
)
def test_what_is_not_its_own_is_not_replaced(saved, tmp_path, name, content, what):
    built = small()
    runs.save(tmp_path / "run", built, built.init(jax.random.key(0)))
    np.save(tmp_path / "x.npy", pairs(3))
    (tmp_path / "run" / name).parent.mkdir(exist_ok=True)
    (tmp_path / "run" / name).write_text(content)
    before = contents(tmp_path)
    with pytest.raises(Invalid, match=f"^--input: .*{what}"):
        measure(tmp_path)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("program", [measure, ask])
def test_a_pdf_of_somebody_is_not_replaced_and_its_own_is(prepared, tmp_path, program):
    shutil.copytree(prepared, tmp_path / "here")
    folder = tmp_path / "here"
    program(folder)
    png = next(p for p in folder.rglob("*.png"))
    png.with_suffix(".pdf").write_text("mine")
    before = contents(folder)
    with pytest.raises(Invalid, match=rf"^--\w+: .*{png.stem}\.pdf exists, not of \w+\.json: not"):
        program(folder, pdf=True)
    program(folder)  # which writes none
    assert contents(folder) == before
    png.with_suffix(".pdf").unlink()
    program(folder, pdf=True)
    first = contents(folder)
    assert png.with_suffix(".pdf").read_bytes()[:5] == b"%PDF-"
    program(folder, pdf=True)
    assert contents(folder) == first
    png.with_suffix(".pdf").write_text("half")
    program(folder, pdf=True)
    assert contents(folder) == first


def test_a_run_is_resumed_with_pdf_and_is_the_same_run(tmp_path):
    draw_figures(tmp_path)
    before = contents(tmp_path)
    draw_figures(tmp_path, pdf=True)
    after = contents(tmp_path)
    new = {str(path) for path in after.keys() - before.keys()}
    assert new == {"roll/figures/bound_terms.pdf"}
    changed = {path.name for path in before if before[path] != after[path]}
    assert changed <= {"report.json", "lock"}


def test_a_posterior_of_other_content_under_the_same_path_is_refused(saved):
    ask(saved)
    ask(saved)
    np.save(saved / "x.npy", pairs(3, 5))
    before = contents(saved / "out")
    try:
        with pytest.raises(Invalid, match=r"^--out: .*another result \(y: other content"):
            ask(saved)
    finally:
        np.save(saved / "x.npy", pairs(3))
    assert contents(saved / "out") == before


# --- kills ---------------------------------------------------------------------------------------

# All programs, one after the other. Before a file of KILLS is opened for writing, renamed or
# removed it says so and stops, with all its threads: what then lies there is what a kill leaves.
STOPPED = """
import collections, os, shutil, signal, sys, threading
from pathlib import Path
import test_results as tests

prepared, place, seen = sys.argv[1], Path(sys.argv[2]), collections.Counter()

def stop(event, arguments):
    opened = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wxa+")
    if opened or event in ("os.rename", "os.remove"):
        path = os.fsdecode(arguments[0]) if isinstance(arguments[0], (str, bytes)) else ""
        name = path.rsplit("/", 1)[-1]
        name = name[34 * name.startswith("."):]
        for begin in {begin for of, begin, _ in tests.KILLS if of == program}:
            if not (name.startswith(begin) and path.startswith(f"{folder}/")):
                continue
            seen[program, begin] += 1
            kill = (program, begin, seen[program, begin])
            if kill in tests.KILLS:
                (place / "stopped_at").write_text(str(tests.KILLS.index(kill)))
                signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)

folder = program = None
sys.addaudithook(stop)
for name in tests.PROGRAMS:
    folder = shutil.copytree(prepared, place / name)
    program = name
    tests.PROGRAMS[name](folder)
"""


def prepare(folder):
    """What all programs below begin with: a saved run with an input, and one trained in part."""
    built = small()
    runs.save(folder / "run", built, built.init(jax.random.key(0)))
    np.save(folder / "x.npy", pairs(3))
    early = dataclasses.replace(OPTIONS, num_steps=4)
    runs.fit(folder / "part", built, pairs(50), early)
    config = json.loads((folder / "part" / "config.json").read_text())
    (folder / "part" / "config.json").write_text(json.dumps(config | {"num_steps": 6}))


def draw_figures(folder, **given):
    tiny = {"T": 4, "width": 4, "num_steps": 2, "batch_size": 4, "num_eval": 8, "num_t": -1}
    runs.start(folder / "roll", plain(swiss_roll.EXPERIMENT), **tiny, **given)


PROGRAMS = {
    "evaluate": measure,
    "posterior": ask,
    "figures": draw_figures,
    "vectors": lambda folder: measure(folder, pdf=True),
    "train": lambda folder: runs.fit(folder / "part", small(), pairs(50), OPTIONS),
}
PLACES = {
    "evaluate": "run",
    "vectors": "run",
    "posterior": "out",
    "figures": "roll",
    "train": "part",
}
KILLS = [  # program, file that is opened for writing, renamed or removed, for which time
    *(("evaluate", "likelihood_x.json", n) for n in (1, 2, 3, 4)),
    ("evaluate", "dissipation_x.png", 2),
    *(("posterior", name, n) for name in ("posterior.png", "posterior.json") for n in (1, 2)),
    ("posterior", "posterior.json", 4),
    ("posterior", "posterior.npz", 2),
    *(("vectors", "dissipation_x.pdf", n) for n in (1, 2)),
    *(("figures", name, 2) for name in ("bound_terms.png", "report.json", "config.json")),
    *(("figures", name, 2) for name in ("data.json", "metrics.csv")),
    *(("train", "metrics.csv", n) for n in (1, 2)),
    ("train", "events", 2),  # both the old events and the new lie there
]


def check_whole(folder):
    """Every file under its own name reads to the end."""
    for path in (p for p in folder.rglob("*") if p.is_file() and not files.is_unfinished(p)):
        if path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".npz":
            with np.load(path) as arrays:
                assert all(arrays[name].size for name in arrays)
        elif path.suffix == ".png":
            with Image.open(path) as image:
                image.load()


def results(folder):
    """What a program leaves, but for times."""
    found = {}
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        if path.name == "report.json" or path.name.startswith(("likelihood", "posterior.j")):
            content = json.loads(path.read_text())
            found[name] = {key: value for key, value in content.items() if key != "seconds"}
        elif path.name == "posterior.npz":
            with np.load(path) as arrays:
                found[name] = {key: arrays[key].tolist() for key in arrays}
        elif path.suffix in (".png", ".pdf") and not files.is_unfinished(path):
            found[name] = path.read_bytes()
        elif path.name == "metrics.csv":
            found[name] = steps_of(path)
        elif path.name == "tensorboard":
            found[name] = events(path)
    return found


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared") / "here"
    folder.mkdir()
    prepare(folder)
    return folder


def name_of(kill):
    return "_".join(map(str, kill))


@pytest.fixture(scope="module")
def killed(prepared, tmp_path_factory):
    """A folder with one for each program and each kill, and what nobody killed leaves."""
    place = tmp_path_factory.mktemp("killed")
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    with (place / "said").open("w") as said:
        command = [sys.executable, "-c", STOPPED, str(prepared), str(place)]
        child = subprocess.Popen(command, stdout=said, stderr=said, env=environment)
    try:
        while os.WIFSTOPPED(status := os.waitpid(child.pid, os.WUNTRACED)[1]):
            kill = KILLS[int((place / "stopped_at").read_text())]
            shutil.copytree(place / kill[0], place / name_of(kill))
            child.send_signal(signal.SIGCONT)
    finally:
        child.kill()
    assert status == 0, (place / "said").read_text()[-2000:]
    return place, {name: results(place / name / PLACES[name]) for name in PROGRAMS}


@pytest.mark.parametrize("kill", KILLS, ids=name_of)
def test_a_killed_program_leaves_whole_files_and_ends_as_if_nothing_was(killed, kill):
    (place, whole), program = killed, kill[0]
    folder = place / program  # results name their paths: it goes on where it was
    shutil.rmtree(folder)
    (place / name_of(kill)).rename(folder)
    check_whole(folder)
    PROGRAMS[program](folder)
    check_whole(folder)
    assert results(folder / PLACES[program]) == whole[program]
