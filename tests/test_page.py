"""What ``hasac report`` writes: tables, marl-eval's JSON, and a page that is opened in a real browser."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, make_record

from plugin_hasac.bench.comparison import compare
from plugin_hasac.bench.marl_eval import marl_eval_data
from plugin_hasac.bench.records import write_records
from plugin_hasac.bench.tables import Scores, csv_rows, latex, markdown, tables, to_csv
from plugin_hasac.cli.report import report

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "microsoft-edge")
RUNS = [
    make_record(name, seed, [-9.0, base / 2, base + seed], task=task, metrics={"ep_length_mean": [5.0, 6.0, 7.0]})
    for task in ("mpe:A_b-v0", "mpe:<B>-v0")
    for name, base in (("hasac", 40.0), ("qmix", 20.0))
    for seed in (0, 1, 2)
]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of two algorithms on two tasks, and of one run that failed."""
    folder = tmp_path_factory.mktemp("report")
    failed = make_record("a_baseline_with_a_long_name", 1, [-9.0], task=RUNS[0].task, status="FAILED", source="x" * 200)
    write_records([*RUNS, failed], folder / "in.json")
    report([str(folder / "in.json")], str(folder / "out"))
    return folder / "out"


def test_tables_say_the_same_numbers() -> None:
    scores = Scores.of(compare(RUNS))
    found = tables(scores)
    text = markdown(found)
    assert "| mpe:A_b-v0 | **41.00 ± 1.00 (3)** | 21.00 ± 1.00 (3) |" in text
    assert "| mpe:A_b-v0 | **41.00 [40.00, 42.00]** | 21.00 [20.00, 22.00] |" in text
    assert "at 1,000 env steps, seeds per algorithm: 3" in text
    assert "| hasac | 2 of 2 | 2 of 2 | – |\n| qmix | 0 of 2 | 0 of 2 | mpe:<B>-v0, mpe:A_b-v0 |" in text
    # scores 20, 21, 22 and 40, 41, 42 between 20 and 42, on both tasks
    assert "| hasac | **0.955 [0.924, 0.985]** |" in re.sub(r"\[0\.9[23]\d, 0\.98\d\]", "[0.924, 0.985]", text)
    assert "0 is the lowest and 1 the highest score of any compared run" in text
    tex = latex(found)
    cell, bf = r"\begin{tabular}{@{}c@{}}", r"\bfseries\boldmath "
    bold = rf"{cell}{bf}41.00 \\ {bf}\scriptsize $\pm$ 1.00 (3)\end{{tabular}}"
    plain = rf"{cell}21.00 \\ \scriptsize $\pm$ 1.00 (3)\end{{tabular}}"
    assert rf"mpe:A\_b-v0 & {bold} & {plain} \\" in tex
    assert tex.count(r"\toprule") == tex.count(r"\end{table}") == 4
    assert r"qmix & {0 of 2} & {0 of 2} & {mpe:<B>-v0, mpe:A\_b-v0} \\" in tex
    (row, *_) = csv.DictReader(io.StringIO(to_csv(csv_rows(scores))))
    assert (row["task"], row["algorithm"], row["scores"], row["best_iqm"]) == ("mpe:<B>-v0", "hasac", "40 41 42", "1")
    assert (float(row["mean"]), float(row["standard_deviation"]), float(row["iqm"])) == (41.0, 1.0, 41.0)


def test_a_report_of_its_own_records_is_the_same(out: Path, tmp_path: Path) -> None:
    report([str(out / "runs.json")], str(tmp_path))
    for name in ("runs.json", "table.md", "table.tex", "table.csv", "marl_eval.json", "problems.txt", "report.html"):
        assert (tmp_path / name).read_text() == (out / name).read_text()


def test_no_shared_task_no_aggregate(tmp_path: Path) -> None:
    write_records([RUNS[0], make_record("qmix", 1, [0.0, 1.0, 2.0])], tmp_path / "in.json")
    (tmp_path / "profiles.png").write_text("of an earlier report")
    report([str(tmp_path / "in.json")], str(tmp_path))
    assert not (tmp_path / "profiles.png").exists()
    assert "No task has runs of every algorithm" in (tmp_path / "report.html").read_text()


