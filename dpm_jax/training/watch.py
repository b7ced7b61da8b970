"""What goes on beside a loop of dispatches: signals, processes that hang, a progress bar."""

import contextlib
import itertools
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from jax.experimental import multihost_utils
from tqdm import tqdm

from dpm_jax import hosts

_SLOWER = 10  # times the longest dispatch before: beyond that another process hangs


@contextlib.contextmanager
def watched() -> Iterator[Callable[[], None]]:
    """Watch over a loop of dispatches; yields what is to be called after each of them.

    A process that hangs without dying is not noticed by its heartbeat. Where a dispatch takes more
    than `hosts.peer_timeout` and ten times the longest before, this process says so and ends; the
    first dispatch compiles, and may take any time.
    """
    if not hosts.many():
        yield lambda: None
        return
    ended, beats = threading.Event(), [time.monotonic()]
    longest = float("inf")

    def beat() -> None:
        nonlocal longest
        beats.append(time.monotonic())
        took = beats[-1] - beats.pop(0)
        longest = took if longest == float("inf") else max(longest, took)

    def look() -> None:
        while not ended.wait(1.0):
            waited = time.monotonic() - beats[-1]
            if waited > max(hosts.peer_timeout(), _SLOWER * longest):
                hosts.exit_now(
                    1,
                    f"{hosts.name()}: no dispatch has ended for {waited:.0f} s (the longest before"
                    f" took {longest:.1f} s): another process hangs (--peer_timeout)",
                )

    thread = threading.Thread(target=look, name="dpm_jax watch", daemon=True)
    thread.start()
    try:
        yield beat
    finally:
        ended.set()
        thread.join()


@contextlib.contextmanager
def stop_asked() -> Iterator[Callable[[], bool]]:
    """SIGINT and SIGTERM end a loop of dispatches after the present one.

    Yields a function, to be called after each dispatch, that says whether one came; in all of
    several processes after the same dispatch, whichever of them got it. Alone, a second signal
    ends the program at once, and so does the first SIGINT before the first call, while XLA still
    compiles the step: there is nothing to save.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    came: list[int] = []
    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}

    def handle(number, frame):
        came.append(number)
        signal.signal(number, before[number])

    def pass_on(number, frame):
        signal.raise_signal(signal.SIGTERM)

    count = itertools.count()
    if hosts.many():
        # The handler of SIGTERM is that of jax.distributed, which Python must not replace. It
        # counts the calls: one that is left out would never be reached.
        signal.signal(signal.SIGINT, pass_on)
    else:
        for number in before:
            signal.signal(number, handle)
    with contextlib.ExitStack() as trained:

        def asked() -> bool:
            call = next(count)
            if not call:
                trained.enter_context(hosts.finishing())
            many = hosts.many()
            return multihost_utils.reached_preemption_sync_point(call) if many else bool(came)

        try:
            yield asked
        finally:
            for number, handler in before.items():
                # None: a handler that Python did not set, and which has done its work.
                signal.signal(number, signal.SIG_DFL if handler is None else handler)


class Seen(NamedTuple):
    """Who looks on at a training."""

    step: Callable[[int], None]  # after each dispatch, with its number of steps
    log: Callable[[Any], None]  # every options.log_every steps, with the state


@contextlib.contextmanager
def shown(progress: Any, start: int, num_steps: int, on_log: Callable | None) -> Iterator[Seen]:
    """The bar that `progress` of `training.fit` asks for, our own with K; and on_log."""
    log = (lambda state: None) if on_log is None else on_log
    if progress is not True:
        yield Seen((lambda num: None) if progress is False else progress.update, log)
        return
    silent = not hosts.first()
    with tqdm(total=num_steps, initial=start, desc="train", unit="step", disable=silent) as bar:
        bar.set_postfix_str("compiling the step")

        def both(state) -> None:
            bar.set_postfix_str(f"K = {float(state.K):.3f} nats", refresh=False)
            log(state)

        yield Seen(bar.update, both)
