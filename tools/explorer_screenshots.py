"""The screenshots of docs/explorer.md: `python tools/explorer_screenshots.py`, with what `make test-browser` needs."""

import sys
import tempfile
import time
from pathlib import Path

import chromium
from aape.cli import main
from aape.data.demo import AUDIO

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


if __name__ == "__main__":
    if not chromium.is_there():
        sys.exit(f"it {chromium.NEEDS}")
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder, "sounds.html")
        main(["explore", str(AUDIO / "metadata.csv"), "--out", str(page)])
        driver = chromium.start()
        shoot(driver, page, "explorer.png", chromium.DESKTOP, "light")
        shoot(driver, page, "explorer-phone.png", chromium.PHONE, "dark", "scrollTo(0, 330)")
        driver.quit()