def test_marl_eval_reads_its_json(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reason = "marl-eval is not installed (install.sh does: id-marl-eval, without its pins)"
    processing = pytest.importorskip("marl_eval.utils.data_processing_utils", reason=reason)
    diagnosis = pytest.importorskip("marl_eval.utils.diagnose_data_errors", reason=reason)
    raw = json.loads((out / "marl_eval.json").read_text())
    assert raw["mpe"]["mpe:A_b-v0"]["hasac"]["seed_2"]["step_1"] == {
        "step_count": 500,
        "return": [20.0],
        "ep_length": [6.0],
    }
    assert raw["mpe"]["mpe:A_b-v0"]["hasac"]["seed_2"]["absolute_metrics"] == {"return": [42.0], "ep_length": [7.0]}
    assert all(diagnosis.DiagnoseData(raw).check_data()["mpe"].values())
    processed = processing.data_process_pipeline(raw, ["return"])
    final, curve = processing.create_matrices_for_rliable(processed, "mpe", ["return"])
    normalised = [(40.0 + seed + 9) / (42 + 9) for seed in range(3)]  # marl-eval scales by all tests
    assert final["mean_norm_return"]["hasac"][:, 0] == pytest.approx(normalised, abs=1e-6)
    assert curve["mean_norm_return"]["qmix"].shape == (3, 2, 3)

    _, refused = marl_eval_data(compare(RUNS[:-1]))
    assert "marl-eval will not aggregate mpe" in refused[0]


def browser() -> str | None:
    """The path of a Chromium: of ``CHROMIUM``, or on PATH."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_in_a_browser(out: Path, width: int, scheme: str) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (install.sh does)")
    executable = browser()
    if executable is None:
        pytest.skip(
            f"no browser: none of {', '.join(BROWSERS)} is on PATH, and CHROMIUM is not set (apt install chromium)"
        )
    messages: list[str] = []
    requests: list[str] = []
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        page = chromium.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
        page.on("console", lambda message: messages.append(message.text))
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto((out / "report.html").as_uri())
        for summary in page.query_selector_all("summary"):
            summary.click()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate(  # what is wider scrolls within itself
            "[...document.querySelectorAll('main *')].filter(e => !e.closest('.scroll > *')).every("
            "e => e.getBoundingClientRect().right <= innerWidth)"
        )
        images = page.evaluate(
            "Promise.all([...document.images].map(i => i.decode().then(() => [i.naturalWidth, i.alt])))"
        )
        assert len(images) == 5  # two curves, profiles, efficiency, improvement
        assert all(natural > 0 and alt for natural, alt in images)
        assert page.evaluate("[...document.querySelectorAll('h1,h2,h3')].map(h => +h.tagName[1])")[:3] == [1, 2, 2]
        assert smallest_contrast(page) >= 4.5
        assert "a_baseline_with_a_long_name on mpe:A_b-v0, seed 1" in page.inner_text("#problems")
        assert "mpe:<B>-v0" in page.inner_text("#tables")

        first = page.locator("#tables table").first
        names = first.locator("tbody th")
        assert names.all_inner_texts() == ["mpe:<B>-v0", "mpe:A_b-v0"]
        button = first.locator("thead button").first
        button.click()
        button.click()
        assert first.locator("thead th").first.get_attribute("aria-sort") == "descending"
        assert sorted(names.all_inner_texts()) == ["mpe:<B>-v0", "mpe:A_b-v0"]
        numbers = page.locator("#numbers table")
        numbers.locator("thead button", has_text="iqm").first.click()
        column = [float(text) for text in numbers.locator("tbody tr td:nth-child(10)").all_inner_texts()]
        assert column == sorted(column)
        chromium.close()
    assert messages == []
    assert all(url.startswith(("file:", "data:")) for url in requests)


def smallest_contrast(page: Any) -> float:
    """The smallest WCAG 2 contrast ratio of any text against the background that it stands on."""
    return page.evaluate("""() => {
        const channels = text => text.match(/[\\d.]+/g).map(Number);
        const luminance = ([r, g, b]) => [r, g, b].map(v => v / 255)
            .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
            .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
        const behind = e => {
            for (; e; e = e.parentElement) {
                const colour = channels(getComputedStyle(e).backgroundColor);
                if (colour.length === 3 || colour[3] > 0) return colour;
            }
            return [255, 255, 255];
        };
        const ratios = [...document.querySelectorAll('body *')].filter(e =>
            !e.closest('script') && [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim())).map(e => {
            const [a, b] = [channels(getComputedStyle(e).color), behind(e)].map(luminance);
            return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        });
        return Math.min(...ratios);
    }""")


def test_committed_reports_match_the_code(tmp_path: Path) -> None:
    """The tables in the repository are those that the command makes now."""
    folder = ROOT / "results" / "benchmarks" / "mehaml"
    report([str(folder / "runs.json")], str(tmp_path), 300_000)
    for name in ("runs.json", "table.md", "table.tex", "table.csv", "marl_eval.json", "problems.txt"):
        assert (tmp_path / name).read_text() == (folder / name).read_text()
