"""Finds exact duplicates (equal pixels) and near duplicates (the same photograph) in a data set.

Exact duplicates are found by hashing. Near duplicates differ in crop, size, brightness, watermark or mirroring. They
are found in two steps on thumbnails minus their local mean: all pairs are correlated at 8x8, and pairs above 0.75 are
correlated at 24x24 over shifts of up to 3 pixels. On FER2013 the distribution of the second score has two modes, with
a minimum near 0.72. Of the 302 pairs in 0.75..0.77, inspection showed nine in ten to be one photograph; above, nearly
all.
"""

import hashlib
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from ferjax.cli import progress
from ferjax.data.on_disk import DiskImages
from ferjax.data.store import Split

NEAR = 0.75
_CANDIDATE = 0.75
_BLOCK = 1024
_SHIFT = 3


class Member(NamedTuple):
    """One image of a group: its split and its index in the split."""

    split: str
    row: int


class Pair(NamedTuple):
    """Two near duplicates and their correlation, 0..1."""

    a: Member
    b: Member
    score: float


def exact_groups(splits: Mapping[str, Split]) -> list[list[Member]]:
    """Returns the groups of two or more images with equal pixels, in order of first appearance."""
    groups: dict[bytes, list[Member]] = {}
    for split, data in splits.items():
        for row, image in enumerate(data.images):
            key = hashlib.blake2b(image.tobytes(), digest_size=16).digest()
            groups.setdefault(key, []).append(Member(split, row))
    return [g for g in groups.values() if len(g) > 1]


def in_train(groups: list[list[Member]], splits: Mapping[str, Split]) -> dict[str, np.ndarray]:
    """Marks, per split, the images whose group contains another training image, bool (N,)."""
    marks = {s: np.zeros(len(d.labels), bool) for s, d in splits.items()}
    for group in groups:
        training = sum(m.split == "train" for m in group)
        for split, row in group:
            marks[split][row] = training > (split == "train")
    return marks


def summary(groups: list[list[Member]], splits: Mapping[str, Split]) -> dict[str, int]:
    """Counts groups, groups across splits, groups with conflicting labels, and images with a duplicate in train."""
    counts = {
        "groups": len(groups),
        "across_splits": sum(len({m.split for m in g}) > 1 for g in groups),
        "conflicting_labels": sum(is_conflict(g, splits) for g in groups),
    }
    marks = in_train(groups, splits)
    return counts | {f"{s}_images_with_twin_in_train": int(m.sum()) for s, m in marks.items() if s != "train"}


def is_conflict(group: list[Member], splits: Mapping[str, Split]) -> bool:
    """Returns whether the images of a group have different labels."""
    return len({int(splits[m.split].labels[m.row]) for m in group}) > 1


def near_pairs(splits: Mapping[str, Split], exact: list[list[Member]]) -> list[Pair]:
    """Returns all pairs of near duplicates, highest score first; the first image represents an exact group.

    Time is quadratic in the number of images (32,000 images: 30 s on one core), memory is linear.
    """
    copies = {m for group in exact for m in group[1:]}
    members = [m for s, d in splits.items() for i in range(len(d.labels)) if (m := Member(s, i)) not in copies]
    chosen = {s: np.array([m.row for m in members if m.split == s], int) for s in splits}
    small, fine = (
        np.concatenate([_thumbnails(d.images, side)[chosen[s]] for s, d in splits.items()]) for side in (8, 24)
    )
    pairs = []
    for mirrored in (False, True):
        for left, right in _candidates(_standardized(small), _standardized(small[:, :, ::-1] if mirrored else small)):
            scores = _shifted_correlation(fine[left], fine[right, :, ::-1] if mirrored else fine[right])
            for i in np.flatnonzero(scores > NEAR):
                pairs.append(Pair(members[left[i]], members[right[i]], min(1.0, round(float(scores[i]), 4))))
    best: dict[tuple[Member, Member], Pair] = {}
    for pair in pairs:
        known = best.setdefault(pair[:2], pair)
        best[pair[:2]] = max(known, pair, key=lambda p: p.score)
    return sorted(best.values(), key=lambda p: -p.score)


