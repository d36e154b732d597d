import os
import pickle
import zipfile

import numpy as np
import pytest
from safetensors.numpy import save_file

from ferjax.errors import InputError
from ferjax.weights.state_dict import read_state_dict
from tests.support import GOLDEN


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
    assert list(tensors) == list(expected)
    for key, value in expected.items():
        assert tensors[key].dtype == value.dtype
        np.testing.assert_array_equal(tensors[key], value)


def test_reads_safetensors(tmp_path):
    save_file({"a": np.float32([[1, 2]]), "b": np.float16([3])}, tmp_path / "x.safetensors")
    tensors = read_state_dict(tmp_path / "x.safetensors")
    np.testing.assert_array_equal(tensors["a"], [[1, 2]])
    assert tensors["b"].dtype == np.float32


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


class _Command:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("wrap", ["plain", "zip"])
def test_a_pickle_that_runs_a_command_is_refused(tmp_path, wrap):
    trace, path = tmp_path / "trace", tmp_path / "evil.pth"
    payload = pickle.dumps({"weight": _Command(trace)}, protocol=2)
    if wrap == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", payload)
    else:
        path.write_bytes(payload)
    with pytest.raises(InputError, match=rf"{os.system.__module__}\.system"):
        read_state_dict(path)
    assert not trace.exists()
    with path.open("rb") if wrap == "plain" else zipfile.ZipFile(path).open("archive/data.pkl") as file:
        pickle.load(file)  # the trap is a real one
    assert trace.exists()


@pytest.mark.parametrize("what", [eval, getattr, pickle.loads, np.load])
def test_other_callables_are_refused_by_name(tmp_path, what):
    class Call:
        def __reduce__(self):
            return what, ("1",)

    path = tmp_path / "x.pth"
    path.write_bytes(pickle.dumps({"w": Call()}))
    with pytest.raises(InputError, match=f"contains .*{what.__name__}"):
        read_state_dict(path)


def test_object_arrays_are_refused(tmp_path):
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps({"w": np.array([{}], dtype=object)}, protocol=4))
    with pytest.raises(InputError, match="array of type O"):
        read_state_dict(path)


@pytest.mark.parametrize("name", ["zip.pth", "legacy.pth"])
@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.99])
def test_truncated_files(tmp_path, name, part):
    whole = (GOLDEN / name).read_bytes()
    path = tmp_path / name
    path.write_bytes(whole[: int(part * len(whole))])
    with pytest.raises(InputError, match=name):
        read_state_dict(path)


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
    with pytest.raises(InputError, match=r"'module\.plain' exceeds its storage"):
        read_state_dict(tmp_path / "x.pth")


def test_other_content(tmp_path):
    with pytest.raises(InputError, match=r"none\.pth does not exist"):
        read_state_dict(tmp_path / "none.pth")
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(InputError, match=r"text\.pth is damaged"):
        read_state_dict(tmp_path / "text.pth")
    (tmp_path / "list.pth").write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(InputError, match=r"list\.pth contains no named tensors"):
        read_state_dict(tmp_path / "list.pth")
