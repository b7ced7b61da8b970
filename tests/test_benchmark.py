"""What benchmark.py counts, times and compares: closed forms, tiny networks, the binary itself."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cases import mean_is
from dpm_jax import files, sampling
from dpm_jax import model as models
from dpm_jax.benchmarks import flop, handover, measure, networks, table, timing, worker
from dpm_jax.experiments import benchmark
from dpm_jax.runs import Invalid, binary
from dpm_jax.runs.config import configure
from dpm_jax.runs.experiment import find
from dpm_jax.training import Options
from dpm_jax.training.options import make_optimizer

ROOT = Path(__file__).resolve().parents[1]
FLAGS = {name: flag.default for name, flag in benchmark.FLAGS.items()}
PORTED = ("mnist/best", "cifar10/best", "mnist/paper", "cifar10/paper", "swiss_roll/best")
TINY = {"T": 20, "width": 4, "depth": 1, "num_eval": 20, "passes": 1, "sample_steps": 10}


# --- operations ---------------------------------------------------------------------------------


def dense(x, w, b):
    return jnp.tanh(x @ w + b[None])


def test_operations_of_a_dense_layer_and_of_its_gradient():
    x, w, b = jnp.ones((5, 7)), jnp.ones((7, 3)), jnp.ones(3)
    once = 2 * 5 * 7 * 3
    assert flop.by_hand(dense, x, w, b) == once
    both = jax.grad(lambda x, w: dense(x, w, b).sum(), (0, 1))
    assert flop.by_hand(both, x, w) == 3 * once
    assert once <= flop.by_xla(dense, x, w, b) <= once + 3 * 5 * 3


@pytest.mark.parametrize("padding, stride", [("VALID", 1), ("VALID", 2), ("SAME", 1)])
def test_operations_of_a_convolution(padding, stride):
    x, kernel = jnp.ones((2, 9, 9, 4)), jnp.ones((3, 3, 4, 6))

    def convolve(x, kernel):
        axes = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            x, kernel, (stride, stride), padding, dimension_numbers=axes
        )

    side = {("VALID", 1): 7, ("VALID", 2): 4, ("SAME", 1): 9}[padding, stride]
    expected = 2 * 2 * side**2 * 3 * 3 * 4 * 6
    assert flop.by_hand(jax.jit(convolve), x, kernel) == expected
    if padding == "VALID":  # XLA leaves products with the border's zeros out
        assert flop.by_xla(convolve, x, kernel) == expected
    else:
        assert flop.by_xla(convolve, x, kernel) < expected


def test_operations_of_a_dilated_convolution_leave_its_zeros_out():
    x, kernel = jnp.ones((1, 8, 8, 3)), jnp.ones((2, 2, 3, 5))

    def convolve(x, kernel):
        return jax.lax.conv_transpose(x, kernel, (2, 2), "VALID")

    assert flop.by_hand(convolve, x, kernel) == 2 * 8 * 8 * 2 * 2 * 3 * 5


@pytest.mark.parametrize("T", [1, 6])
def test_operations_of_a_scan_count_each_time_and_of_branches_the_dearest(T):
    x, w = jnp.ones((4, 4)), jnp.ones((4, 4))

    def loop(x, w):
        return jax.lax.scan(lambda x, _: (x @ w, None), x, None, length=T)[0]

    assert flop.by_hand(loop, x, w) == T * 2 * 4**3

    def branch(x, w):
        return jax.lax.cond(x[0, 0] > 0, lambda: loop(x, w), lambda: x @ w)

    assert flop.by_hand(branch, x, w) == T * 2 * 4**3


# --- times --------------------------------------------------------------------------------------


def test_medians_quartiles_and_ratios():
    assert timing.spread([3.0, 1.0, 2.0, 5.0, 4.0]) == (2.0, 3.0, 4.0)
    assert timing.spread([1.0, 2.0]).scaled(10) == (12.5, 15.0, 17.5)
    assert timing.ratio([1.0, 2.0, 4.0], [2.0, 2.0, 2.0]) == (0.75, 1.0, 1.5)  # round by round
    with pytest.raises(ValueError, match="zip"):
        timing.ratio([1.0], [1.0, 2.0])


def contestants(calls, **seconds):
    """Runs of known length that write down who was called for how much."""

    def make(name):
        def run(repeats):
            calls.append((name, repeats))
            return {"wall": repeats * seconds[name], "cpu": 2 * repeats * seconds[name]}

        return run

    return {name: make(name) for name in seconds}


def test_blocks_alternate_and_fill_their_seconds():
    calls = []
    runs = contestants(calls, ours=0.01, peer=0.04)
    found = timing.contest(runs, seconds=4.0, rounds=4, which="wall")
    assert found["ours"] == pytest.approx([0.01] * 4) and found["peer"] == pytest.approx([0.04] * 4)
    ours, peer = ("ours", 100), ("peer", 25)
    assert calls[-8:] == [ours, peer, peer, ours, ours, peer, peer, ours]
    assert timing.contest(runs, 4.0, 4, "cpu")["peer"] == pytest.approx([0.08] * 4)


def test_what_is_long_is_not_run_more_than_three_times():
    calls = []
    runs = contestants(calls, ours=7.0)
    assert timing.contest(runs, 1.0, 5, "wall", {"ours": 7.0})["ours"] == [7.0] * 3
    assert calls == [("ours", 1)] * 3


def test_a_worker_says_why_it_failed_and_how_it_ended():
    with worker.Worker("os") as found:
        assert found.call("getpid") == found.process.pid != os.getpid()
        with pytest.raises(worker.Failed, match=r"FileNotFoundError: .*nowhere"):
            found.call("listdir", "/nowhere")
        with pytest.raises(worker.Failed, match=r"its process ended \(exit code 3\)"):
            found.call("_exit", 3)


# --- networks -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where small images lie in the place of those of CIFAR-10."""
    place = tmp_path_factory.mktemp("data")
    np.save(place / "cifar10.npy", networks.images(0, (300, 16, 16, 3)))
    np.save(place / "cifar10_test.npy", networks.images(1, (20, 16, 16, 3)))
    return place


