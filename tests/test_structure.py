"""Who imports whom, what an import costs, how long things are, and that all public says what it is.

A room is a package or a module right below dpm_jax.
"""

import ast
import graphlib
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import dpm_jax

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "dpm_jax"
EXPERIMENTS = ROOT / "experiments"
FILES = sorted(PACKAGE.rglob("*.py"))
HEAVY = (
    "tensorflow_datasets",
    "tensorflow",
    "orbax",
    "matplotlib",
    "flax",
    "optax",
    "tensorboardX",
    "absl",
    "scipy.optimize",
)
JAX = ("jax", "numpy")
# Room -> the rooms, or modules of rooms, that it may import beside its own.
ROOMS = {
    "later": set(),
    "units": set(),
    "files": set(),
    "hosts": set(),
    "parallel": {"hosts"},
    "networks": set(),
    "core": {"units"},
    "thermodynamics": {"units", "core.family"},
    "baselines": {"units", "files", "core", "posterior"},
    "images": {"core", "units"},
    "data": {"files", "hosts", "images.dequantisation"},
    "likelihood": {"core", "thermodynamics", "parallel", "units"},
    "posterior": {"core", "thermodynamics", "units", "images.dct"},
    "exact": {"core", "data"},
    "training": {"core", "likelihood", "hosts", "parallel", "data.streaming", "files", "units"},
}
ROOMS["runs"] = {*ROOMS, *dpm_jax.__all__}  # all of it, by its short names too
ROOMS["benchmarks"] = {*ROOMS, *dpm_jax.__all__}  # and of it the page alone takes the machine
ROOMS["sweeps"] = {*ROOMS, *dpm_jax.__all__} - {"benchmarks"}
ROOMS["reproduction"] = {*ROOMS, "benchmarks.machine", *dpm_jax.__all__} - {"benchmarks"}
# The same within core, module by module: the records, the columns, and what is done with a chain.
RECORDS = {"core.family", "core.schedule"}
CHAIN = {*RECORDS, "core.chain"}
CORE = {
    "core.family": set(),
    "core.schedule": set(),
    "core.numerics": set(),
    "core.chunks": set(),
    "core.denoising": RECORDS,
    "core.readout": RECORDS,
    "core.gaussian": {*RECORDS, "core.numerics", "core.readout"},
    "core.binomial": {*RECORDS, "core.readout"},
    "core.chain": RECORDS,
    "core.sampling": CHAIN,
    "core.model": {*CHAIN, "core.chunks", "core.sampling", "core.readout"},
}
COLUMNS = {"core.gaussian", "core.binomial"}


def name_of(file):
    """The name of a module below dpm_jax: "core.chain", "core" of a package, "" of dpm_jax."""
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def parsed(file):
    return ast.parse(file.read_text(encoding="utf-8"))


TREES = {name_of(file): parsed(file) for file in FILES}
MODULES = sorted(TREES)
GAUSSIAN = {f"posterior.{name}" for name in ("guide", "measurement", "product")}
LAWS = {f"likelihood.{name}" for name in ("discretized", "twist", "up_down")}
SHARED = [  # what both columns of Table App.1 share
    name
    for name in MODULES
    if name.split(".")[0] in ("core", "likelihood", "posterior", "training")
    and name not in {*COLUMNS, *GAUSSIAN, *LAWS}
]


def running(tree):
    """The nodes of a file but for imports that serve type checkers alone."""
    for node in ast.iter_child_nodes(tree):
        if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
            yield node
            yield from running(node)


def imports(tree):
    """Full names of all that a file imports, inside functions too: "dpm_jax.core.chain.Chain"."""
    for node in running(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here, so that this test can read them"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def own_imports(name):
    """What a module imports of dpm_jax: names below it."""
    found = [full.split(".") for full in imports(TREES[name])]
    return {".".join(parts[1:]) for parts in found if parts[0] == "dpm_jax"}


def within(name, places):
    return any(name == place or name.startswith(f"{place}.") for place in places)


def attributes(tree):
    return {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}


def constants(tree):
    """The values of a file that are written out; docstrings and units of progress bars aside."""
    loose = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) or (isinstance(node, ast.keyword) and node.arg == "unit")
    }
    found = (node for node in ast.walk(tree) if isinstance(node, ast.Constant))
    return {node.value for node in found if id(node) not in loose}


