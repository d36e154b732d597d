"""The page in a real browser, against the Python runtime."""

import collections
import csv
import json
import shutil
import time

import cv2
import numpy as np
import pytest

from ferjax import export, runtime
from ferjax.data.synthetic.action_units import EXPRESSIONS
from ferjax.data.synthetic.clips import render_clip
from ferjax.data.synthetic.rendering import render_faces
from ferjax.runtime import shipped
from ferjax.runtime.faces import detector, tracking
from ferjax.runtime.faces.boxes import Face
from ferjax.runtime.loop import stream
from ferjax.runtime.preprocessing import to_input
from ferjax.runtime.show.log import Log
from ferjax.runtime.smoothing import Labeler, Quality, Smoother, quality
from ferjax.runtime.sources.frame import Frame
from tests.support import browser, small_files
from tests.support.browser import call, click, opened, text, wait

pytestmark = pytest.mark.slow
webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")

FRAMES = 60


@pytest.fixture(scope="module")
def four():
    """Four people, each with one expression."""
    return list(render_clip("four", seed=1, frames=FRAMES))


@pytest.fixture(scope="module")
def camera(four, tmp_path_factory):
    """The flags of a browser whose camera shows the four people."""
    film = browser.write_y4m(tmp_path_factory.mktemp("camera") / "four.y4m", [image for image, _ in four])
    return *browser.CAMERA, f"--use-file-for-fake-video-capture={film}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A page without a detector, which needs no other file than those of npm."""
    return browser.write_page(tmp_path_factory.mktemp("web") / "page", detector="none")


@pytest.fixture(scope="module")
def page(folder, camera, tmp_path_factory):
    with opened(folder, *camera, downloads=tmp_path_factory.mktemp("saved")) as driver:
        yield driver


@pytest.fixture(scope="module")
def finder(camera, tmp_path_factory):
    """A page with YuNet."""
    folder = browser.write_page(tmp_path_factory.mktemp("web") / "finder")
    with opened(folder, *camera, downloads=tmp_path_factory.mktemp("saved")) as driver:
        yield driver


def given(image):
    """Returns an RGB or gray array as the page's images, for JSON."""
    height, width, channels = image.shape
    return {"width": width, "height": height, "channels": channels, "data": image.ravel().tolist()}


def saved(driver):
    """Returns the rows of the CSV file that the page saves."""
    path = driver.downloads / "faces.csv"
    path.unlink(missing_ok=True)
    click(driver, "save")
    wait(driver, path.exists)
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("name", [*shipped.names(), "floats"])
def test_crops_get_the_answers_of_the_python_runtime(name, page, folder, tmp_path):
    if name == "floats":
        weights = shipped.FOLDER / "mini_xception.safetensors"
        made = export.export(weights, tmp_path / "files", wanted_formats=["tflite"], wanted_quantizations=["none"])
        source = tmp_path / "files" / made[0].file
    else:
        source = shipped.find(name)
    path = shutil.copyfile(source, folder / f"{name}.tflite")
    model = runtime.load(path)
    size, channels = model.spec.input_size[0], model.spec.channels
    crops = render_faces(np.arange(200) % len(EXPRESSIONS), split="test", size=size, channels=channels, seed=5)
    expected = model.probabilities(crops)
    answers = call(
        page,
        """
        const { Model } = await import("/model.js");
        const { openEngine } = await import("/engine.js");
        const [spec, file, crops] = arguments;
        const model = new Model(spec, await openEngine(file));
        const answers = [];
        for (const data of crops) answers.push(await model.probabilities({ data }));
        return answers;
        """,
        json.loads(model.spec.to_json()),
        path.name,
        crops.reshape(len(crops), -1).tolist(),
    )
    assert (np.argmax(answers, 1) == expected.argmax(1)).mean() >= 0.995
    # Dynamic ranges: a value at the edge of two integers is rounded either way.
    np.testing.assert_allclose(answers, expected, atol=1e-2 if model.spec.quantization == "dynamic" else 1e-4)


@pytest.mark.parametrize("order", ["gray", "rgb", "bgr"])
@pytest.mark.parametrize("shape", [(48, 48, 3), (31, 17, 1), (200, 133, 3), (97, 203, 3)])
def test_pixels_are_prepared_as_in_python(order, shape, page):
    image = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    count = 1 if order == "gray" else 3
    spec = small_files.GRAY.replace(input_size=(36, 48), color_order=order, mean=(0.5,) * count, std=(0.5,) * count)
    expected = to_input(np.ascontiguousarray(image[..., ::-1]), spec)
    body = """
        const [image, spec] = arguments;
        const { toInput } = await import("/preprocessing.js");
        return Array.from(toInput({ ...image, data: Uint8Array.from(image.data) }, spec).data);
    """
    got = call(page, body, given(image), {"input_size": spec.input_size, "color_order": order})
    np.testing.assert_array_equal(got, expected.ravel())


