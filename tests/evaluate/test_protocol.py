"""What is fitted on what: test labels and test pictures reach no fit, and measurements follow from predictions."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from benchmark.data.manifest import Dataset, DatasetCard
from benchmark.data.split import Split
from benchmark.errors import BadInput
from benchmark.evaluate.metrics import primary_metric
from benchmark.evaluate.predictions import recompute
from benchmark.evaluate.protocol import EVALUATORS, EvaluationConfig, Space, evaluate
from benchmark.evaluate.threshold import choose

CONFIG = EvaluationConfig(
    strengths=(1e-3, 1e-1, 10.0), paper_epochs=3, shots=(1, 2, 400), few_shot_draws=2, neighbours=(1, 5), replicates=60
)
N = 180
SCORES = ["score_0", "score_1"]


def dataset(task="binary", n_classes=2, *, reports=True):
    rng = np.random.default_rng(0)
    labels = rng.integers(2, size=(N, n_classes)) if task == "multilabel" else rng.integers(n_classes, size=N)
    return Dataset(
        card=DatasetCard(name="blobs", task=task, label="label"),
        classes=tuple("abcd"[:n_classes]),
        sample_ids=tuple(f"s{i}" for i in range(N)),
        rows=np.arange(1, N + 1),
        labels=labels,
        groups=np.repeat(np.arange(N // 3), 3),
        grouped_by="patient",
        pixels=[],
        pixel_hashes=(),
        reports=tuple(None if i % 10 == 0 else f"report {i % 50}" for i in range(N)) if reports else None,
    )


SPLIT = Split(np.arange(90), np.arange(90, 120), np.arange(120, N), 0, "seeded", "f1ngerpr1nt")


def space(data, *, aligned=True, name="projected", seed=1):
    rng = np.random.default_rng(seed)
    n_classes = len(data.classes)
    one_hot = data.labels if data.labels.ndim == 2 else np.eye(n_classes)[data.labels]
    centres = rng.normal(size=(n_classes, 8))
    image = (one_hot @ centres + rng.normal(size=(N, 8))).astype(np.float32)
    text = (image + rng.normal(size=image.shape)).astype(np.float32)
    if data.reports is not None:
        text[[r is None for r in data.reports]] = np.nan
    prompts = {
        name: np.stack([centre, centre + 0.1]).astype(np.float32)
        for name, centre in zip(data.classes, centres, strict=True)
    }
    return Space(name, image, text if data.reports else None, prompts, aligned)


def find(evaluation, evaluator, metric):
    return next(m for m in evaluation.measurements if (m.evaluator, m.metric) == (evaluator, metric))


@pytest.mark.parametrize(("task", "n_classes"), [("binary", 2), ("multiclass", 3), ("multilabel", 3)])
def test_test_labels_change_no_fit_and_no_score(task, n_classes):
    """Poisoned test labels: byte-identical fits and scores; only the measurements differ."""
    clean = dataset(task, n_classes)
    labels = clean.labels.copy()
    labels[SPLIT.test] = 1 - labels[SPLIT.test] if task != "multiclass" else (labels[SPLIT.test] + 1) % 3
    poisoned = replace(clean, labels=labels)
    first, second = (evaluate([space(clean)], data, SPLIT, CONFIG) for data in (clean, poisoned))
    assert json.dumps(first.fits) == json.dumps(second.fits)
    unlabelled = [c for c in first.predictions.columns if not c.startswith("label")]
    pd.testing.assert_frame_equal(first.predictions[unlabelled], second.predictions[unlabelled], check_exact=True)
    name = primary_metric(task)
    assert find(first, "probe_standard", name).estimate.value != find(second, "probe_standard", name).estimate.value


def test_test_pictures_change_no_fit_and_no_validation_score():
    """Poisoned test features: byte-identical fits, and validation samples are scored the same."""
    data = dataset()
    clean = space(data)
    image = clean.image.copy()
    image[SPLIT.test] = 1e3 * np.random.default_rng(9).normal(size=image[SPLIT.test].shape)
    first, second = (evaluate([s], data, SPLIT, CONFIG) for s in (clean, replace(clean, image=image)))
    assert json.dumps(first.fits) == json.dumps(second.fits)
    val = [e.predictions[e.predictions["split"] == "val"] for e in (first, second)]
    pd.testing.assert_frame_equal(*val, check_exact=True)
    test = [e.predictions.loc[e.predictions["split"] == "test", "score_1"] for e in (first, second)]
    assert not np.array_equal(*test)


def test_validation_labels_choose_the_strength_and_fit_nothing_else():
    """Other validation labels may change the standard probe's strength, but no other evaluator's scores."""
    data = dataset()
    labels = data.labels.copy()
    labels[SPLIT.val] = 1 - labels[SPLIT.val]
    first, second = (evaluate([space(data)], d, SPLIT, CONFIG) for d in (data, replace(data, labels=labels)))
    chosen = [e.fits["projected"]["probe_standard"]["strength"] for e in (first, second)]
    assert chosen[1] < chosen[0]
    others = [e.predictions[e.predictions["evaluator"] != "probe_standard"].reset_index() for e in (first, second)]
    pd.testing.assert_frame_equal(others[0][SCORES], others[1][SCORES], check_exact=True)


def test_same_input_same_bytes():
    """Two evaluations of the same features agree in every measurement and every prediction."""
    data = dataset("multiclass", 3)
    first, second = (evaluate([space(data)], data, SPLIT, CONFIG) for _ in range(2))
    assert [m.model_dump_json() for m in first.measurements] == [m.model_dump_json() for m in second.measurements]
    assert json.dumps(first.fits) == json.dumps(second.fits)
    pd.testing.assert_frame_equal(first.predictions, second.predictions, check_exact=True)


@pytest.mark.parametrize(("task", "n_classes"), [("binary", 2), ("multiclass", 3), ("multilabel", 3)])
def test_measurements_can_be_computed_again_from_the_file(task, n_classes):
    """Through Parquet and back, every measurement is the same to the last digit."""
    data = dataset(task, n_classes)
    evaluation = evaluate([space(data, aligned=False, name="pooled"), space(data)], data, SPLIT, CONFIG)
    buffer = io.BytesIO()
    evaluation.predictions.to_parquet(buffer, index=False)
    again = recompute(
        pd.read_parquet(buffer),
        task=task,
        classes=data.classes,
        fingerprint=SPLIT.fingerprint,
        replicates=CONFIG.replicates,
        recall_at=CONFIG.recall_at,
        threshold=CONFIG.threshold,
    )
    assert [m.model_dump_json() for m in again] == [m.model_dump_json() for m in evaluation.measurements]


def test_predictions_are_those_of_the_test_samples_and_give_the_metric():
    """The table's AUROC, by scikit-learn, is the measured one; every evaluator has one row per test sample and draw."""
    data = dataset()
    evaluation = evaluate([space(data)], data, SPLIT, CONFIG)
    test = evaluation.predictions[evaluation.predictions["split"] == "test"]
    assert (test.groupby(["evaluator", "draw"], observed=True).size() == 60).all()
    assert set(test.groupby("evaluator", observed=True)["draw"].nunique()[["few_shot_k1", "few_shot_k2"]]) == {2}
    probe = test[test["evaluator"] == "probe_standard"]
    assert probe["sample"].tolist() == [f"s{i}" for i in SPLIT.test]
    assert probe["label"].tolist() == data.labels[SPLIT.test].tolist()
    measured = find(evaluation, "probe_standard", "roc_auc").estimate
    assert measured.value == pytest.approx(roc_auc_score(probe["label"], probe["score_1"]))
    assert measured.low <= measured.value <= measured.high
    assert (measured.n, measured.n_patients) == (60, 20)
    draws = [
        roc_auc_score(t["label"], t["score_1"]) for _, t in test[test["evaluator"] == "few_shot_k2"].groupby("draw")
    ]
    assert find(evaluation, "few_shot_k2", "roc_auc").estimate.value == pytest.approx(np.mean(draws))


