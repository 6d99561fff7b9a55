"""The page of runs: what went wrong, first; then the curves, and nothing of a stranger's names as markup."""

import json
import math

import pytest

import chromium
from aape import cli
from aape.analysis.run_page import MAX_POINTS, MAX_ROWS, make_run_page, read_run
from aape.runs.guards import CollapseAlarm

HOSTILE = 'x"><script>alert(1)<'
FIELDS = ("loss", "loss_mask", "loss_utterance", "loss_contrastive", "grad_norm", "target_variance_tokens",
          "target_variance_batch", "prediction_variance_tokens", "prediction_variance_batch", "learning_rate",
          "momentum", "clips_per_second", "epoch")  # fmt: skip


def write_lines(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def write_run(folder, num_logs=20, *, fall=1.0, rate=0.001, **changes):
    """Write the folder of a run as `aape pretrain` leaves it; its variances fall to a share."""
    folder.mkdir()
    variances = [fall ** (log / num_logs) for log in range(num_logs)]
    logs = [{"step": 50 * log + 50, **dict.fromkeys(FIELDS, 1 / (log + 1)), "momentum": 0.999,
             **{name: value for name in FIELDS if "variance" in name}, **changes}
            for log, value in enumerate(variances)]  # fmt: skip
    write_lines(folder / "metrics.jsonl", logs)
    options = {"out": str(folder), "steps": 50 * num_logs, "optim": {"learning_rate": rate}, "watch": None}
    (folder / "config.yaml").write_text(json.dumps(options), encoding="utf-8")
    (folder / "result.json").write_text(json.dumps({"num_clips": 1000}), encoding="utf-8")
    return folder


def data_of(page):
    return json.loads(page.decode().partition('id="data">')[2].partition("</script>")[0])


def data(*folders):
    return data_of(make_run_page([read_run(str(folder)) for folder in folders]))


def test_a_page_is_written_alone_and_needs_no_matplotlib(tmp_path, capsys, monkeypatch):
    """One file, of what its name says, on a machine without the extra for figures."""
    run = write_run(tmp_path / "run")
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    assert cli.main(["plot", "run", str(run), "--out", str(tmp_path / "new" / "page.HTML")]) == 0
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["page.HTML"]
    assert "page.HTML" in capsys.readouterr().out
    charts = data_of((tmp_path / "new" / "page.HTML").read_bytes())["charts"]
    assert {curve["name"] for chart in charts for curve in chart["curves"]} == set(FIELDS) - {"epoch"}


def test_a_healthy_run_has_no_alarm(tmp_path):
    """An alarm that cries wolf is not read."""
    (run,) = data(write_run(tmp_path / "run", fall=0.2))["runs"]
    assert run["alarms"] == []
    assert run["state"] == "finished, 1,000 steps"


def test_a_collapse_is_at_the_top_with_what_to_do(tmp_path):
    """It is why one looks; the page says what the run itself said, at the same step."""
    (run,) = data(write_run(tmp_path / "run", num_logs=200, fall=0.01))["runs"]
    (alarm,) = run["alarms"]
    assert "step 5100: target_variance_tokens is 0.098 (0.01 at the end); step 5100: prediction" in alarm
    assert CollapseAlarm.ADVICE in alarm


def test_batches_of_one_clip_have_no_variance_over_clips(tmp_path):
    """It is 0 from the first log on, and no collapse."""
    (run,) = data(write_run(tmp_path / "run", target_variance_batch=0.0, prediction_variance_batch=0.0))["runs"]
    assert run["alarms"] == []


def test_skipped_steps_and_bad_files_are_counted_and_listed(tmp_path):
    """Which clips, and why: else nobody can mend the corpus."""
    run = write_run(tmp_path / "run")
    lines = [{"step": step, "rank": rank, "clips": [f"{rank}-{i}.wav" for i in range(4)]}
             for step in (7, 9) for rank in (0, 1)]  # fmt: skip
    write_lines(run / "skipped_steps.jsonl", lines)
    bad = [{"step": 50, "file": f"{i}.wav", "reason": "damaged\nor empty"} for i in range(MAX_ROWS + 20)]
    write_lines(run / "bad_files.jsonl", bad)
    (run,) = data(run)["runs"]
    assert run["alarms"] == [
        "2 steps were left out because loss or gradient was not finite, the last at 9",
        "120 of 1,000 clips could not be read",
    ]
    assert run["skipped"]["rows"][1] == [9, "0-0.wav, 0-1.wav, 0-2.wav and 5 more"]
    assert run["bad"]["rows"][0] == ["0.wav", "damaged or empty"]
    assert (len(run["bad"]["rows"]), run["bad"]["more"]) == (MAX_ROWS, 20)


def test_probes_on_the_way_are_curves(tmp_path):
    """The score is what the run is for, and the loss does not tell it."""
    run = write_run(tmp_path / "run")
    lines = [{"step": step, "scores": {"best": {}, "last": {"accuracy": {"mean": step / 1000}, "d_prime": {"mean": 1}}}}
             for step in (500, 1000)]  # fmt: skip
    write_lines(run / "probes.jsonl", lines)
    accuracy, d_prime = data(run)["charts"][-2:]
    assert (accuracy["title"], accuracy["unit"]) == ("Probe on the way: accuracy", "%")
    assert accuracy["curves"][0] == {"run": 0, "name": "accuracy", "dashed": False, "steps": [500, 1000],
                                     "values": [50.0, 100.0]}  # fmt: skip
    assert d_prime["curves"][0]["values"] == [1.0, 1.0]


def test_runs_over_each_other_differ_in_what_the_table_says(tmp_path):
    """Which option made the difference; where the runs lie did not."""
    first, second = write_run(tmp_path / "a"), write_run(tmp_path / "b", rate=0.002)
    (second / "result.json").unlink()
    page = data(first, second)
    assert page["options"] == [["optim.learning_rate", "0.001", "0.002"]]
    assert page["runs"][1]["state"] == "not finished: up to step 1,000 of 1,000"
    assert [curve["run"] for curve in page["charts"][0]["curves"]] == [0, 1]
    (second / "config.yaml").unlink()
    assert data(first, second)["options"][-1] == ["watch", "null", "unknown"]


def test_a_description_says_the_last_values(tmp_path):
    """A screen reader has them in words."""
    run = write_run(tmp_path / "run")
    chart = data(run)["charts"][1]
    assert chart["description"].startswith("Against steps. Last values: ")
    assert f"{run}, loss mask: 0.05 at step 1,000" in chart["description"]


def test_pages_stay_small_and_keep_every_peak(tmp_path):
    """A page of the paper's 600,000 steps opens at once, and one bad log in 12,000 is still seen."""
    run = write_run(tmp_path / "run", num_logs=125)
    assert len(make_run_page([read_run(str(run))])) < 100_000
    long = write_run(tmp_path / "long", num_logs=12_000)
    lines = (long / "metrics.jsonl").read_text().splitlines()
    lines[7777] = lines[7777].replace('"grad_norm": ', '"grad_norm": 1000')
    (long / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    page = make_run_page([read_run(str(long))])
    assert len(page) < 1_000_000
    curves = [curve for chart in data_of(page)["charts"] for curve in chart["curves"]]
    assert max(len(curve["values"]) for curve in curves) <= MAX_POINTS + 2
    (norm,) = (curve for curve in curves if curve["name"] == "grad_norm")
    assert norm["steps"][norm["values"].index(max(norm["values"]))] == 50 * 7778
    assert (norm["steps"][0], norm["steps"][-1]) == (50, 600_000)


def test_a_value_that_is_no_number_is_a_gap(tmp_path):
    """NaN is written as null; the curve goes on behind it."""
    run = write_run(tmp_path / "run", grad_norm=None)
    (norm,) = (chart for chart in data(run)["charts"] if chart["title"] == "Gradient norm")
    assert norm["curves"][0]["values"] == [None] * 20


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("metrics.jsonl", '{"loss_mask": 1.0}\n', "a line has no step"),
        ("metrics.jsonl", '{"step": 1, "loss_mask": 1' + 400 * "0" + "}\n", "a value is not a number"),
        ("metrics.jsonl", '{"step": 1, "job": "seed0", "loss": 1}\n', "of a pre-training run"),
        ("skipped_steps.jsonl", '{"step": "x", "clips": []}\n', "line 1: step is missing or damaged"),
        ("skipped_steps.jsonl", '{"step": 3}\n', "line 1: clips is missing or damaged"),
        ("bad_files.jsonl", '{"file": "a"}\n', "line 1: reason is missing or damaged"),
        ("bad_files.jsonl", "nothing\n", "line 1: not a JSON object"),
        ("probes.jsonl", '{"step": 1, "scores": {"last": null}}\n', "line 1: scores is missing or damaged"),
        ("probes.jsonl", '{"step": 1, "scores": {"last": {"accuracy": {"mean": "x"}}}}\n', "line 1: scores is"),
        ("result.json", "[", "not the result of a run"),
        ("config.yaml", "a: &a [1]\nb: *a\n", "config.yaml: cannot be read"),
        pytest.param("config.yaml", "[" * 5000, "config.yaml: cannot be read", id="deep"),
        ("config.yaml", "a: 2026-99-99\n", "config.yaml: cannot be read"),
    ],
)
def test_a_damaged_file_is_one_line(tmp_path, capsys, name, text, words):
    """It is named, and no half page is left."""
    run = write_run(tmp_path / "run")
    (run / name).write_text(text)
    assert cli.main(["plot", "run", str(run), "--out", str(tmp_path / "new" / "page.html")]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not (tmp_path / "new").exists()


def write_hostile_runs(folder):
    """Write two runs, one with names that would be markup, and numbers on which drawing axes could hang."""
    numbers = {"grad_norm": 1e308, "learning_rate": 5e-324, "loss_contrastive": 5e-324, "momentum": 2.0**60}
    runs = [write_run(folder / "good"), write_run(folder / HOSTILE, num_logs=10, fall=0.01, rate=0.01, **numbers)]
    with open(runs[1] / "metrics.jsonl", "a", encoding="utf-8") as file:  # the next numbers there are
        file.write(json.dumps({"step": 550, "loss_contrastive": 1e308, "momentum": 2.0**60 + 256}) + "\n")
    write_lines(runs[1] / "bad_files.jsonl", [{"file": HOSTILE + "\u202egpj.wav", "reason": HOSTILE}])
    write_lines(runs[1] / "skipped_steps.jsonl", [{"step": 3, "clips": [HOSTILE]}])
    write_lines(runs[1] / "probes.jsonl", [{"step": 3, "scores": {"last": {HOSTILE: {"mean": math.pi}}}}])
    return runs


def test_names_of_strangers_are_text_alone(tmp_path):
    """A run that somebody sent must not run anything."""
    page = make_run_page([read_run(str(run)) for run in write_hostile_runs(tmp_path)]).decode()
    assert page.count("<script") == 2
    assert "alert(1)<" not in page
    assert "alert(1)\\u003c" in page


@pytest.mark.slow
@pytest.mark.skipif(not chromium.is_there(), reason=chromium.NEEDS)
@pytest.mark.parametrize(("screen", "scheme"), [(chromium.DESKTOP, "light"), (chromium.PHONE, "dark")])
def test_in_a_real_browser_curves_are_read_and_runs_hidden(tmp_path, screen, scheme):
    """By mouse and by keyboard, in both colours and on a phone; nothing is injected, and no request leaves."""
    page = tmp_path / "page.html"
    page.write_bytes(make_run_page([read_run(str(run)) for run in write_hostile_runs(tmp_path)]))
    with chromium.start() as driver:
        keys = pytest.importorskip("selenium.webdriver.common.keys").Keys
        chromium.set_screen(driver, screen, scheme)
        driver.get(page.as_uri())
        assert driver.execute_script("return document.scripts.length") == 2
        assert driver.execute_script("return document.documentElement.scrollWidth") == screen[0]
        assert HOSTILE in driver.find_element("tag name", "body").text
        assert "the run may be collapsing" in driver.find_element("css selector", ".alarms").text
        svg, tip = (driver.find_element("css selector", f"figure {part}") for part in ("svg", ".tip"))
        assert svg.accessible_name == "Loss, total"
        assert svg.aria_role == "image"
        driver.execute_script("arguments[0].focus()", svg)
        svg.send_keys(keys.HOME, keys.ARROW_RIGHT)
        assert tip.text.startswith("step 100\n")
        assert tip.text.count("0.5") == 2
        assert len(svg.find_elements("css selector", ".curve")) == 2
        axes = driver.find_elements("css selector", "figure svg")
        assert all(len(axis.find_elements("css selector", "text")) < 40 for axis in axes)
        legend = driver.find_elements("css selector", ".legend button")
        legend[1].click()
        assert legend[1].get_attribute("aria-pressed") == "false"
        assert len(svg.find_elements("css selector", ".curve")) == 1
        pointer = pytest.importorskip("selenium.webdriver").ActionChains(driver)
        pointer.move_to_element(svg).perform()
        assert tip.text.startswith("step ")
        assert HOSTILE not in tip.text
        legend[0].click()
        legend[1].click()  # the strange numbers alone
        assert len(svg.find_elements("css selector", ".curve")) == 1
        assert chromium.faults(driver) == []
