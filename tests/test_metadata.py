import json
import os
import stat
import zipfile

import hypothesis
import hypothesis.strategies as st
import onnx
import onnxruntime
import pytest

from ferjax import metadata, spec
from ferjax.errors import InputError
from tests.support import small_files

GRAY = small_files.GRAY
LATER = GRAY.replace(temperature=1.7, abstention_threshold=0.4, class_names=("wütend", "froh", "悲しい"))


def tflite(path, body=b"\x1c\0\0\0TFL3" + bytes(range(200))):
    """Writes a file that starts like a TFLite file."""
    path.write_bytes(body)
    return path


@pytest.fixture(params=["tflite", "onnx"])
def path(request, tmp_path):
    if request.param == "tflite":
        return tflite(tmp_path / "m.tflite")
    return small_files.onnx_file(tmp_path / "m.onnx", embed=False)


def test_a_spec_is_read_back_and_replaced(path):
    before = path.read_bytes()
    spec.embed(path, GRAY)
    first = path.read_bytes()
    assert spec.read(path) == GRAY and first.startswith(before)  # the network is unchanged
    spec.embed(path, LATER)
    assert spec.read(path) == LATER
    spec.embed(path, GRAY)
    assert path.read_bytes() == first  # no rest of the longer spec, no date


def test_onnx_keeps_what_others_stored_and_stays_valid(tmp_path):
    path = small_files.onnx_file(tmp_path / "m.onnx")
    spec.embed(path, LATER)
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert {p.key: p.value for p in model.metadata_props} == {"author": "someone", "ferjax": LATER.to_json()}
    session = onnxruntime.InferenceSession(path)
    assert session.get_modelmeta().custom_metadata_map["ferjax"] == LATER.to_json()


def test_onnx_written_again_by_onnx_still_keeps_its_spec(tmp_path):
    path = small_files.onnx_file(tmp_path / "m.onnx")
    model = onnx.load(path)
    del model.metadata_props[0]
    onnx.save(model, path)
    assert spec.read(path) == GRAY


def test_tflite_keeps_what_others_attached(tmp_path):
    path = tflite(tmp_path / "m.tflite")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("labels.txt", "a\nb\n")
    for wanted in (LATER, GRAY):
        spec.embed(path, wanted)
        assert spec.read(path) == wanted
    with zipfile.ZipFile(path) as archive:
        assert sorted(archive.namelist()) == ["ferjax.json", "labels.txt"]
        assert archive.read("labels.txt") == b"a\nb\n"


def test_the_file_keeps_its_permissions_and_a_link_stays_a_link(path):
    link = path.with_name(f"link{path.suffix}")
    link.symlink_to(path.name)
    path.chmod(0o640)
    spec.embed(link, GRAY)
    assert link.is_symlink() and spec.read(path) == GRAY and stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_failed_write_leaves_the_old_file_and_nothing_else(path, monkeypatch):
    before = path.read_bytes()

    def full_disk(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        spec.embed(path, GRAY)
    assert path.read_bytes() == before and os.listdir(path.parent) == [path.name]


def test_the_command_prints_the_spec(path, capsys):
    spec.embed(path, LATER)
    spec.main([str(path)])
    assert json.loads(capsys.readouterr().out) == json.loads(LATER.to_json())


def test_a_file_without_spec_is_an_error(path):
    with pytest.raises(InputError, match=r"has no ferjax spec .*ferjax export"):
        spec.read(path)


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("m.tflite", None, "m.tflite' does not exist"),
        ("m.onnx", b"", "m.onnx is empty"),
        ("m.pb", b"x", r"m.pb' is not a model file; accepted: .tflite, .onnx"),
        ("m.tflite", b"\x1c\0\0\0ABCD", "ABCD"),
        ("m.onnx", b"\x08\x0a", "truncated: it has no graph"),
        ("m.onnx", b"\x3a\x05ab", "truncated: the field at byte 0 lacks 3 bytes"),
        ("m.onnx", b"\x3a\xff\xff", "truncated: it ends within a varint"),
        ("m.onnx", b"\x3a" + b"\xff" * 11, "not an ONNX model, .* is longer than 10 bytes"),
        ("m.onnx", b"<html>", "not an ONNX model, .* does not start a field"),
        ("m.onnx", b"\x3a\x00\x72\x02\x0a\x09", "not an ONNX model, .* lacks 9 bytes"),
        ("m.onnx", b"\x3a\x00\x72\x0b\x0a\x06ferjax\x12\x01\xff", "the spec is not UTF-8"),
        ("m.onnx", b"\x3a\x00\x72\x08\x0a\x06ferjax", "m.onnx: the spec is not valid JSON"),
    ],
)
def test_an_invalid_model_file_is_an_error(tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        spec.read(path)


def test_a_damaged_archive_is_noticed(tmp_path):
    path = tflite(tmp_path / "m.tflite")
    spec.embed(path, GRAY)
    path.write_bytes(path.read_bytes().replace(b"happy", b"hopsy"))
    with pytest.raises(InputError, match="damaged metadata archive: Bad CRC-32"):
        spec.read(path)


@hypothesis.given(st.integers(0, 2**63))
def test_numbers_of_any_length_are_read_as_written(number):
    encoded = metadata._encode_varint(number)
    assert metadata.varint(encoded, 0) == (number, len(encoded))


@hypothesis.given(st.binary(max_size=60))
def test_arbitrary_bytes_give_fields_or_an_error(content):
    try:
        fields = list(metadata.fields(content, 0, len(content)))
    except ValueError:
        return
    assert b"".join(content[f.start : f.end] for f in fields) == content
