"""The page of `aape explore` in a real browser: seen, heard, walked through by keyboard; `make test-browser`.

Needs Debian's chromium and chromium-driver, and selenium. Screenshots go to the folder SCREENSHOTS names, if it is set.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

import chromium
from aape.analysis.demo_page import make_demo_page
from aape.analysis.run_page import read_run
from aape.cli import main
from aape.data.demo import AUDIO
from explorer_page import HOSTILE, hostile_folder, read_page, unpacked
from notes import NOTES, noise, save_nano

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not chromium.is_there(), reason=chromium.NEEDS),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # of selenium
]


class Page:
    """A page that is open in a browser."""

    def __init__(self, driver, path, size=chromium.DESKTOP, scheme="light"):
        self.driver, self.path, self.data = driver, path, read_page(path).data
        chromium.show(driver, path, size, scheme)

    def run(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def until(self, script):
        """Wait until a script returns something that is true, and return it."""
        try:
            return chromium.until(self.driver, script)
        except TimeoutError as error:
            raise AssertionError(f"{error}; {self.text('trouble')!r}") from error

    def text(self, name):
        return self.run("return document.getElementById(arguments[0]).textContent", name)

    def all(self, selector):
        return self.driver.find_elements("css selector", selector)

    def press(self, key):
        self.all("#map")[0].send_keys(key)

    def place(self, point, name="PCA"):
        """Where a dot is, from the middle of the map in pixels, while all is shown."""
        xy = unpacked(self.data["maps"][name], "<f4").reshape(-1, 2)
        middle, size = (xy.min(0) + xy.max(0)) / 2, np.ptp(xy, axis=0).max()
        width, height = self.run(
            "const b = document.getElementById('map').getBoundingClientRect(); return [b.width, b.height]"
        )
        return (xy[point] - middle) / (size or 1) * [1, -1] * 0.9 * min(width, height)

    def click_dot(self, point):
        from selenium.webdriver import ActionChains

        self.choose("PCA")
        x, y = self.place(point).round().astype(int).tolist()
        ActionChains(self.driver).move_to_element_with_offset(self.all("#map")[0], x, y).click().perform()

    def choose(self, name):
        if len(self.data["maps"]) > 1:
            self.run("document.querySelector(`input[value='${arguments[0]}']`).click()", name)

    def hears(self):
        """Wait until the sound plays and its time goes on."""
        self.until("const a = document.getElementById('audio'); return !a.paused && a.currentTime > 0.05")
        first = self.run("return document.getElementById('audio').currentTime")
        self.until(f"return document.getElementById('audio').currentTime > {first}")

    def rows(self, name):
        """The dots of a list."""
        return [
            int(row)
            for row in self.run(
                "return [...document.querySelectorAll(`#${arguments[0]} li[data-point]`)].map((r) => r.dataset.point)",
                name,
            )
        ]

    def keep(self, name):
        if folder := os.environ.get("SCREENSHOTS"):
            Path(folder).mkdir(parents=True, exist_ok=True)
            self.driver.save_screenshot(str(Path(folder, f"{name}.png")))


@pytest.fixture(scope="module")
def driver():
    """A browser without a window."""
    started = chromium.start()
    yield started
    started.quit()


@pytest.fixture
def quiet(driver):
    """Hold a test to a silent console and to no request that leaves the machine."""
    chromium.faults(driver)
    yield
    assert chromium.faults(driver) == []


@pytest.fixture(scope="module")
def write(tmp_path_factory):
    """Write a page with a small model."""
    model = str(save_nano(tmp_path_factory.mktemp("model") / "nano"))

    def run(out, *arguments):
        options = ["--model", model, "--out", str(out), "--device", "cpu"]
        assert main(["explore", *map(str, arguments), *options]) == 0
        return out

    return run


@pytest.fixture(scope="module")
def notes(write, tmp_path_factory):
    """The page of the package's recordings."""
    return write(tmp_path_factory.mktemp("notes") / "notes.html", AUDIO / "metadata.csv")


