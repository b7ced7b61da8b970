"""Tables beside the paper's: Jarzynski's equality, the ablation, and the command of every run."""

from collections.abc import Mapping, Sequence
from typing import Any

from dpm_jax.reproduction import ablation as ablations
from dpm_jax.reproduction import beyond, seeds
from dpm_jax.reproduction.ablation import Ablation
from dpm_jax.reproduction.document import Code, Row, Table, Text
from dpm_jax.reproduction.seeds import shown
from dpm_jax.reproduction.table1 import per
from dpm_jax.sweeps.jobs import Outcome, command

Report = Mapping[str, Any]


def drivings(report: Report) -> list[Table]:
    """Jarzynski's equality: a row a speed of the trap, and a row a number of steps of the ring."""
    head = ("switching time", "⟨W⟩ − ΔF", "exact", "ΔF by Jarzynski, 95 %", "ESS", "ΔF by Bennett")
    rows = []
    for each in report["drivings"]:
        rows.append(Row(tuple(_driving(each))))
        if escorted := each.get("escorted"):
            name = f"{each['duration']:g}, {escorted['escort']}"
            rows.append(Row((name, *_driving(each | escorted)[1:])))
    config = report["config"]
    told = (
        f"A trap that moves and stiffens; ΔF = {report['free_energy_exact']:.4f} k_B T exactly."
        f" {config['num_trajectories']:,} trajectories each way, seed {config['seed']}; times in"
        " relaxation times of the first trap; ± one standard error over trajectories. With a name"
        " behind it: the same driving, the particle carried by maps of that name as the trap"
        " changes (escorted work, Vaikuntanathan and Jarzynski 2008), which wastes less."
    )
    trap = Table((*head, "slope of Crooks' line", "to be read as"), tuple(rows), told)
    ring = [
        Row((f"{r['steps']:,}", f"{r['dissipation']:.5f}", f"{r['error']:.1e}".replace("-", "−")))
        for r in report["ring"]
    ]
    exact = "A ring of states, all paths summed in float64: the equality at every speed, no error."
    return [trap, Table(("steps", "⟨W⟩ − ΔF", "⟨e^−W⟩ e^ΔF − 1"), tuple(ring), exact)]


def _driving(n: Report) -> list[str]:
    low, high = n.get("jarzynski_low"), n.get("jarzynski_high")
    by = shown(n["jarzynski"], n["jarzynski_error"])
    if high is not None:
        by = f"below {shown(high)}: a bound" if low is None else f"{shown(n['jarzynski'])}"
        by += "" if low is None else f" in {shown(low)} … {shown(high)}"
    cells = [f"{n['duration']:g}", shown(n["dissipation"], n["dissipation_error"])]
    cells += [shown(n["exact"]), by, f"{n['ess']:,.1f}"]
    for name in ("bennett", "slope"):
        known = n[name] is not None
        unknown = "no overlap" if n["bennett"] is None else "all works are one"
        cells.append(shown(n[name], n[f"{name}_error"]) if known else unknown)
    return [*cells, n["warning"] or "a value with its error"]


def effects(found: Ablation) -> Table:
    """The ablation: what each change of one module does to K, the largest first."""
    head, *rows = ablations.table(found)
    told = (
        "Each row changes one module of the paper's model. ΔK is in bits a dimension, above 0 where"
        " the change is for the better: the mean over pairs of runs of one seed, ± its standard"
        " error. Told from none: a 95 % interval (Student's t) leaves out 0."
    )
    return Table(head, tuple(map(Row, rows)), told)


def runs(outcomes: Sequence[Outcome]) -> Table:
    """Every run with its command, in order."""
    head = ("run", "seed", "K, as in its table", "training, s", "command")
    rows = [_run(each) for each in outcomes]
    return Table(
        head, tuple(rows), "Run in a directory of your choice; data sets by your own paths."
    )


def _run(outcome: Outcome) -> Row:
    report, typed = outcome.report, Code(command(outcome.job))
    first = (outcome.job.name, str(seeds.seed(outcome)))
    if report is None:
        told: tuple[Text, ...] = (("not made: ", Code(outcome.why)), "–")
        return Row((*first, *told, typed), anchor=seeds.anchor(outcome))
    K, row = "–", beyond.row_of(outcome.job)
    if row is not None:
        K = f"{beyond.value(row, [report])} {row.unit}"
    elif "K_bits" in report:
        K = shown(per(report, "K_bits"), per(report, "K_standard_error_bits"))
    seconds = f"{report['seconds']:,.0f}" if "seconds" in report else "–"
    return Row((*first, K, seconds, typed), anchor=seeds.anchor(outcome))
