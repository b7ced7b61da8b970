"""Several processes of one program on this machine: a free port, a time limit, no orphans."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# As conftest.py: a run of several processes is compared with one of the process that tests.
FAST = "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
FAST += " --xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters"


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


class Processes:
    """n processes of one command, each in a session of its own; used as a context.

    Args:
        command: arguments of Python.
        n: how many.
        devices: virtual CPU devices of each.
        folder: where their output goes: files, since a full pipe would stop a process.
        told: how a process is told its place: "flags", "variables" of its own (COORDINATOR,
            NUM_PROCESSES, PROCESS_ID), or a function of its number -> environment.
        more: of the environment.
    """

    def __init__(self, command, n, devices, folder, told="flags", **more):
        self.address = f"127.0.0.1:{free_port()}"
        self.started = []
        folder.mkdir(parents=True, exist_ok=True)
        for i in range(n):
            self.start(i, n, devices, list(map(str, command)), folder / f"out{i}.txt", told, more)

    def start(self, i, n, devices, command, out, told, more):
        flags = f"--xla_force_host_platform_device_count={devices}"
        environment = {k: v for k, v in os.environ.items() if "proxy" not in k.lower()}
        environment |= {"JAX_PLATFORMS": "cpu", "MPLBACKEND": "Agg", "PYTHONPATH": str(ROOT)}
        environment["XLA_FLAGS"] = f"{flags} {FAST}"
        if told == "flags" and n > 1:
            command = [*command, f"--coordinator_address={self.address}"]
            command += [f"--num_processes={n}", f"--process_id={i}", "--peer_timeout=10"]
        elif told == "variables":
            environment |= {"COORDINATOR": self.address, "NUM_PROCESSES": str(n)}
            environment["PROCESS_ID"] = str(i)
        elif callable(told):
            environment |= told(i)
        with out.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, *command], env=environment | more, cwd=ROOT, stdout=file,
                stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        self.started.append((process, out))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process, _ in self.started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def kill(self, i, number=signal.SIGKILL):
        """Send a signal to process i."""
        os.kill(self.started[i][0].pid, number)

    def wait_for(self, condition, limit=60):
        """Until a condition holds; AssertionError with all output where it does not."""
        end = time.monotonic() + limit
        while not condition():
            codes = [process.poll() for process, _ in self.started]
            assert time.monotonic() < end and None in codes, (codes, self.outputs())
            time.sleep(0.02)

    def outputs(self):
        return [out.read_text(errors="replace") for _, out in self.started]

    def finish(self, limit=90):
        """Their exit codes and outputs; None of those that still run at the limit, then killed."""
        end = time.monotonic() + limit
        while time.monotonic() < end and any(p.poll() is None for p, _ in self.started):
            time.sleep(0.02)
        codes = [process.poll() for process, _ in self.started]
        self.__exit__()
        return codes, self.outputs()


def run(command, n, devices, folder, limit=90, **more):
    """Start, wait, and expect that all end well; the outputs."""
    with Processes(command, n, devices, folder, **more) as processes:
        codes, outputs = processes.finish(limit)
    assert codes == [0] * n, (codes, outputs)
    return outputs