def test_a_click_plays_and_shows(driver, quiet, notes):
    """What the page is for: click a dot, hear it, see it and what is near it."""
    page = Page(driver, notes)
    page.click_dot(17)
    page.hears()
    assert page.text("name") == page.data["names"][17]
    near = unpacked(page.data["neighbours"]["rows"], "<u4").reshape(-1, 10)
    assert page.rows("near") == near[17].tolist()
    cosines = unpacked(page.data["neighbours"]["cosines"], "<f4").reshape(-1, 10)[17]
    shown = [float(element.text) for element in page.all("#near .number")]
    np.testing.assert_allclose(shown, cosines, atol=6e-4)
    page.until("return document.getElementById('picture').getAttribute('aria-label')")
    assert page.data["names"][17] in page.text("live")
    assert "playing" in page.text("live")
    colors = """const c = document.getElementById('picture');
        const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
        return new Set(Array.from({length: d.length / 400}, (_, i) => d[400 * i])).size"""
    page.until(f"{colors} > 20")
    page.keep("light")
    page.all("#near .pick")[0].click()
    page.hears()
    assert page.text("name") == page.data["names"][near[17][0]]


def test_keyboard(driver, quiet, notes):
    """Everything without a mouse: from dot to dot, play, pause, zoom."""
    from selenium.webdriver.common.keys import Keys

    page = Page(driver, notes)
    page.choose("PCA")
    page.press(Keys.ARROW_RIGHT)  # the dot in the middle
    names = [page.text("name")]
    for key in (Keys.ARROW_LEFT, Keys.ARROW_LEFT, Keys.ARROW_UP, Keys.ARROW_DOWN):
        before = page.place(page.data["names"].index(names[-1]))
        page.press(key)
        names.append(page.text("name"))
        dx, dy = page.place(page.data["names"].index(names[-1])) - before
        assert {Keys.ARROW_LEFT: dx < 0, Keys.ARROW_UP: dy < 0, Keys.ARROW_DOWN: dy > 0}[key], (key, names, dx, dy)
    assert page.run("return document.getElementById('audio').paused")
    page.press(Keys.ENTER)
    page.hears()
    page.press(Keys.ENTER)
    page.until("return document.getElementById('audio').paused")
    image = "return document.getElementById('map').toDataURL()"
    before = page.run(image)
    page.press("+")
    page.until(f"{image} !== {json.dumps(before)}")
    page.press("0")
    page.until(f"{image} === {json.dumps(before)}")
    unnamed = """return [...document.querySelectorAll('button, input, select, canvas[tabindex], audio')]
        .filter((e) => e.tagName !== 'AUDIO' && !e.closest('label'))
        .filter((e) => !(e.textContent.trim() || e.getAttribute('aria-label')))
        .map((e) => e.outerHTML)"""
    assert page.run(unnamed) == []


def test_search_and_legend(driver, quiet, notes):
    """A name typed lists the sounds and dims the others; a class of the legend can be hidden."""
    page = Page(driver, notes)
    image = "return document.getElementById('map').toDataURL()"
    before = page.run(image)
    page.all("#search")[0].send_keys("FLUTE-program07")
    names = page.data["names"]
    assert page.rows("found") == [i for i, name in enumerate(names) if "flute-program07" in name]
    page.until(f"{image} !== {json.dumps(before)}")
    page.keep("search")
    page.all("#search")[0].clear()
    page.all("#search")[0].send_keys(" ")
    page.until(f"{image} === {json.dumps(before)}")
    button = page.all("#legend button")[0]
    button.click()
    assert button.get_attribute("aria-pressed") == "false"
    page.until(f"{image} !== {json.dumps(before)}")
    button.click()
    page.until(f"{image} === {json.dumps(before)}")
    page.run("const c = document.getElementById('color'); c.value = 'pitch'; c.dispatchEvent(new Event('change'))")
    page.until("return document.getElementById('ramp')")


