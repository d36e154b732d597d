"""Measures the browser page of ferjax beside human and face-api, on one page in Chromium.

    ferjax fetch yunet
    python -m benchmarks.speed.browser
    python -m benchmarks.speed.browser --frames photos --results runs/photos      faces of photographs

All programs are on one page, each in a frame of it, and take turns. A second browser shows the page isolated from other
sites (COOP, COEP): only there WebAssembly may have threads, of which TensorFlow.js gets one for each core; ferjax keeps
to one, as its page does. Times are medians and quartiles of the rounds. The browsers reach nothing but this machine.

"ms a face" is from the pixels of a cropped face to its probabilities, without a detector. In a frame of 640x480 pixels,
every face is detected and classified; nothing is kept from other frames. human (BlazeFace and the emotion network only)
and face-api (the tiny detector and the expression network) have the models and settings of their packages, which are
downloaded from npm once and checked. "chosen" is the backend that they take if none is given.
"""

import base64
import contextlib
import functools
import http.server
import importlib.util
import os
import pathlib
import shutil
import tarfile
import tempfile
import threading
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np

from benchmarks.speed import turns
from ferjax import cli, errors
from ferjax.data.synthetic.clips import render_clip
from ferjax.runtime import fetch
from ferjax.runtime.faces.detector import create_detector
from ferjax.runtime.web import page
from tools import tables

# Name -> address on npm, and SHA-512 as in a package-lock.json.
PACKAGES = {
    "human": (
        "@vladmandic/human/-/human-3.3.6.tgz",
        "Nr5mPfq1gQ+uKeXY5uM3Fj8UxvF5CEh2s6txM5wRThqaW0mF9huooOuZSrT8hhGho0hGaXLFdAwfD/2+teCv6A==",
    ),
    "face-api": (
        "@vladmandic/face-api/-/face-api-1.7.15.tgz",
        "WDMmK3CfNLo8jylWqMoQgf4nIst3M0fzx1dnac96wv/dvMTN4DxC/Pq1DGtduDk1lktCamQ3MIDXFnvrdHTXDw==",
    ),
    "tfjs": (
        "@tensorflow/tfjs-backend-wasm/-/tfjs-backend-wasm-4.22.0.tgz",
        "/IYhReRIp4jg/wYW0OwbbJZG8ON87mbz0PgkiP3CdcACRSvUN0h8rvC0O3YcDtkTQtFWF/tcXq/KlVDyV49wmA==",
    ),
}
# Program, its backend ("": the one that it chooses), whether the page is isolated.
CONTENDERS = [(name, "wasm", isolated) for isolated in (False, True) for name in ("ferjax", "human", "face-api")]
CONTENDERS += [("human", "", False), ("face-api", "", False)]
TASKS = {"face": ("classify", "faces"), "detect": ("detect", "one"), "one": ("frame", "one"), "four": ("frame", "four")}
COLUMNS = (
    ("program, backend", "{name}"),
    ("threads", "{threads}"),
    ("ms a face", "{face:.1f} ({face_low:.1f}–{face_high:.1f})"),
    ("detector, ms a frame", "{detect:.1f} ({detect_low:.1f}–{detect_high:.1f})"),
    ("frames/s, one face", "{one_rate:.1f}"),
    ("frames/s, four faces", "{four_rate:.1f}"),
    ("faces found of 1, of 4", "{one_found:.1f}, {four_found:.1f}"),
)
Images = dict[str, list[np.ndarray]]  # BGR: "one" and "four" of frames with so many faces, "faces" of cropped ones
_CALL = "return frames[arguments[0]][arguments[1]](...arguments[2])"  # frame of the page, function in it, its arguments


def main() -> None:
    parser = tables.arguments(__doc__)
    parser.add_argument("--frames", type=pathlib.Path, metavar="FOLDER", help="photographs (default: rendered clips)")
    parser.add_argument("--rounds", type=int, default=15, help="blocks for each program and task (default 15)")
    parser.add_argument("--block-seconds", type=float, default=1.0, help="length of a block (default 1)")
    options = parser.parse_args()
    if options.rounds < 1 or options.block_seconds <= 0:
        raise errors.InputError("--rounds and --block-seconds must be positive")
    with tempfile.TemporaryDirectory(prefix="ferjax-browser-") as name:
        folder = pathlib.Path(name)
        with opened(folder, isolated=False) as plain, opened(folder, isolated=True) as isolated:
            addresses = write(folder, photographed(options.frames) if options.frames else rendered())
            rows = measure((plain, isolated), addresses, options.rounds, options.block_seconds)
    command = tables.command("benchmarks.speed.browser")
    table = tables.save("browser", COLUMNS, rows, command=command, packages=["selenium"], results=options.results)
    print(tables.render(table))


def rendered() -> Images:
    """Returns images of rendered clips."""
    films = {"one": "moving", "four": "four"}
    clips = {kind: list(render_clip(film, seed=0, frames=80))[::10] for kind, film in films.items()}
    faces = [cut(image, person.box) for clip in clips.values() for image, people in clip for person in people]
    return {"faces": faces} | {kind: [image for image, _ in clip] for kind, clip in clips.items()}


