"""Two virtual CPU devices, fast compilation, strict arrays, warnings as errors, the data folder."""

import atexit
import gc
import os
import shutil
import signal
import tempfile
from pathlib import Path

# Before the first import of jax: XLA reads its flags once.
# Most of the time goes into compiling small functions that run once: level 0 halves it, and so do
# the older emitters of loops again (JAX 0.12 has them no more and passes over their name). A flag
# that is set stays: what users run is tested by
# XLA_FLAGS="--xla_backend_optimization_level=2 --xla_backend_extra_options=xla_nothing".
for flag, value in (
    ("--xla_force_host_platform_device_count", 2),
    ("--xla_backend_optimization_level", 0),
    ("--xla_cpu_parallel_codegen_split_count", 1),  # the other core has a worker of its own
    ("--xla_backend_extra_options", "xla_cpu_disable_new_fusion_emitters"),
):
    if flag not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}={value}".strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")
# OpenBLAS's threads wait for each other in a busy loop: with a worker on each core a fit by NumPy
# then takes many times as long.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# The workers, and the processes that tests start, share what one of them has compiled: a test that
# builds the network of another compiles it no second time. Each run of the suite starts with none.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    compiled = tempfile.mkdtemp(prefix="dpm_jax_compiled_")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = compiled
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    atexit.register(shutil.rmtree, compiled, ignore_errors=True)

# What a script puts into the background has Ctrl-C ignored, and so has all that it starts; tests
# interrupt processes of theirs.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import hypothesis  # noqa: E402
import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
# Collectives of two virtual devices on two busy cores can dead-lock when dispatched asynchronously.
jax.config.update("jax_cpu_enable_async_dispatch", False)

# The same examples on every run, and no deadline: the first call of a function compiles it.
hypothesis.settings.register_profile(
    "dpm_jax", deadline=None, derandomize=True, max_examples=25, database=None
)
hypothesis.settings.load_profile("dpm_jax")

# Tracing makes many objects and few cycles: at Python's 700 a tenth of the time goes into a search.
gc.set_threshold(50_000)

MOST_MAPS = 40_000
# Files that take longest, longest first: a worker that met one at the end would leave the others
# idle. The rest follow in any order.
LONGEST = ["pictures", "results", "hosts", "particles", "start", "readme", "likelihood", "runs"]
LONGEST += ["experiments", "weights", "posterior_experiment", "thermodynamics", "networks"]
LONGEST += ["tutorial", "run_files", "training", "bound", "memory"]
ROOT = Path(__file__).resolve().parents[1]


def pytest_configure(config):
    """Every warning is an error; what follows exempts third parties only."""
    config.addinivalue_line("filterwarnings", "error")
    # JAX writes an entry in place: where the other worker meets one half written, it compiles.
    entry = "ignore:Error reading persistent compilation cache entry"
    config.addinivalue_line("filterwarnings", entry)
    config.option.loadscopereorder = False  # pytest-xdist would take the number of tests


def pytest_collection_modifyitems(items):
    place = {f"test_{name}": i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(LONGEST)))


@pytest.fixture(scope="module", autouse=True)
def few_memory_maps():
    """Linux gives a process 65,530 memory maps, of which each compiled function takes some."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > MOST_MAPS:
        jax.clear_caches()
        gc.collect()


@pytest.fixture
def x64():
    """Run a test in float64, where identities hold to rounding."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="session")
def dpm_data() -> Path:
    """The folder of data sets, $DPM_DATA or ../shared/data; the test is skipped without it."""
    folder = ROOT / os.environ.get("DPM_DATA", "../shared/data")  # an absolute path wins
    if not folder.is_dir():
        pytest.skip(f"no data sets in {folder}; set DPM_DATA")
    return folder
