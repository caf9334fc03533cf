"""The page of `run --live` in a real browser, on a real run."""

from __future__ import annotations

import json
import shutil
import signal
from urllib.parse import urlsplit

import pytest
from waiting import wait_until

pytest.importorskip("starlette", reason="the page needs edgecrack[live]")

TOKEN = "not-a-secret-at-all"  # noqa: S105


def marks(out):
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().split("\n")[:-1]]
    return [line for line in lines if line.get("event") == "marked"]


@pytest.fixture(scope="module")
def browser():
    webdriver = pytest.importorskip("selenium.webdriver")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("no chromium and chromedriver: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1280,800"):
        options.add_argument(argument)
    with webdriver.Chrome(options, webdriver.ChromeService(driver)) as opened:
        opened.set_script_timeout(60)
        yield opened


@pytest.fixture
def watched(start_page, camera, browser):
    """A run on a camera, open in the browser."""
    camera.value = 120
    process, url = start_page("--source", camera.url)
    browser.get_log("browser")  # what another test left
    browser.get(url)
    wait_until(lambda: colour(browser))
    yield process
    errors = [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    gone = "WebSocket connection", "ERR_CONNECTION_REFUSED"  # a run that ended
    assert not [error for error in errors if not any(word in error for word in gone)]


def colour(browser):
    """Red, green and blue in the middle of the picture; None where there is none."""
    return browser.execute_script("""
        const canvas = document.querySelector("section canvas");
        if (!canvas?.width) return null;
        const middle = canvas.getContext("2d").getImageData(canvas.width / 2, canvas.height / 2, 1, 1);
        return Array.from(middle.data).slice(0, 3);
    """)


def text(browser, selector):
    return browser.execute_script("return document.querySelector(arguments[0])?.textContent ?? ''", selector)


def test_the_page_loads_and_its_picture_moves(watched, camera, browser):
    camera.value = 20  # below the threshold: as it came
    wait_until(lambda: max(colour(browser)) < 30)
    camera.value = 90
    wait_until(lambda: min(colour(browser)) > 80)
    wait_until(lambda: text(browser, ".state") == "connected")
    wait_until(lambda: float(text(browser, ".pace") or 0) > 1)
    assert text(browser, ".latency").endswith(" ms")
    assert text(browser, "#free").endswith(" GB")
    loaded = browser.execute_script("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert {urlsplit(name).netloc for name in loaded if not name.startswith("data:")} <= {
        urlsplit(browser.current_url).netloc
    }


def test_the_slider_changes_the_mask(watched, browser):
    wait_until(lambda: colour(browser)[0] > colour(browser)[1] + 20)  # all is crack, and red
    wait_until(lambda: text(browser, "#level") == "0.40")
    wait_until(lambda: browser.find_element("id", "slider").is_enabled())
    browser.find_element("id", "slider").send_keys("\ue010")  # the key End
    wait_until(lambda: text(browser, "#level") == "1.00")
    wait_until(lambda: max(colour(browser)) - min(colour(browser)) < 10)
    assert text(browser, ".share") in ("100.00 %", "0.00 %")
    wait_until(lambda: text(browser, ".share") == "0.00 %")
    browser.find_element("id", "lower").click()
    wait_until(lambda: text(browser, "#level") == "0.99")


def test_a_lost_camera_shows_as_lost_and_comes_back(watched, camera, browser):
    wait_until(lambda: text(browser, ".state") == "connected")
    camera.kill()
    wait_until(lambda: text(browser, ".state") == "lost")
    assert text(browser, ".shade").startswith("lost: ")
    assert browser.find_element("css selector", ".shade").is_displayed()
    assert "lost" in browser.title
    assert "secret" not in browser.page_source
    camera.start()
    wait_until(lambda: text(browser, ".state") == "connected", seconds=60)
    assert not browser.find_element("css selector", ".shade").is_displayed()


def test_marking_writes_a_line_into_the_log(watched, browser, tmp_path):
    browser.find_element("id", "mark").click()
    wait_until(lambda: text(browser, "#marked").startswith("Marked at "))
    (line,) = marks(tmp_path / "out")
    assert text(browser, "#marked").endswith(f"frame {line['index']}")
    assert {"source", "utc", "time"} <= line.keys()


def test_a_run_that_ended_is_told_from_a_picture_that_stands_still(watched, browser):
    assert not browser.find_element("id", "alarm").is_displayed()
    watched.send_signal(signal.SIGINT)
    watched.communicate(timeout=60)
    wait_until(lambda: browser.find_element("id", "alarm").is_displayed())
    browser.find_element("id", "mark").click()
    wait_until(lambda: text(browser, "#marked") == "NOT marked: no connection")


def test_a_run_with_fewer_cameras_leaves_no_picture_of_the_one_before(watched, browser):
    browser.execute_script("tile(1)")  # as of a second camera
    assert len(browser.find_elements("css selector", "section")) == 2
    wait_until(lambda: len(browser.find_elements("css selector", "section")) == 1)


def test_a_token_is_asked_for_in_the_browser(start_page, camera, browser):
    _, url = start_page("--source", camera.url, "--live-token", TOKEN)
    browser.get(url)
    browser.find_element("id", "token").send_keys("wrong-token\n")
    wait_until(lambda: "wrong-token" in browser.current_url)
    browser.find_element("id", "token").send_keys(TOKEN + "\n")
    wait_until(lambda: text(browser, ".state") == "connected")
    assert TOKEN not in browser.current_url


def test_what_is_touched_is_large_and_within_reach(watched, browser):
    try:
        for width, height in ((1280, 800), (800, 1280), (390, 844), (844, 390)):
            size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": True}
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            wait_until(lambda width=width: browser.execute_script("return innerWidth") == width)
            for name in ("mark", "lower", "slider", "higher"):
                place = browser.find_element("id", name).rect
                assert min(place["width"], place["height"]) >= 64, (name, width)
                assert place["x"] >= 0, (name, width)
                assert place["x"] + place["width"] <= width, (name, width)
            assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