# --- imports ------------------------------------------------------------------------------------


def test_every_room_and_every_module_of_core_is_in_the_tables():
    assert {name.split(".")[0] for name in MODULES} - {""} == set(ROOMS)
    assert {name for name in MODULES if name.startswith("core.")} == set(CORE)


@pytest.mark.parametrize("name", [name for name in MODULES if name])
def test_imports_point_one_way(name):
    room = name.split(".")[0]
    allowed = ROOMS[room] | {room}
    if room == "core":
        allowed = CORE.get(name, set()) | ROOMS["core"]
    allowed = allowed | {"later"}
    extra = {full for full in own_imports(name) if not within(full, allowed)}
    assert not extra, f"{name} imports {sorted(extra)}"


def test_rooms_and_modules_form_no_circle():
    rooms = {room: {place.split(".")[0] for place in may} - {room} for room, may in ROOMS.items()}
    modules = {}
    for name in MODULES:
        known = [{m for m in TREES if m and within(full, [m])} for full in own_imports(name)]
        modules[name] = {max(some, key=len, default="") for some in known} - {name}
    for graph in (rooms, CORE, modules):
        order = list(graphlib.TopologicalSorter(graph).static_order())  # or the circle is named
        assert set(graph) <= set(order)


def test_nothing_imports_experiments_or_tests():
    """They lie on the path under their bare names."""
    outside = {"experiments", "tests"}
    outside |= {f.stem for folder in (EXPERIMENTS, ROOT / "tests") for f in folder.glob("*.py")}
    for name, tree in TREES.items():
        extra = {full for full in imports(tree) if full.split(".")[0] in outside}
        assert not extra, f"{name} imports {sorted(extra)}"


