import numpy as np
import pytest

from ferjax.data import load
from ferjax.data.datasets import tfds_builders
from ferjax.data.prepare.pipeline import prepare
from ferjax.errors import InputError
from tests.support.data_layouts import (
    affectnet_files,
    fer2013_files,
    ferplus_files,
    rafdb_files,
    write,
    write_tar,
    write_zip,
)

tfds = pytest.importorskip("tensorflow_datasets")

OPTIONS = {
    "fer2013": {},
    "ferplus": {},
    "rafdb": {"size": 24, "channels": 1},
    "affectnet": {"classes": 7, "size": 24},
    "synthetic_faces": {"train": 14, "validation": 7, "test": 7, "size": 24},
}


def user_copy(manual, name):
    """Puts the user's copy where TFDS users are told to put it."""
    if name == "fer2013":
        write_zip(manual / "fer2013.zip", fer2013_files())
    elif name == "ferplus":
        write(manual, ferplus_files())
    elif name == "rafdb":
        write_tar(manual / "rafdb.tar.gz", rafdb_files()[0])
    elif name == "affectnet":
        write(manual / "affectnet", affectnet_files()[0])


@pytest.mark.parametrize("name", OPTIONS)
def test_a_builder_gives_what_prepare_gives(tmp_path, name):
    manual = tmp_path / "manual"
    manual.mkdir()
    user_copy(manual, name)
    builder = tfds_builders.builder(name, tmp_path / "tfds", **OPTIONS[name])
    builder.download_and_prepare(
        download_dir=tmp_path / "down", download_config=tfds.download.DownloadConfig(manual_dir=manual)
    )
    if name == "synthetic_faces":
        data = load(name, tmp_path, ("train", "validation", "test"), **OPTIONS[name])
    else:
        manifest = prepare(name, tfds_builders._locate(manual, name), tmp_path, **OPTIONS[name])
        data = load(name, tmp_path, tuple(manifest["counts"]))
    assert tuple(builder.info.features["label"].names) == data.class_names
    assert set(builder.info.splits) == set(data.splits)
    for split, arrays in data.splits.items():
        examples = list(tfds.as_numpy(builder.as_dataset(split=split)))
        np.testing.assert_array_equal([e["image"] for e in examples], arrays.images)
        np.testing.assert_array_equal([e["label"] for e in examples], arrays.labels)
        assert [e["name"].decode() for e in examples] == arrays.names
        for column in set(arrays.columns) - {"twin_in_train"}:
            np.testing.assert_array_equal([e[column] for e in examples], arrays.columns[column])


def test_builders_are_known_to_tfds_by_name_and_say_what_to_download():
    tfds_builders.register()
    tfds_builders.register()
    assert set(tfds_builders.NAMES) <= set(tfds.list_builders(with_community_datasets=False))
    assert "kaggle.com" in tfds_builders.builder_class("fer2013").MANUAL_DOWNLOAD_INSTRUCTIONS
    assert tfds_builders.builder_class("synthetic_faces").MANUAL_DOWNLOAD_INSTRUCTIONS is None


def test_unknown_names_and_options_are_one_line(tmp_path):
    with pytest.raises(InputError, match=r"unknown data set 'raf-db'\. Did you mean 'rafdb'"):
        tfds_builders.builder("raf-db", tmp_path)
    with pytest.raises(InputError, match=r"unknown option of rafdb 'sise'\. Did you mean 'size'"):
        tfds_builders.builder("rafdb", tmp_path, sise=3)
    with pytest.raises(InputError, match=r"unknown option of fer2013 'size'"):
        tfds_builders.builder("fer2013", tmp_path, size=64)
