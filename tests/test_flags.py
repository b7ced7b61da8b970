"""Bad input ends within seconds in one line that names the flag, before anything is written."""

import dataclasses
import json
import os
import subprocess
import sys
import time
import zlib
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from dpm_jax import gaussian, model, networks, runs, schedule, training
from dpm_jax.experiments import (
    bark,
    binary_mnist,
    cifar10,
    dead_leaves,
    evaluate,
    heartbeat,
    jarzynski,
    mixture,
    mnist,
    posterior,
    swiss_roll,
)
from dpm_jax.networks import registry
from dpm_jax.runs import Invalid, bars, binary, execution, idle
from dpm_jax.runs import config as configs
from dpm_jax.runs.config import (
    HELP,
    SCHEDULES,
    check,
    flags_of,
    make_schedule,
    training_options,
)
from dpm_jax.runs.presets import FILLS
from dpm_jax.training.optimizers import LR_SCHEDULES, OPTIMIZERS

ROOT = Path(__file__).resolve().parents[1]
DEVICES = jax.local_device_count()
SECONDS = 10  # for an error in this process; a process of its own takes its imports beside that


def start(*command, **environment):
    """A process of its own, by the shell."""
    return subprocess.Popen(
        " ".join(map(str, command)),
        shell=True,
        executable="/bin/bash",
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )


def program(name):
    """A binary as a shell has it."""
    return f"{sys.executable} {ROOT / 'experiments' / name}.py"


TINY = "--T=4 --width=4 --num_steps=4 --checkpoint_every=2 --num_eval=10 --batch_size=4 --num_t=-1"


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    """Everything that needs a process of its own, side by side: code, output, errors by name."""
    place = tmp_path_factory.mktemp("processes")
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    roll, work = program("swiss_roll"), program("jarzynski")
    begun = {
        "head": start(roll, "--help | true; exit ${PIPESTATUS[0]}"),
        "head_of_errors": start(roll, f"--workdir={place}/head --bogus=1 |& true"),
        "gpu": start(roll, f"--workdir={place}/gpu", JAX_PLATFORMS="cuda"),
        "full_output": start(roll, "--help > /dev/full"),
        "no_output": start(roll, f"--workdir={place}/closed --bogus=1 >&- 2>&-"),
        "plots": start(roll, f"--workdir={place}/plots --num_steps=0", MPLBACKEND="wild"),
        "ascii": start(roll, "--help", **ascii_only, PYTHONIOENCODING="ascii"),
        "ascii_errors": start(work, f"--workdir={place}/é --seed=-1", **ascii_only),
        "full_disk": start(f"ulimit -f 3; {roll} --workdir={place}/full {TINY}"),
    }
    found = {name: (*process.communicate(timeout=300), process) for name, process in begun.items()}
    return place, {name: (p.returncode, out, err) for name, (out, err, p) in found.items()}


def test_processes_end_in_one_line_and_as_unix_tools_do(processes):
    place, found = processes
    for name, parts in {
        "gpu": ["swiss_roll.py: JAX_PLATFORMS: expected platforms", "'cuda'"],
        "full_output": ["cannot write standard output: No space left on device"],
        "plots": ["swiss_roll.py: --num_steps: expected at least 1, got 0"],
        "ascii_errors": ["jarzynski.py: --seed: expected", "got -1"],
        "full_disk": [f"swiss_roll.py: --workdir: cannot write or read {place}/full: File too"],
    }.items():
        code, out, err = found[name]
        # The bar of a training that began has characters of its own.
        last = err.decode("utf-8" if name == "full_disk" else "ascii").splitlines()[-1]
        assert (code, out) == (2, b"") and all(part in last for part in parts), (name, code, err)
        assert b"Traceback" not in err
    assert found["head"] == (141, b"", b"")
    assert found["head_of_errors"][1:] == (b"", b"") and found["no_output"] == (2, b"", b"")
    code, out, err = found["ascii"]
    assert code == 0 and r"\u03b2" in out.decode("ascii") and b"Traceback" not in err
    assert {path.name for path in place.iterdir()} == {"full"}


