"""Two processes of a run, killed and stopped at random again and again: run by hand.

    python tests/stress_hosts.py [--kills=30] [--stops=10]

Each run is cut by SIGKILL to any process at any time (in saves too), or stopped by SIGTERM to any,
then finished by the same command; it must equal the undisturbed run, and nothing may hang.
"""

import argparse
import json
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from processes import Processes

FLAGS = [
    "--T=5",
    "--network=perceptron",
    "--width=8",
    "--batch_size=32",
    "--log_every=10",
    "--num_eval=100",
    "--schedule=geometric",
    "--num_steps=600",
    "--checkpoint_every=20",
    "--steps_per_dispatch=1",
]
LATER = ("seconds", "trained_on")  # what differs from run to run


def start(folder, number):
    command = ["experiments/swiss_roll.py", f"--workdir={folder / 'run'}", *FLAGS]
    return Processes(command, 2, 1, folder / f"out{number}")


def rows(folder):
    path = folder / "run" / "metrics.csv"
    return path.read_text().count("\n") if path.exists() else 0


def result(folder):
    report = json.loads((folder / "run" / "report.json").read_text())
    table = (folder / "run" / "metrics.csv").read_text().splitlines()
    kept = [[cell for i, cell in enumerate(row.split(",")) if i != 1] for row in table]
    kept = [row for row in kept if row[0].endswith(("0", "step"))]  # and not where it was stopped
    return {k: v for k, v in report.items() if k not in LATER}, kept


def finish(folder, number):
    with start(folder, number) as processes:
        codes, outputs = processes.finish(120)
    assert codes == [0, 0], (codes, outputs)
    return result(folder)


def cut(folder, number, rng, signals):
    """One start that a signal ends, or that ends by itself; exit codes, and seconds after it."""
    with start(folder, number) as processes:
        who, number = rng.randrange(2), rng.choice(signals)
        before, more = rows(folder), rng.randrange(1, 20)
        processes.wait_for(lambda: rows(folder) >= before + more or done(processes), 120)
        time.sleep(rng.random() * 0.3)
        begun = time.monotonic()
        if not done(processes):
            processes.kill(who, number)
        codes, outputs = processes.finish(60)
    return codes, time.monotonic() - begun, outputs


def done(processes):
    return all(process.poll() is not None for process, _ in processes.started)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--stops", type=int, default=10)
    given = parser.parse_args()
    rng, root = random.Random(0), Path(tempfile.mkdtemp())
    whole = finish(root / "whole", 0)
    for kind, number, signals in (
        ("kill", given.kills, [signal.SIGKILL]),
        ("stop", given.stops, [signal.SIGTERM, signal.SIGINT]),
    ):
        k = attempt = 0
        while k < number:  # several on one run, until it is finished
            folder = root / f"{kind}{attempt}"
            while k < number and not (folder / "run" / "report.json").exists():
                codes, seconds, outputs = cut(folder, k, rng, signals)
                saved = sorted(p.name for p in (folder / "run" / "checkpoints").glob("*"))
                said = [output.strip().splitlines()[-1][:150] for output in outputs]
                print(
                    f"{kind} {k}: exit {codes} after {seconds:.1f} s; {saved}; {said}", flush=True
                )
                assert None not in codes, outputs
                if kind == "stop":
                    assert codes in ([130, 130], [0, 0]), (codes, outputs)
                else:
                    assert 0 not in codes or codes == [0, 0], (codes, outputs)
                k += 1
            same = finish(folder, "last") == whole
            print(f"{kind}: finished, equal to the undisturbed run: {same}", flush=True)
            assert same
            attempt += 1


if __name__ == "__main__":
    main()