def photographed(folder: pathlib.Path) -> Images:
    """Returns images made of the faces that YuNet finds in photographs, each with its surroundings."""
    detector = create_detector("yunet")
    photos = [cv2.imread(str(file)) for file in sorted(folder.iterdir())] if folder.is_dir() else []
    found = [(photo, face.box) for photo in photos if photo is not None for face in detector(photo)]
    if not found:
        raise errors.InputError(f"no face is found in the pictures of {folder}: give a folder of photographs of people")
    ones = [cv2.resize(cut(*face, 4 / 3, 2.2), (640, 480), interpolation=cv2.INTER_AREA) for face in found]
    quarters = [cv2.resize(image, (320, 240), interpolation=cv2.INTER_AREA) for image in ones]
    fours = [[quarters[(i + k) % len(quarters)] for k in range(4)] for i in range(len(quarters))]
    four = [np.vstack([np.hstack(group[:2]), np.hstack(group[2:])]) for group in fours]
    return {"faces": [cut(*face) for face in found], "one": ones, "four": four}


def cut(image: np.ndarray, box: tuple[float, ...], aspect: float = 1.0, size: float = 1.0) -> np.ndarray:
    """Cuts out a rectangle around a box, `size` times as high as the box; the edge of the image is repeated outside."""
    x, y, w, h = box
    return cv2.getRectSubPix(image, (round(aspect * size * h), round(size * h)), (x + (w - 1) / 2, y + (h - 1) / 2))


def write(folder: pathlib.Path, images: Images) -> dict[str, list[str]]:
    """Writes all that the browsers load into a folder and returns the addresses of the images."""
    page.write(folder / "page")
    for name, (address, integrity) in PACKAGES.items():
        url, file = f"https://registry.npmjs.org/{address}", address.rpartition("/")[2]
        saved = fetch.save(fetch.Download(url, file, base64.b64decode(integrity).hex(), "sha512"))
        with tarfile.open(saved) as archive:
            members = [each for each in archive if each.name.startswith(("package/dist/", "package/model"))]
            archive.extractall(folder, members, filter="data")
        (folder / "package").rename(folder / name)
    shutil.copyfile(pathlib.Path(__file__).with_suffix(".html"), folder / "frame.html")
    (folder / "index.html").write_text('<iframe src="frame.html"></iframe>' * len(CONTENDERS), encoding="utf-8")
    for kind, given in images.items():
        for index, image in enumerate(given):
            cv2.imwrite(str(folder / f"{kind}{index}.png"), image)
    return {kind: [f"/{kind}{index}.png" for index in range(len(given))] for kind, given in images.items()}


def measure(pages: tuple[Any, Any], addresses: dict[str, list[str]], rounds: int, seconds: float) -> list[dict]:
    """Returns the rows of the table; `pages` are results of `opened`, the second one is isolated."""
    rows, blocks = [], {}
    for driver in pages:
        driver.get(driver.address)
    for frame, (program, backend, isolated) in enumerate(CONTENDERS):
        call = functools.partial(pages[isolated].execute_script, _CALL)
        state = call(frame, "start", [program, backend, addresses])
        name = f"{program}, {state['backend']}{', chosen' * (not backend)}{', isolated' * isolated}"
        rows.append({"name": name, **state, "browser": pages[isolated].capabilities["browserVersion"]})
        for column, task in TASKS.items():
            blocks[f"{column} {frame}"] = functools.partial(call, frame, "block", [*task, seconds])
    results: dict[str, list[dict[str, float]]] = {block: [] for block in blocks}
    for order in turns.orders(sorted(blocks), rounds + 1):  # all programs do a task before any does the next
        for block in order:
            results[block].append(blocks[block]())
    for frame, row in enumerate(rows):
        for column in TASKS:
            counted = results[f"{column} {frame}"][1:]  # the first one compiles
            times = [block["milliseconds"] for block in counted]
            low, middle, high = np.percentile(times, (25, 50, 75)).tolist()
            row |= {column: middle, f"{column}_low": low, f"{column}_high": high, f"{column}_rate": 1000 / middle}
            row[f"{column}_found"] = float(np.mean([block["faces"] for block in counted]))
            row[f"{column}_all"] = [round(value, 3) for value in times]
    return rows


@contextlib.contextmanager
def opened(folder: pathlib.Path, *, isolated: bool) -> Iterator[Any]:
    """Yields selenium's driver of a new browser; its `address` is that of a server of the folder."""
    chromium, chromedriver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if not (chromium and chromedriver and importlib.util.find_spec("selenium")):
        remedy = "apt-get install chromium chromium-driver; pip install selenium"
        raise errors.InputError(f"Chromium, chromedriver or selenium is missing: {remedy}")
    from selenium import webdriver

    class Handler(http.server.SimpleHTTPRequestHandler):
        def end_headers(self) -> None:
            if isolated:
                self.send_header("Cross-Origin-Opener-Policy", "same-origin")
                self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
            super().end_headers()

        def log_message(self, format: str, *arguments: Any) -> None:
            """Logs nothing."""

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    root = ["--no-sandbox"] if os.name == "posix" and os.geteuid() == 0 else []
    for flag in ("--headless=new", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", *root):
        options.add_argument(flag)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        driver: Any = webdriver.Chrome(options, webdriver.ChromeService(chromedriver))
        driver.address = f"http://127.0.0.1:{server.server_port}/"
        driver.set_script_timeout(300)
        try:
            yield driver
        finally:
            driver.quit()
            server.shutdown()


if __name__ == "__main__":
    cli.run(main)
