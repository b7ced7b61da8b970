"""Training in a work directory: progress bar, metrics.csv, TensorBoard events, signals."""

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tqdm import tqdm

from dpm_jax import training, units
from dpm_jax.data.streaming import Stream
from dpm_jax.runs.config import Invalid
from dpm_jax.runs.experiment import Problem
from dpm_jax.runs.metrics import MetricsFile
from dpm_jax.training.checkpoint import Checkpoints


def train(
    problem: Problem, options: training.Options, workdir: Path
) -> tuple[training.TrainState, float]:
    """`training.fit` from the last checkpoint of a work directory: the final state, and seconds.

    Raises:
        Invalid: for checkpoints of another model.
        KeyboardInterrupt: where a signal ended it early, with a checkpoint.
    """
    with contextlib.closing(Checkpoints(workdir / "checkpoints")) as checkpoints:
        try:
            state = training.initial_state(problem.model, options, checkpoints)
        except ValueError as error:  # a checkpoint of another tree or shape
            raise Invalid(f"--workdir: {error}") from error
        metrics = MetricsFile(workdir / "metrics.csv")
        if int(state.step) < options.num_steps:
            state = _fit(problem, options, workdir, checkpoints, state, metrics)
    return state, metrics.seconds_at(int(state.step))


def _fit(problem, options, workdir: Path, checkpoints, state, metrics: MetricsFile):
    from tensorboardX import SummaryWriter

    start = int(state.step)
    with (
        SummaryWriter(str(workdir / "tensorboard"), purge_step=start + 1) as board,
        tqdm(total=options.num_steps, initial=start, desc="train", unit="step") as bar,
        _signals_asked() as asked,
    ):
        state = training.fit(
            problem.model,
            Stream(problem.data) if problem.streams else problem.data,
            options,
            problem.draw,
            state,
            checkpoints,
            _logger(metrics, board, bar, metrics.seconds_at(start)),
            asked,
        )
    if int(state.step) < options.num_steps:
        raise KeyboardInterrupt
    return state


def _logger(metrics: MetricsFile, board, bar, before: float):
    """on_log of `training.fit`: one row, the same to TensorBoard, and the bar."""
    begun = time.monotonic()

    def on_log(state: training.TrainState) -> None:
        step, K = int(state.step), units.bits(float(state.K))
        seconds = round(before + time.monotonic() - begun, 2)
        row = {"step": step, "seconds": seconds, "K_bits": K}
        row |= {"grad_norm": float(state.grad_norm), "skipped": int(state.skipped)}
        if metrics.append(**row):
            for name in ("K_bits", "grad_norm", "skipped"):
                board.add_scalar(name, row[name], step)
        bar.set_postfix_str(f"K = {K:.3f} bits", refresh=False)
        bar.update(step - bar.n)

    return on_log


@contextlib.contextmanager
def _signals_asked() -> Iterator[Callable[[], bool]]:
    """SIGINT and SIGTERM end the training after the present dispatch, with a checkpoint.

    Yields a function that says whether one came. A second signal ends the program at once.
    """
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}

    def handle(number, frame):
        came.append(number)
        signal.signal(number, before[number])

    for number in before:
        signal.signal(number, handle)
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
