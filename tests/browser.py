"""A real browser for tests of pages: headless Chromium, light or dark, of any width; it reports what goes wrong."""

import contextlib
import shutil

import pytest

NEEDS = "needs Chromium, its driver and selenium: apt-get install chromium chromium-driver; pip install selenium"


@contextlib.contextmanager
def browser(width=1280, height=900, scheme="light"):
    """Yield a selenium driver; afterwards nothing may be in the console, and no address but a file's was asked for."""
    webdriver = pytest.importorskip("selenium.webdriver", reason=NEEDS)
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip(NEEDS)
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"):
        options.add_argument(argument)
    page = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    page.set_page_load_timeout(30)
    try:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        yield page
        assert [entry["message"] for entry in page.get_log("browser")] == []
        urls = [entry["message"].partition('"url":"')[2].partition('"')[0] for entry in page.get_log("performance")
                if "Network.requestWillBeSent\"" in entry["message"]]  # fmt: skip
        assert all(url.startswith(("file:", "data:", "blob:")) for url in urls)
    finally:
        page.quit()