EXPERIMENTS = {
    "swiss_roll": swiss_roll.EXPERIMENT,
    "heartbeat": heartbeat.EXPERIMENT,
    "mnist": mnist.EXPERIMENT,
}
ALL = EXPERIMENTS | {e.EXPERIMENT.name: e.EXPERIMENT for e in (bark, cifar10, dead_leaves)}
BAD = [
    *[
        (name, flag, value)
        for name in ("swiss_roll", "heartbeat")
        for flag, value in (
            ("beta_1", 0.0),
            ("beta_1", 1.0),
            ("beta_1", float("nan")),
            ("T", 1),
            ("T", -3),
            ("schedule", "wild"),
            ("network", "wild"),
            ("network", "unet"),  # takes images only
            ("readout", "wild"),
            ("variance", "wild"),
            ("last_step", "wild"),
            ("objective", "wild"),
            ("lr_schedule", "wild"),
            ("num_steps", 0),
            ("learning_rate", 0.0),
            ("learning_rate", -1.0),
            ("warmup", -1),
            ("clip_norm", 0.0),
            ("ema_decay", 1.0),
            ("steps_per_dispatch", -1),
            ("log_every", 0),
            ("checkpoint_every", 0),
            ("num_eval", 1),
            ("num_t", 3),
            ("width", 0),
            ("depth", 0),
            ("seed", -1),
            ("seed", 2**70),
        )
        if flag in EXPERIMENTS[name].presets["paper"]
    ],
    ("swiss_roll", "noise", -1.0),
    ("swiss_roll", "noise", float("nan")),
    ("swiss_roll", "noise", float("inf")),
    ("swiss_roll", "octaves", -1),
    ("heartbeat", "rate", 0.0),
    ("heartbeat", "rate", 1.0),
    ("heartbeat", "rate", float("nan")),
    ("heartbeat", "schedule", "learned"),
    ("mnist", "num_samples", 0),
    ("mnist", "passes", 0),
    ("mnist", "sample_steps", 1),
    ("mnist", "sample_steps", 1001),
    ("mnist", "network", "rbf"),  # takes vectors only
]


def configure(experiment, workdir, **given):
    config = {"experiment": experiment.name, "preset": "paper", "workdir": workdir}
    return config | experiment.presets["paper"] | given


def refused(experiment, config, flag):
    """The one line with which execute() refuses, soon and before the step is compiled."""
    start = time.monotonic()
    with pytest.raises(Invalid) as error:
        execution.execute(experiment, config)
    assert time.monotonic() - start < SECONDS
    message = str(error.value)
    assert message.startswith(f"--{flag}: ") and "\n" not in message, message
    return message


@pytest.fixture(autouse=True)
def no_training(request, monkeypatch):
    """Fail where an error is found so late that training has begun."""

    def refuse(*args, **kwargs):
        pytest.fail("training began before the error was found")

    monkeypatch.setattr("dpm_jax.training.fit", refuse)
    monkeypatch.setattr("dpm_jax.training.initial_state", refuse)


@pytest.mark.parametrize("name, flag, value", BAD)
def test_bad_value_names_its_flag(name, flag, value, tmp_path):
    workdir = tmp_path / "run"
    experiment = EXPERIMENTS[name]
    message = refused(experiment, configure(experiment, str(workdir), **{flag: value}), flag)
    if not (isinstance(value, str) and value in ("unet", "rbf")):
        assert "expected" in message and str(value) in message
    assert not workdir.exists()


@pytest.mark.skipif(DEVICES < 2, reason="needs two devices")
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_batch_that_the_devices_do_not_divide(name, tmp_path):
    experiment = EXPERIMENTS[name]
    config = configure(experiment, str(tmp_path / "run"), batch_size=DEVICES + 1)
    message = refused(experiment, config, "batch_size")
    assert f"{DEVICES} devices, got {DEVICES + 1}" in message
    assert not (tmp_path / "run").exists()


FILLING = {e.name: e for e in (*ALL.values(), binary_mnist.EXPERIMENT) if FILLS in e.presets}


