"""Training in a work directory: progress bar, metrics.csv, TensorBoard events, signals."""

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from absl import logging
from tqdm import tqdm

from dpm_jax import training, units
from dpm_jax.data.streaming import Stream
from dpm_jax.runs import identity
from dpm_jax.runs.config import Invalid
from dpm_jax.runs.experiment import Problem
from dpm_jax.runs.metrics import Board, MetricsFile
from dpm_jax.training.checkpoint import Checkpoints


def train(
    problem: Problem, options: training.Options, workdir: Path, params: Any = None
) -> tuple[training.TrainState, dict[str, Any]]:
    """`training.fit` from the last checkpoint of a work directory: the final state, and facts.

    Args:
        problem: model and data.
        options: how to train.
        workdir: the directory, claimed and locked.
        params: where step 0 starts; None: `model.init`.

    Returns:
        The state; `seconds` of training, and the machines that it was `trained_on`.

    Raises:
        Invalid: for checkpoints of another model.
        KeyboardInterrupt: where a signal ended it early, with a checkpoint.
    """
    with contextlib.closing(Checkpoints(workdir / "checkpoints")) as checkpoints:
        try:
            state = training.initial_state(problem.model, options, checkpoints, params)
        except ValueError as error:  # a checkpoint of another tree or shape
            raise Invalid(f"--workdir: {error}") from error
        metrics, step = MetricsFile(workdir / "metrics.csv", int(state.step)), int(state.step)
        going_on = step < options.num_steps
        machines = identity.note_machine(workdir, step) if going_on else identity.machines(workdir)
        if going_on:
            _warn_of_devices(workdir, machines, step)
            state = _fit(problem, options, workdir, checkpoints, state, metrics)
    facts = {"seconds": metrics.seconds_at(int(state.step)), "trained_on": machines}
    return state, facts


def _warn_of_devices(workdir: Path, machines: list[dict[str, Any]], step: int) -> None:
    if len(machines) > 1 and machines[-1]["from_step"] == step:
        was, now = ("{devices} {backend} device(s)".format(**each) for each in machines[-2:])
        logging.warning(
            "%s: trained on %s up to step %d, on %s from here: K will not be that of a run on"
            " one machine, to the bit",
            workdir, was, step, now,
        )  # fmt: skip


def _fit(problem, options, workdir: Path, checkpoints, state, metrics: MetricsFile):
    start = int(state.step)
    with (
        contextlib.closing(Board(workdir / "tensorboard", metrics.rows)) as board,
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


def _logger(metrics: MetricsFile, board: Board, bar, before: float):
    """on_log of `training.fit`: one row, the same to TensorBoard, and the bar."""
    begun = time.monotonic()

    def on_log(state: training.TrainState) -> None:
        step, K = int(state.step), units.bits(float(state.K))
        seconds = round(before + time.monotonic() - begun, 2)
        row = {"step": step, "seconds": seconds, "K_bits": K}
        row |= {"grad_norm": float(state.grad_norm), "skipped": int(state.skipped)}
        board.add(metrics.append(**row))
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
