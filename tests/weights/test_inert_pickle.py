"""Tests pickles that try to run code, and pickled objects that are not tensors."""

import argparse
import collections
import datetime
import os
import pathlib
import pickle

import numpy as np
import pytest

from ferjax.errors import InputError
from ferjax.weights.state_dict import read_state_dict
from tests.support import GOLDEN
from tests.support.pickles import text, write


class _Command:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


class _State:
    def __setstate__(self, command):
        os.system(command)


def _calls(trace):
    """Yields pickled values, without the header and the stop, that run `touch trace` in each way that a pickle can."""
    module, name, argument = os.system.__module__, "system", text(f"touch {trace}")
    function = f"c{module}\n{name}\n".encode()
    run = argument + b"\x85R"
    yield "REDUCE", function + run
    yield "STACK_GLOBAL", text(module) + text(name) + b"\x93" + run
    yield "a dotted name", text("os") + text("path.os.system") + b"\x93" + run
    yield "INST", b"(" + argument + f"i{module}\n{name}\n".encode()
    yield "OBJ", b"(" + function + argument + b"o"
    # Popen is a class, so it can be made by NEWOBJ too, and its state may be set.
    popen = b"csubprocess\nPopen\n"
    command = b"]" + text("touch") + b"a" + text(str(trace)) + b"a"
    yield "a class", popen + command + b"\x85R"
    yield "BUILD", f"c{__name__}\n_State\n".encode() + b")\x81" + argument + b"b"
    yield "NEWOBJ and BUILD", popen + b")\x81}" + text("args") + command + b"sb"
    yield "NEWOBJ_EX", popen + b")}" + text("args") + command + b"s\x92"
    yield "a call of what a call returned", b"cfunctools\npartial\n" + function + argument + b"\x86R)R"
    yield "an item set on it", b"ccollections\nUserDict\n)R" + text("a") + function + run + b"s"
    yield "items appended to it", b"ccollections\ndeque\n)R(" + function + run + b"e"
    setter = b"cbuiltins\ngetattr\n" + b"ccollections\nUserDict\n" + text("__init__") + b"\x86R"
    yield "getattr", setter + b")R"
    yield "a state of attributes", b"cargparse\nNamespace\n)\x81(N}" + text("x") + function + run + b"stb"


@pytest.mark.parametrize("form", ["plain", "zip", "legacy"])
@pytest.mark.parametrize("way", [name for name, _ in _calls("")])
def test_nothing_of_a_pickle_is_called(tmp_path, way, form):
    trace, path = tmp_path / "trace", tmp_path / "evil.pth"
    array = pickle.dumps(np.float32([1, 2]), protocol=4)[11:-1]  # without the header and the stop
    call = dict(_calls(trace))[way]
    deep = b"}" + text("optimizer") + b"]" + call + b"as" + text("fc.bias") + array + b"s"
    write(path, b"\x80\x04" + deep + b".", form)
    tensors = read_state_dict(path)
    assert list(tensors) == ["fc.bias"] and tensors["fc.bias"].tolist() == [1, 2]
    assert not trace.exists()


@pytest.mark.parametrize("way", ["REDUCE", "STACK_GLOBAL", "a dotted name", "INST", "OBJ", "a class", "BUILD"])
def test_these_traps_are_real(tmp_path, way):
    made = pickle.loads(b"\x80\x04" + dict(_calls(tmp_path / "trace"))[way] + b".")
    getattr(made, "wait", int)()
    assert (tmp_path / "trace").exists()


@pytest.mark.parametrize("form", ["plain", "zip", "legacy"])
def test_a_pickle_of_a_command_only_is_refused(tmp_path, form):
    trace, path = tmp_path / "trace", tmp_path / "evil.pth"
    write(path, pickle.dumps({"weight": _Command(trace)}, protocol=2), form)
    with pytest.raises(InputError, match=rf"no named tensors.*{os.system.__module__}\.system"):
        read_state_dict(path)
    assert not trace.exists()


def test_a_state_dict_cannot_replace_its_methods(tmp_path):
    path = tmp_path / "w.pth"
    array = pickle.dumps(np.float32([1, 2]), protocol=4)[11:-1]
    state = b"}(" + b"".join(text(name) + b"ccollections\nUserDict\n" for name in ("items", "get", "keys")) + b"u"
    path.write_bytes(b"\x80\x04ccollections\nOrderedDict\n)R" + text("a") + array + b"s" + state + b"b.")
    assert list(read_state_dict(path)) == ["a"]


@pytest.mark.parametrize("code", ["classes", "functions"])
def test_a_pickle_does_not_change_the_reader(tmp_path, code):
    """The opcode BUILD sets attributes of an object, here of one that the reader provides."""
    name = {"classes": "numpy\nndarray", "functions": "torch._utils\n_rebuild_tensor_v2"}[code]
    path = tmp_path / "evil.pth"
    path.write_bytes(f"\x80\x02}}X\x01\0\0\0wc{name}\n".encode("latin1") + b"(N}" + text("value") + b"K\x01stbs.")
    with pytest.raises(InputError, match=r"evil\.pth"):
        read_state_dict(path)
    assert read_state_dict(GOLDEN / "zip.pth")["state_dict.module.plain"].shape == (3, 4)
    path.write_bytes(pickle.dumps({"w": np.float32([[1, 2]])}, protocol=2))
    np.testing.assert_array_equal(read_state_dict(path)["w"], [[1, 2]])


class _Optimizer:
    def __init__(self):
        self.state = {0: {"exp_avg": np.ones(3)}}
        self.owner = self


def test_what_is_no_tensor_is_passed_over(tmp_path):
    weights = collections.OrderedDict({"fc.weight": np.float32([[1, 2]]), "fc.bias": np.float32([3])})
    content = {
        "epoch": 3,
        "best": np.float64(71.2),
        "when": datetime.datetime(2020, 1, 1),
        "args": argparse.Namespace(lr=0.1, out=pathlib.PurePosixPath("a/b")),
        "history": collections.defaultdict(list, {"loss": [np.float32(1), float("nan")]}),
        "names": np.array(["angry", "happy"]),
        "empty": np.zeros(0, np.float32),
        "optimizer": _Optimizer(),
        "state": {0: {"exp_avg": np.ones(3)}},
        "none": None,
        "kinds": {1, 2},
        "models": [{"net": weights}],
        "again": weights,
    }
    content["itself"] = content
    for protocol in (2, 4):
        path = tmp_path / "w.pth"
        path.write_bytes(pickle.dumps(content, protocol=protocol))
        found = read_state_dict(path)
        assert list(found) == ["empty", "models.0.net.fc.weight", "models.0.net.fc.bias"]
        assert found["models.0.net.fc.bias"].tolist() == [3]


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
