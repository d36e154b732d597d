import io
import json
import pickle
import zipfile

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from ferjax.errors import InputError
from ferjax.weights.state_dict import read_state_dict
from tests.support import GOLDEN
from tests.support.pickles import text, write


@pytest.mark.parametrize("name", ["zip.pth", "legacy.pth"])
def test_reads_what_torch_wrote(name):
    # the values that tests/golden/make_golden.py gave to torch.save
    tensors = read_state_dict(GOLDEN / name)
    base = np.arange(12, dtype=np.float32).reshape(3, 4)
    expected = {
        "plain": base,
        "transposed": base.T,
        "slice": base[1:, ::2],
        "shared": base,
        "parameter": np.float32([1.5, -2.0]),
        "half": np.float32([0.5, 65504.0]),
        "bfloat16": np.float32([1.0, 3.140625]),
        "scalar": np.int64(7),
        "empty": np.zeros((0, 3), np.float32),
    }
    assert list(tensors) == [f"state_dict.module.{key}" for key in expected]
    for found, value in zip(tensors.values(), expected.values(), strict=True):
        assert found.dtype == value.dtype
        np.testing.assert_array_equal(found, value)


def test_reads_safetensors(tmp_path):
    save_file({"a": np.float32([[1, 2]]), "b": np.float16([3])}, tmp_path / "x.safetensors")
    tensors = read_state_dict(tmp_path / "x.safetensors")
    np.testing.assert_array_equal(tensors["a"], [[1, 2]])
    assert tensors["b"].dtype == np.float32


def test_safetensors_of_8_bits_and_of_types_that_numpy_lacks(tmp_path):
    kinds = {"F8_E5M2": "float8_e5m2", "F8_E4M3": "float8_e4m3fn", "F8_E8M0": "float8_e8m0fnu", "BF16": "bfloat16"}
    header, data = {}, b""
    for code, kind in kinds.items():
        values = np.array([[0.5, 2], [16, 1]], getattr(ml_dtypes, kind)).tobytes()
        header[code.lower()] = {"dtype": code, "shape": [2, 2], "data_offsets": [len(data), len(data + values)]}
        data += values
    text = json.dumps(header).encode()
    (tmp_path / "x.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
    tensors = read_state_dict(tmp_path / "x.safetensors")
    assert list(tensors) == ["f8_e5m2", "f8_e4m3", "bf16"]  # in the order of the file, without the type of scales
    assert all(t.dtype == np.float32 and t.tolist() == [[0.5, 2], [16, 1]] for t in tensors.values())


@pytest.mark.parametrize("protocol", [2, 4])
def test_reads_numpy_pickles(tmp_path, protocol):
    path = tmp_path / "weights.pkl"
    arrays = {"a": np.float32([[1, 2], [3, 4]]), "b": np.asfortranarray(np.float64([[1, 2], [3, 4]]))}
    path.write_bytes(pickle.dumps(arrays, protocol=protocol))
    tensors = read_state_dict(path)
    for key, value in arrays.items():
        np.testing.assert_array_equal(tensors[key], value)
        assert tensors[key].dtype == np.float32


def test_reads_python_2_pickles(tmp_path):
    # what Python 2 wrote for {"w": array([1.0, -2.0], "<f4")}: bytes as a plain string
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR"
        b"(K\x01K\x02\x85"
        b"cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89U\x08" + np.float32([1, -2]).tobytes() + b"tb"
    )
    path = tmp_path / "old.pkl"
    path.write_bytes(b"\x80\x02}U\x01w" + array + b"s.")
    np.testing.assert_array_equal(read_state_dict(path)["w"], [1, -2])


@pytest.mark.parametrize("name", ["zip.pth", "legacy.pth"])
@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.99])
def test_truncated_files(tmp_path, name, part):
    whole = (GOLDEN / name).read_bytes()
    path = tmp_path / name
    path.write_bytes(whole[: int(part * len(whole))])
    with pytest.raises(InputError, match=name):
        read_state_dict(path)


def test_a_damaged_memo_index_does_not_take_all_memory(tmp_path):
    (tmp_path / "x.pth").write_bytes(b"\x80\x02}r" + (1 << 20).to_bytes(4, "little") + b".")
    with pytest.raises(InputError, match="damaged"):
        read_state_dict(tmp_path / "x.pth")


