"""The report: its page opens in a real browser, draws every figure, and needs nothing from outside."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sweeper.analysis.open import opened
from sweeper.contract.measurements import Measurements
from sweeper.contract.trial import Outcome, TrialResult
from sweeper.report import write
from sweeper.study.folder import StudyFolder
from tests.support.synthetic import MIB, grid, methods_study, write_study, write_trial

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium on this machine to open the page in"
)
MARKS = re.compile(r'class="(?:point|js-line|hm)\b|class="[^"]*\bpoint\b')


def nothing(path: Path) -> StudyFolder:
    return write_study(path, {"lora.r": ["8", "16"]})


def one_trial(path: Path) -> StudyFolder:
    study = write_study(path, {})
    write_trial(study, 0, {})
    return study


def still_running(path: Path) -> StudyFolder:
    study = write_study(path, {"lora.r": ["8", "16"]})
    write_trial(study, 0, {"lora.r": "8"})
    write_trial(study, 1, {"lora.r": "16"}, outcome=None)
    return study


def all_failed(path: Path) -> StudyFolder:
    study = write_study(path, {"lora.r": ["8", "16"]})
    write_trial(study, 0, {"lora.r": "8"}, Outcome.OUT_OF_MEMORY, "did not fit")
    write_trial(study, 1, {"lora.r": "16"}, Outcome.DIVERGED, "the loss became NaN")
    return study


STUDIES: dict[str, Callable[[Path], StudyFolder]] = {
    "methods": methods_study,
    "nothing": nothing,
    "one trial": one_trial,
    "still running": still_running,
    "all failed": all_failed,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, StudyFolder]:
    """Each kind of study with its report."""
    root = tmp_path_factory.mktemp("report")
    made = {name: make(root / name.replace(" ", "-")) for name, make in STUDIES.items()}
    for folder in made.values():
        write(opened(folder))
    return made


def page(folder: StudyFolder) -> str:
    return folder.report_html.read_text(encoding="utf-8")


def embedded(text: str, name: str) -> Any:
    found = re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def opened_in_browser(folder: StudyFolder, profile: Path, width: int) -> str:
    """The page's elements after its script ran, without a network."""
    command = [
        str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}",
        "--host-resolver-rules=MAP * ~NOTFOUND", f"--window-size={width},1200", "--virtual-time-budget=20000",
        "--dump-dom", folder.report_html.resolve().as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@needs_chromium
@pytest.mark.parametrize(("name", "width"), [*((name, 1400) for name in STUDIES), ("methods", 390)])
def test_the_page_opens_without_an_error_and_every_figure_has_marks(
    folders: dict[str, StudyFolder], tmp_path: Path, name: str, width: int
) -> None:
    dom = opened_in_browser(folders[name], tmp_path, width)
    opening = dom[: dom.index("<head")]
    assert 'data-ready="true"' in opening
    assert "data-errors" not in opening, opening
    drawn = re.split(r'<div class="plot[^"]*" id="figure-', dom)[1:]
    expected = embedded(page(folders[name]), "figures")
    assert len(drawn) == len(expected)
    for figure in drawn:
        key, figure_dom = figure.split('"', 1)[0], figure.split("</figure>", 1)[0]
        assert MARKS.search(figure_dom) or "<image" in figure_dom, f"{key} shows nothing"


OVERLAPS = """<script>setTimeout(() => {
  const texts = [...document.querySelectorAll("#effects .ytick text, #effects .annotation text, .bartext")];
  const boxes = texts.map((text) => text.getBoundingClientRect());
  const meet = (a, b) => a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
  const pairs = boxes.flatMap((box, at) => boxes.slice(at + 1).filter((other) => meet(box, other)));
  document.documentElement.dataset.overlaps = `${pairs.length} of ${texts.length}`;
}, 5000);</script>"""


@needs_chromium
def test_the_value_of_a_short_bar_lies_on_no_name_of_a_change(tmp_path: Path) -> None:
    optimizers = {"adamw": (1000.0, 2000), "adafactor": (970.0, 1990), "bnb8": (3000.0, 3500)}
    study = write_study(tmp_path / "study", {"optim": list(optimizers)})
    for number, (name, (speed, memory)) in enumerate(optimizers.items()):
        found: dict[str, Any] = {
            "tokens_per_s": speed,
            "peak_memory_bytes": memory * MIB,
            "eval_loss": 2 - number / 1000,
        }
        write_trial(study, number, {"optim": name}, **found)
    write(opened(study))
    study.report_html.write_text(page(study).replace("</body>", f"{OVERLAPS}</body>"), encoding="utf-8")
    dom = opened_in_browser(study, tmp_path / "profile", 1400)
    opening = dom[: dom.index("<head")]
    assert re.search(r'data-overlaps="0 of [1-9]', opening), opening


def test_every_section_of_a_full_study_has_its_figures_and_tables(folders: dict[str, StudyFolder]) -> None:
    text = page(folders["methods"])
    sections = dict(re.findall(r'<section id="([\w-]+)">(.*?)</section>', text, re.DOTALL))
    expected = (
        "ranking trade-off cumulative effects interactions loss memory claims failures environment".split()
    )
    assert list(sections) == expected
    for key, inner in sections.items():
        assert "<table" in inner, key
        assert ("<figure>" in inner) == (key not in ("ranking", "claims", "failures", "environment")), key


