"""A row in detail, against scikit-learn, Bayes' rule by hand, and the metrics of filtered rows."""

from __future__ import annotations

import inspect
import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import brier_score_loss, confusion_matrix, log_loss, roc_auc_score, roc_curve

from benchmark.evaluate.detail import BEST_ON_VAL, Prevalence, Scope, at_prevalence, detail
from benchmark.evaluate.detail_records import Detail
from benchmark.evaluate.fitted import fit_on_val
from benchmark.evaluate.metrics import Classification, primary_metric
from benchmark.evaluate.predictions import val_thresholds
from benchmark.evaluate.resample import estimates, plug_in

predictions = runpy.run_path(str(Path(__file__).with_name("made_up.py")))["predictions"]

CLASSES = {"binary": ("No Finding", "LBP"), "multiclass": ("A", "B", "C"), "multilabel": ("disc", "canal")}
TASKS = tuple(CLASSES)


def scope(task: str, **changes: object) -> Scope:
    prevalences = {name: Prevalence(0.3, "train") for name in CLASSES[task]}
    return replace(Scope(task, CLASSES[task], "youden", prevalences, 200, "fingerprint"), **changes)


def parts(table: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    return table[table["split"] == "val"], table[table["split"] == "test"]


def look(task: str, columns: dict[str, pd.Categorical] | None = None, **changes: object) -> Detail:
    return detail(*parts(predictions(task, CLASSES[task])), scope(task, **changes), columns or {})


def truth_and_score(task: str, i: int) -> tuple[np.ndarray, np.ndarray]:
    """The i-th question of the test rows, put by hand."""
    _, test = parts(predictions(task, CLASSES[task]))
    if task == "binary":
        return test["label"].to_numpy() == 1, test["score_1"].to_numpy()
    truth = test[f"label_{i}"] == 1 if task == "multilabel" else test["label"] == i
    return truth.to_numpy(), test[f"score_{i}"].to_numpy()


# --------------------------------------------------------------------------------------------- fits on val


@pytest.mark.parametrize("task", TASKS)
def test_no_fit_changes_when_every_test_label_is_poisoned(task):
    table = predictions(task, CLASSES[task])
    poisoned = table.copy()
    for column in [c for c in table if c.startswith(("label", "score"))]:
        poisoned.loc[poisoned["split"] == "test", column] = -999
    fits = [fit_on_val(parts(t)[0], task, CLASSES[task], "youden") for t in (table, poisoned)]
    assert repr(fits[0]) == repr(fits[1])

    swapped = table.copy()
    for column in [c for c in table if c.startswith("label")]:
        swapped.loc[swapped["split"] == "test", column] = table.loc[table["split"] == "test", column].to_numpy()[::-1]
    details = [detail(*parts(t), scope(task), {}) for t in (table, swapped)]
    for of, other in zip(details[0].questions, details[1].questions, strict=True):
        assert [p.threshold for p in of.points] == pytest.approx([p.threshold for p in other.points], nan_ok=True)
    assert [r.temperature for r in details[0].reliability] == [r.temperature for r in details[1].reliability]
    assert details[0].before != details[1].before  # the labels did matter to what is measured


def test_the_fit_is_handed_validation_rows_and_refuses_others():
    assert list(inspect.signature(fit_on_val).parameters) == ["val", "task", "classes", "criterion"]
    with pytest.raises(ValueError, match="validation rows"):
        fit_on_val(predictions("binary", CLASSES["binary"]), "binary", CLASSES["binary"], "youden")


@pytest.mark.parametrize("task", ["binary", "multilabel"])
@pytest.mark.parametrize("criterion", ["youden", "f1"])
def test_thresholds_are_those_of_the_metrics(task, criterion):
    table = predictions(task, CLASSES[task])
    fitted = fit_on_val(parts(table)[0], task, CLASSES[task], criterion)
    known = val_thresholds(table, task=task, classes=CLASSES[task], criterion=criterion)
    assert fitted.thresholds == known["probe_standard", "pooled"]


# --------------------------------------------------------------------------------------------- operating points


@pytest.mark.parametrize("task", TASKS)
def test_operating_points_are_rates_at_their_thresholds(task):
    found = look(task)
    guess = parts(predictions(task, CLASSES[task]))[1].filter(like="score").to_numpy().argmax(axis=1)
    for i, question in enumerate(found.questions):
        positive, score = truth_and_score(task, i)
        for point in question.points:
            above = guess == i if np.isnan(point.threshold) else score > point.threshold
            (tn, fp), (fn, tp) = confusion_matrix(positive, above)
            assert point.sensitivity.value == pytest.approx(tp / (tp + fn))
            assert point.specificity.value == pytest.approx(tn / (tn + fp))
            assert point.ppv.value == pytest.approx(tp / (tp + fp))
            assert point.npv.value == pytest.approx(tn / (tn + fn))
            assert point.sensitivity.low <= point.sensitivity.value <= point.sensitivity.high
            assert (point.sensitivity.n, point.sensitivity.n_patients) == (120, 40)


def test_intervals_are_those_of_the_same_metric_elsewhere():
    """Sensitivity and specificity at the threshold are in the table of metrics, too: same figures, same resamples."""
    table = predictions("binary", CLASSES["binary"])
    val, test = parts(table)
    fitted = fit_on_val(val, "binary", CLASSES["binary"], "youden")
    labels, scores = test["label"].to_numpy(), test[["score_0", "score_1"]].to_numpy()
    metrics = Classification(
        "binary", labels, scores, classes=CLASSES["binary"], probabilities=True, thresholds=fitted.thresholds
    )
    (known,) = estimates([metrics], test["group"].to_numpy(), replicates=200, fingerprint="fingerprint")
    found = look("binary")
    assert found.questions[0].points[0].name == BEST_ON_VAL["youden"]
    assert found.questions[0].points[0].sensitivity == known["recall_binary@val_threshold"]
    assert found.questions[0].points[0].specificity == known["specificity@val_threshold"]
    assert (found.before.ece, found.before.brier, found.before.log_loss) == (
        known["ece"],
        known["brier"],
        known["log_loss"],
    )


@pytest.mark.parametrize("task", TASKS)
def test_specificity_is_kept_on_validation_and_told_on_test(task):
    val, _ = parts(predictions(task, CLASSES[task]))
    for i, question in enumerate(look(task).questions):
        c = 1 if task == "binary" else i
        negative = (val[f"label_{c}"] == 0 if task == "multilabel" else val["label"] != c).to_numpy()
        on_val = [(val[f"score_{c}"].to_numpy()[negative] <= p.threshold).mean() for p in question.points[1:]]
        assert on_val[0] >= 0.9
        assert on_val[1] >= 0.95
        assert [p.name for p in question.points[1:]] == [
            "90% specificity on validation",
            "95% specificity on validation",
        ]


def test_predictive_values_follow_bayes():
    """99% sensitive, 95% specific, 1 in 1000 has it: of 1000 people 0.99 are found and 49.95 alarmed for nothing."""
    ppv, npv = at_prevalence(np.array([0.99]), np.array([0.95]), 0.001)
    assert ppv[0] == pytest.approx(0.99 / (0.99 + 49.95))
    assert npv[0] == pytest.approx(949.05 / (949.05 + 0.01))


def test_at_the_prevalence_of_the_test_samples_predictive_values_are_those_counted_there():
    positive, _ = truth_and_score("binary", 0)
    prevalences = {"LBP": Prevalence(float(positive.mean()), "card")}
    question = look("binary", prevalences=prevalences).questions[0]
    assert (question.prevalence, question.prevalence_from) == (positive.mean(), "card")
    for point in question.points:
        assert point.ppv_at_prevalence.value == pytest.approx(point.ppv.value)
        assert point.npv_at_prevalence.value == pytest.approx(point.npv.value)


def test_predictive_values_that_nothing_is_known_of_say_so():
    unknown = look("binary", prevalences={}).questions[0].points[0]
    assert np.isnan(unknown.ppv_at_prevalence.value)
    assert unknown.ppv_at_prevalence.why_undefined == "no prevalence is known"
    table = predictions("binary", CLASSES["binary"])
    table.loc[table["split"] == "test", "score_1"] = 0.0
    point = detail(*parts(table), scope("binary"), {}).questions[0].points[0]
    for figure in (point.ppv, point.ppv_at_prevalence):
        assert (np.isnan(figure.value), figure.why_undefined) == (True, "no test sample is called positive")
    assert point.npv_at_prevalence.value == pytest.approx(0.7)


# --------------------------------------------------------------------------------------------- probabilities, curves


@pytest.mark.parametrize("task", TASKS)
def test_calibration_after_the_temperature_is_that_of_scaled_probabilities(task):
    val, test = parts(predictions(task, CLASSES[task]))
    found = look(task)
    scores = test.filter(like="score").to_numpy()
    scaled = fit_on_val(val, task, CLASSES[task], "youden").scaled(scores)
    truth = test["label"] if "label" in test else test.filter(like="label")
    if task == "multilabel":
        expected = np.mean([log_loss(truth.iloc[:, c], scaled[:, c]) for c in range(2)])
    else:
        expected = log_loss(truth, scaled)
    assert found.after is not None
    assert found.after.log_loss.value == pytest.approx(expected)
    if task == "binary":
        assert found.after.brier.value == pytest.approx(brier_score_loss(truth, scaled[:, 1]))
        assert roc_auc_score(truth, scaled[:, 1]) == pytest.approx(roc_auc_score(truth, scores[:, 1]))


@pytest.mark.parametrize("task", TASKS)
def test_reliability_draws_the_calibration_error(task):
    found = look(task)
    assert found.after is not None
    for calibration, side in ((found.before, "before"), (found.after, "after")):
        errors = []
        for curve in found.reliability:
            bins = getattr(curve, side)
            assert sum(b.n for b in bins) == 120
            errors.append(sum(b.n * abs(b.predicted - b.observed) for b in bins) / 120)
        assert np.mean(errors) == pytest.approx(calibration.ece.value)
    assert any(b.low < b.observed < b.high for b in found.reliability[0].before)


@pytest.mark.parametrize("task", TASKS)
def test_curves_of_every_question(task):
    for i, question in enumerate(look(task).questions):
        positive, score = truth_and_score(task, i)
        assert np.trapezoid(question.roc.y, question.roc.x) == pytest.approx(roc_auc_score(positive, score), abs=1e-5)
        corners = {(round(x, 6), round(y, 6)) for x, y in zip(*roc_curve(positive, score)[:2], strict=True)}
        assert set(zip(question.roc.x, question.roc.y, strict=True)) <= corners
        assert len(question.roc_band.low) == len(question.roc_band.x) == 51
        assert (np.array(question.roc_band.low) <= np.array(question.roc_band.high)).all()
        assert question.decision is not None
        assert len(question.decision.model) == len(question.decision.low) == 99
        assert question.decision.treat_all[0] == pytest.approx(positive.mean() - (1 - positive.mean()) / 99, abs=1e-6)


@pytest.mark.parametrize("task", TASKS)
def test_confusion_is_scikit_learns(task):
    found = look(task).confusion
    _, test = parts(predictions(task, CLASSES[task]))
    if task == "multiclass":
        guess = test.filter(like="score").to_numpy().argmax(axis=1)
        assert np.array_equal(found[0].counts, confusion_matrix(test["label"], guess))
        return
    for i, (matrix, question) in enumerate(zip(found, look(task).questions, strict=True)):
        positive, score = truth_and_score(task, i)
        assert np.array_equal(matrix.counts, confusion_matrix(positive, score > question.points[0].threshold))


# --------------------------------------------------------------------------------------------- subgroups


def columns() -> dict[str, pd.Categorical]:
    """Two large groups of whole patients, and one of two patients."""
    patients = predictions("binary", CLASSES["binary"]).query("split == 'test'")["group"].to_numpy()
    order = np.unique(patients, return_inverse=True)[1]
    names = np.where(order < 2, "rare", np.where(order < 20, "F", "M"))
    return {"sex": pd.Categorical(names, ["F", "M", "rare", "never seen"], ordered=True)}


@pytest.mark.parametrize("task", TASKS)
def test_subgroups_are_the_metrics_of_the_filtered_rows(task):
    groups = columns()
    for i, question in enumerate(look(task, groups).questions):
        positive, score = truth_and_score(task, i)
        above = score > question.points[0].threshold
        if task == "multiclass":
            above = parts(predictions(task, CLASSES[task]))[1].filter(like="score").to_numpy().argmax(axis=1) == i
        (breakdown,) = question.breakdowns
        assert [g.name for g in breakdown.groups] == ["F", "M", "rare"]
        for group in breakdown.groups[:2]:
            mine = groups["sex"] == group.name
            assert group.n == mine.sum()
            assert group.events == positive[mine].sum()
            assert group.n_patients == {"F": 18, "M": 20}[group.name]
            assert group.auroc.value == pytest.approx(roc_auc_score(positive[mine], score[mine]))
            assert group.sensitivity.value == pytest.approx(above[mine & positive].mean())
            assert group.specificity.value == pytest.approx((~above)[mine & ~positive].mean())
            assert group.auroc.low < group.auroc.value < group.auroc.high
        best = max(breakdown.groups[:2], key=lambda g: g.auroc.value)
        worst = min(breakdown.groups[:2], key=lambda g: g.auroc.value)
        assert (breakdown.best, breakdown.worst) == (best.name, worst.name)
        assert breakdown.gap.value == pytest.approx(best.auroc.value - worst.auroc.value)
        assert breakdown.gap.low < breakdown.gap.value < breakdown.gap.high
        assert breakdown.gap.n_patients == 38


def test_group_of_everybody_has_the_figures_of_everybody():
    everybody = {"all": pd.Categorical(["all"] * 120)}
    found = look("binary", everybody).questions[0]
    (breakdown,) = found.breakdowns
    assert breakdown.groups[0].sensitivity == found.points[0].sensitivity
    _, test = parts(predictions("binary", CLASSES["binary"]))
    scores = test[["score_0", "score_1"]].to_numpy()
    table = Classification("binary", test["label"], scores, classes=CLASSES["binary"], probabilities=False)
    assert breakdown.groups[0].auroc.value == plug_in(table)[primary_metric("binary")]
    assert breakdown.gap is None


def test_group_with_few_events_says_nothing_but_how_many_samples_it_has():
    rare = look("binary", columns()).questions[0].breakdowns[0].groups[2]
    assert rare.model_dump(exclude_defaults=True) == {"name": "rare", "n": 6, "hidden": True}


@pytest.mark.parametrize(("positives", "hidden"), [(9, True), (10, False), (20, False), (21, True)])
def test_ten_positives_and_ten_negatives_are_enough(positives, hidden):
    table = predictions("binary", CLASSES["binary"])
    _, test = parts(table)
    table["group"] = np.arange(len(table))  # one sample a patient
    wanted = test.index[:30]
    table.loc[wanted, "label"] = (np.arange(30) < positives).astype(int)
    groups = pd.Categorical(np.where(test.index.isin(wanted), "few", "others"))
    found = detail(*parts(table), scope("binary"), {"x": groups})
    assert found.questions[0].breakdowns[0].groups[0].hidden is hidden


def test_many_samples_of_few_patients_are_few_events():
    table = predictions("binary", CLASSES["binary"])
    test = parts(table)[1]
    patients = np.unique(test["group"])
    table["label"] = (table["group"] % 2).astype(np.int64)  # of each patient all samples are alike
    groups = pd.Categorical(np.where(test["group"].isin(patients[:18]), "nine on each side", "eleven on each side"))
    found = detail(*parts(table), scope("binary"), {"x": groups})
    assert [(g.name, g.n, g.hidden) for g in found.questions[0].breakdowns[0].groups] == [
        ("eleven on each side", 66, False),
        ("nine on each side", 54, True),
    ]


# --------------------------------------------------------------------------------------------- what is undefined


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("part", ["val", "test"])
@pytest.mark.parametrize("label", [0, 1])
def test_one_class_alone_is_said_and_breaks_nothing(task, part, label):
    table = predictions(task, CLASSES[task])
    for column in [c for c in table if c.startswith("label")]:
        table.loc[table["split"] == part, column] = label
    found = detail(*parts(table), scope(task), columns())
    assert Detail.model_validate_json(found.model_dump_json()).model_dump_json() == found.model_dump_json()
    first = found.questions[0 if task != "multiclass" else 1 - label]
    if part == "test":
        assert first.roc.x == ()
        assert all(group.hidden for group in first.breakdowns[0].groups)
        undefined = [f for p in first.points for f in (p.sensitivity, p.specificity) if np.isnan(f.value)]
        assert undefined
        assert all(figure.why_undefined.startswith("no test sample is") for figure in undefined)
    else:
        assert found.after is None
        assert found.reliability[0].why_not
        assert first.decision is None


def test_row_without_validation_rows_has_no_thresholds_and_says_why():
    val, test = parts(predictions("binary", CLASSES["binary"]))
    found = detail(val[:0], test, scope("binary"), columns())
    assert found.questions[0].points[0].why_not == "no validation sample is positive"
    assert found.confusion == ()
    group = found.questions[0].breakdowns[0].groups[0]
    assert group.auroc.value > 0.5
    assert group.sensitivity.why_undefined == "no validation sample is positive"