def test_an_unaligned_space_has_no_zero_shot_and_no_retrieval():
    """They are run where cosines mean something, and left out with the reason where no space does."""
    data = dataset()
    pooled = space(data, aligned=False, name="pooled")
    alone = evaluate([pooled], data, SPLIT, CONFIG)
    assert alone.left_out["zero_shot"] == alone.left_out["retrieval"] == "pictures and texts do not share a space"
    both = evaluate([pooled, space(data)], data, SPLIT, CONFIG)
    assert set(both.left_out) == {"few_shot_k400"}
    assert "fewer than 400" in both.left_out["few_shot_k400"]
    assert {m.space for m in both.measurements if m.evaluator == "retrieval"} == {"projected"}
    assert {m.space for m in both.measurements if m.evaluator == "knn_k5"} == {"pooled", "projected"}


def test_what_is_missing_is_named():
    """No prompts for a class, several labels, no reports: each reason says so."""
    data = dataset()
    full = space(data)
    assert full.prompts is not None
    without_b = replace(full, prompts={"a": full.prompts["a"]})
    assert evaluate([without_b], data, SPLIT, CONFIG).left_out["zero_shot"] == "no encoded prompts for b"
    several = dataset("multilabel", 3)
    assert "absence" in evaluate([space(several)], several, SPLIT, CONFIG).left_out["zero_shot"]
    silent = dataset(reports=False)
    assert evaluate([space(silent)], silent, SPLIT, CONFIG).left_out["retrieval"] == "there are no encoded reports"


