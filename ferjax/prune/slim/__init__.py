"""Removes channels and hidden units, so that the network itself becomes smaller (structured pruning)."""

from ferjax.prune.slim.choosing import CostFn, channel_scores, choose, keep_alive, macs, parameters
from ferjax.prune.slim.cutting import cut
from ferjax.prune.slim.rules import Group, find_groups

__all__ = [
    "CostFn",
    "Group",
    "channel_scores",
    "choose",
    "cut",
    "find_groups",
    "keep_alive",
    "macs",
    "parameters",
]