CROPS = {
    "level": Face((30, 20, 90, 90), 0.9),
    "tilted": Face((30.4, 20.7, 91.3, 91.3), 0.9, np.array([[50, 60], [95, 75], [70, 80], [55, 95], [90, 100.0]])),
    "outside": Face((-25, -10, 120, 120), 0.9),
    "beyond the far corner": Face((120, 90, 80, 80), 0.9, np.array([[140, 120], [170, 115], [0, 0], [0, 0], [0, 0.0]])),
}


@pytest.mark.parametrize("name", CROPS)
def test_faces_are_cropped_as_in_python(name, page):
    face, rng = CROPS[name], np.random.default_rng(1)
    frame = cv2.resize(rng.integers(0, 256, (12, 16, 3)).astype(np.uint8), (160, 120), interpolation=cv2.INTER_CUBIC)
    spec = small_files.GRAY.replace(input_size=(48, 48))
    expected = detector.crop(frame, face, spec)
    body = """
        const [colors, face, spec, constants] = arguments;
        const { Detector } = await import("/detector.js");
        const canvas = Object.assign(document.createElement("canvas"), { width: 160, height: 120 });
        const pixels = canvas.getContext("2d");
        pixels.putImageData(new ImageData(Uint8ClampedArray.from(colors), 160), 0, 0);
        return Array.from(new Detector(constants, null).crop({ pixels, width: 160, height: 120 }, face, spec).data);
    """
    landmarks = None if face.landmarks is None else face.landmarks.tolist()
    colors = cv2.cvtColor(frame, cv2.COLOR_BGR2RGBA).ravel().tolist()
    shown = {"box": face.box, "landmarks": landmarks}
    got = call(page, body, colors, shown, {"input_size": (48, 48), "color_order": "gray"}, constants(page)["detector"])
    assert np.abs(np.array(got) - expected.ravel()).max() <= 1


def constants(driver):
    return call(driver, 'return (await fetch("runtime.json")).json();')


def test_tracks_are_those_of_the_python_runtime(page):
    rng, steps = np.random.default_rng(2), []
    for i in range(150):  # two people walk, one is hidden for a while; some detections are missed, some are false
        faces = [((100 + 3 * i, 80, 60, 60), 0.9), ((400 - 2 * i + rng.normal(), 90, 50 + 5 * rng.random(), 50), 0.8)]
        kept = [f for n, f in enumerate(faces) if rng.random() > 0.15 and not (n and 60 < i < 90)]
        if rng.random() < 0.1:
            kept.append(((*rng.uniform(0, 400, 2), 40, 40), 0.6))
        steps.append((i / 25 + 0.004 * rng.random(), kept))
    known = constants(page)["tracker"]
    tracker = tracking.Tracker(confirm_score=known["confirm_score"])
    expected = [tracker.update([Face(*face) for face in faces], at) for at, faces in steps]
    body = """
        const [steps, constants] = arguments;
        const { Tracker } = await import("/tracking.js");
        const tracker = new Tracker(constants);
        return steps.map(([time, faces]) =>
          tracker.update(faces.map(([box, score]) => ({ box, score, landmarks: null })), time));
    """
    got = call(page, body, steps, known)
    assert [[t["id"] for t in tracks] for tracks in got] == [[t.id for t in tracks] for tracks in expected]
    assert len({t.id for tracks in expected for t in tracks}) >= 2
    pairs = [(a, b) for tracks, others in zip(got, expected, strict=True) for a, b in zip(tracks, others, strict=True)]
    np.testing.assert_allclose([a["box"] for a, _ in pairs], [b.box for _, b in pairs], rtol=1e-9)
    assert [a["seen"] for a, _ in pairs] == [b.seen for _, b in pairs]