@pytest.mark.parametrize("name", FILLING)
def test_a_preset_for_accelerators_says_how_much_it_is_here(name):
    """By the flags that are given: a test of it that is small is none too many."""
    of = FILLING[name].presets
    whole = configs.too_much(FILLING[name], {"preset": FILLS, **of[FILLS]})
    ratio = [p["width"] ** 2 * p["depth"] * p["batch_size"] * p["num_steps"] for p in of.values()]
    times = ratio[list(of).index(FILLS)] / ratio[list(of).index("best")]
    assert times > 5 and f"about {times:,.0f} times the work of --preset=best" in whole
    assert whole.startswith("--preset=accelerator ") and "\n" not in whole
    few = {"preset": FILLS, **of[FILLS], "num_steps": 2, "batch_size": 2}
    assert configs.too_much(FILLING[name], few) == ""
    assert configs.too_much(FILLING[name], {**few, **of["best"], "preset": "best"}) == ""


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="it is an accelerator")
def test_it_is_said_before_training_and_only_of_a_run_that_has_not_ended(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(bars, "_held", None)  # which a binary of an earlier test may hold
    paper = swiss_roll.EXPERIMENT.presets["paper"]
    many = {**paper, "num_steps": 7 * paper["num_steps"]}
    roll = dataclasses.replace(swiss_roll.EXPERIMENT, presets={"best": paper, FILLS: many})
    config = configs.configure(roll, FILLS, str(tmp_path / "run"), {})
    with pytest.raises(pytest.fail.Exception, match="training began"):
        execution.execute(roll, config)
    assert "is about 7 times the work of --preset=best" in capsys.readouterr().err
    (tmp_path / "run" / "report.json").write_text("{}")
    execution._say_where_much(roll, config)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("workdir", [None, ""])
def test_workdir_is_needed(workdir):
    message = refused(swiss_roll.EXPERIMENT, configure(swiss_roll.EXPERIMENT, workdir), "workdir")
    assert "expected a directory" in message


def test_workdir_that_is_a_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("somebody's")
    for workdir in (path, path / "below"):
        config = configure(swiss_roll.EXPERIMENT, str(workdir))
        assert str(workdir) in refused(swiss_roll.EXPERIMENT, config, "workdir")
    assert path.read_text() == "somebody's"


def test_manual_dir_that_is_missing(tmp_path):
    given = {"manual_dir": str(tmp_path / "absent"), "data_dir": str(tmp_path / "data")}
    config = configure(mnist.EXPERIMENT, str(tmp_path / "run"), **given)
    message = refused(mnist.EXPERIMENT, config, "manual_dir")
    assert str(tmp_path / "absent") in message and "is not a folder" in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("preset", ["paper", "best"])
def test_presets_are_whole(name, preset):
    """Every preset gives every flag a value of the type of the paper's, and trains as it stands."""
    presets = ALL[name].presets
    assert {k: type(v) for k, v in presets[preset].items()} == {
        k: type(v) for k, v in presets["paper"].items()
    }
    config = configure(ALL[name], "run") | presets[preset]
    training.check(training_options(config))
    check(config, ALL[name])
    make_schedule(config)
    registry.by_name(config, 2)


# --- the entrance of every binary, in this process ----------------------------------------------

OTHERS = {
    "evaluate": (evaluate.FLAGS, evaluate.execute),
    "posterior": (posterior.FLAGS, posterior.execute),
    "jarzynski": (jarzynski.FLAGS, jarzynski.execute),
    "mixture": (mixture.FLAGS, mixture.execute),
}


def call(program, *argv):
    """Run a binary by its entrance; its exit code."""
    with pytest.raises(SystemExit) as left:
        if program in ALL:
            binary.main(ALL[program], argv)
        else:
            binary.run(f"{program}.py", *OTHERS[program], argv=argv)
    return left.value.code


def contents(folder):
    """All below a folder, of files what changes with every write: faster than to read them."""
    found = {}
    for place, folders, names in os.walk(folder):
        found |= dict.fromkeys(os.path.join(place, name) for name in folders)
        for path in (os.path.join(place, name) for name in names):
            told = os.lstat(path)
            found[path] = told.st_ino, told.st_size, told.st_mtime_ns, told.st_ctime_ns
    return found


def last_line(capsys, program, argv, code=2):
    """What a binary that refuses says: one line, soon."""
    start = time.monotonic()
    assert call(program, *argv) == code
    assert time.monotonic() - start < SECONDS
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith(f"{program}.py: "), err
    return err.removeprefix(f"{program}.py: ").strip()


def bad_values():
    """For every flag of every binary, values that its type alone refuses."""
    for program in (*ALL, *OTHERS):
        known = flags_of(ALL[program]) if program in ALL else OTHERS[program][0]
        for name, flag in known.items():
            wrong = {
                int: ("abc", "1.5", "-7", "10000000000", "9" * 5000),
                float: ("abc", "nan", "inf", "-inf"),
                bool: ("maybe",),
                Path: ("~nosuchuser/x",),
            }.get(flag.kind, ())
            wrong += ("wild",) if isinstance(flag.values, tuple) else ()
            wrong += ("-0.5",) if flag.kind is float and name != "displacement" else ()
            yield from ((program, name, value) for value in wrong)


def test_every_flag_refuses_what_its_type_does_not_have(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    cases = list(bad_values())
    assert len(cases) >= 500
    for program, name, value in cases:
        if (program, name, value) == ("posterior", "noise", "-0.5"):
            continue  # the family of the run says which noise it takes
        argv = [*([] if name == "workdir" else ["--workdir=run"]), f"--{name}={value}"]
        line = last_line(capsys, program, argv)
        assert line.startswith(f"--{name}: expected ") and "got" in line, (argv, line)
    assert not list(tmp_path.iterdir())


def test_names_that_flags_take_are_those_of_the_library():
    """They stand in files that import no JAX."""
    from dpm_jax.core import binomial
    from dpm_jax.networks import multiscale_conv, unet
    from dpm_jax.runs import config, draws, noise_floor, observations, presets

    assert ("learned", *schedule.FIXED) == config.SCHEDULES
    assert config.NETWORKS == registry.NAMES
    assert config.IN_BFLOAT16 == registry.IN_BFLOAT16
    means = dict.fromkeys([*gaussian.MEANS, *binomial.MEANS, "skip"])
    assert tuple(means) == config.READOUTS
    assert config.VARIANCES == gaussian.VARIANCES
    assert tuple(multiscale_conv.NONLINEARITIES) == presets.NONLINEARITIES
    assert unet.MIXING == presets.MIXING
    known = flags_of(cifar10.EXPERIMENT)
    assert all(name in known["baselines"].help for name in noise_floor._FITS)
    for name, values in (("optimizer", OPTIMIZERS), ("lr_schedule", LR_SCHEDULES)):
        assert config.HELP[name].values == values
    asked = posterior.FLAGS
    for name, values in (
        ("task", observations.TASKS),
        ("method", draws.METHODS),
        ("start", draws.STARTS),
        ("twist", draws.TWISTS),
        ("corrector", draws.CORRECTORS),
    ):
        assert asked[name].values == values


def test_flags_are_idle_where_what_they_change_does_not_read_them():
    """Of each network by name, and of each schedule: it differs where the table says so."""
    config = cifar10.EXPERIMENT.presets["paper"] | {"octaves": 0, "bottleneck": 9}
    changed = {"nonlinearity": "leaky_relu", "bumps": "log_snr", "variance": "between"}
    changed["mixing"] = "coarse"
    for name, by, values in idle.READ_WITH:
        other = config | {name: changed[name] if name in changed else 1 + config.get(name, 0)}
        if by == "network":
            for network in registry.NAMES:
                was, now = (registry.by_name(c | {by: network}, 2) for c in (config, other))
                assert (was != now) == (network in values), (name, network)
        if by == "schedule":
            for of in SCHEDULES:
                was, now = (make_schedule(c | {by: of}).beta for c in (config, other))
                assert bool((was != now).any()) == (of in values), (name, of)
    known = {name: (by, values) for name, by, values in idle.READ_WITH}
    assert {by for by, _ in known.values()} <= {*HELP, "bottleneck"}
    assert known["variance"][1] == gaussian.MEANS


def test_mixing_of_no_bottleneck_is_idle():
    made = (networks.UNet((4, 4), 1, 0, mixing=mixing) for mixing in networks.unet.MIXING)
    inputs = jax.random.key(0), np.zeros((4, 4, 1), np.float32), np.int32(1), np.float32(0)
    middle, *others = (jax.eval_shape(network.init, *inputs) for network in made)
    assert all(other == middle for other in others)


def test_every_whole_number_has_a_type_a_range_and_a_help():
    for program in (*ALL, *OTHERS):
        known = flags_of(ALL[program]) if program in ALL else OTHERS[program][0]
        for name, flag in known.items():
            assert flag.help, f"{program} --{name}"
            assert flag.values or flag.kind is not int, f"{program} --{name} takes any number"


def make_arrays(folder, images):
    """Files that hold no images, or no array."""
    np.save(folder / "good.npy", images)
    whole = (folder / "good.npy").read_bytes()
    (folder / "empty.npy").touch()
    (folder / "header.npy").write_bytes(whole[:60])
    (folder / "cut.npy").write_bytes(whole[:-100])
    (folder / "text.npy").write_text("these are no numbers\n" * 20)
    np.savez(folder / "archive.npz", images)
    (folder / "zip.npy").write_bytes((folder / "archive.npz").read_bytes())
    (folder / "folder.npy").mkdir()
    np.save(folder / "objects.npy", np.array([{}, None], object), allow_pickle=True)
    for name, array in {
        "words": np.array(["a", "b"]),
        "complex": np.zeros((3, 2), complex),
        "dates": np.zeros((3, 2), "datetime64[s]"),
        "nan": np.full((3, 2), np.nan),
        "zeros": np.zeros((3, 2)),
        "wide": np.zeros((3, 5)),
        "none": np.zeros((0, 2)),
        "floats": images / 255,
        "one": images[:1],
        "scalar": np.uint8(1),
    }.items():
        np.save(folder / f"{name}.npy", array)


def make_pictures(folder, pixels):
    """Files that Pillow does not read, and folders without pictures enough."""
    Image.fromarray(pixels).save(folder / "good.png")
    whole = (folder / "good.png").read_bytes()
    (folder / "empty.png").touch()
    (folder / "cut.png").write_bytes(whole[:40])
    (folder / "text.png").write_text("no image")
    bomb = bytearray(whole)
    bomb[16:24] = (60000).to_bytes(4, "big") * 2  # a header that promises 3.6 gigapixels
    bomb[29:33] = zlib.crc32(bytes(bomb[12:29])).to_bytes(4, "big")
    (folder / "bomb.png").write_bytes(bomb)
    for name in ("bare", "single", "texts"):
        (folder / name).mkdir()
    Image.fromarray(np.tile(pixels, (10, 10))).save(folder / "single" / "one.png")
    (folder / "texts" / "a.png").write_text("no image")


def make_runs(folder):
    """A run that is whole, and others whose config.json is not that of a run."""
    built = model.build(
        gaussian.family(), schedule.geometric(3, 0.01), networks.MLP(4, 1, outputs=2), (2,)
    )
    runs.save(folder / "own", built, built.init(jax.random.key(0)))
    trained = configure(swiss_roll.EXPERIMENT, None)
    trained.pop("workdir")
    for name, change in CONFIGS.items():
        (folder / name).mkdir()
        text = change if isinstance(change, str) else json.dumps({**trained, **change})
        (folder / name / "config.json").write_text(text)
    own = json.loads((folder / "own" / "config.json").read_text())
    for name, change in OWN_CONFIGS.items():
        runs.save(folder / name, built, built.init(jax.random.key(0)))
        held = change(own) if callable(change) else {**own, **change}
        (folder / name / "config.json").write_text(json.dumps(held))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder of files and runs that are no input."""
    folder = tmp_path_factory.mktemp("place")
    images = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 1), np.uint8)
    make_arrays(folder, images)
    make_pictures(folder, images[0, ..., 0])
    make_runs(folder)
    (folder / "text.mat").write_text("no matrices")
    (folder / "file").write_text("somebody's")
    (folder / "loop").symlink_to("loop")
    (folder / "exits.py").write_text("raise SystemExit(3)")
    for name in ("five", "five_test"):
        np.save(folder / f"{name}.npy", np.repeat(images, 5, axis=3))
    (folder / "code.py").write_text("this is no Python")
    return folder


@pytest.fixture(scope="module")
def before(place):
    return contents(place)


CONFIGS = {
    "config_empty": "",
    "config_list": "[]",
    "config_null": "null",
    "config_cut": '{"T": 4',
    "config_binary": "\0\1\2",
    "config_T_text": {"T": "forty"},
    "config_T_null": {"T": None},
    "config_T_list": {"T": [40]},
    "config_T_float": {"T": 4.5},
    "config_T_bool": {"T": True},
    "config_T_huge": {"T": 10**12},
    "config_beta": {"beta_1": "1e-3"},
    "config_beta_nan": {"beta_1": float("nan")},
    "config_network": {"network": 3},
    "config_seed": {"seed": -1},
    "config_preset": {"preset": ["best"]},
    "config_experiment": {"experiment": {"name": "swiss_roll"}},
    "config_module": {"experiment": "os"},
    "config_width": {"width": 0},
    "config_no_checkpoint": {},
}
OWN_CONFIGS = {
    "own_model_list": {"model": []},
    "own_model_number": {"model": 5},
    "own_model_empty": {"model": {}},
    "own_shape": lambda own: {**own, "model": {**own["model"], "event_shape": ["a"]}},
    "own_shape_number": lambda own: {**own, "model": {**own["model"], "event_shape": 2}},
    "own_network": lambda own: {**own, "model": {**own["model"], "network": {"name": "MLP"}}},
    "own_network_os": lambda own: {
        **own,
        "model": {**own["model"], "network": {"name": "registry", "arguments": {}}},
    },
    "own_schedule": lambda own: {**own, "model": {**own["model"], "schedule": {"beta": "x"}}},
    "own_family": lambda own: {**own, "model": {**own["model"], "family": "gaussian"}},
}
FILES = ("empty", "header", "cut", "text", "zip", "folder", "objects", "words", "complex")
BROKEN = [
    *(("cifar10", [f"--dataset={f}.npy"], "dataset") for f in (*FILES, "floats", "one", "scalar")),
    ("cifar10", ["--dataset=absent.npy"], "dataset"),
    ("cifar10", ["--dataset=good.npy/x.npy"], "dataset"),
    ("cifar10", ["--dataset=no_such_set", "--data_dir=bare"], "dataset"),
    *(("dead_leaves", [f"--dataset={f}.npy"], "dataset") for f in (*FILES, "absent", "scalar")),
    ("dead_leaves", ["--dataset=text.mat"], "dataset"),
    ("dead_leaves", ["--dataset=archive.npz"], "dataset"),
    *(
        ("bark", [f"--image_dir={f}"], "image_dir")
        for f in ("", "bare", "absent", "file", "texts", "single", "good.npy", "good.png/x")
    ),
    ("mnist", ["--manual_dir=absent", "--data_dir=bare"], "manual_dir"),
    ("mnist", ["--manual_dir=file", "--data_dir=bare"], "manual_dir"),
    ("mnist", ["--manual_dir=bare", "--data_dir=bare"], "manual_dir"),
    ("mnist", ["--num_eval=10001"], "num_eval"),
    ("mnist", ["--sample_steps=1001"], "sample_steps"),
    ("cifar10", ["--baselines=wild"], "baselines"),
    ("bark", ["--image_dir=single", "--view=321"], "view"),
    ("bark", ["--image_dir=single", "--hole=320"], "hole"),
    ("swiss_roll", ["--width=1000000000000"], "width"),
    ("swiss_roll", ["--T=2000000000"], "T"),
    ("swiss_roll", ["--num_eval=2000000000"], "num_eval"),
    ("swiss_roll", ["--batch_size=2000000000"], "batch_size"),
    ("swiss_roll", ["--network=mlp", "--width=10000000", "--depth=2"], "width"),
    ("swiss_roll", ["--preset=wild"], "preset"),
    ("swiss_roll", ["--preset"], "preset"),
    ("swiss_roll", ["--bogus=1"], "bogus"),
    ("swiss_roll", ["--flagfile=absent"], "flagfile"),
    ("swiss_roll", ["--flagfile=good.npy"], "flagfile"),
    ("swiss_roll", ["--flagfile=bare"], "flagfile"),
    ("cifar10", ["--noflip=3"], "noflip"),
    ("jarzynski", ["--durations=1,x"], "durations"),
    ("jarzynski", ["--displacement=1e30"], "displacement"),
    ("jarzynski", ["--stiffness_A=1e-30"], "displacement"),
    ("jarzynski", ["--stiffness_A=1e-300"], "stiffness_A"),
    ("swiss_roll", ["--learning_rate=1e-300"], "learning_rate"),
    ("cifar10", ["--dataset=five.npy"], "dataset"),
    *((program, ["--workdir=loop"], "workdir") for program in (*ALL, *OTHERS)),
    ("posterior", ["--workdir=own", "--input=zeros.npy", "--out=loop"], "out"),
    ("evaluate", ["--workdir=own", "--input=loop"], "input"),
    ("evaluate", ["--workdir=own", "--experiment=exits.py"], "experiment"),
    ("jarzynski", ["--durations="], "durations"),
    ("jarzynski", ["--durations=1e300"], "durations"),
    ("jarzynski", ["--num_trajectories=2000000000"], "num_trajectories"),
    *((p, [f"--workdir={w}"], "workdir") for p in ALL for w in ("", "file", "file/x", "x" * 300)),
    ("jarzynski", ["--workdir=file"], "workdir"),
    ("jarzynski", ["--workdir=own"], "workdir"),
    ("mixture", ["--workdir=file"], "workdir"),
    ("mixture", ["--workdir=own"], "workdir"),
    ("mixture", ["--dims=8,x"], "dims"),
    ("mixture", ["--dims=8,2000000"], "dims"),
    ("mixture", ["--dims=1000000", "--draws=1000000"], "dims"),
    ("mixture", ["--measurements=9"], "measurements"),
    ("mixture", ["--measurements=d/x"], "measurements"),
    ("mixture", ["--curve=1e3"], "curve"),
    *(
        (program, [f"--workdir={w}"], "workdir")
        for program in ("evaluate", "posterior")
        for w in ("", "absent", "bare", "file", "x" * 300, *CONFIGS, *OWN_CONFIGS)
    ),
    *(
        (program, ["--workdir=own", f"--input={f}"], "input")
        for program in ("evaluate", "posterior")
        for f in (
            *(f"{f}.npy" for f in (*FILES, "dates", "nan", "wide", "none", "scalar", "absent")),
            *("empty.png", "cut.png", "text.png", "bomb.png", "archive.npz", "bare", "file"),
        )
    ),
    *(
        ("posterior", ["--workdir=own", "--task=inpaint", f"--mask={f}"], "mask")
        for f in (
            *(f"{f}.npy" for f in (*FILES, "dates", "wide", "none", "absent")),
            *("empty.png", "cut.png", "bomb.png", "archive.npz", "bare", "wild"),
        )
    ),
    ("evaluate", ["--workdir=own"], "input"),
    ("posterior", ["--workdir=own"], "input"),
    ("posterior", ["--workdir=own", "--steps=99"], "steps"),
    ("evaluate", ["--workdir=own", "--steps=99"], "steps"),
    ("evaluate", ["--workdir=own", "--passes=0"], "passes"),
    ("evaluate", ["--workdir=own", "--proposal=down"], "proposal"),
    ("evaluate", ["--workdir=own", "--minutes=0"], "minutes"),
    ("evaluate", ["--workdir=own", "--input=zeros.npy", "--particles=0"], "particles"),
    ("evaluate", ["--workdir=own", "--input=zeros.npy", "--particles=2000000000"], "particles"),
    ("evaluate", ["--workdir=own", "--passes=4"], "passes"),
    ("evaluate", ["--workdir=own", "--trajectories=1e3"], "trajectories"),
    ("evaluate", ["--workdir=own", "--trajectories="], "trajectories"),
    ("evaluate", ["--workdir=own", "--trajectories=10000000000"], "trajectories"),
    ("evaluate", ["--workdir=own", "--experiment=absent.py"], "experiment"),
    ("evaluate", ["--workdir=own", "--experiment=code.py"], "experiment"),
    ("evaluate", ["--workdir=own", "--experiment=good.npy"], "experiment"),
    ("posterior", ["--workdir=own", "--input=zeros.npy", "--out=file"], "out"),
    ("posterior", ["--workdir=own", "--input=zeros.npy", "--out=bare/" + "x" * 300], "out"),
    ("posterior", ["--workdir=own", "--input=zeros.npy", "--out=folder.npy/../file/x"], "out"),
    (
        "posterior",
        ["--workdir=own", "--input=zeros.npy", "--num_samples=2000000000"],
        "num_samples",
    ),
    ("posterior", ["--workdir=own", "--input=zeros.npy", "--examples=2000000000"], "examples"),
    ("posterior", ["--workdir=own", "--input=zeros.npy", "--seed=2147483640"], "seed"),
    ("evaluate", ["--workdir=own", "--input=zeros.npy", "--seed=2147483640"], "seed"),
    ("evaluate", ["--workdir=own", "--input=zeros.npy", "--examples=4"], "examples"),
    (
        "evaluate",
        ["--workdir=own", "--input=zeros.npy", "--trajectories=2000000000"],
        "trajectories",
    ),
    ("evaluate", ["--workdir=own", "--input=zeros.npy", "--lanes=2000000000"], "lanes"),
    ("posterior", ["--workdir=own", "--task=denoise", "--mask=centre"], "mask"),
]


@pytest.mark.parametrize("program, argv, flag", BROKEN)
def test_broken_input_is_named_and_nothing_is_written(
    program, argv, flag, place, before, monkeypatch, capsys
):
    monkeypatch.chdir(place)
    workdir = [] if any(a.startswith("--workdir") for a in argv) else ["--workdir=bare/run"]
    line = last_line(capsys, program, [*workdir, *argv])
    assert line.startswith(f"--{flag}: "), line
    assert contents(place) == before


@pytest.mark.parametrize(
    "error, code, parts",
    [
        (KeyError("theta"), 1, ["KeyError, a bug of dpm_jax", "please report it"]),
        (ValueError("shapes (2,) (3,)"), 1, ["ValueError, a bug of dpm_jax", "please report it"]),
        (Invalid("--T: expected\n2"), 2, ["x.py: --T: expected 2"]),
        (MemoryError("Unable to allocate 7 TiB"), 2, ["out of memory (Unable to allocate 7 TiB)"]),
        (RuntimeError("RESOURCE_EXHAUSTED: of memory"), 2, ["out of memory", "smaller sizes"]),
        (
            OSError(28, "No space left on device"),
            2,
            ["--workdir: cannot write or read /r: No space"],
        ),
        (
            PermissionError(13, "Permission denied", "/data/x"),
            2,
            ["--input", "/data/x: Permission"],
        ),
        (RuntimeError("writing: Disk quota exceeded"), 2, ["--workdir", "Disk quota exceeded"]),
        (KeyboardInterrupt(), 130, ["x.py: interrupted; again"]),
        (BrokenPipeError(32, "Broken pipe"), 141, []),
    ],
)
def test_the_last_line_of_every_end(error, code, parts, capsys):
    known = {"workdir": binary.Flag(Path, ""), "input": binary.Flag(Path, "")}

    def execute(config):
        raise error

    with pytest.raises(SystemExit) as left:
        binary.run("x.py", known, execute, "again", ["--workdir=/r", "--input=/data"])
    out, err = capsys.readouterr()
    assert left.value.code == code and out == ""
    lines = err.strip().splitlines()
    assert all(part in lines[-1] for part in parts) and ("Traceback" in err) == (code == 1)
    assert len(lines) == (1 if parts else 0) or code == 1


def test_sizes_are_measured_against_the_memory_there_is(monkeypatch, tmp_path):
    monkeypatch.setattr("dpm_jax.runs.flags.available_memory", lambda: 1000.0)
    config = configure(swiss_roll.EXPERIMENT, str(tmp_path / "run"))
    assert "T" in refused(swiss_roll.EXPERIMENT, config, "T")
    assert not list(tmp_path.iterdir())
