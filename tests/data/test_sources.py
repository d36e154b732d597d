import pytest

from ferjax.data.datasets.sources import BadExample, bad_example


def test_a_bad_example_raises_when_read():
    with pytest.raises(BadExample, match="because"):
        bad_example("name", "because").read()