def test_labels_are_those_of_the_python_runtime(page):
    rng, names = np.random.default_rng(3), ["angry", "happy", "sad"]
    steps = []
    for i in range(200):
        sharp = rng.gamma(1 + 3 * np.eye(3)[i // 40 % 3])
        measured = (40.0, 0.04 if i % 50 == 7 else 0.5, 128.0, 40.0)
        steps.append((i / 12, (sharp / sharp.sum()).tolist(), measured))
    smoother, labeler = Smoother(), Labeler(names)
    smoothed = [smoother.smooth(1, np.array(p), at) for at, p, _ in steps]
    expected = [labeler.label(1, p, Quality(*q)) for p, (_, _, q) in zip(smoothed, steps, strict=True)]
    body = """
        const [steps, names, constants] = arguments;
        const { Labeler, Smoother } = await import("/smoothing.js");
        const smoother = new Smoother(constants.smoother);
        const labeler = new Labeler(names, constants.limits, constants.labeler);
        return steps.map(([time, probabilities, [size, sharpness, exposure, contrast]]) => {
          const smoothed = smoother.smooth(1, probabilities, time);
          return { smoothed, ...labeler.label(1, smoothed, { size, sharpness, exposure, contrast }) };
        });
    """
    got = call(page, body, steps, names, constants(page))
    np.testing.assert_allclose([step["smoothed"] for step in got], smoothed, rtol=1e-9)
    assert [(step["label"], step["reason"]) for step in got] == [(d.label, d.reason) for d in expected]
    assert len({d.label for d in expected}) > 2 and {d.reason for d in expected} >= {"", "blur"}


@pytest.mark.parametrize("channels", [1, 3])
def test_quality_is_that_of_the_python_runtime(channels, page):
    crop = np.random.default_rng(4).integers(0, 256, (24, 20, channels)).astype(np.uint8)
    expected = quality(crop, 33.0)
    body = """
        const [image, size] = arguments;
        return (await import("/smoothing.js")).quality({ ...image, data: Uint8Array.from(image.data) }, size);
    """
    got = call(page, body, given(crop), 33)
    np.testing.assert_allclose([got[name] for name in expected._fields], expected, rtol=1e-6)


def box(row):
    return [int(row[side]) for side in ("x", "y", "width", "height")]


def majority(rows):
    """Returns the most frequent label of each quarter of the image, from (box, label)."""
    labels = collections.defaultdict(collections.Counter)
    for (x, y, w, h), label in rows:
        labels[x + w / 2 > 320, y + h / 2 > 240][label] += 1
    return {place: count.most_common(1)[0][0] for place, count in labels.items()}


def test_people_of_a_camera_get_the_labels_of_the_python_runtime(finder, four):
    frames = [Frame(image, i / 30, i, 0) for i, (image, _) in enumerate(four)]
    seen = [face for result in stream(frames, runtime.load(), detector="yunet") for face in result.faces]
    click(finder, "camera")
    wait(finder, lambda: text(finder, "people").count("#") == 4)
    time.sleep(5)
    click(finder, "stop")
    rows = saved(finder)
    shown = [(box(row), row["label"]) for row in rows]
    expected = majority([(face.box, face.label) for face in seen])
    assert len(expected) == 4 and majority(shown) == expected
    truth = majority([(person.box, EXPRESSIONS[person.label]) for _, people in four for person in people])
    assert sum(truth[place] == label for place, label in expected.items()) >= 3


def test_a_camera_runs_at_ten_frames_a_second(finder, tmp_path):
    film = browser.write_y4m(tmp_path / "moving.y4m", [i for i, _ in render_clip("moving", seed=0, frames=60)])
    flags = (*browser.CAMERA, f"--use-file-for-fake-video-capture={film}")
    with opened(finder.folder, *flags, downloads=tmp_path) as driver:
        click(driver, "camera")
        wait(driver, lambda: "#1" in text(driver, "people"))
        time.sleep(4)
        click(driver, "stop")
        times = sorted({float(row["time"]) for row in saved(driver)})
    assert len(times) > 20 and np.median(np.diff(times[-20:])) <= 0.1


def test_a_picture_a_film_and_another_file(finder, four, tmp_path):
    picture, film, other = tmp_path / "four.png", tmp_path / "four.webm", tmp_path / "other.png"
    cv2.imwrite(str(picture), four[0][0])
    writer = cv2.VideoWriter(str(film), cv2.VideoWriter.fourcc(*"VP80"), 15.0, (640, 480))
    for index in range(225):  # back and forth for 15 seconds: a busy computer shows few of the frames
        writer.write(four[abs(index % 58 - 29)][0])
    writer.release()
    other.write_bytes(b"no picture")
    open_file = finder.find_element("id", "file").send_keys
    open_file(str(picture))
    wait(finder, lambda: text(finder, "status").startswith("Person 1"))
    rows = saved(finder)
    assert [row["image"] for row in rows] == ["four.png"] * 4
    found = [face.box for face in detector.create_detector("yunet")(four[0][0])]
    for row in rows:
        assert max(tracking.iou(box(row), other) for other in found) > 0.85
    open_file(str(film))
    wait(finder, lambda: "is finished" in text(finder, "status"))
    rows = saved(finder)
    assert {row["image"] for row in rows} == {"four.webm"} and max(float(row["time"]) for row in rows) > 1
    assert len({row["track"] for row in rows}) == 4
    open_file(str(other))
    wait(finder, lambda: "other.png" in text(finder, "status") and "no picture" in text(finder, "status"))
    assert browser.failed(finder)


def test_the_file_of_the_page_has_the_columns_of_the_log(page, four, tmp_path):
    cv2.imwrite(str(tmp_path / "a, b.png"), four[0][0])
    page.find_element("id", "file").send_keys(str(tmp_path / "a, b.png"))
    wait(page, lambda: text(page, "status").startswith("Person 1"))
    (row,) = saved(page)
    log = Log(str(tmp_path / "faces.csv"), runtime.load().spec.class_names)
    log.close()
    assert list(row) == (tmp_path / "faces.csv").read_text().strip().split(",")
    assert (row["image"], row["x"], row["width"]) == ("a, b.png", "80", "480")


def test_nothing_is_sent(page):
    browser.requests(page)
    click(page, "camera")
    wait(page, lambda: "#1" in text(page, "people"))
    time.sleep(2)
    click(page, "stop")
    assert saved(page) and browser.requests(page) == []
    for address in ("https://example.com/", "http://127.0.0.1:9/"):
        body = "return fetch(arguments[0], { mode: 'no-cors' }).then(() => 'sent', () => 'refused');"
        assert call(page, body, address) == "refused"
        body = """return new Promise((resolve) => {
            addEventListener("securitypolicyviolation", ({ violatedDirective }) => resolve(violatedDirective));
            new Image().src = arguments[0];
        });"""
        assert call(page, body, address) == "img-src"


def test_the_page_works_offline_after_it_was_loaded_once(folder, four, tmp_path):
    picture = tmp_path / "four.png"
    cv2.imwrite(str(picture), four[0][0])
    with opened(folder) as driver:
        driver.server.shutdown()
        driver.server.server_close()
        driver.get(driver.current_url)
        wait(driver, lambda: text(driver, "status").startswith("Ready"))
        driver.find_element("id", "file").send_keys(str(picture))
        wait(driver, lambda: text(driver, "status").startswith("Person 1"))
        assert not browser.failed(driver)


def test_an_unplugged_camera_ends(page):
    click(page, "camera")
    wait(page, lambda: "#1" in text(page, "people"))
    call(page, "document.getElementById('video').srcObject.getTracks()[0].dispatchEvent(new Event('ended'));")
    wait(page, lambda: text(page, "status") == "The camera is closed.")
    assert not page.find_element("id", "stop").is_enabled()


def test_a_page_without_a_detector_says_so(page):
    assert page.find_element("id", "center").is_displayed()


@pytest.mark.parametrize(
    "script, words",
    [
        (
            "navigator.mediaDevices.getUserMedia = async () => { throw new DOMException('', 'NotAllowedError'); };",
            "refused",
        ),
        ("", "No camera was found"),
        ("Object.defineProperty(navigator, 'mediaDevices', { value: undefined });", "https"),
        ("WebAssembly.validate = () => false;", "SIMD"),
    ],
    ids=["refused", "none", "insecure", "old browser"],
)
def test_what_is_missing_is_one_sentence(script, words, folder):
    with opened(folder, script=script) as page:
        if page.find_element("id", "camera").is_enabled():
            click(page, "camera")
        wait(page, lambda: words in text(page, "status"))
        assert browser.failed(page)


def test_a_telephone_and_a_keyboard(page):
    size = {"width": 360, "height": 780, "deviceScaleFactor": 2, "mobile": True}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        page.find_element("id", "camera").send_keys(webdriver.Keys.ENTER)
        wait(page, lambda: "#1" in text(page, "people"))
        assert call(page, "return document.documentElement.scrollWidth;") <= 360
        heights = call(
            page, "return [...document.querySelectorAll('.buttons > :not(input)')].map((b) => b.offsetHeight);"
        )
        assert len(heights) == 4 and min(heights) >= 44
        assert page.find_element("id", "view").accessible_name.startswith("Person")
        reached = []
        for _ in range(3):
            webdriver.ActionChains(page).send_keys(webdriver.Keys.TAB).perform()
            reached.append(page.switch_to.active_element.get_attribute("id"))
        assert reached == ["file", "stop", "save"]
        page.find_element("id", "stop").send_keys(webdriver.Keys.ENTER)
        wait(page, lambda: text(page, "status") == "Stopped.")
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