def test_every_preset_of_the_paper_and_best_has_its_place():
    names = {name.split("/")[0] for name in networks.NETWORKS}
    assert names == {"bark", "cifar10", "dead_leaves", "heartbeat", "mnist", "swiss_roll"}
    presets = ((*name.split("/"), name) for name in networks.NETWORKS)
    configs = {name: configure(find(of), preset, None, {}) for of, preset, name in presets}
    assert {name for name in configs if handover.has_port(configs[name])} == set(PORTED)


def test_bfloat16_is_asked_of_the_networks_that_compute_in_it(folder):
    """Another would be measured in float32 and set beside the peak of bfloat16."""
    names = ("mnist/best", "mnist/paper", "cifar10/paper", "swiss_roll/best")
    found = [networks.flags(name, folder, {"bfloat16": True}) for name in names]
    assert [flags.get("bfloat16") for flags in found] == [True, None, True, None]


def test_random_images_are_grey_levels_of_the_shape():
    found = networks.images(0, (3, 28, 28, 1))
    assert found.dtype == np.uint8 and found.shape == (3, 28, 28, 1)
    assert 40 < found.std() < 70 and np.array_equal(found, networks.images(0, (3, 28, 28, 1)))


def test_a_sampler_costs_its_steps_times_one(folder):
    _, problem = networks.problem("swiss_roll/best", folder, TINY)
    params = problem.model.init(jax.random.key(0))
    keys, x = jax.random.split(jax.random.key(1), 5), jnp.zeros((5, 2))

    def whole(params, keys):
        chain = problem.model.chain(params)
        return jax.vmap(lambda key: sampling.sample(key, chain))(keys)

    def once(params, x):
        return jax.vmap(problem.model.chain(params).reverse, (0, None))(x, jnp.asarray(2))

    assert flop.by_hand(whole, params, keys) == TINY["T"] * flop.by_hand(once, params, x)


