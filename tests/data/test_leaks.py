import csv
import json

import numpy as np
import pytest
from PIL import Image

from ferjax.data.prepare import leaks
from ferjax.data.prepare.pipeline import prepare
from tests.support.data_layouts import faces, fer2013_files, jpeg, write_zip


@pytest.fixture(scope="module")
def leaky(tmp_path_factory):
    folder = tmp_path_factory.mktemp("leaky")
    files = fer2013_files(count=14)
    files["test/sad/PublicTest_90000.jpg"] = files["train/happy/Training_00003.jpg"]
    files["test/disgust/PrivateTest_90000.jpg"] = jpeg((faces("train", 14)[0][8] * 0.8).astype(np.uint8))
    prepare("fer2013", write_zip(folder / "a.zip", files), folder)
    return folder


def test_the_report_has_counts_a_table_and_a_sheet(leaky, tmp_path):
    text = leaks.write_report("fer2013", tmp_path / "out", leaky)
    counts = json.loads((tmp_path / "out" / "leaks.json").read_text())
    assert counts["exact"] == {
        "groups": 1,
        "across_splits": 1,
        "conflicting_labels": 1,
        "validation_images_with_twin_in_train": 1,
        "test_images_with_twin_in_train": 0,
    }
    assert counts["exact_or_near"]["test_images_with_twin_in_train"] >= 1
    assert "exact duplicates (equal pixels): 1 group, 1 across splits, 1 with conflicting labels" in text
    rows = list(csv.DictReader((tmp_path / "out" / "leaks.csv").read_text().splitlines()))
    exact = [r for r in rows if r["exact_group"]]
    assert [(r["split"], r["class"], r["name"]) for r in exact] == [
        ("train", "happy", "train/happy/Training_00003.jpg"),
        ("validation", "sad", "test/sad/PublicTest_90000.jpg"),
    ]
    assert {r["conflict"] for r in exact} == {"1"}
    near = {r["name"]: r["group"] for r in rows}
    assert near["test/disgust/PrivateTest_90000.jpg"] == near["train/disgust/Training_00008.jpg"]
    with Image.open(tmp_path / "out" / "leaks.png") as sheet:
        assert len(sheet.convert("RGB").getcolors(1 << 24)) > 50
