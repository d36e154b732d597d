import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ferjax.data.prepare import duplicates
from ferjax.data.prepare.duplicates import Member
from ferjax.data.store import Split
from tests.support.data_layouts import faces


def split(images, labels=None):
    labels = np.zeros(len(images), np.int32) if labels is None else np.asarray(labels, np.int32)
    return Split(np.asarray(images), labels, [str(i) for i in range(len(images))], {})


@pytest.fixture(scope="module")
def people():
    """uint8 (40, 48, 48, 1): different faces."""
    return faces(count=40)[0]


def test_exact_duplicates_are_found_within_and_across_splits(people):
    a, b, c, d, e = people[:5]
    splits = {"train": split([a, b, a, c], [0, 1, 2, 3]), "validation": split([b, d, e, b], [1, 0, 0, 1])}
    groups = duplicates.exact_groups(splits)
    first = [Member("train", 0), Member("train", 2)]
    second = [Member("train", 1), Member("validation", 0), Member("validation", 3)]
    assert groups == [first, second]
    marks = duplicates.in_train(groups, splits)
    np.testing.assert_array_equal(marks["train"], [True, False, True, False])  # the duplicates of b are not in training
    np.testing.assert_array_equal(marks["validation"], [True, False, False, True])
    assert duplicates.summary(groups, splits) == {
        "groups": 2,
        "across_splits": 1,
        "conflicting_labels": 1,
        "validation_images_with_twin_in_train": 2,
    }
    assert duplicates.leaks([], groups) == {1}


def recrop(image, margin):
    picture = Image.fromarray(image[..., 0]).crop((margin, margin, 48 - margin, 48 - margin))
    return np.array(picture.resize((48, 48), Image.Resampling.BILINEAR))[..., None]


WATERMARK = np.zeros((48, 48, 1), bool)
WATERMARK[38:44, 8:40:3] = True  # strokes of half-transparent letters

CHANGES = {
    "shifted by 2 pixels": lambda x: np.pad(x, ((0, 0), (2, 0), (0, 0)), mode="edge")[:, :48],
    "darker": lambda x: (x * 0.7).astype(np.uint8),
    "noisy": lambda x: np.clip(x + np.random.default_rng(0).normal(0, 6, x.shape), 0, 255).astype(np.uint8),
    "cut closer": lambda x: recrop(x, 1),
    "watermarked": lambda x: np.where(WATERMARK, x * 0.7 + 76, x).astype(np.uint8),
    "mirrored": lambda x: x[:, ::-1],
    "mirrored and brighter": lambda x: np.clip(x[:, ::-1] * 1.2, 0, 255).astype(np.uint8),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_images_are_near_duplicates(people, change):
    changed = np.stack([CHANGES[change](x) for x in people[:10]])
    splits = {"train": split(people), "test": split(changed)}
    pairs = duplicates.near_pairs(splits, duplicates.exact_groups(splits))
    found = {(p.a.row, p.b.row) for p in pairs if p.a.split == "train" and p.b.split == "test"}
    assert len(found & {(i, i) for i in range(10)}) >= 9
    assert [p.score for p in pairs] == sorted((p.score for p in pairs), reverse=True)


def test_different_and_constant_images_are_not_duplicates():
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (60, 6, 6), np.uint8)
    scenes = np.stack([np.array(Image.fromarray(c).resize((48, 48)))[..., None] for c in coarse])
    flat = np.full((5, 48, 48, 1), 7, np.uint8) + np.arange(5, dtype=np.uint8).reshape(5, 1, 1, 1)
    assert duplicates.near_pairs({"train": split(np.concatenate([scenes, flat]))}, []) == []


def test_an_exact_group_shares_the_near_duplicates_of_its_first_image(people):
    near = np.roll(people[0], 2, 1)
    splits = {"train": split([people[0], people[0], people[1], near]), "test": split([near])}
    exact = duplicates.exact_groups(splits)
    pairs = duplicates.near_pairs(splits, exact)
    assert [(p.a, p.b) for p in pairs] == [(Member("train", 0), Member("train", 3))]
    assert duplicates.leaks(pairs, exact) == {0, 1, 3}
    assert duplicates.connected_groups(pairs, exact) == [
        [Member("test", 0), Member("train", 0), Member("train", 1), Member("train", 3)],
    ]


def test_any_size_and_color_work():
    images = faces(count=4, size=37, channels=3)[0]
    splits = {"train": split(np.concatenate([images, images[:, :, ::-1]]))}
    pairs = duplicates.near_pairs(splits, [])
    assert {(i, i + 4) for i in range(4)} <= {(p.a.row, p.b.row) for p in pairs}


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11)), max_size=20))
def test_groups_are_the_connected_components(links):
    links = [(a, b) for a, b in links if a != b]
    pairs = [duplicates.Pair(Member("train", a), Member("train", b), 0.9) for a, b in links]
    reach = np.eye(12, dtype=bool)
    for a, b in links:
        reach[a, b] = reach[b, a] = True
    for _ in range(4):
        reach = reach @ reach
    expected = {tuple(np.flatnonzero(row)) for row in reach if row.sum() > 1}
    assert {tuple(m.row for m in g) for g in duplicates.connected_groups(pairs, [])} == expected


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(1, 24))
def test_averaging_over_areas_keeps_the_mean(n, side):
    matrix = duplicates._area_matrix(n, side)
    np.testing.assert_allclose(matrix.sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(matrix.sum(0), side / n, rtol=1e-4)
