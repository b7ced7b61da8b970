"""The two columns of Table App.1, the schedule, the chain they make, and its trajectories.

Sec. 2.1 and 2.2 of the paper. Nothing here knows how a chain is trained, bounded or tilted.
"""
