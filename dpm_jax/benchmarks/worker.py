"""A process that measures: it calls functions by name, and holds what they made.

A process of its own has its own threads, memory, CPU time and libraries: one that runs out of
memory ends alone, JAX and PyTorch never share a pool of threads or a CUDA library, and the one that
waits for its turn costs the other nothing.
"""

import importlib
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from typing import Any, BinaryIO

# What runs/binary.py tells glibc: keep freed memory. For peers as for us.
KEEP_MEMORY = {"MALLOC_TRIM_THRESHOLD_": str(2**31 - 1), "MALLOC_MMAP_MAX_": "0"}
# The opposite, for measurements of memory: what is freed goes back at once.
GIVE_BACK = {"MALLOC_TRIM_THRESHOLD_": "131072", "MALLOC_MMAP_THRESHOLD_": "131072"}


class Failed(RuntimeError):
    """What was called raised, or its process ended; says why in one line."""


class Worker:
    """A process of functions of one module, called one at a time."""

    def __init__(self, module: str, environment: Mapping[str, str] = {}):
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the process
        self.process = subprocess.Popen(
            [sys.executable, "-m", "dpm_jax.benchmarks.worker", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            env={**os.environ, **environment},
        )

    def call(self, function: str, *args: Any) -> Any:
        """The function of the module, called there.

        Raises:
            Failed: where it raised, or the process ended.
        """
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            pickle.dump((function, args), self.process.stdin)
            self.process.stdin.flush()
            good, value = pickle.load(self.process.stdout)
        except (EOFError, BrokenPipeError) as error:
            raise Failed(f"its process ended ({self._last_words()})") from error
        if not good:
            raise Failed(value)
        return value

    def close(self) -> None:
        """End the process; what it held is gone."""
        self.process.kill()
        self.process.wait()
        for file in (self.process.stdin, self.process.stdout, self.errors):
            if file is not None:
                file.close()

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _last_words(self) -> str:
        code = self.process.wait()
        self.errors.seek(0)
        lines = self.errors.read().decode(errors="replace").split("\n")
        said = [line.strip() for line in lines if line.strip()]
        return f"exit code {code}: {said[-1][:200]}" if said else f"exit code {code}"


def timed(run, repeats: int) -> dict[str, float]:
    """Seconds that run(repeats) takes: wall, and CPU of all threads of this process."""
    wall, cpu = time.perf_counter(), time.process_time()
    run(repeats)
    return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}


def resident(peak: bool = False) -> int | None:
    """Bytes of this process in memory, or the most since `forget_peak`; None where unknown."""
    name = "VmHWM:" if peak else "VmRSS:"
    try:
        with open("/proc/self/status", encoding="ascii") as file:
            return next(1024 * int(line.split()[1]) for line in file if line.startswith(name))
    except (OSError, StopIteration):
        return None


def forget_peak() -> None:
    """Let the peak of memory begin anew, at what is held now; where the system can."""
    try:
        with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
            file.write("5")
    except OSError:
        pass


def serve(module: str, asked: BinaryIO, told: BinaryIO) -> None:
    """Call what is asked for, until there is nothing more."""
    functions = importlib.import_module(module)
    while True:
        try:
            name, args = pickle.load(asked)
        except EOFError:
            return
        try:
            found = True, getattr(functions, name)(*args)
        except Exception as error:
            first = (str(error).strip().splitlines() or [""])[0]
            found = False, f"{type(error).__name__}: {first[:300]}"
        pickle.dump(found, told)
        told.flush()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it at once, without a traceback
    _answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is no answer
    serve(sys.argv[1], sys.stdin.buffer, _answers)
