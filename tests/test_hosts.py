"""Several processes as one: equal to the bit, stopped and resumed together, refused by name.

Each start of a process costs seconds, so that what can share one does.
"""

import ast
import json
import os
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
from processes import FAST, ROOT, Processes, free_port, run

from dpm_jax import hosts, parallel
from dpm_jax.experiments import swiss_roll
from dpm_jax.runs import execution
from dpm_jax.runs.config import configure

NOTES = (ROOT / "BUILD_NOTES.md").read_text(encoding="utf-8")
WORKER = ["tests/cluster_case.py"]
FLAGS = {
    "T": 5, "network": "perceptron", "width": 8, "batch_size": 512, "log_every": 10,
    "num_eval": 100, "schedule": "geometric", "num_steps": 400, "checkpoint_every": 100,
    "steps_per_dispatch": 1,
}  # fmt: skip
COMMAND = ["experiments/swiss_roll.py", *(f"--{name}={value}" for name, value in FLAGS.items())]


def results(outputs):
    lines = [line for text in outputs for line in text.splitlines()]
    return [ast.literal_eval(line[7:]) for line in lines if line.startswith("RESULT ")]


def test_processes_and_devices_share_the_work_as_they_may(tmp_path):
    """Four devices, of one process or of two: with one order of summation equal to the bit."""
    found = []
    for engine, (n, devices) in zip(parallel.ENGINES, ((1, 4), (2, 2))):
        place = tmp_path / f"{n}x{devices}"
        more = {"DPM_ENGINE": engine, "told": "variables"}
        found += results(run([*WORKER, place / "kept"], n, devices, place, 120, **more))
    assert len(found) == 1 + 2
    assert all(each == found[0] for each in found), found
    assert found[0]["restored"] == f"4 {found[0]['state']}"
    awkward = np.array([-0.0, np.nan, 5e-324])
    assert found[0]["sent"] == awkward.tobytes().hex()


def slurm(place):
    """The SLURM script of BUILD_NOTES.md; its srun starts two tasks of a host, stops the second."""
    script = next(b for b in re.findall(r"```bash\n(.*?)```", NOTES, re.S) if "#SBATCH" in b)
    few = " ".join(f"--{name}={value}" for name, value in FLAGS.items() if name != "batch_size")
    fake = f"""
        python() {{ {sys.executable} "$@" {few}; }}
        scontrol() {{ echo "scontrol $@"; }}
        srun() {{
            for i in 0 1; do
                SLURM_PROCID=$i SLURM_LOCALID=$i "$@" > out$i.txt 2>&1 & pids[$i]=$!
            done
            until [ "$(wc -l < runs/slurm/metrics.csv)" -gt 3 ]; do sleep 0.1; done 2> /dev/null
            pkill -TERM -P ${{pids[1]}} || kill -TERM ${{pids[1]}}
            wait ${{pids[0]}}
        }}
    """
    told = {"SLURM_JOB_ID": str(free_port()), "SLURM_STEP_NODELIST": "127.0.0.1"}
    told |= {"SLURM_NTASKS": "2", "XLA_FLAGS": FAST}
    told |= {"PYTHONPATH": str(ROOT), "HOME": str(place), "JAX_PLATFORMS": "cpu"}
    environment = {k: v for k, v in os.environ.items() if "proxy" not in k.lower()} | told
    done = subprocess.run(
        ["bash", "-c", fake + script], cwd=place, env=environment, capture_output=True,
        text=True, timeout=120, check=False,
    )  # fmt: skip
    return done, [(place / f"out{i}.txt").read_text() for i in (0, 1)]


def test_a_run_of_two_processes_is_stopped_resumed_and_measured(tmp_path):
    """SIGTERM to one stops both at one step; the same command goes on; one process has the same."""
    done, outputs = slurm(tmp_path)
    assert done.returncode == 130, (done, outputs)
    assert done.stdout.startswith("scontrol requeue ")
    assert "interrupted; the same command resumes the run" in outputs[0]
    place = tmp_path / "runs" / "slurm"
    steps = [int(path.name) for path in (place / "checkpoints").iterdir()]
    assert len([step for step in steps if step % 100]) <= 1 and max(steps) < FLAGS["num_steps"]

    outputs = run([*COMMAND, f"--workdir={place}"], 2, 1, tmp_path / "again")
    assert f"{place}/report.json" in outputs[0] and "report.json" not in outputs[1]
    config = configure(swiss_roll.EXPERIMENT, "paper", tmp_path / "alone", FLAGS)
    execution.execute(swiss_roll.EXPERIMENT, config)  # two devices of this process
    there, here = (json.loads((p / "report.json").read_text()) for p in (place, tmp_path / "alone"))
    assert [each["processes"] for each in there["trained_on"]] == [2]
    for name in ("seconds", "processes", "trained_on"):
        assert there.pop(name) != here.pop(name) or name == "seconds"
    assert there == here