# --- ports --------------------------------------------------------------------------------------


@pytest.fixture
def peers(monkeypatch):
    """The ports, on one thread: those of OpenMP wait for each other by spinning."""
    pytest.importorskip("torch", reason="the extra `benchmark` is not installed")
    from dpm_jax.benchmarks import peers

    monkeypatch.setattr(timing, "affinity", lambda: (0,))
    return peers


def ported(name, folder, **more):
    config, problem = networks.problem(name, folder, TINY | more)
    params = jax.jit(problem.model.init)(jax.random.key(0))
    return handover.port(config, problem, params), problem.model


@pytest.mark.parametrize("name", PORTED)
def test_a_port_is_the_network_and_another_is_refused(name, folder, peers):
    port, _ = ported(name, folder)
    errors = peers.begin(port)
    assert set(errors) == {"mean", "log variance", "terms", "loss"} and max(errors.values()) < 1e-4
    path, value = next(iter(port.parameters.items()))
    changed = port._replace(parameters={**port.parameters, path: value + 0.1})
    with pytest.raises(ValueError, match=r"the port's [a-z ]+ is off by"):
        peers.begin(changed)
    with pytest.raises(ValueError, match="parameters, of a network of"):
        peers.build(port._replace(parameters={path: value}))


def test_a_port_samples_the_same_law(folder, peers):
    from dpm_jax.benchmarks import torch_training

    port, model = ported("swiss_roll/best", folder)
    peers.begin(port)
    chain = peers.build(port)
    theirs = torch_training.sample(chain, chain.kernel, (4000, 2), port.x0_range).numpy()
    ours = np.asarray(models.sample(model, _params(model, port), jax.random.key(3), 4000))
    for power in (1, 2):
        moments = ours**power
        error = moments.std(axis=0) / len(ours) ** 0.5
        mean_is(theirs**power, moments.mean(axis=0), expected_error=error)


def _params(model, port):
    """Those of a port, as the model has them."""
    shapes = jax.eval_shape(model.init, jax.random.key(0))["network"]["params"]
    layers = {layer: {} for layer in shapes}
    for path, value in port.parameters.items():
        layer, leaf = path.split("/")
        layers[layer][leaf] = jnp.asarray(value)
    return {"network": {"params": layers}}


def as_torch(value):
    """Units first, as torch has them, then inputs and places."""
    return np.moveaxis(value, (-1, -2), (0, 1)).copy()


@pytest.mark.parametrize(
    "name, fused, kernels",
    [("adam", False, False), ("adam", True, False), ("muon", False, False), ("muon", False, True)],
)
def test_optimizers_of_the_ports_make_the_same_steps(name, fused, kernels, peers):
    import torch

    from dpm_jax.benchmarks import torch_training

    rng = np.random.default_rng(0)
    shapes = {"wide": (6, 20), "tall": (20, 6), "again": (6, 20)}
    stepped = list(shapes)
    if kernels:  # then matrices are left to NAdam, whose momentum has a course of its own in torch
        shapes, stepped = shapes | {"kernel": (3, 3, 4, 5)}, ["kernel"]
    start, gradient, other = (
        {key: rng.normal(size=shape).astype(np.float32) for key, shape in shapes.items()}
        for _ in range(3)
    )
    weight_decay = 0.2 if name == "muon" else 0.0
    options = Options(
        optimizer=name, learning_rate=1e-2, lr_schedule="constant", clip_norm=1e9,
        weight_decay=weight_decay,
    )  # fmt: skip
    optimizer, params = make_optimizer(options), jax.tree.map(jnp.asarray, start)
    state = optimizer.init(params)
    theirs = {
        key: torch.nn.Parameter(torch.tensor(as_torch(value))) for key, value in start.items()
    }
    rest = torch.nn.Parameter(torch.zeros(3))  # no matrix: to Adam
    rest.grad = torch.ones(3)
    every = [*theirs.values(), rest]
    peer = torch_training.make_optimizer(name, every, 1e-2, weight_decay, fused)
    for found in (gradient, other):
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(jax.tree.map(jnp.asarray, found), state, params)
            params = optax.apply_updates(params, updates)
        for key, value in theirs.items():
            value.grad = torch.tensor(as_torch(found[key]))
        peer.step()
        peer.zero_grad()
    for key in stepped:
        moved = np.asarray(params[key]) - start[key]
        theirs_moved = theirs[key].detach().numpy() - as_torch(start[key])
        apart = np.abs(as_torch(moved) - theirs_moved).max()
        assert apart < 2e-3 * np.abs(moved).max(), key


