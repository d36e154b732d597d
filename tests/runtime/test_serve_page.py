"""The page of the live loop in a browser."""

import json
import threading
import time
import urllib.parse

import numpy as np
import pytest

from ferjax.runtime.result import FaceResult
from ferjax.runtime.serve.server import View
from tests.support import browser as chromium
from tests.support.live_parts import frame, result

pytestmark = pytest.mark.slow
webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")

NAMES = ("angry", "<b>happy</b>", "sad")


@pytest.fixture(scope="module")
def browser():
    with chromium.start() as driver:
        yield driver


class Device:
    """A view that shows two people 30 times a second, the second one until `alone` is set."""

    def __init__(self, address="0"):
        self.view, self.ended, self.alone = View(address, NAMES, stills=False), threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self.run)

    def run(self):
        self.view.start()
        index = 0
        while not self.ended.wait(1 / 30):
            faces = [
                FaceResult(
                    track, (10, 20, 40, 40), label, 0.75, dict(zip(NAMES, (0.125, 0.75, 0.125), strict=True)), None
                )
                for track, label in ((1, NAMES[1]), (2, "uncertain"))
            ]
            self.view.publish(result(*faces[: 1 if self.alone.is_set() else 2], of=frame(index, value=index % 200)))
            index += 1
        self.view.close()

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.thread.join()


def wait(condition):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def text(browser, name):
    return browser.find_element("id", name).text


def test_the_page_shows_people_bars_and_the_last_minute(browser):
    with Device() as device:
        browser.get(device.view.url)
        wait(lambda: text(browser, "state") == "Live" and "2 faces" in text(browser, "rate"))
        first, second = browser.find_elements("class name", "person")
        assert first.text.splitlines()[:3] == ["#1", "<b>happy</b>", "75 %"] and first.accessible_name == "Face 1"
        assert "uncertain" in second.text
        widths = [bar.size["width"] for bar in first.find_elements("css selector", ".bar div")]
        np.testing.assert_allclose(np.array(widths) / max(widths), (1 / 6, 1, 1 / 6), atol=0.02)
        wait(lambda: "<b>happy</b> 100 %" in text(browser, "timelines"))
        shown = browser.execute_script(
            "return [...document.querySelectorAll('canvas')].map((each) => [...each.getContext('2d').getImageData("
            "each.width - 20, 0, 20, each.height).data].filter((_, i) => i % 4 == 3).some((alpha) => alpha > 0))"
        )
        assert shown == [True, True]
        width = "return document.getElementById('picture').naturalWidth"
        wait(lambda: browser.execute_script(width) == 160)
        device.alone.set()
        wait(lambda: len(browser.find_elements("class name", "person")) == 1)
        assert len(browser.find_elements("tag name", "canvas")) == 2  # the minute keeps those who left
        assert browser.get_log("browser") == []  # no error, no breach of the Content-Security-Policy
        requests = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
        urls = [m["params"]["request"]["url"] for m in requests if m["method"] == "Network.requestWillBeSent"]
        assert urls and all(url.startswith((device.view.url, "data:,")) for url in urls)


def test_the_page_fits_a_telephone(browser):
    size = {"width": 360, "height": 780, "deviceScaleFactor": 2, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        with Device() as device:
            browser.get(device.view.url)
            wait(lambda: browser.find_elements("class name", "person"))
            assert browser.execute_script("return document.documentElement.scrollWidth") <= 360
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_a_pause_by_keyboard_ends_the_streams(browser):
    with Device() as device:
        browser.get(device.view.url)
        wait(lambda: text(browser, "state") == "Live")
        health = "return fetch('health').then((answer) => answer.json())"
        wait(lambda: browser.execute_script(health)["viewers"] == 2)
        keys = webdriver.common.keys.Keys
        browser.switch_to.active_element.send_keys(keys.TAB)
        browser.switch_to.active_element.send_keys(keys.ENTER)
        assert text(browser, "state") == "Paused"
        wait(lambda: browser.execute_script(health)["viewers"] == 0)
        browser.switch_to.active_element.send_keys(keys.ENTER)
        wait(lambda: browser.execute_script(health)["viewers"] == 2 and text(browser, "state") == "Live")


def test_a_hidden_page_takes_no_pictures(browser):
    with Device() as device:
        browser.get(device.view.url)
        health = "return fetch('health').then((answer) => answer.json())"
        wait(lambda: browser.execute_script(health)["viewers"] == 2)
        page = browser.current_window_handle
        browser.switch_to.new_window("tab")
        browser.get(f"{device.view.url}page.css")
        wait(lambda: browser.execute_script(health)["viewers"] == 1)
        browser.close()
        browser.switch_to.window(page)
        wait(lambda: browser.execute_script(health)["viewers"] == 2)
        assert text(browser, "state") == "Live"


def test_the_end_is_told_and_the_page_connects_again(browser):
    with Device() as device:
        port = urllib.parse.urlsplit(device.view.url).port
        browser.get(device.view.url)
        wait(lambda: text(browser, "state") == "Live")
    wait(lambda: "has ended" in text(browser, "state"))
    time.sleep(3)
    assert "has ended" in text(browser, "state")
    with Device(str(port)):
        wait(lambda: text(browser, "state") == "Live" and browser.find_elements("class name", "person"))


def test_a_new_token_is_told(browser):
    with Device("0.0.0.0:0") as device:
        port = urllib.parse.urlsplit(device.view.url).port
        browser.get(f"http://localhost:{port}{urllib.parse.urlsplit(device.view.url).path}")
        wait(lambda: text(browser, "state") == "Live")
    with Device(f"0.0.0.0:{port}"):
        wait(lambda: "new one" in text(browser, "state"))
        assert text(browser, "state").startswith("This address is no longer valid")
