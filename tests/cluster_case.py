"""What is trained, kept, read and measured in one process and in several; a program of its own."""

import hashlib
import os
import sys

import jax
import jax.numpy as jnp
import numpy as np

from dpm_jax import hosts, likelihood, networks, parallel, training
from dpm_jax.core import gaussian, model, schedule
from dpm_jax.data.streaming import Stream
from dpm_jax.training.checkpoint import Checkpoints


def mean_in_order(tree):
    """`parallel.mean` with one order of summation, wherever the devices are."""
    return jax.tree.map(lambda x: jnp.mean(jax.lax.all_gather(x, "batch"), axis=0), tree)


def digest(tree):
    leaves = [np.asarray(x) for x in jax.tree.leaves(tree)]
    return hashlib.sha256(b"".join(x.tobytes() for x in leaves)).hexdigest()[:16]


def measure(folder):
    """Digests of a training, its checkpoint read again, a stream's, of K and of W; by name."""
    data = np.random.default_rng(0).normal(size=(64, 2)).astype(np.float32)
    network = networks.MLP(8, 1, outputs=2)
    built = model.build(
        gaussian.family(), schedule.geometric(T=3, beta_1=1e-2), network, (2,), readout="v"
    )
    options = training.Options(num_steps=4, batch_size=8, log_every=2, checkpoint_every=2, num_t=1)
    checkpoints = Checkpoints(folder)
    state = training.fit(built, data, options, checkpoints=checkpoints)
    step, again = checkpoints.restore(state)
    checkpoints.close()

    def read(row, rng):
        return data[row] + rng.normal(size=2).astype(np.float32)

    streamed = training.fit(built, Stream(list(range(64)), read), options)
    rows = likelihood.Rows(at_once=4)
    bound = likelihood.evaluate(built, state.ema, data[:21], rows=rows)
    works = likelihood.evaluate_works(built, state.ema, data[:5], 4)
    awkward = np.array([-0.0, np.nan, 5e-324])
    return {
        "state": digest(state),
        "restored": f"{step} {digest(again)}",
        "streamed": digest(streamed),
        "K": f"{bound.K!r} {bound.K_error!r}",
        "works": digest(works),
        "sent": hosts.on_first(lambda: awkward).tobytes().hex(),
    }


if __name__ == "__main__":
    number, of = int(os.environ["PROCESS_ID"]), int(os.environ["NUM_PROCESSES"])
    if of > 1:
        hosts.join(hosts.Cluster(os.environ["COORDINATOR"], of, number, None, 60, 20))
    parallel.mean = mean_in_order
    print("RESULT", measure(sys.argv[1]))
    hosts.leave(0)
