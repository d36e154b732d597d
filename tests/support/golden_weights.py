"""The reference networks whose logits lie in tests/golden, and their weights, drawn again."""

import json

from tests.support import GOLDEN, seeded


def golden(name):
    """Returns the facts and the logits of a reference network."""
    return json.loads((GOLDEN / f"{name}.json").read_text())


def weights(name, seed=0):
    """Returns the tensors of a reference network by their names."""
    facts = golden(name)
    return {k: seeded.tensor(k, shape, facts["gain"], seed) for k, shape in facts["tensors"].items()}