def leaks(pairs: list[Pair], exact: list[list[Member]]) -> set[int]:
    """Returns the indices of the training images with an exact or near duplicate in another split."""
    copies = {g[0]: g for g in exact}
    linked = [(g, g) for g in exact]
    linked += [(copies.get(p.a, [p.a]), copies.get(p.b, [p.b])) for p in pairs]
    found: set[int] = set()
    for left, right in linked:
        for one, other in ((left, right), (right, left)):
            if any(m.split != "train" for m in other):
                found |= {m.row for m in one if m.split == "train"}
    return found


def connected_groups(pairs: list[Pair], exact: list[list[Member]]) -> list[list[Member]]:
    """Returns the connected components of near pairs and exact groups, largest first."""
    parent: dict[Member, Member] = {}

    def root(member: Member) -> Member:
        while parent.setdefault(member, member) != member:
            parent[member] = member = parent[parent[member]]
        return member

    for a, b, _ in pairs:
        parent[root(a)] = root(b)
    for first, *rest in exact:
        for member in rest:
            parent[root(member)] = root(first)
    groups: dict[Member, list[Member]] = {}
    for member in sorted(parent):
        groups.setdefault(root(member), []).append(member)
    return sorted(groups.values(), key=lambda g: (-len(g), g))


def _thumbnails(images: np.ndarray | DiskImages, side: int) -> np.ndarray:
    """Averages uint8 (N, H, W, C) over areas and channels to (N, side, side) and subtracts the mean of 5x5 pixels.

    Without the subtraction, side light makes images of different people correlate.
    """
    rows, columns = (_area_matrix(n, side) for n in images.shape[1:3])
    result = np.empty((len(images), side, side), np.float32)
    for start in range(0, len(images), _BLOCK):
        block = images[start : start + _BLOCK].mean(-1, dtype=np.float32)
        result[start : start + _BLOCK] = rows @ block @ columns.T
    return result - _blur(result)


def _area_matrix(n: int, side: int) -> np.ndarray:
    """Returns float32 (side, n): row i averages the pixels in the i-th of `side` equal parts."""
    edges, pixels = np.linspace(0, n, side + 1), np.arange(n)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return (np.clip(overlap, 0, 1) * side / n).astype(np.float32)


def _blur(images: np.ndarray) -> np.ndarray:
    """Returns the mean over 5x5 pixels of images (N, H, W)."""
    height, width = images.shape[1:]
    padded = np.pad(images, ((0, 0), (2, 2), (2, 2)), mode="edge")
    total = np.zeros_like(images)
    for y in range(5):
        for x in range(5):
            total += padded[:, y : y + height, x : x + width]
    return total / 25


def _standardized(images: np.ndarray) -> np.ndarray:
    """Standardizes images to rows (N, P) of mean 0 and norm 1; an image without contrast becomes 0."""
    flat = images.reshape(len(images), -1)
    flat = flat - flat.mean(1, keepdims=True)
    length = np.linalg.norm(flat, axis=1, keepdims=True)
    return np.where(length > 1, flat / np.maximum(length, 1), 0)


def _candidates(a: np.ndarray, b: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields blocks of index pairs i < j whose rows a_i and b_j correlate above the threshold."""
    rows = min(_BLOCK, max(16, 2**25 // max(1, len(a))))
    for start in progress(range(0, len(a), rows), what="near duplicates"):
        alike = a[start : start + rows] @ b[start:].T > _CANDIDATE
        i, j = np.nonzero(np.triu(alike, 1))
        for part in range(0, len(i), 4 * _BLOCK):
            yield i[part : part + 4 * _BLOCK] + start, j[part : part + 4 * _BLOCK] + start


def _shifted_correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Returns the maximum correlation over small shifts, (N,), of the center of each a with b, (N, side, side)."""
    side = a.shape[1] - 2 * _SHIFT
    middle = _standardized(a[:, _SHIFT : _SHIFT + side, _SHIFT : _SHIFT + side])
    best = np.full(len(a), -1, np.float32)
    for y in range(2 * _SHIFT + 1):
        for x in range(2 * _SHIFT + 1):
            best = np.maximum(best, np.einsum("np,np->n", middle, _standardized(b[:, y : y + side, x : x + side])))
    return best
