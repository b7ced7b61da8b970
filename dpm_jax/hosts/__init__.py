"""Several processes as one program: they begin together, agree, hear of failures, end together.

Every process runs the same code on its own devices (SPMD). What process 0 alone may do (read and
write the work directory) goes through `on_first`; what may fail on one host alone through
`together`. With one process every function here is the identity, and costs nothing.
"""

from dpm_jax import later

with later.imports(globals()):
    from dpm_jax.hosts.agreement import (
        call,
        check_same,
        gather,
        in_turn,
        names,
        on_first,
        shown,
        texts,
        together,
    )
    from dpm_jax.hosts.interrupts import answered, finishing, unbroken
    from dpm_jax.hosts.membership import (
        Cluster,
        Elsewhere,
        at_exit,
        barrier,
        end_on_signal,
        exit_now,
        first,
        join,
        joined,
        leave,
        many,
        name,
        peer_timeout,
        wait_timeout,
    )

__all__ = [
    "Cluster",
    "Elsewhere",
    "answered",
    "at_exit",
    "barrier",
    "call",
    "check_same",
    "end_on_signal",
    "exit_now",
    "finishing",
    "first",
    "gather",
    "in_turn",
    "join",
    "joined",
    "leave",
    "many",
    "name",
    "names",
    "on_first",
    "peer_timeout",
    "shown",
    "texts",
    "together",
    "unbroken",
    "wait_timeout",
]
