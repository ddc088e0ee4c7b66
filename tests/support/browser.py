"""A real Chromium without a window, for the tests and the benchmark of the page."""

import base64
import json
import shutil
from contextlib import contextmanager
from urllib.parse import urlsplit

FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
         "--disable-background-networking", "--disable-component-update", "--disable-sync")


def missing():
    """What a browser test needs and this machine lacks, in words; "" where nothing is missing."""
    try:
        import selenium  # noqa: F401
    except ImportError:
        return "selenium is not installed (pip install '.[test]')"
    lacking = [name for name in ("chromium", "chromedriver") if not shutil.which(name)]
    return lacking and f"found no {' and no '.join(lacking)} (apt-get install chromium chromium-driver)" or ""


@contextmanager
def chromium(folder):
    """A Browser whose files lie in `folder`."""
    from selenium.webdriver import Chrome, ChromeOptions, ChromeService

    options = ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for flag in (*FLAGS, f"--user-data-dir={folder / 'profile'}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = Chrome(options=options, service=ChromeService(shutil.which("chromedriver")))
    tab = Browser(driver, folder)
    try:
        tab.open("")
        tab.complaints(), tab.requests()                 # of the browser's own first page
        yield tab
    finally:
        driver.quit()


class Browser:
    """One tab: `open` a page, `press` keys, `run` JavaScript in it, and know what it complained of or asked for."""

    def __init__(self, driver, folder):
        self.driver, self.folder = driver, folder

    def size(self, width, height=900, dark=False):
        """From now on pages are so wide, and the user prefers light or dark."""
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {
            "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500})
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [
            {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]})

    def open(self, html):
        path = self.folder / "page.html"
        path.write_text(html, encoding="utf-8")
        self.driver.get(path.as_uri())

    def run(self, script, *args):
        return self.driver.execute_script(script, *args)

    def press(self, *keys):
        from selenium.webdriver import ActionChains

        ActionChains(self.driver, duration=0).send_keys(*keys).perform()

    def click(self, selector):
        self.driver.find_element("css selector", selector).click()

    def hover(self, selector):
        from selenium.webdriver import ActionChains

        ActionChains(self.driver, duration=0).move_to_element(
            self.driver.find_element("css selector", selector)).perform()

    def complaints(self):
        """What came to the console since the last call."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self):
        """What was asked for since the last call, other than files of this disk and data within the page."""
        messages = (json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance"))
        urls = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
        return [url for url in urls if urlsplit(url).scheme not in ("file", "data")]

    def picture(self, path):
        """The whole page as a PNG."""
        shot = self.driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png", "captureBeyondViewport": True})
        path.write_bytes(base64.b64decode(shot["data"]))
