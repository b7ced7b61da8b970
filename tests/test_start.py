"""The start of a binary: what it does before JAX is there, and what a second start is spared."""

import contextlib
import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from dpm_jax import gaussian, model, networks, schedule, training
from dpm_jax.runs import bars, compilation, train

ROOT = Path(__file__).resolve().parents[1]
BINARIES = sorted(p.stem for p in (ROOT / "experiments").glob("*.py") if p.stem != "__init__")
HEAVY = ("jax", "numpy", "scipy", "matplotlib", "flax", "optax", "orbax", "tensorflow_datasets")


def imported(name, *argv):
    """Exit code, standard error and the heavy modules that a binary imported."""
    command = [sys.executable, "-X", "importtime", ROOT / "experiments" / f"{name}.py", *argv]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    lines = [line for line in found.stderr.splitlines() if line]
    told = [line for line in lines if not line.startswith("import time:")]
    modules = {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")}
    assert "dpm_jax.runs.binary" in modules  # it is read rightly
    return found.returncode, "\n".join(told), modules & set(HEAVY)


# --- flags are answered without JAX -------------------------------------------------------------


USE_NO_DEVICES = ("ablation", "compare", "reproduce", "sweep")
REFUSED = {
    "--bogus=1": "--bogus: expected a flag that --help lists",
    "--seed=1.5": "--seed: expected a whole number, got '1.5'",
    "--seed=-1": "--seed: expected 0..",
    "--process_id=-1": "--process_id: expected at least 0, got -1",
}
REFUSED_BY_SWEEPS = {
    "--bogus=1": "--bogus: expected a flag that --help lists",
    "--process_id=1": "--process_id: expected a flag that --help lists",
}


@pytest.mark.parametrize("name", BINARIES)
def test_help_and_bad_flags_import_no_jax(name, tmp_path):
    assert imported(name, "--help") == (0, "", set())
    place = f"--{'out' if name in ('benchmark', 'compare') else 'workdir'}={tmp_path}/run"
    for flag, line in (REFUSED_BY_SWEEPS if name in USE_NO_DEVICES else REFUSED).items():
        code, told, heavy = imported(name, place, flag)
        assert (code, heavy) == (2, set()) and told.count("\n") == 0, told
        assert told.startswith(f"{name}.py: {line}"), told
    assert not list(tmp_path.iterdir())


TOGETHER = [  # values that each flag may have, but not with the others
    ("swiss_roll", [], "workdir: expected a directory for the run, got none"),
    ("cifar10", ["--workdir=run", "--objective=wild"], "objective: expected one of bound, v"),
    ("cifar10", ["--workdir=run", "--network=wild"], "network: expected one of bump_dense, "),
    ("cifar10", ["--workdir=run", "--num_steps=0"], "num_steps: expected at least 1, got 0"),
    (
        "cifar10",
        ["--workdir=run", "--network=unet", "--film"],
        "film: expected network 'multi",
    ),
    (
        "cifar10",
        ["--workdir=run", "--preset=best", "--variance=eq64"],
        "variance: expected read",
    ),
    (
        "cifar10",
        ["--workdir=run", "--network=unet", "--mixing=coarse"],
        "mixing: expected bottleneck at least 1 with it, got 0, which does not read it",
    ),
    ("mnist", ["--workdir=run", "--bottleneck=9"], "bottleneck: expected network 'unet' with it, "),
    ("mnist", ["--workdir=run", "--median_noise=0.8"], "median_noise: expected objective 'v' with"),
    ("mnist", ["--workdir=run", "--schedule=cosine", "--final_ratio=9"], "final_ratio: expected "),
    ("swiss_roll", ["--workdir=run", "--depth=3"], "depth: expected network one of ['bump_dense',"),
    ("jarzynski", ["--workdir=run", "--durations=1,x"], "durations: expected numbers"),
    ("mixture", ["--workdir=run", "--dims=7"], "dims: expected even numbers, got 7"),
    ("mixture", ["--workdir=run", "--methods=wild"], "methods: expected some of floor, prior"),
    ("benchmark", ["--out=run", "--only=wild"], "only: expected some of peak, train"),
    ("reproduce", [], "workdir: expected a directory for the runs, got none"),
    ("reproduce", ["--workdir=run", "--only=figure9"], "only: expected some of swiss_roll"),
    ("reproduce", ["--workdir=run", "--effort=years"], "effort: expected one of minutes, hours"),
    ("ablation", ["--workdir=run", "--only=bark"], "only: expected some of swiss_roll"),
    ("ablation", ["--workdir=run", "--workers=-1"], "workers: expected 0..1024, got -1"),
    ("sweep", ["--workdir=run"], "experiment: expected one of bark, binary_mnist"),
    ("sweep", ["--workdir=run", "--experiment=mnist", "--vary=T=1"], "T: expected at least 2"),
    ("compare", [], "runs: expected directories of runs, got none"),
    ("evaluate", [], "workdir: expected a trained run, got none"),
    ("posterior", [], "workdir: expected a trained run, got none"),
    ("evaluate", ["--workdir=run", "--trajectories=x"], "trajectories: expected numbers"),
    ("outliers", ["--workdir=run"], "out: expected a directory for the result, got none"),
    ("outliers", ["--workdir=run", "--out=o", "--sets=x"], "sets: expected some of rotated"),
    ("posterior", ["--workdir=run", "--task=denoise", "--mask=centre"], "mask: expected none"),
    ("posterior", ["--workdir=run", "--method=paper", "--filters=2"], "filters: expected 1"),
]


@pytest.mark.parametrize("name, argv, line", TOGETHER)
def test_values_that_do_not_go_together_import_no_jax(name, argv, line):
    code, told, heavy = imported(name, *argv)
    assert (code, heavy) == (2, set()) and told.startswith(f"{name}.py: --{line}"), told


# --- compiled programs are kept -----------------------------------------------------------------

TINY = ("--T=6", "--width=4", "--num_steps=4", "--batch_size=8", "--num_eval=20", "--num_t=-1")
COUNTS = """
import jax, runpy, sys
hits, misses = [], []
def count(event, **more):
    hits.append(1) if event.endswith("cache_hits") else None
    misses.append(1) if event.endswith("cache_misses") else None
jax.monitoring.register_event_listener(count)
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name='__main__')
finally:
    print(len(hits), len(misses), file=sys.stderr)
"""


def swiss_roll(workdir, cache):
    """A start of the binary: hits, misses and what was said on standard error, but for bars."""
    flags = os.environ["XLA_FLAGS"].replace("device_count=2", "device_count=1")
    command = [sys.executable, "-c", COUNTS, ROOT / "experiments" / "swiss_roll.py", *TINY]
    found = subprocess.run(
        [*command, f"--workdir={workdir}", f"--compilation_cache={cache}"],
        cwd=ROOT, env={**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "1", "XLA_FLAGS": flags},
        text=True, capture_output=True, timeout=300,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    *told, counts = found.stderr.strip().splitlines()
    return *map(int, counts.split()), [x for x in told if "\r" not in x and "it/s" not in x]


def measured(workdir):
    report = json.loads((workdir / "report.json").read_text())
    del report["seconds"], report["trained_on"]
    return report


def test_a_second_start_compiles_nothing_and_gives_the_same_bits(tmp_path):
    first = swiss_roll(tmp_path / "a", tmp_path / "cache")
    second = swiss_roll(tmp_path / "b", tmp_path / "cache")
    assert first[1] > 10 and second[:2] == (first[0] + first[1], 0)
    assert measured(tmp_path / "a") == measured(tmp_path / "b")
    for _, _, told in (first, second):
        assert not [line for line in told if "cache" in line or "XLA" in line or "CPU" in line]


def test_two_processes_begin_together_on_an_empty_folder(tmp_path):
    with ThreadPoolExecutor() as pool:
        both = list(pool.map(kept, [str(tmp_path)] * 2))
    assert all(said == [] and hits + misses >= 4 for said, hits, misses in both)
    assert kept(str(tmp_path)) == ([], sum(both[0][1:]), 0)


# The cache of the suite itself (conftest.py).
OF_TESTS = ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS")


def kept(given, **environment):
    """What a process says that compiles a few functions with this flag: errors, hits, misses."""
    code = f"from dpm_jax.runs import compilation; compilation.use({given!r}); import jax"
    code += "; print(*(jax.jit(lambda x: x + i)(1.0) for i in range(4)), file=sys.stderr)"
    inherited = {k: v for k, v in os.environ.items() if k not in OF_TESTS}
    script = COUNTS.replace("runpy.run_path(sys.argv[0], run_name='__main__')", code)
    found = subprocess.run(
        [sys.executable, "-c", script, "x"],
        cwd=ROOT, env={**inherited, **environment}, check=True,
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    *told, values, counts = found.stderr.strip().splitlines()
    assert values == "1.0 2.0 3.0 4.0"
    return told, *map(int, counts.split())


def test_entries_that_a_kill_cut_short_are_made_anew_in_silence(tmp_path):
    said, _, misses = kept(str(tmp_path))
    entries = sorted(tmp_path.glob("*-cache"))
    whole = {path: path.stat().st_size for path in entries}
    assert said == [] and len(entries) == misses >= 4
    for path, cut in zip(entries, (0, 1, 100, -1)):
        path.write_bytes(path.read_bytes()[:cut])
        os.utime(path, (1e9, 1e9))
    assert kept(str(tmp_path)) == ([], misses - 4, 4)
    assert {path: path.stat().st_size for path in entries} == pytest.approx(whole, rel=0.01)
    assert kept(str(tmp_path)) == ([], misses, 0)


def test_without_a_place_for_it_a_run_goes_on(tmp_path):
    (tmp_path / "file").touch()
    warned, *counts = kept(f"{tmp_path}/file/cache")
    assert counts == [0, 0] and len(warned) == 1
    assert f"--compilation_cache: cannot write {tmp_path}/file/cache (Not a directory)" in warned[0]
    assert "cannot write zzz://no/where (" in kept("zzz://no/where")[0][0]
    assert kept("") == kept("none") == ([], 0, 0)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_where_compiled_programs_go(tmp_path):
    """The flag, then JAX's own variable, then the user's cache folder."""
    flag, jax_own, user = (tmp_path / name for name in ("flag", "jax", "user"))
    kept(None, XDG_CACHE_HOME=str(user))
    assert [path.name for path in tmp_path.iterdir()] == ["user"]
    assert list((user / "dpm_jax" / "compiled").glob("jit__lambda-*-cache"))
    assert (user / "dpm_jax" / "compiled").stat().st_mode & 0o777 == 0o700
    both = {"XDG_CACHE_HOME": str(tmp_path / "no"), "JAX_COMPILATION_CACHE_DIR": str(jax_own)}
    kept(None, **both)
    kept(str(flag), **both)
    assert list(jax_own.glob("*-cache")) and list(flag.glob("*-cache"))
    assert {path.name for path in tmp_path.iterdir()} == {"user", "jax", "flag"}


def test_the_folder_is_bounded_by_what_was_read_last(tmp_path, monkeypatch):
    monkeypatch.setattr(compilation, "MOST_BYTES", 25)
    for i in range(5):
        path = tmp_path / f"jit_f-{i}-cache"
        path.write_bytes(bytes(10))
        os.utime(path, (1000 + i, 0))
    (tmp_path / "somebody's").write_bytes(bytes(100))
    compilation._bound(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "jit_f-4-cache", "jit_f-3-cache", "somebody's"
    }  # fmt: skip


# --- a terminal ---------------------------------------------------------------------------------


class Terminal:
    """A binary, or Python with these arguments, whose standard error is a terminal."""

    def __init__(self, name, *argv):
        mine, its = pty.openpty()
        fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("4H", 40, 150, 0, 0))  # rows, columns
        binary = name if name.startswith("-") else ROOT / "experiments" / f"{name}.py"
        command = [sys.executable, binary, *argv]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=its)
        os.close(its)
        self.text, self._mine = "", mine
        threading.Thread(target=self._read, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()

    def _read(self):
        with contextlib.suppress(OSError):  # the other end is closed
            while piece := os.read(self._mine, 4096):
                self.text += piece.decode(errors="replace")

    def until(self, *parts, limit=120):
        """Wait until all parts were shown."""
        end = time.monotonic() + limit
        while not all(part in self.text for part in parts):
            assert time.monotonic() < end and self.process.poll() is None, self.text
            time.sleep(0.02)

    def interrupt(self):
        """Seconds until SIGINT ended it."""
        begun = time.monotonic()
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(timeout=60) == 130, self.text
        time.sleep(0.2)
        return time.monotonic() - begun


BESIDE_A_BAR = """
import time
from dpm_jax import hosts
from dpm_jax.runs import bars
bars._TICK = 0.01
hosts.at_exit(time.sleep, 0.3)
with bars.phase("at work"):
    time.sleep(0.1)
    hosts.exit_now(3, "the last line")
"""


def test_no_bar_is_drawn_after_the_last_line():
    with Terminal("-c", BESIDE_A_BAR) as run:
        assert run.process.wait(timeout=60) == 3
        time.sleep(0.2)
    assert run.text.count("at work: 00:00") > 2
    assert run.text.endswith("\r\nthe last line\r\n")


SECOND = 3.0  # of a machine with other work: what is asked for is that compiling is not waited for


@pytest.mark.parametrize("seconds", [0, 0.2])
def test_interrupted_while_jax_starts(tmp_path, seconds):
    with Terminal("swiss_roll", f"--workdir={tmp_path}/run") as run:
        run.until("starting JAX: 00")
        time.sleep(seconds)
        assert run.interrupt() < SECOND
    assert run.text.rstrip().endswith("interrupted; the same command resumes the run")
    assert run.text.count("py: interrupted") == 1 and "Traceback" not in run.text


IN_A_MODULE_IN_C = """
import os, runpy, signal, sys
def look(frame, event, arg):
    by = frame.f_back and frame.f_back.f_code.co_name  # what imports modules in C
    if frame.f_code.co_filename.endswith("enum.py") and by == "_call_with_frames_removed":
        sys.setprofile(None)
        os.kill(os.getpid(), signal.SIGINT)
        print("hit", file=sys.stderr)
sys.setprofile(look)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_interrupted_while_jax_is_imported(tmp_path):
    binary = ROOT / "experiments" / "swiss_roll.py"
    found = subprocess.run(
        [sys.executable, "-c", IN_A_MODULE_IN_C, binary, f"--workdir={tmp_path}/run", *TINY],
        cwd=ROOT, text=True, capture_output=True, timeout=120,
    )  # fmt: skip
    assert found.returncode == 130, found.stderr
    assert found.stderr.startswith("hit")
    assert found.stderr.rstrip().endswith("interrupted; the same command resumes the run")
    assert "Traceback" not in found.stderr and not (tmp_path / "run").exists()


def test_interrupted_while_xla_compiles(tmp_path):
    deep = ("--network=mlp", "--depth=150", "--width=64", "--num_t=-1")  # compiles for a minute
    with Terminal("swiss_roll", f"--workdir={tmp_path}/run", *deep) as run:
        run.until("swiss_roll, preset paper with ", " training steps of 128 ", "starting JAX: 00")
        run.until(" parameters; 100,000 examples of 2 to train", "compiling the step")
        time.sleep(6)  # Python has traced the step by now
        assert run.interrupt() < SECOND
    assert run.text.rstrip().endswith("interrupted; the same command resumes the run")
    assert run.text.count("py: interrupted") == 1 and "Traceback" not in run.text
    assert not list((tmp_path / "run" / "checkpoints").glob("*"))


def test_interrupted_while_it_trains_it_saves_first(tmp_path):
    more = ("--num_steps=1000000", "--log_every=10", "--checkpoint_every=1000000")
    argv = (f"--workdir={tmp_path}/run", *TINY, *more)
    with Terminal("swiss_roll", *argv) as run:
        run.until("compiling the step", " bits]")
        run.interrupt()
    assert "stopping: saves a checkpoint]" in run.text
    assert run.text.count("py: interrupted; the same command resumes the run") == 1
    (saved,) = (tmp_path / "run" / "checkpoints").iterdir()
    with Terminal("swiss_roll", *argv) as again:
        again.until(f"goes on at step {int(saved.name):,} of 1,000,000")
        again.interrupt()


def test_the_bar_says_that_the_step_is_compiled_until_it_is():
    with bars.bar(None, "train", "step", total=3) as shown:
        stop = train._stop(shown, iter([False, False, True]).__next__)
        said = [shown.postfix]
        for K in ("K = 1 bits", "K = 2 bits", ""):
            stop()
            said.append(shown.postfix)
            shown.set_postfix_str(K)
    assert said == ["compiling the step", "", "K = 1 bits", "stopping: saves a checkpoint"]


def test_fit_shows_a_bar_unless_told_not_to(capsys):
    built = model.build(
        gaussian.family(), schedule.geometric(4, 0.01), networks.MLP(4, 1, outputs=2), (2,)
    )
    options = training.Options(num_steps=4, batch_size=8, log_every=2)
    data = np.random.default_rng(0).standard_normal((20, 2)).astype(np.float32)
    training.fit(built, data, options, progress=False)
    assert capsys.readouterr() == ("", "")
    training.fit(built, data, options)
    out, err = capsys.readouterr()
    assert out == "" and "train: 100%" in err and "4/4" in err and " nats]" in err
