"""Tests the convolutions by oneDNN against XLA's: values, both gradients, repeated runs, and the fall-back."""

import concurrent.futures
import functools
import importlib.metadata
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ferjax.models import operations, xla
from ferjax.models.cpu import convolution, ffi, onednn, primitives


def arrays(*shapes):
    rng = np.random.default_rng(0)
    return [jnp.array(rng.normal(size=shape), jnp.float32) for shape in shapes]


installed = pytest.mark.skipif(not onednn.available(), reason="no oneDNN, or several devices")


@pytest.fixture(autouse=True)
def turned_on(monkeypatch):
    monkeypatch.delenv("FERJAX_ONEDNN")


@functools.partial(jax.jit, static_argnums=(0, 3))
def values_and_gradients(convolve, x, kernel, options):
    y, pull = jax.vjp(lambda x, kernel: convolve(x, kernel, *options), x, kernel)
    return y, *pull(jnp.cos(y))


def assert_equal_to_xla(x, kernel, stride, padding, found):
    pad = primitives.pairs(x, kernel, (stride, stride), padding)
    for ours, right in zip(found, values_and_gradients(xla.convolve, x, kernel, (stride, pad)), strict=True):
        assert ours.dtype == jnp.float32
        np.testing.assert_allclose(ours, right, rtol=0, atol=2e-5 * np.abs(right).max())


@installed
@pytest.mark.parametrize(
    ("shape", "side", "outputs", "stride", "padding"),
    [
        ((1, 5, 7, 1), 3, 16, 1, "SAME"),
        ((2, 9, 6, 3), 3, 5, 2, "SAME"),
        ((3, 8, 8, 16), 3, 32, 2, ((1, 1), (1, 1))),
        ((4, 12, 12, 32), 3, 32, 1, ((1, 1), (1, 1))),
        ((2, 11, 10, 4), 5, 8, 1, ((0, 0), (0, 0))),
        ((2, 11, 10, 4), 5, 8, 2, ((0, 2), (1, 0))),
        ((2, 15, 14, 3), 7, 16, 2, ((3, 3), (3, 3))),
        ((3, 7, 6, 16), 1, 8, 2, ((1, 1), (1, 1))),
        ((5, 2, 2, 48), 3, 16, 1, "SAME"),
        ((2, 1, 1, 4), 3, 3, 1, "SAME"),
        ((2, 6, 6, 17), 3, 19, 3, "SAME"),
    ],
)
def test_values_and_both_gradients_are_those_of_xla(shape, side, outputs, stride, padding):
    x, kernel = arrays(shape, (side, side, shape[-1], outputs))
    found = values_and_gradients(convolution.convolve, x, kernel, ((stride, stride), padding))
    assert_equal_to_xla(x, kernel, stride, padding, found)


@installed
def test_training_calls_onednn_and_everything_else_calls_xla():
    x, kernel = arrays((2, 8, 8, 4), (3, 3, 4, 4))

    def program(function, *inputs):
        return jax.jit(function).lower(*inputs).as_text()

    def convolve(x, kernel):
        return operations.CPU.convolve(x, kernel, (1, 1), "SAME").sum()

    gradients = jax.value_and_grad(convolve, (0, 1))
    assert program(gradients, x, kernel).count(f"@{onednn._TARGET}(") == 3
    for others in (program(convolve, x, kernel), program(gradients, *(a.astype(jnp.bfloat16) for a in (x, kernel)))):
        assert onednn._TARGET not in others and "convolution" in others


@installed
def test_many_threads_get_the_same_bits_at_once():
    x, kernel = arrays((16, 24, 24, 16), (3, 3, 16, 16))
    run = functools.partial(values_and_gradients, convolution.convolve, x, kernel, ((1, 1), "SAME"))
    first = jax.device_get(run())
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        for again in threads.map(lambda _: jax.device_get(run()), range(24)):
            for a, b in zip(first, again, strict=True):
                np.testing.assert_array_equal(a, b)