def loaded(*statements):
    """Which of HEAVY and JAX are imported after each statement, in a process of its own."""
    code = "; ".join(
        f"{s}; print([m for m in {(*HEAVY, *JAX)} if m in sys.modules])" for s in statements
    )
    result = subprocess.run(
        [sys.executable, "-c", f"import sys; {code}"],
        cwd=ROOT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return [set(ast.literal_eval(line)) for line in result.stdout.splitlines()]


def test_importing_the_package_costs_nothing_and_its_names_jax_alone():
    every = f"[getattr(dpm_jax, name) for name in {dpm_jax.__all__}]"
    assert loaded("import dpm_jax", every) == [set(), set(JAX)]


def test_names_of_the_package_are_found_by_every_form_of_import():
    names = "from dpm_jax.likelihood import Rows; from dpm_jax import posterior, training as t"
    assert loaded(names, "t.Options(); dpm = __import__('dpm_jax'); dpm.posterior.tilted")[0] >= {
        "jax"
    }
    assert set(dpm_jax.__all__) <= set(dir(dpm_jax))
    with pytest.raises(AttributeError, match="module 'dpm_jax' has no attribute 'wild'"):
        dpm_jax.wild  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'wild' from 'dpm_jax'"):
        exec("from dpm_jax import wild")


@pytest.mark.parametrize("room", ["", *sorted(ROOMS)])
def test_all_names_what_the_package_imports(room):
    package = importlib.import_module(f"dpm_jax.{room}".rstrip("."))
    names = getattr(package, "__all__", [])
    assert len(set(names)) == len(names)
    assert all(hasattr(package, name) for name in names)
    if not room:
        assert names and sorted(names) == names


@pytest.mark.parametrize("name", [name for name in MODULES if name])
def test_no_name_of_a_package_is_that_of_the_module_it_is_from(name):
    """`package.name` would be the module as soon as anything had imported that."""
    module, package = name.split(".")[-1], name.rpartition(".")[0]
    tree = TREES.get(package) if package else TREES[""]
    assert f"dpm_jax.{name}.{module}" not in set(imports(tree))


# --- what the columns share ---------------------------------------------------------------------


@pytest.mark.parametrize("name", SHARED)
def test_shared_code_names_neither_column(name):
    """It never looks inside the parameters, and asks for a family's name in error messages only."""
    tree, records = TREES[name], {"Normal", "Bernoulli"}
    assert not {full for full in own_imports(name) if within(full, COLUMNS)}
    used = attributes(tree) | {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
    assert not {"gaussian", "binomial", *records} & used
    assert not {"gaussian", "binomial", "variance", "logits", "name"} & constants(tree)
    assert not {"variance", "logits"} & attributes(tree)
    if not any(within(full, ["core"]) for full in own_imports(name)) and "core" not in name:
        return  # it knows no family: a name is that of a file
    raised = [
        n
        for n in ast.walk(tree)
        if isinstance(n, ast.Raise) or getattr(n, "name", "") == "__repr__"
    ]
    texts = [n for r in raised for n in ast.walk(r) if isinstance(n, ast.JoinedStr)]
    in_messages = {id(node) for text in texts for node in ast.walk(text)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr == "name":
            assert id(node) in in_messages, f"{name}:{node.lineno} asks for a name"


def test_both_columns_have_the_same_functions_in_the_same_order():
    """Table App.1 can be read across: the functions of Family, in their order, in either file."""
    record = next(n for n in TREES["core.family"].body if getattr(n, "name", "") == "Family")
    fields = [n for n in record.body if isinstance(n, ast.AnnAssign)]
    functions = [n for n in fields if "Callable" in ast.unparse(n.annotation)]
    table = [n.target.id for n in functions if n.value is None]
    optional = [n.target.id for n in functions if n.value is not None]
    assert [n.target.id for n in fields][: len(table) + 1] == ["name", *table]
    assert table[-2:] == ["kl", "readout"]
    others = [name for name in optional if name != "possible"]  # every real number is
    extras = {"gaussian": (others, []), "binomial": (["possible"], [])}
    for column, (before, after) in extras.items():
        defined = [n.name for n in TREES[f"core.{column}"].body if isinstance(n, ast.FunctionDef)]
        public_functions = [name for name in defined if not name.startswith("_")]
        assert public_functions == [*table, *before, "family", *after]


def test_only_parallel_names_pmap_and_its_axis():
    collectives = {"pmap", "pmean", "psum", "all_gather", "axis_index", "shard_map"}
    for name, tree in TREES.items():
        if name == "parallel":
            continue
        used = attributes(tree) | {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
        assert not collectives & used, name
        assert "batch" not in constants(tree), f"{name} names the axis"


# --- what is public, and how long ---------------------------------------------------------------


def public(body):
    """Public functions and classes of a module or class, and what classes hold."""
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef):
                yield from public(node.body)


def arguments(function):
    every = function.args.posonlyargs + function.args.args + function.args.kwonlyargs
    return [arg.arg for arg in every if arg.arg not in ("self", "cls")]


def public_functions(trees):
    """(name, arguments) of every public function."""
    for name, tree in trees.items():
        for node in public(tree.body):
            if isinstance(node, ast.FunctionDef):
                yield f"{name}.{node.name}", arguments(node)


def experiments():
    return {f"experiments.{file.stem}": parsed(file) for file in sorted(EXPERIMENTS.glob("*.py"))}


def test_everything_public_has_a_docstring():
    missing = []
    for name, tree in TREES.items():
        for node in (tree, *public(tree.body)):
            if not ast.get_docstring(node):
                missing.append(f"{name}: {getattr(node, 'name', 'module')}")
    assert not missing, missing


def test_a_chain_travels_whole():
    """Outside core no public function takes family, schedule and reverse kernel apart."""
    apart = {"family", "schedule", "reverse"}
    found = [
        name
        for name, args in public_functions(TREES | experiments())
        if apart <= set(args) and not name.startswith("core.")
    ]
    assert not found, found


def test_few_functions_take_seven_arguments():
    """Three of them take works of a whole data set: by which proposal, and how it is gone through.

    They are the calls of one example with model and parameters, steps and rows beside the chain's.
    """
    found = [name for name, args in public_functions(TREES) if len(args) >= 7]
    assert len(found) <= 10, found


def length(function):
    """Lines of the body, without the docstring."""
    body = function.body[ast.get_docstring(function) is not None :]
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


def test_no_module_is_longer_than_300_lines_and_no_function_than_40():
    long = []
    for file in [*FILES, *sorted(EXPERIMENTS.glob("*.py"))]:
        place, tree = file.relative_to(ROOT), parsed(file)
        lines = len(file.read_text(encoding="utf-8").splitlines())
        if lines > 300:
            long.append(f"{place}: {lines} lines")
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and length(node) > 40:
                long.append(f"{place}: {node.name}, {length(node)} lines")
    assert not long, long
