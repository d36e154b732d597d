"""Opens pages in the Chromium of the system."""

import contextlib
import functools
import json
import os
import shutil
import threading
import time

import cv2
import pytest

from ferjax.errors import InputError
from ferjax.runtime import fetch
from ferjax.runtime.web import page, server

CAMERA = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")  # allowed without a question
WAIT = 60  # seconds for the page to do what it should
_CALL = """
const done = arguments[arguments.length - 1];
(async () => { %s })().then((value) => done({ value }), (error) => done({ error: String(error.stack) }));
"""


def write_page(folder, **options):
    """Writes the page of a model into a folder; skips the test if a file of it cannot be had."""
    try:
        if options.get("detector") != "none":
            fetch.fetch("yunet")
        page.write(folder, **options)
    except InputError as error:
        if "downloaded" not in str(error):
            raise
        pytest.skip(str(error))
    return folder


@contextlib.contextmanager
def opened(folder, *flags, downloads=None, script=""):
    """Yields a driver of selenium on the page, with the attributes folder, server and downloads.

    Args:
      folder: a result of `write_page`.
      flags: of Chromium.
      downloads: folder of the files that the page saves.
      script: JavaScript that runs before the page's.
    """
    driver = start(*flags, downloads=downloads)
    running = server.create(folder, 0)
    thread = threading.Thread(target=running.serve_forever)
    thread.start()
    try:
        if script:
            driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": script})
        driver.folder, driver.server, driver.downloads = folder, running, downloads
        driver.get(f"http://127.0.0.1:{running.server_port}/")
        wait(driver, lambda: text(driver, "status").startswith("Ready") or failed(driver))
        yield driver
    finally:
        driver.quit()
        running.shutdown()
        running.server_close()
        thread.join()


def call(driver, body, *arguments):
    """Returns the result of JavaScript in the page; it may import the page's modules."""
    answer = driver.execute_async_script(_CALL % body, *arguments)
    assert "error" not in answer, answer["error"]
    return answer.get("value")


def text(driver, name):
    """Returns the text of an element."""
    return driver.find_element("id", name).text


def failed(driver):
    """Returns whether the page shows an error."""
    return driver.find_element("id", "status").get_attribute("class") == "error"


def click(driver, name):
    driver.find_element("id", name).click()


def wait(driver, condition):
    """Waits until a condition holds."""
    end = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < end, text(driver, "status")
        time.sleep(0.05)


def requests(driver):
    """Returns the addresses that were requested since the last call, not those of data within the page."""
    messages = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    sent = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    return [url for url in sent if not url.startswith(("blob:", "data:"))]


def write_y4m(path, images, fps=30):
    """Writes BGR images of one size as a film that Chromium takes for a camera."""
    with open(path, "wb") as file:
        for i, image in enumerate(images):
            if i == 0:
                height, width = image.shape[:2]
                file.write(b"YUV4MPEG2 W%d H%d F%d:1 Ip A1:1 C420jpeg\n" % (width, height, fps))
            file.write(b"FRAME\n" + cv2.cvtColor(image, cv2.COLOR_BGR2YUV_I420).tobytes())
    return path


def start(*flags, downloads=None):
    """Returns a driver of selenium for a new browser; skips the test if there is none."""
    webdriver, chromium, driver = _programs()
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    root = ("--no-sandbox",) if os.name == "posix" and os.geteuid() == 0 else ()
    for flag in ("--headless=new", "--disable-gpu", *root, *flags):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    if downloads is not None:
        options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    return webdriver.Chrome(options, webdriver.ChromeService(driver))


@functools.cache
def _programs():
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("no Chromium with chromedriver on this machine: apt-get install chromium chromium-driver")
    return webdriver, chromium, driver