def test_find_more(driver, quiet, notes):
    """Rows dropped, or added by their button, rank all sounds; the nearest of one come first."""
    page = Page(driver, notes)
    page.click_dot(3)
    near = page.rows("near")
    page.all("#near .add")[0].click()
    assert len(page.all("#likes li")) == 1
    exact = unpacked(page.data["neighbours"]["rows"], "<u4").reshape(-1, 10)[near[0]]
    assert len(set(page.rows("more")) & set(exact.tolist())) >= 8
    drop = """const zone = document.getElementById('zone'); const data = new DataTransfer();
        for (const [target, kind] of [[arguments[0], 'dragstart'], [zone, 'dragover'], [zone, 'drop']])
            target.dispatchEvent(new DragEvent(kind, { dataTransfer: data, bubbles: true, cancelable: true }));"""
    page.run(drop, page.all("#near li")[2])
    assert len(page.all("#likes li")) == 2
    assert not {near[0], near[2]} & set(page.rows("more"))
    page.keep("more")
    for _ in range(2):
        page.all("#likes button")[0].click()
    assert page.rows("more") == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone(driver, quiet, notes, scheme):
    """Nothing is wider than the screen, a finger plays, and the theme is the system's."""
    page = Page(driver, notes, chromium.PHONE, scheme)
    page.click_dot(40)
    page.hears()
    assert page.run("return document.documentElement.scrollWidth") == chromium.PHONE[0]
    ink = page.run("return getComputedStyle(document.documentElement).color.match(/\\d+/g).map(Number)")
    assert (min(ink) > 200) == (scheme == "dark")
    assert page.run("return document.getElementById('now').offsetHeight") > 0
    page.keep(f"phone-{scheme}")
    page.run("document.getElementById('sound').scrollIntoView()")
    page.keep(f"phone-{scheme}-sound")


def test_fingers(driver, quiet, notes):
    """A tap plays, two fingers that part make the map larger, one moves it."""
    page = Page(driver, notes, chromium.PHONE)
    page.choose("PCA")
    x, y = page.run(
        "const b = document.getElementById('map').getBoundingClientRect();"
        "return [b.left + b.width / 2, b.top + b.height / 2]"
    )

    def touch(kind, *places):
        points = [{"x": float(x + dx), "y": float(y + dy), "id": i} for i, (dx, dy) in enumerate(places)]
        driver.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": f"touch{kind}", "touchPoints": points})

    touch("Start", page.place(5))
    touch("End")
    page.hears()
    image = "return document.getElementById('map').toDataURL()"
    before = page.run(image)
    touch("Start", (-20, 0), (20, 0))
    for spread in (30, 45, 60):
        touch("Move", (-spread, 0), (spread, 0))
    touch("End")
    page.until(f"{image} !== {json.dumps(before)}")
    larger = page.run(image)
    touch("Start", (0, 0))
    touch("Move", (20, 15))
    touch("Move", (40, 30))
    touch("End")
    page.until(f"{image} !== {json.dumps(larger)}")
    assert page.text("name") == page.data["names"][5]  # moving selects nothing
    page.run("document.getElementById('whole').click()")
    page.until(f"{image} === {json.dumps(before)}")


def test_hostile_names(driver, quiet, write, tmp_path):
    """A file's name is shown as what it is, and runs nothing."""
    page = Page(driver, write(tmp_path / "p.html", hostile_folder(tmp_path / "in"), "--embed-limit", "0.02"))
    scripts = len(page.all("script"))
    page.all("#search")[0].send_keys(".wav")
    assert len(page.rows("found")) == len(HOSTILE)
    for number in range(len(HOSTILE)):
        page.all("#found .pick")[number].click()
        page.hears()
        assert page.text("trouble") == ""
    assert page.driver.title == "Sounds"
    assert len(page.all("script")) == scripts
    assert page.all("#side img, #side b") == []
    assert page.run("return document.documentElement.scrollWidth <= innerWidth")
    page.keep("hostile")


def test_windows(driver, quiet, write, tmp_path):
    """A dot of a long recording plays from there, and the playhead follows the path from dot to dot."""
    rng = np.random.default_rng(0)
    parts = [soundfile.read(note)[0][::3] for note in rng.choice(NOTES, 6, replace=False)]
    soundfile.write(tmp_path / "long.wav", np.concatenate(parts), 16000)
    page = Page(driver, write(tmp_path / "p.html", tmp_path / "long.wav", "--window", "1", "--hop", "0.5"))
    image = "return document.getElementById('map').toDataURL()"
    page.click_dot(10)
    page.until("return document.getElementById('audio').currentTime > 5")
    before = page.run(image)
    page.hears()
    assert page.run("return document.getElementById('audio').currentTime") < 9
    page.until(f"{image} !== {json.dumps(before)}")
    page.keep("windows")