def test_retrieval_counts_samples_with_a_report():
    """Samples without a report are neither asked nor answered, and the counts say so; chance stands beside."""
    data = dataset()
    measured = find(evaluate([space(data)], data, SPLIT, CONFIG), "retrieval", "recall@5_text_to_image")
    assert measured.estimate.n == 54
    assert 5 / 54 < measured.chance < measured.estimate.value


@pytest.mark.parametrize(("task", "n_classes"), [("binary", 2), ("multilabel", 3)])
def test_thresholds_are_chosen_on_val_and_on_nothing_else(task, n_classes):
    """Poisoned test labels and test pictures: the same thresholds, and only the figures move."""
    data = dataset(task, n_classes)
    labels = data.labels.copy()
    labels[SPLIT.test] = 1 - labels[SPLIT.test]
    clean = space(data)
    image = clean.image.copy()
    image[SPLIT.test] *= -3
    first = evaluate([clean], data, SPLIT, CONFIG)
    second = evaluate([replace(clean, image=image)], replace(data, labels=labels), SPLIT, CONFIG)
    chosen = first.fits["projected"]["val_thresholds"]
    assert chosen == second.fits["projected"]["val_thresholds"]
    scored_on_val = {"probe_standard", "probe_paper", "knn_k1", "knn_k5"} | (
        {"zero_shot"} if task == "binary" else set()
    )
    assert set(chosen) == scored_on_val
    assert list(chosen["probe_standard"]) == (["b"] if task == "binary" else ["a", "b", "c"])
    name = "f1_macro@val_threshold"
    figures = [find(e, "probe_standard", name).estimate for e in (first, second)]
    assert figures[0].value != figures[1].value
    assert figures[0].low <= figures[0].value <= figures[0].high
    assert {m.evaluator for m in first.measurements if m.metric == name} == scored_on_val


def test_figures_at_the_threshold_follow_from_the_table():
    """Balanced accuracy of the test rows above the threshold that is best on the val rows; also for log-odds."""
    data = dataset()
    labels = np.where(np.arange(N) % 3 == 0, data.labels, 0)  # rare, so that 0.5 is a poor threshold
    rare = replace(data, labels=labels)
    evaluation = evaluate([space(rare)], rare, SPLIT, CONFIG)
    table = evaluation.predictions
    for evaluator, neutral in (("probe_standard", 0.5), ("zero_shot", 0.0)):
        rows = table[table["evaluator"] == evaluator]
        val, test = (rows[rows["split"] == part] for part in ("val", "test"))
        chosen = evaluation.fits["projected"]["val_thresholds"][evaluator]["b"]
        assert (
            chosen == choose(val["score_1"].to_numpy(), val["label"].to_numpy() == 1, "youden", neutral=neutral).value
        )
        measured = find(evaluation, evaluator, "balanced_accuracy@val_threshold").estimate
        assert measured.value == pytest.approx(balanced_accuracy_score(test["label"], test["score_1"] > chosen))
    by_f1 = evaluate([space(rare)], rare, SPLIT, CONFIG.model_copy(update={"threshold": "f1"}))
    assert by_f1.fits["projected"]["val_thresholds"] != evaluation.fits["projected"]["val_thresholds"]


def test_one_class_on_val_gives_no_threshold_and_says_so():
    """The record has the reason in place of a number, and the figures are undefined with the same reason."""
    data = dataset()
    labels = data.labels.copy()
    labels[SPLIT.val] = 0
    evaluation = evaluate([space(data)], replace(data, labels=labels), SPLIT, CONFIG)
    reason = "no validation sample is positive"
    assert evaluation.fits["projected"]["val_thresholds"]["probe_standard"] == {"b": reason}
    estimate = find(evaluation, "probe_standard", "accuracy@val_threshold").estimate
    assert np.isnan(estimate.value)
    assert estimate.why_undefined == f"no threshold for 'b': {reason}"
    assert not np.isnan(find(evaluation, "probe_standard", "accuracy").estimate.value)