@installed
def test_examples_are_mapped_one_by_one():
    x, kernel = arrays((3, 2, 6, 6, 4), (3, 3, 4, 4))
    gradient = jax.grad(lambda x, kernel: convolution.convolve(x, kernel, (1, 1), "SAME").sum(), 1)
    mapped = jax.vmap(gradient, (0, None))(x, kernel)
    for one, batch in zip(mapped, x, strict=True):
        np.testing.assert_array_equal(one, gradient(batch, kernel))


@pytest.fixture
def looked_for_again():
    yield
    onednn.available.cache_clear()
    onednn._library.cache_clear()


@pytest.mark.parametrize("problem", ["not installed", "not a library", "another jax", "several devices", "turned off"])
def test_without_a_working_library_the_plain_form_runs(monkeypatch, looked_for_again, tmp_path, problem):
    def absent(name):
        raise importlib.metadata.PackageNotFoundError(name)

    def damaged(name):
        path = importlib.metadata.PackagePath("libdnnl.so.3")
        path.dist = importlib.metadata.PathDistribution(tmp_path / "none.dist-info")
        (tmp_path / path).write_bytes(b"damaged")
        return [path]

    def refused(*_):
        raise RuntimeError("XLA has another version")

    onednn.available.cache_clear()
    onednn._library.cache_clear()
    {
        "not installed": lambda: monkeypatch.setattr(importlib.metadata, "files", absent),
        "not a library": lambda: monkeypatch.setattr(importlib.metadata, "files", damaged),
        "another jax": lambda: monkeypatch.setattr(ffi, "register", refused),
        "several devices": lambda: monkeypatch.setattr(jax, "device_count", lambda: 2),
        "turned off": lambda: monkeypatch.setenv("FERJAX_ONEDNN", "0"),
    }[problem]()
    x, kernel = arrays((2, 8, 8, 4), (3, 3, 4, 4))
    assert not onednn.serves(x, kernel)
    found = values_and_gradients(lambda *given: convolution.convolve(*given), x, kernel, ((1, 1), "SAME"))
    assert_equal_to_xla(x, kernel, 1, "SAME", found)


@pytest.mark.parametrize(
    ("limit", "threads"), [("100000 100000", "1"), ("50000 100000", "1"), ("max 100000", None), (None, None)]
)
def test_the_cpu_limit_of_a_container_is_the_number_of_threads(monkeypatch, looked_for_again, tmp_path, limit, threads):
    file = tmp_path / "cpu.max"
    if limit:
        file.write_text(f"{limit}\n")
    monkeypatch.setattr(onednn, "_CPU_LIMIT", file)
    monkeypatch.setenv("OMP_NUM_THREADS", "remembered")
    monkeypatch.delenv("OMP_NUM_THREADS")
    onednn._library.cache_clear()
    onednn._library()
    assert os.environ.get("OMP_NUM_THREADS") == threads


def test_another_version_of_the_call_frame_is_refused(monkeypatch):
    monkeypatch.setattr(ffi, "_MINOR", 1000)
    jax.device_count()  # XLA looks at the version from here on
    with pytest.raises(RuntimeError, match="version"):
        ffi.register("test_another_version", print)


@installed
def test_an_error_of_the_library_fails_the_computation():
    def broken(problem, arguments, results):
        raise RuntimeError("no memory")

    ffi.register("test_broken_call", broken)
    call = jax.ffi.ffi_call("test_broken_call", jax.ShapeDtypeStruct((), jnp.float32))
    with pytest.raises(RuntimeError, match="no memory"):
        jax.block_until_ready(call(jnp.float32(1), problem=np.zeros(1, np.int64)))


@installed
def test_a_process_ends_while_its_last_step_is_in_flight():
    program = """
import jax, jax.numpy as jnp
from ferjax.models.cpu import convolution
convolve = lambda x, k: convolution.convolve(convolution.convolve(x, k, (1, 1), "SAME"), k, (1, 1), "SAME")
step = jax.jit(jax.grad(lambda x, k: jnp.square(convolve(x, k)).sum()))
x = jnp.ones((64, 32, 32, 16))
for _ in range(8):
    x = step(x, jnp.ones((3, 3, 16, 16)))
del x
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
