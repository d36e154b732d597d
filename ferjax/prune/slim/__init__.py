"""Structured pruning that makes networks smaller: channels and hidden units are removed, not zeroed."""

from ferjax.prune.slim.choosing import CostFn, channel_scores, choose, keep_alive, macs, parameters
from ferjax.prune.slim.cutting import cut, silence
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
    "silence",
]