def test_several_exclusive_classes_have_no_thresholds():
    """The largest score decides between them; nothing is measured at a threshold."""
    data = dataset("multiclass", 3)
    evaluation = evaluate([space(data)], data, SPLIT, CONFIG)
    assert "val_thresholds" not in evaluation.fits["projected"]
    assert not [m for m in evaluation.measurements if m.metric.endswith("@val_threshold")]


def test_imbalance_settings_reach_their_probes():
    """Class weights change the standard probe alone; loss and upsampling the paper's probe alone."""
    data = dataset()

    def scores(**settings):
        config = CONFIG.model_copy(update=settings)
        table = evaluate([space(data)], data, SPLIT, config, evaluators=("probe_standard", "probe_paper")).predictions
        return {str(name): rows["score_1"].to_numpy() for name, rows in table.groupby("evaluator", observed=True)}

    plain = scores()
    for settings, changed in (
        ({"class_weight": "balanced"}, "probe_standard"),
        ({"paper_loss": "focal"}, "probe_paper"),
        ({"paper_upsample": True}, "probe_paper"),
    ):
        found = scores(**settings)
        assert {name for name in plain if not np.array_equal(plain[name], found[name])} == {changed}


def test_selection_is_the_primary_metric_on_val():
    """Variants can be chosen by it without a look at the test split."""
    data = dataset()
    evaluation = evaluate([space(data)], data, SPLIT, CONFIG)
    table = evaluation.predictions
    val = table[(table["split"] == "val") & (table["evaluator"] == "probe_standard")]
    selection = evaluation.fits["projected"]["selection"]
    assert selection["metric"] == "roc_auc"
    assert selection["value"] == pytest.approx(roc_auc_score(val["label"], val["score_1"]))


def test_only_what_is_asked_for_is_run():
    """A choice of evaluators, per call or by configuration; an unknown one is refused by name."""
    data = dataset()
    chosen = evaluate([space(data)], data, SPLIT, CONFIG, evaluators=("probe_standard",))
    assert {m.evaluator for m in chosen.measurements} == {"probe_standard"}
    assert chosen.left_out == {}
    with pytest.raises(BadInput, match="unknown evaluator 'probe'; choose among probe_standard"):
        evaluate([space(data)], data, SPLIT, CONFIG, evaluators=("probe",))
    nothing = evaluate([space(data, aligned=False)], data, SPLIT, CONFIG, evaluators=("retrieval",))
    assert nothing.measurements == ()
    assert set(nothing.left_out) == {"retrieval"}


def test_what_cannot_be_fitted_is_refused_in_a_sentence():
    """An empty part, and training labels that are all the same."""
    data = dataset()
    with pytest.raises(BadInput, match="the val split is empty"):
        evaluate([space(data)], data, replace(SPLIT, val=np.arange(0)), CONFIG)
    labels = data.labels.copy()
    labels[SPLIT.train] = 1
    with pytest.raises(BadInput, match="all training samples have the same label"):
        evaluate([space(data)], replace(data, labels=labels), SPLIT, CONFIG)


def test_predictions_of_other_samples_are_refused():
    """A table whose evaluators were scored on different test samples cannot be compared by replicate."""
    data = dataset()
    table = evaluate([space(data)], data, SPLIT, CONFIG, evaluators=("probe_standard", "knn")).predictions
    with pytest.raises(BadInput, match="knn_k5 are not of the same test samples"):
        recompute(
            table.iloc[:-1],
            task="binary",
            classes=data.classes,
            fingerprint="x",
            replicates=10,
            recall_at=(1,),
            threshold="youden",
        )


def test_configuration_defaults_and_refusals():
    """All evaluators; 17 strengths that increase; anything else is refused."""
    config = EvaluationConfig()
    assert config.evaluators == EVALUATORS
    assert len(config.strengths) == 17
    assert (config.strengths[0], config.strengths[-1]) == (1e-6, 1e2)
    assert EvaluationConfig.model_validate_json(config.model_dump_json()) == config
    for wrong in (
        {"strengths": (1.0, 0.1)},
        {"shots": (0,)},
        {"replicates": 0},
        {"evaluators": ("probe",)},
        {"other": 1},
        {"paper_loss": "balanced_softmax", "paper_upsample": True},
        {"class_weight": "inverse"},
    ):
        with pytest.raises(ValueError, match="validation error"):
            EvaluationConfig.model_validate(wrong)