def test_what_is_wrong_on_one_host_is_said_once_and_ends_all(tmp_path):
    """All at once, since each only has to start: exit code 2, one line, nothing written."""
    own = {
        "seed": lambda i: [f"--seed={i}"],
        "batch_size": lambda i: ["--batch_size=31"],
        "init_from": lambda i: [f"--init_from={tmp_path}/none"],
        "start_timeout": lambda i: ["--start_timeout=3", f"--num_processes={2 + i}"][: 2 - i],
    }
    expected = {
        "seed": "--seed: expected the same in every process, got 0 in process 0 and 1 in process 1",
        "batch_size": "--batch_size: expected a multiple of the 2 devices of 2 processes, got 31",
        "init_from": f"--init_from: expected a trained run, got {tmp_path}/none: no config.json",
        "start_timeout": "start_timeout: process 0 on",
    }
    started = {}
    for name, flags in own.items():
        processes = started[name] = Processes([], 0, 1, tmp_path / name)
        for i in range(2 if name != "start_timeout" else 1):
            command = [*COMMAND, f"--workdir={tmp_path / name / 'run'}"]
            command += [f"--coordinator_address={processes.address}", f"--process_id={i}"]
            command += ["--num_processes=2", "--peer_timeout=20", *flags(i)]
            out = tmp_path / name / f"out{i}.txt"
            processes.start(i, 1, 1, command, out, None, {})
    for name, processes in started.items():
        codes, outputs = processes.finish()
        assert set(codes) == {2}, (name, codes, outputs)
        assert expected[name] in outputs[0], outputs
        assert not any("swiss_roll.py:" in text for text in outputs[1:]), outputs
        assert not (tmp_path / name / "run").exists()


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--num_processes=2"], "--coordinator_address: expected a value"),
        (["--coordinator_address=x", "--num_processes=1", "--process_id=0"], "expected HOST:PORT"),
        (
            ["--coordinator_address=x:99999", "--num_processes=1", "--process_id=0"],
            "--coordinator_address: expected HOST:PORT, got 'x:99999'",
        ),
        (
            ["--coordinator_address=x:1", "--num_processes=2", "--process_id=2"],
            "--process_id: expected a number below num_processes = 2, got 2",
        ),
        (["--distributed", "--local_device_ids=0,a"], "--local_device_ids: expected numbers"),
        (["--peer_timeout=1"], "--peer_timeout: expected 2..86400, got 1"),
    ],
)
def test_flags_of_a_cluster_are_refused(flags, message, capsys):
    from dpm_jax.runs import binary

    with pytest.raises(SystemExit) as ended:
        binary.main(swiss_roll.EXPERIMENT, flags)
    assert ended.value.code == 2 and message in capsys.readouterr().err


def test_one_process_needs_nobody():
    assert hosts.first() and not hosts.many() and hosts.leave(0)
    assert hosts.together(lambda x: x + 1, 1) == 2 and hosts.on_first(lambda: "a") == "a"
    assert hosts.texts("a") == ["a"] and hosts.in_turn(lambda: 3) == 3
    hosts.barrier("nothing", 1.0)
    with pytest.raises(OSError, match="mine"):
        hosts.together(_fails)


def _fails():
    raise OSError("mine")


def test_an_unknown_engine_is_refused(monkeypatch):
    monkeypatch.setenv("DPM_ENGINE", "wild")
    with pytest.raises(ValueError, match=r"DPM_ENGINE: expected one of .* got 'wild'"):
        parallel.over_devices(lambda x: x, 1)


def test_both_engines_give_the_same_bits(monkeypatch):
    """What a step does with its devices: replicated, sharded, reduced, donated, typed keys."""

    def step(state, rows, keys):
        draw = jax.vmap(lambda key: jax.random.normal(key, (3,)))(keys)
        return parallel.mean(state["a"] * (rows + draw).sum(axis=0)), rows * state["a"][0]

    n = jax.local_device_count()
    rows = jax.random.normal(jax.random.key(1), (n, 4, 3))
    keys = jax.random.split(jax.random.key(2), (n, 4))
    found = []
    for engine in parallel.ENGINES:
        monkeypatch.setenv("DPM_ENGINE", engine)
        state = {"a": np.arange(1.0, 4.0, dtype=np.float32)}
        found.append(parallel.over_devices(step, 3, sharded=(1, 2))(state, rows, keys))
        plain = parallel.over_devices(lambda s, k: s + jax.random.normal(k), 2, donate=(0,))
        given = parallel.replicate(np.ones(2, np.float32))
        found[-1] = (*found[-1], plain(given, jax.random.key(3)))
        assert given.is_deleted()
    for one, other in zip(*found):
        np.testing.assert_array_equal(one, other)
