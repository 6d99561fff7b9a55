"""Chromium without a window, for pages on the disk: needs Debian's chromium and chromium-driver, and selenium."""

from __future__ import annotations

import importlib.util
import json
import shutil
import time
from pathlib import Path
from typing import Any

NEEDS = "needs a browser: apt install chromium chromium-driver, pip install selenium"
DESKTOP, PHONE = (1280, 860), (375, 812)


def is_there() -> bool:
    return bool(shutil.which("chromium") and shutil.which("chromedriver") and importlib.util.find_spec("selenium"))


def start() -> Any:
    """Start a browser that plays sound without waiting for a click, and keeps logs of console and network."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for option in (
        *("headless=new", "no-sandbox", "disable-gpu", "hide-scrollbars", "mute-audio"),
        *("disable-background-networking", "disable-component-update", "autoplay-policy=no-user-gesture-required"),
    ):
        options.add_argument(f"--{option}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))


def show(driver: Any, path: Path, size: tuple[int, int] = DESKTOP, scheme: str = "light", seconds: float = 60) -> None:
    """Open a page of `aape explore` on a screen of this size, and wait until all of it is there."""
    set_screen(driver, size, scheme)
    driver.get(path.resolve().as_uri())
    until(driver, "return document.documentElement.dataset.ready && document.readyState === 'complete'", seconds)


def set_screen(driver: Any, size: tuple[int, int], scheme: str) -> None:
    """Set size and theme of the screen; that of a phone is touched."""
    metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size == PHONE}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    driver.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": size == PHONE})
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def faults(driver: Any) -> list[str]:
    """Return what the console says, and addresses asked for that are not on this machine, since the last call."""
    found = [entry["message"] for entry in driver.get_log("browser")]
    for entry in driver.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] in ("Network.requestWillBeSent", "Network.webSocketCreated"):
            url = message["params"].get("request", message["params"])["url"]
            if url.split(":")[0] not in ("file", "data", "blob", "chrome", "about"):
                found.append(url)
    return found


def until(driver: Any, script: str, seconds: float = 10.0) -> Any:
    """Wait until a script returns something that is true, and return it."""
    end = time.monotonic() + seconds
    while not (value := driver.execute_script(script)):
        if time.monotonic() > end:
            raise TimeoutError(f"never true: {script}")
        time.sleep(0.05)
    return value
