"""The peak of a processor is measured in float32 and int8."""

import os

import pytest

from benchmarks.speed import peak


@pytest.mark.parametrize("numbers", ["float32", "int8"])
def test_a_product_is_timed(numbers):
    assert 1e7 < peak.operations(numbers, os.cpu_count() or 1, side=64, rounds=2) < 1e15
