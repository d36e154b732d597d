"""Strict ground for every test: silent broadcasting between ranks raises, and data stays in temporary folders."""

import gc
import os
import tempfile

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["FERJAX_ONEDNN"] = "0"  # tests/models/test_onednn.py turns it on
# Tests compile much and run little: XLA's older code generator, without LLVM's passes and in one piece, takes half the
# time.
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_cpu_use_fusion_emitters=false",
        "--xla_backend_optimization_level=0",
        "--xla_cpu_parallel_codegen_split_count=1",
    ]
)

# Many tests run the same small step: it is compiled once, also for the processes that tests start.
os.environ["JAX_COMPILATION_CACHE_DIR"] = (_COMPILED := tempfile.TemporaryDirectory(prefix="ferjax-xla-")).name
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
# Tracing leaves few cycles among many objects: looking for them less often saves a seventh of it.
gc.set_threshold(100_000, 50, 100)


@pytest.fixture
def strict_dtypes():
    """Raises where code mixes dtypes silently; for our losses, models, augmentations and quantisers."""
    with jax.numpy_dtype_promotion("strict"):
        yield


@pytest.fixture(autouse=True, scope="module")
def _small_process():
    """Lets go of a module's compiled programs: all of them together take five gigabytes."""
    yield
    jax.clear_caches()


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    """Keeps tests away from the data that the user has prepared."""
    monkeypatch.setenv("FERJAX_DATA", str(tmp_path_factory.getbasetemp() / "data"))


def pytest_collection_modifyitems(config, items):
    """Leaves the slow tests to `make test-slow` and `make test-all`."""
    if not config.getoption("-m"):
        kept = [item for item in items if "slow" not in item.keywords]
        config.hook.pytest_deselected(items=[item for item in items if "slow" in item.keywords])
        items[:] = kept