def test_figures_are_valid_for_plotly(folders: dict[str, StudyFolder]) -> None:
    from plotly.graph_objects import Figure

    for folder in folders.values():
        for figure in embedded(page(folder), "figures").values():
            Figure(data=figure["data"], layout=figure["layout"])  # raises on what Plotly does not know


def test_the_page_fetches_nothing(folders: dict[str, StudyFolder]) -> None:
    text = re.sub(r'<script type="text/plain" id="plotly">.*?</script>', "", page(folders["methods"]))
    assert re.findall(r'(?:src|href)="(?!#|data:)[^"]*"', text) == []
    assert "@import" not in text and "url(" not in text


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nothing", "No trial has ended yet"),
        ("one trial", "Trial 0 is best"),
        ("still running", "Trial 0 is best"),
        ("all failed", "No trial satisfies the rule"),
    ],
)
def test_a_report_of_little_says_what_there_is(folders: dict[str, StudyFolder], name: str, said: str) -> None:
    assert said in page(folders[name])
    assert said in folders[name].report_markdown.read_text(encoding="utf-8")


def test_what_failed_is_told_with_its_reason(folders: dict[str, StudyFolder]) -> None:
    text = folders["methods"].report_markdown.read_text(encoding="utf-8")
    section = text.partition("## What did not work")[2]
    for words in ("out of memory", "crashed", "pruned", "predicted oom", "killed by signal 9"):
        assert words in section


def test_text_from_trials_cannot_become_markup(tmp_path: Path) -> None:
    evil = "</script><img src=x onerror=alert(1)>"
    study = write_study(tmp_path / "s", {"model.path": [evil]})
    write_trial(study, 0, {"model.path": evil})
    write_trial(study, 1, {"model.path": "b"}, Outcome.CRASHED, f"bad {evil}")
    write(opened(study))
    assert "<img" not in page(study)
    assert html.escape(evil) in page(study)


def test_predicted_memory_is_compared_with_measured_where_it_is_known(
    folders: dict[str, StudyFolder], tmp_path: Path
) -> None:
    assert "predicted" not in _section(folders["one trial"], "memory")
    study = write_study(tmp_path / "s", {"lora.r": ["8", "16", "32"]})
    known: dict[str, Any] = {"peak_memory_bytes": 100 * MIB, "predicted_memory_bytes": 90 * MIB}
    write_trial(study, 0, {"lora.r": "8"}, **known)
    write_trial(study, 1, {"lora.r": "16"}, **known, corrected_memory_bytes=98 * MIB)
    unrun = Measurements(predicted_memory_bytes=3000 * MIB, corrected_memory_bytes=3300 * MIB)
    write_trial(study, 2, {"lora.r": "32"}, Outcome.PREDICTED_OOM, "too large")
    study.trial(2).write_result(TrialResult(Outcome.PREDICTED_OOM, "too large", unrun))
    write(opened(study))
    shown = _section(study, "memory")
    assert "Predicted peak memory was off by 6.0% in the median and 10.0% at most, over 2 trials" in shown
    for cell in ("predicted memory MiB", "corrected memory MiB", ">98.0<", "−10.0%", "−2.0%"):
        assert cell in shown, cell
    figures = embedded(page(study), "figures")
    (unfinished,) = [item for item in figures["trade-off"]["data"] if item["name"] == "did not finish"]
    assert unfinished["x"] == [3300]
    (marks,) = [item for item in figures["memory"]["data"] if item["name"] == "predicted peak"]
    assert sorted(marks["x"]) == [90, 98, 3300]


def _section(folder: StudyFolder, key: str) -> str:
    return page(folder).partition(f'<section id="{key}">')[2].partition("</section>")[0]


def test_the_claims_of_the_paper_stand_beside_what_was_measured(tmp_path: Path) -> None:
    study = write_study(tmp_path / "s", {"precision": ["fp32", "bf16"], "checkpointing": ["off", "on"]})
    for number, cell in enumerate(grid({"precision": ["fp32", "bf16"], "checkpointing": ["off", "on"]})):
        write_trial(study, number, cell, optimizer_state_bytes_per_parameter=8.0)
    write(opened(study))
    lines = study.report_markdown.read_text(encoding="utf-8").splitlines()
    rows = [line.split(" | ") for line in lines if line.startswith("| ") and "not in this study" in line]
    assert [row[0].strip("| ") for row in rows] == [
        "Adafactor's state", "8-bit AdamW's state", "what checkpointing costs, full fine-tune",
        "the same against plain 16 bit",
    ]  # fmt: skip
    text = "\n".join(lines)
    assert "| AdamW's state | 8 B per parameter | 8.00 B per parameter | right for float32" in text
    assert "| what checkpointing costs, LoRA | about 20% | +33.3% time per step |" in text
    assert re.search(r"against fp32 \| 3x less memory \| 1\.\d\dx less memory at 1\.80x the speed", text)


def test_a_metric_that_does_not_exist_is_refused(folders: dict[str, StudyFolder]) -> None:
    record = folders["one trial"].read_trial(0)
    with pytest.raises(ValueError, match="predicted_peak_memory_bytes"):
        record.metric("predicted_peak_memory_bytes")
