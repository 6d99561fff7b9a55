"""The screenshots of the pages in docs: `python tools/explorer_screenshots.py`, with what `make test-browser` needs."""

import os
import sys
import tempfile
import time
from pathlib import Path

import chromium
from aape.cli import main

DOCS = Path(__file__).resolve().parents[1] / "docs"


def shoot(driver, page, name, size, scheme, scroll=""):
    """Play a sound, find more like its nearest, and take a picture."""
    chromium.show(driver, page, size, scheme)
    canvas = driver.find_element("id", "map")
    canvas.send_keys("\ue014")  # right: the dot in the middle
    canvas.send_keys("\ue012")  # left
    canvas.send_keys("\ue007")  # enter
    chromium.until(driver, "return document.getElementById('audio').currentTime > 1.2")
    canvas.send_keys("\ue007")
    driver.execute_script(f"document.activeElement.blur(); {scroll or 'scrollTo(0, 0)'}")
    time.sleep(0.5)
    driver.save_screenshot(str(DOCS / name))


def shoot_section(driver, page, name, section, height):
    """Take a picture of a page from a section on."""
    chromium.set_screen(driver, (chromium.DESKTOP[0], height), "light")
    driver.get(page.as_uri())
    time.sleep(2)
    driver.execute_script(f"document.getElementById('{section}').scrollIntoView()")
    time.sleep(0.5)
    driver.save_screenshot(str(DOCS / name))


if __name__ == "__main__":
    if not chromium.is_there():
        sys.exit(f"it {chromium.NEEDS}")
    with tempfile.TemporaryDirectory() as folder:
        demo, run = Path(folder, "demo"), Path(folder, "run.html")
        os.chdir(folder)  # the run is called by its path from here
        main(["demo", "--out", "demo"])
        main(["plot", "run", "demo/pretraining", "--out", str(run)])
        driver = chromium.start()
        shoot(driver, demo / "sounds.html", "explorer.png", chromium.DESKTOP, "light")
        shoot(driver, demo / "sounds.html", "explorer-phone.png", chromium.PHONE, "dark", "scrollTo(0, 330)")
        shoot_section(driver, demo / "index.html", "demo.png", "judged", 860)
        shoot_section(driver, run, "run.png", "main", 960)
        driver.quit()
