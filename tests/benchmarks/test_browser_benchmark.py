"""The page of ferjax beside human and face-api: all of them find and classify the faces that they are timed on."""

import os
import sys

import cv2
import numpy as np
import pytest

from benchmarks.speed import browser
from ferjax.data.synthetic.rendering import render_scene
from ferjax.errors import InputError
from ferjax.runtime import fetch
from tools import tables


@pytest.mark.slow
@pytest.mark.parametrize("photographs", [False, True])
def test_the_command_keeps_a_row_for_each_program(photographs, tmp_path, monkeypatch):
    arguments = ["browser", "--rounds", "1", "--block-seconds", "0.05", "--results", str(tmp_path / "results")]
    if photographs:
        (tmp_path / "photos").mkdir()
        (tmp_path / "photos" / "notes.txt").write_text("no picture")
        cv2.imwrite(str(tmp_path / "photos" / "two.png"), render_scene(seed=5, faces=2)[0][..., ::-1])
        arguments += ["--frames", str(tmp_path / "photos")]
    monkeypatch.setattr(sys, "argv", arguments)
    monkeypatch.setattr(browser, "CONTENDERS", browser.CONTENDERS[:6])  # the last two take seconds for a frame
    try:
        fetch.fetch("yunet")
        browser.main()
    except InputError as error:
        if "downloaded" not in str(error) and "Chromium" not in str(error):
            raise
        pytest.skip(str(error))
    rows = {row["name"]: row for row in tables.load(tmp_path / "results" / "browser.jsonl").rows}
    programs = ["ferjax, LiteRT.js", "human, wasm", "face-api, wasm"]
    assert list(rows) == [*programs, *(f"{name}, isolated" for name in programs)]
    ferjax, human = rows["ferjax, LiteRT.js"], rows["human, wasm"]
    assert (ferjax["one_found"], ferjax["four_found"]) == (1, 4) and human["one_found"] == 1
    several = {name for name, row in rows.items() if row["threads"] > 1}
    assert several == (set(list(rows)[4:]) if (os.cpu_count() or 1) > 1 else set())
    assert all(row[f"{column}_low"] > 0 for row in rows.values() for column in browser.TASKS)


def test_a_cut_about_a_box_repeats_the_edge():
    image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    np.testing.assert_array_equal(browser.cut(image, (1, 1, 2, 2)), image[1:3, 1:3])
    wide = browser.cut(image, (0, 0, 2, 2), 2.0, 2.0)
    assert wide.shape == (4, 8, 3) and (wide[:, :3] == wide[:, 3:4]).all()


@pytest.mark.parametrize("arguments", [["--rounds", "0"], ["--block-seconds", "0"]])
def test_a_benchmark_of_nothing_is_refused(arguments, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["browser", *arguments])
    with pytest.raises(InputError, match="positive"):
        browser.main()


def test_a_missing_browser_is_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="chromium"), browser.opened(tmp_path, isolated=False):
        pass