def test_truncated_safetensors(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"a": np.ones((100,), np.float32)}, path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(InputError, match=r"x\.safetensors is damaged"):
        read_state_dict(path)


def test_a_damaged_record_is_noticed(tmp_path):
    whole = bytearray((GOLDEN / "zip.pth").read_bytes())
    place = whole.index(np.float32([1.5, -2.0]).tobytes())
    whole[place] ^= 1
    (tmp_path / "x.pth").write_bytes(whole)
    with pytest.raises(InputError, match="Bad CRC-32"):
        read_state_dict(tmp_path / "x.pth")


def test_a_zip_that_asks_for_more_than_we_have_is_damaged(tmp_path):
    data = bytearray((GOLDEN / "zip.pth").read_bytes())
    place = -1
    while (place := data.find(b"PK\x01\x02", place + 1)) >= 0:
        data[place + 10] = 77  # a way to compress that nobody knows
    (tmp_path / "odd.pth").write_bytes(data)
    with pytest.raises(InputError, match=r"odd\.pth"):
        read_state_dict(tmp_path / "odd.pth")


def test_a_tensor_beyond_its_storage_is_named(tmp_path):
    whole = (GOLDEN / "legacy.pth").read_bytes()
    # the shape of "plain", (3, 4), becomes (3, 5)
    assert whole.count(b"K\x03K\x04\x86") >= 1
    (tmp_path / "x.pth").write_bytes(whole.replace(b"K\x03K\x04\x86", b"K\x03K\x05\x86", 1))
    with pytest.raises(InputError, match=r"'state_dict\.module\.plain' exceeds its storage"):
        read_state_dict(tmp_path / "x.pth")


def _torch_tensor(kind, storage="FloatStorage"):
    """Returns the pickle of a tensor of two numbers, as versions of torch write it."""
    record = b"(" + text("storage") + f"ctorch\n{storage}\n".encode() + text("0") + text("cpu") + b"K\x02tQ"
    arguments = record + b"K\x00K\x02\x85K\x01\x85"
    rebuild = b"ctorch._utils\n_rebuild_tensor_v2\n"
    plain = rebuild + b"(" + arguments + b"\x89}tR"
    return {
        "tensor": plain,
        "tensor of torch 0.3": b"ctorch._utils\n_rebuild_tensor\n(" + arguments + b"tR",
        "parameter": b"ctorch._utils\n_rebuild_parameter\n(" + plain + b"\x88}tR",
        "parameter with attributes": b"ctorch._utils\n_rebuild_parameter_with_state\n(" + plain + b"\x88}}tR",
        "subclass": b"ctorch._tensor\n_rebuild_from_type_v2\n("
        + rebuild
        + b"cfastai\nTensorBase\n("
        + arguments
        + b"\x89}t}tR",
    }[kind]


@pytest.mark.parametrize(
    "kind", ["tensor", "tensor of torch 0.3", "parameter", "parameter with attributes", "subclass"]
)
def test_tensors_of_all_versions_of_torch(tmp_path, kind):
    odd = _torch_tensor(kind, storage="ComplexFloatStorage")
    content = b"\x80\x02}" + text("odd") + odd + b"s" + text("w") + _torch_tensor(kind) + b"s."
    with zipfile.ZipFile(tmp_path / "w.pth", "w") as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/data/0", np.float32([1, 2]).tobytes())
    tensors = read_state_dict(tmp_path / "w.pth")
    assert list(tensors) == ["w"] and tensors["w"].tolist() == [1, 2]


@pytest.mark.parametrize("kind", ["float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz"])
def test_tensors_of_8_bits(tmp_path, kind):
    record = b"(" + text("storage") + b"ctorch.storage\nUntypedStorage\n" + text("0") + text("cpu") + b"K\x04tQ"
    head = b"ctorch._utils\n_rebuild_tensor_v3\n(" + record + b"K\x01K\x02\x85K\x01\x85\x89}ctorch\n"
    fp8, other = (head + name.encode() + b"\ntR" for name in (kind, "float4_e2m1fn_x2"))
    with zipfile.ZipFile(tmp_path / "w.pth", "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}" + text("w") + fp8 + b"s" + text("odd") + other + b"s.")
        archive.writestr("archive/data/0", np.array([9, 0.5, -2, 9], getattr(ml_dtypes, kind)).tobytes())
    tensors = read_state_dict(tmp_path / "w.pth")
    assert list(tensors) == ["w"] and tensors["w"].dtype == np.float32 and tensors["w"].tolist() == [0.5, -2]


