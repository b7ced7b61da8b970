"""What experiments/benchmark.py measures, and how; nothing else imports this room.

Each network of the experiments is measured in a process of its own (`worker`), by the functions
that a user's run calls (`workloads`), beside ports of it to PyTorch (`peers`) in another process.
`timing` interleaves their blocks, `flop` counts what they compute, `table` prints.
"""