def test_a_port_trains(folder, peers):
    import torch

    from dpm_jax.benchmarks import torch_training

    port, _ = ported("swiss_roll/best", folder, width=32, learning_rate=1e-2)
    peers.begin(port)
    found = peers.prepare("train", "eager", 64)
    assert found["once"]["wall"] > 0 and found["memory"] > 0
    chain, law = peers.build(port), torch_training.times(port.law, port.weights, "cpu")
    draws = torch_training.Draws(torch.tensor(port.rows), port.mean, port.scale, port.flip)
    optimizer = torch_training.make_optimizer("adam", chain.parameters(), 1e-2, 0.0, True)
    of = torch_training.Training(64, -1, 1.0, 0.999)
    step = torch_training.make_step(chain, chain, of, optimizer, draws, law)
    x0, t = draws(2000), law.draw(2000)
    noise = torch.randn_like(x0)

    def loss():
        with torch.no_grad():
            return float(law.loss(chain(x0, t, noise), t, 2))

    before = loss()
    for _ in range(200):
        step()
    assert loss() < 0.97 * before
    assert peers.block("eager", 2)["wall"] > 0


def test_only_the_ports_import_torch():
    with_torch = {
        file.relative_to(ROOT / "dpm_jax").as_posix()
        for file in (ROOT / "dpm_jax").rglob("*.py")
        if "import torch\n" in file.read_text(encoding="utf-8")
    }
    ports = {f"benchmarks/torch_{name}.py" for name in ("networks", "chain", "training")}
    assert with_torch == {"benchmarks/peers.py", *ports}


