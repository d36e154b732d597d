"""Programs that run once or twice: LLVM's passes over them would take longer than all of their runs."""

import functools

import jax

jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
