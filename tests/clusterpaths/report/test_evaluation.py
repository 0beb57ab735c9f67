"""The section on what the paths are worth, from records made by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from clusterpaths.evaluation.record import (
    METRICS,
    Alignment,
    Complexity,
    Detection,
    Evaluation,
    Measure,
    OODDetection,
    Perturbed,
    read_evaluation,
)
from clusterpaths.report import markdown
from clusterpaths.report.evaluation import SCORES, evaluation_rows
from clusterpaths.report.templates import render
from clusterpaths.sets.directory import SetDirectory
from tests.clusterpaths.report.test_report import Page

MISSING = Evaluation(
    set="set_01",
    fingerprint="f",
    seed=0,
    num_fit=1600,
    num_eval=400,
    num_images=0,
    complexity=Complexity(occupied=1315, covering=215, entropy=7.125),
    purity_labels=None,
    purity_predictions=None,
    notes=("No example has a label.",),
)


def measure(value: float) -> Measure:
    return Measure(value=value, low=value - 0.125, high=value + 0.0625, n=1400)


WHOLE = MISSING.model_copy(
    update={
        "num_images": 300,
        "purity_labels": measure(0.75),
        "alignment": Alignment(
            daf=measure(0.9),
            coverage=measure(0.8),
            daf_seen=None,
            paths=1308,
            majority=measure(0.3),
            deep_knn=measure(0.6),
        ),
        "perturbations": (
            Perturbed(name="flip", paths=measure(0.5), layers=measure(0.55), predictions=measure(0.7)),
            Perturbed(name="<b>blur</b>", paths=measure(0.4), layers=measure(0.45), predictions=None),
        ),
        "strangers": tuple(
            OODDetection(
                name=name,
                num_images=1300,
                scores=tuple(Detection(score=s, auroc=measure(0.875), fpr95=measure(0.25)) for s in SCORES),
            )
            for name in ("noise", "crops of photographs")
        ),
        "notes": (),
    }
)


def section(evaluation: Evaluation, folder: Path) -> tuple[Page, str]:
    path = folder / "section.html"
    html = render("evaluation_section.html", evaluation=evaluation, evaluation_groups=evaluation_rows(evaluation))
    path.write_text(html)
    return Page(path), html


def test_only_what_was_measured_has_a_row() -> None:
    assert evaluation_rows(MISSING) == ()
    names = {group.title: [row.name for row in group.rows] for group in evaluation_rows(WHOLE)}
    assert names == {
        "Purity": ["labels"],
        "Decision alignment": ["decision alignment", "coverage", "deep k-NN", "majority"],
        "Path agreement": ["flip", "<b>blur</b>"],
        "Prediction agreement": ["flip"],
        "OOD detection: noise": list(SCORES),
        "OOD detection: photo crops": list(SCORES),
    }


def test_rows_carry_values_and_intervals_and_baselines_are_marked() -> None:
    alignment = next(group for group in evaluation_rows(WHOLE) if group.title == "Decision alignment")
    assert [(row.value, row.own) for row in alignment.rows] == [(0.9, True), (0.8, True), (0.6, False), (0.3, False)]
    assert alignment.rows[0].interval == "0.775 to 0.963"
    assert alignment.rows[0].words == "over 1,308 paths"
    detection = next(group for group in evaluation_rows(WHOLE) if group.title == "OOD detection: noise")
    assert [row.name for row in detection.rows if row.own] == ["paths", "path rarity"]
    assert {row.words for row in detection.rows} == {"FPR95 0.250 (0.125 to 0.312)"}


def test_bars_and_whiskers_end_where_the_numbers_say(tmp_path: Path) -> None:
    page, _ = section(WHOLE.model_copy(update={"perturbations": (), "strangers": (), "alignment": None}), tmp_path)
    assert [rect["width"] for rect in page.having("rect")] == ["100%", "75.0%"]
    ends = [(line["x1"], line["x2"]) for line in page.having("line")]
    assert ends == [("62.5%", "81.2%"), ("62.5%", "62.5%"), ("81.2%", "81.2%")] * 2  # a halo, and the whisker on it


def test_chance_stands_beside_purity(tmp_path: Path) -> None:
    evaluation = WHOLE.model_copy(update={"chance_labels": 0.625, "strangers": ()})
    row = next(group for group in evaluation_rows(evaluation) if group.title == "Purity").rows[0]
    assert row.chance == 0.625
    assert "by chance 0.625" in row.words
    assert "by chance 0.625" in section(evaluation, tmp_path)[0].text
    drawn = [line["x1"] for line in section(evaluation, tmp_path)[0].having("line") if line.get("stroke-dasharray")]
    assert drawn == ["62.5%"]
    assert markdown.evaluation_rows(evaluation)[0]["by chance"] == 0.625


def test_every_score_is_explained_once_and_chance_is_drawn(tmp_path: Path) -> None:
    page, _ = section(WHOLE, tmp_path)
    for words in SCORES.values():
        assert page.text.count(words) == 1
    chance = [line for line in page.having("line") if line.get("stroke-dasharray")]
    assert len(chance) == 2 * len(SCORES)
    assert {line["x1"] for line in chance} == {"50.0%"}


def test_names_are_escaped_and_notes_are_shown(tmp_path: Path) -> None:
    _, html = section(WHOLE, tmp_path)
    assert "<b>blur</b>" not in html
    assert "&lt;b&gt;blur&lt;/b&gt;" in html
    page, html = section(MISSING, tmp_path)
    assert len(page.having("p", **{"class": "note"})) == 1
    assert "No example has a label." in page.text
    assert "215 of 1,315 occupied paths hold 95% of the examples; entropy 7.12 bits" in page.text
    assert "held out" not in page.text  # nothing was judged


@pytest.mark.parametrize("content", [None, "", "{", "{}", '{"set": "set_01"}'])
def test_metrics_that_are_not_understood_are_none(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / METRICS).write_text(content)
    assert read_evaluation(SetDirectory(tmp_path)) is None


def test_metrics_come_back_as_they_were_written(tmp_path: Path) -> None:
    (tmp_path / METRICS).write_text(WHOLE.model_dump_json())
    assert read_evaluation(SetDirectory(tmp_path)) == WHOLE
