"""The comparison of the logs of two machines."""

import pytest

from tools.aarch64 import compare


def entry(frame, track, label, confidence):
    return {"frame": frame, "track": track, "label": label, "confidence": confidence}


def test_logs_are_compared_by_frame_and_track():
    one = [entry(0, 1, "happy", 0.9), entry(1, 1, "sad", 0.5), entry(1, 2, "happy", 0.7)]
    same = compare(one, one[::-1])
    assert same.entries == 3 and same.labels == 0 and same.confidence == 0
    other = [entry(0, 1, "happy", 0.8), entry(1, 1, "fear", 0.5), entry(2, 2, "happy", 0.7)]
    differs = compare(one, other)  # another label, and two entries that one log lacks
    assert differs.entries == 4 and differs.labels == 3 and differs.confidence == pytest.approx(0.1)
    assert compare(one, []).labels == 3