# --- the binary ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given, message",
    [
        ({"out": None}, "--out: expected a directory for the results, got none"),
        ({"only": ["train", "wild"]}, "--only: expected some of peak, train, .*, got wild"),
        ({"only": []}, "--only: expected some of peak, train, .*, got none"),
        ({"networks": ["swiss_roll", "wild"]}, "--networks: expected some of .*, got 'wild'"),
        ({"networks": ["mnist/wild"]}, "--networks: expected some of .*, got 'mnist/wild'"),
        ({"networks": []}, "--networks: expected some of .*, got ''"),
        ({"batches": ["8", "x"]}, "--batches: expected whole numbers above 0, got 'x'"),
        ({"batches": ["0"]}, "--batches: expected whole numbers above 0, got '0'"),
        ({"cores": 4096}, r"--cores: expected 1\.\.\d+, got 4096"),
    ],
)
def test_bad_flags_are_refused_before_anything_is_written(given, message, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(Invalid, match=message):
        benchmark.execute({**FLAGS, "out": str(out), **given})
    assert not out.exists()


@pytest.mark.parametrize("flag", ["--seconds=0", "--rounds=1", "--compare=jax", "--cores=0"])
def test_flags_out_of_their_range_are_refused(flag, tmp_path, capsys):
    argv = [f"--out={tmp_path}/out", flag]
    with pytest.raises(SystemExit) as left:
        binary.run("benchmark.py", benchmark.FLAGS, benchmark.execute, argv=argv)
    assert left.value.code == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith(f"benchmark.py: {flag.partition('=')[0]}: expected") and "\n" not in said


def test_pytorch_that_is_not_there_is_named_with_its_extra(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(Invalid, match=r"--compare: expected PyTorch, .*\[benchmark\]"):
        benchmark.execute({**FLAGS, "out": str(tmp_path / "out"), "compare": "torch"})


@pytest.mark.parametrize("name", ["benchmark.json", "benchmark.md"])
def test_a_file_that_is_there_is_not_replaced(name, tmp_path):
    (tmp_path / name).write_text("mine", encoding="utf-8")
    with pytest.raises(Invalid, match=f"--out: expected a directory without {name}, got"):
        benchmark.execute({**FLAGS, "out": str(tmp_path)})
    assert (tmp_path / name).read_text(encoding="utf-8") == "mine"


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A run of the binary in its own process."""
    place = tmp_path_factory.mktemp("measured") / "out"
    command = [sys.executable, str(ROOT / "experiments" / "benchmark.py"), f"--out={place}"]
    command += ["--only=peak,train", "--networks=swiss_roll/paper", "--seconds=0.05"]
    command += ["--rounds=3", "--batches=8"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return place, done.stdout


def test_the_binary_measures_and_writes_json_and_a_table(measured):
    place, printed = measured
    content = json.loads((place / "benchmark.json").read_text(encoding="utf-8"))
    assert set(content) == {"machine", "settings", "results"}
    entries = content["results"]
    peaks = {e["mode"]: e["rate"][1] for e in entries if e["kind"] == "peak" and "rate" in e}
    assert set(peaks) >= {"float32", "copy"} and min(peaks.values()) > 1e8
    (train,) = [e for e in entries if e["kind"] == "train"]
    assert train["size"] == 8 and train["ms"][0] <= train["ms"][1] <= train["ms"][2]
    assert train["per_second"][1] == pytest.approx(8e3 / train["ms"][1])
    assert 0 < train["of_peak_flop"][1] < train["of_peak_flop_xla"][1] < 1
    assert train["memory"] > 0 and train["compile_seconds"] > 0
    text = (place / "benchmark.md").read_text(encoding="utf-8")
    assert text in printed and "| swiss_roll/paper | 8 |" in text
    assert os.listdir(place) and not [f for f in place.iterdir() if files.is_unfinished(f)]


@pytest.mark.parametrize("kind", ["startup", "train"])
def test_sigterm_leaves_no_process(kind, tmp_path):
    command = [sys.executable, ROOT / "experiments" / "benchmark.py", f"--out={tmp_path}/out"]
    process = subprocess.Popen(
        [*command, f"--only={kind}", "--networks=swiss_roll/paper"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    shown = b""
    while kind.encode() not in shown:
        shown += process.stderr.read1()
    time.sleep(2.0)  # its own process has begun
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


def test_the_table_has_a_column_for_each_peer_and_what_was_left_out():
    three = (1.0, 2.0, 3.0)
    entry = {
        "network": "mnist/best", "kind": "train", "size": 64, "ms": three, "load": None,
        "per_second": three, "of_peak_flop": (0.1, 0.2, 0.3), "compile_seconds": 1.0,
        "memory": 2**20, "ratio": {"eager": three},
    }  # fmt: skip
    bare = {**entry, "network": "heartbeat/best", "ratio": {}}
    out = {"network": "mnist/best", "kind": "K", "size": 1000, "left_out": "too long"}
    text = table.markdown({"cores": "1 of 2"}, [entry, bare, out])
    assert "| eager / ours |" in text and "- mnist/best K 1000: too long" in text
    assert text.count("2.00 [1.00, 3.00]") == 3  # ms of both, and a ratio
    assert "| 20.0% |" in text


def test_a_plan_counts_its_groups():
    plan = measure.Plan(("a", "b"), ("peak", "train", "K"), 1.0, 3, Path("."))
    assert plan.total == 5