def test_sounds_by_path_and_missing_ones(driver, write, tmp_path):
    """A sound beside the page plays; one that is not there any more is named."""
    for number in range(2):
        soundfile.write(tmp_path / f"{number}.wav", noise(2, number), 16000)
    page = Page(driver, write(tmp_path / "p.html", tmp_path / "0.wav", tmp_path / "1.wav", "--embed-limit", "0"))
    assert "2 play from their files" in page.text("notes")
    page.click_dot(0)
    page.hears()
    (tmp_path / "1.wav").unlink()
    page.click_dot(1)
    page.until("return !document.getElementById('trouble').hidden")
    assert "1.wav, as seen from this page, is not there any more" in page.text("trouble")


def test_a_browser_without_opus(driver, quiet, write, tmp_path):
    """Silence without a reason would look like a broken page."""
    path = write(tmp_path / "p.html", *NOTES[:2])
    script = "HTMLMediaElement.prototype.canPlayType = () => ''"
    number = driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": script})
    try:
        page = Page(driver, path)
        page.click_dot(0)
        assert "does not play Opus" in page.text("trouble")
        assert "does not play Opus" in page.text("notes")
    finally:
        driver.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", number)


def test_one_sound_and_bad_ones(driver, quiet, write, tmp_path):
    """One dot, no neighbours, and the file that could not be read."""
    (tmp_path / "bad <b>.wav").write_bytes(b"RIFF")
    page = Page(driver, write(tmp_path / "p.html", NOTES[0], tmp_path / "bad <b>.wav"))
    page.click_dot(0)
    page.hears()
    assert page.text("near-title") == "There is no other to be near."
    assert page.text("bad-title") == "1 left out"
    assert "bad <b>.wav: " in page.text("bad")


@pytest.mark.parametrize(("size", "scheme"), [(chromium.DESKTOP, "light"), (chromium.PHONE, "dark")])
def test_from_the_page_of_the_demo_neighbours_are_heard(driver, quiet, notes, tmp_path, size, scheme):
    """The last line of `make demo` opens it: the map plays inside the page; on a phone, one tap away."""
    page = tmp_path / "index.html"
    (tmp_path / "sounds.html").write_bytes(notes.read_bytes())
    metrics = [{"step": step, "loss": 1.0, "loss_mask": 1 / step} for step in (1, 2, 3)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in metrics))
    score = {"mean": 0.4, "std_seeds": 0.01, "interval": [0.3, 0.5]}
    rows = {name: {"scores": {"last": {"accuracy": score}}} for name in ("tiny <b>", "statistics")}
    words = {"summary": "150 notes", "protocol": "Five folds.", "verdict": ["Level."], "aape": ".venv/bin/aape"}
    page.write_bytes(make_demo_page(read_run(str(tmp_path)), rows, **words))
    chromium.set_screen(driver, size, scheme)
    driver.get(page.as_uri())
    assert driver.execute_script("return document.documentElement.scrollWidth") == size[0]
    assert "tiny <b>\n40.0 1.0 30.0 to 50.0" in driver.find_element("id", "scores").text.replace(" 40.0", "\n40.0")
    assert driver.find_elements("css selector", "#main svg .curve")
    if size == chromium.PHONE:
        driver.find_element("link text", "The map on a page of its own").click()
    else:
        driver.switch_to.frame(driver.find_element("tag name", "iframe"))
    chromium.until(driver, "return document.documentElement.dataset.ready")
    canvas = driver.find_element("id", "map")
    for key in ("\ue014", "\ue007"):  # right, enter
        canvas.send_keys(key)
    plays = "const a = document.getElementById('audio'); return !a.paused && a.currentTime > 0.05"
    chromium.until(driver, plays)
    near = driver.find_elements("css selector", "#near .pick")
    assert len(near) == 10
    first = driver.find_element("id", "name").text
    near[0].click()
    chromium.until(driver, plays)
    assert driver.find_element("id", "name").text != first
    driver.switch_to.default_content()
