"""A process of a sweep: one experiment with its flags, which ends when the sweep does.

    python -m dpm_jax.sweeps.worker swiss_roll --workdir=DIR --seed=1

It does what the binary of the experiment does, and gets SIGTERM, on which training saves, once its
standard input closes: a sweep that is killed leaves no process behind that holds directories.
"""

import importlib
import os
import signal
import sys
import threading
from collections.abc import Sequence
from typing import NoReturn

from dpm_jax.runs import binary
from dpm_jax.runs.experiment import find


def main(argv: Sequence[str]) -> NoReturn:
    """Run the experiment that the first argument names with the flags that follow."""
    threading.Thread(target=_watch, name="dpm_jax sweep", daemon=True).start()
    name, *flags = argv
    if name == "jarzynski":  # which trains nothing, and so is no Experiment
        own = importlib.import_module("dpm_jax.experiments.jarzynski")
        binary.run("jarzynski.py", own.FLAGS, own.execute, argv=flags, check=own.check)
    binary.main(find(name), flags)


def _watch() -> None:
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main(sys.argv[1:])