class _Module:
    """Pickles as a torch module does."""

    def __init__(self):
        self.__dict__ = {"training": True, "_parameters": {"weight": None}, "_buffers": {}, "_modules": {}}


@pytest.mark.parametrize("wrap", [lambda module: module, lambda module: {"epoch": 1, "model": module}])
def test_a_whole_network_is_named(tmp_path, wrap):
    path = tmp_path / "model.pth"
    path.write_bytes(pickle.dumps(wrap(_Module()), protocol=2))
    with pytest.raises(InputError, match=r"whole network \(.*_Module\).*state_dict"):
        read_state_dict(path)


def test_a_whole_network_in_the_legacy_format_is_named(tmp_path):
    stored = []

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):  # torch stores the class of a module with its source
            if value is not _Module or stored:
                return None
            stored.append(value)
            return "module", value, "model.py", "class Net: ..."

    content = io.BytesIO()
    Pickler(content, protocol=2).dump(_Module())
    write(tmp_path / "model.pth", content.getvalue(), "legacy")
    with pytest.raises(InputError, match="whole network"):
        read_state_dict(tmp_path / "model.pth")


def numpy_file(save, *arrays, **named):
    content = io.BytesIO()
    save(content, *arrays, **named)
    return content.getvalue()


@pytest.mark.parametrize("ending", ["pth", "safetensors", "bin"])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"\n<!DOCTYPE html>\n<html><title>Virus scan warning</title></html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 46830571\n", "git lfs pull"),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), "HDF5"),
        (b"\x1c\0\0\0TFL3" + bytes(100), "TFLite"),
        (numpy_file(np.save, np.zeros(3)), "one NumPy array"),
        (numpy_file(np.savez, **{"conv.weight": np.zeros(3), "conv.bias": np.zeros(1)}), r"\.npz.*save_file"),
        (b'{"metadata": {"total_size": 8}, "weight_map": {"a": "model-00001-of-00002.safetensors"}}', "index"),
        (b"\x1f\x8b\x08\x00" + bytes(100), "gunzip"),
        (b"\x08\x08\x12\x07pytorch" + bytes(100), "ONNX"),
        (b"\x08\x0a:\x90\x05\x0a\x10" + bytes(100), "ONNX"),
    ],
)
def test_other_files_are_named_whatever_their_ending(tmp_path, content, said, ending):
    path = tmp_path / f"w.{ending}"
    path.write_bytes(content)
    with pytest.raises(InputError, match=said):
        read_state_dict(path)


def test_the_content_decides_what_a_file_is(tmp_path):
    save_file({"a": np.float32([1])}, tmp_path / "w.pth")
    assert list(read_state_dict(tmp_path / "w.pth")) == ["a"]
    (tmp_path / "w.safetensors").write_bytes((GOLDEN / "legacy.pth").read_bytes())
    assert len(read_state_dict(tmp_path / "w.safetensors")) == 9


def test_an_archive_without_weights_is_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "w.zip", "w") as archive:
        archive.writestr("resnet18.pth", b"...")
    with pytest.raises(InputError, match=r"torch\.save did not write"):
        read_state_dict(tmp_path / "w.zip")


def test_a_part_of_a_file_is_named(tmp_path):
    for number, of in ((1, 1), (1, 2), (2, 11)):
        save_file({"a": np.float32([1])}, tmp_path / f"w-{number:05}-of-{of:05}.safetensors")
    assert list(read_state_dict(tmp_path / "w-00001-of-00001.safetensors")) == ["a"]
    for name in ("w-00001-of-00002.safetensors", "w-00002-of-00011.safetensors"):
        with pytest.raises(InputError, match="one of several parts"):
            read_state_dict(tmp_path / name)


def test_other_content(tmp_path):
    with pytest.raises(InputError, match=r"none\.pth does not exist"):
        read_state_dict(tmp_path / "none.pth")
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(InputError, match=r"text\.pth is damaged"):
        read_state_dict(tmp_path / "text.pth")
    (tmp_path / "list.pth").write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(InputError, match=r"list\.pth contains no named tensors"):
        read_state_dict(tmp_path / "list.pth")
