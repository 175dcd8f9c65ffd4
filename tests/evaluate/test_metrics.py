"""Every metric equals scikit-learn's, under weights too, and is NaN where it does not exist."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from benchmark.evaluate.metrics import AT_VAL, ECE_BINS, Classification, MeanOver, primary_metric
from benchmark.evaluate.resample import plug_in
from benchmark.evaluate.threshold import Threshold

NAMES = ("a", "b", "c", "d")


@st.composite
def tables(draw, *, task):
    """Labels and scores with many ties, and integer weights under which every class is still there."""
    n_classes = 2 if task == "binary" else draw(st.integers(2 if task == "multilabel" else 3, 4))
    n = draw(st.integers(n_classes + 4, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    levels = draw(st.sampled_from([4, 50]))
    raw = rng.integers(1, levels + 1, size=(n, n_classes)).astype(np.float64)
    if task == "multilabel":
        scores, labels = raw / (levels + 1), rng.integers(2, size=(n, n_classes))
        labels[:2] = [[0] * n_classes, [1] * n_classes]
    else:
        scores = raw / raw.sum(axis=1, keepdims=True)
        labels = np.concatenate([np.arange(n_classes), rng.integers(n_classes, size=n - n_classes)])
    weights = rng.integers(0, 4, size=(n, 3)).astype(np.float64)
    weights[: max(2, n_classes)] += 1
    return labels, scores, weights


def ours(task, labels, scores):
    return Classification(task, labels, scores, classes=NAMES[: scores.shape[1]], probabilities=True)


def averaged(truth, guess, weights, averages, **options):
    """Precision, recall and F1 of scikit-learn under their averagings; NaN where a class is never predicted."""
    values = {}
    for average in averages:
        for name, function in (("precision", sk.precision_score), ("recall", sk.recall_score), ("f1", sk.f1_score)):
            values[f"{name}_{average}"] = function(
                truth, guess, average=average, sample_weight=weights, zero_division=0, **options
            )
    return values


def expect(task, labels, scores, w):
    """The same metrics from scikit-learn."""
    n_classes = scores.shape[1]
    if task == "multilabel":
        guess = (scores > 0.5).astype(int)
        values = averaged(labels, guess, w, ("macro", "weighted"))
        values["subset_accuracy"] = sk.accuracy_score(labels, guess, sample_weight=w)
        per_label = range(n_classes)
        balanced = [sk.balanced_accuracy_score(labels[:, c], guess[:, c], sample_weight=w) for c in per_label]
        values["balanced_accuracy_macro"] = np.mean(balanced)
        values["specificity_macro"] = np.mean(
            [sk.recall_score(labels[:, c], guess[:, c], pos_label=0, sample_weight=w) for c in per_label]
        )
        values["roc_auc_macro"] = sk.roc_auc_score(labels, scores, average="macro", sample_weight=w)
        values["average_precision_macro"] = sk.average_precision_score(labels, scores, sample_weight=w)
        values["brier"] = np.mean([sk.brier_score_loss(labels[:, c], scores[:, c], sample_weight=w) for c in per_label])
        values["log_loss"] = np.mean([sk.log_loss(labels[:, c], scores[:, c], sample_weight=w) for c in per_label])
        return values
    guess = scores.argmax(axis=1)
    averages = ("macro", "weighted", "binary") if task == "binary" else ("macro", "weighted")
    values = averaged(labels, guess, w, averages)
    values["accuracy"] = sk.accuracy_score(labels, guess, sample_weight=w)
    values["balanced_accuracy"] = sk.balanced_accuracy_score(labels, guess, sample_weight=w)
    values["mcc"] = sk.matthews_corrcoef(labels, guess, sample_weight=w)
    values["log_loss"] = sk.log_loss(labels, scores, sample_weight=w)
    if task == "binary":
        values["specificity"] = sk.recall_score(labels, guess, pos_label=0, sample_weight=w)
        values["roc_auc"] = sk.roc_auc_score(labels, scores[:, 1], sample_weight=w)
        values["average_precision"] = sk.average_precision_score(labels, scores[:, 1], sample_weight=w)
        values["brier"] = sk.brier_score_loss(labels, scores[:, 1], sample_weight=w)
    else:
        values["roc_auc_ovr_macro"] = sk.roc_auc_score(labels, scores, multi_class="ovr", sample_weight=w)
        values["average_precision_macro"] = sk.average_precision_score(
            np.eye(n_classes)[labels], scores, sample_weight=w
        )
        values["brier"] = np.average(((scores - np.eye(n_classes)[labels]) ** 2).sum(axis=1), weights=w)
    return values


def ece_by_loop(confidence, happened):
    """Equal-mass bins by mid-rank, sample by sample; integer weights are given as repeated rows."""
    bins = {}
    for p, y in zip(confidence, happened, strict=True):
        middle = ((confidence < p).sum() + (confidence <= p).sum()) / 2 / len(confidence)
        bins.setdefault(min(int(middle * ECE_BINS), ECE_BINS - 1), []).append(p - y)
    return sum(abs(sum(gaps)) for gaps in bins.values()) / len(confidence)


def expect_ece(task, labels, scores):
    if task == "binary":
        return ece_by_loop(scores[:, 1], labels)
    if task == "multiclass":
        return ece_by_loop(scores.max(axis=1), scores.argmax(axis=1) == labels)
    return np.mean([ece_by_loop(p, y) for p, y in zip(scores.T, labels.T, strict=True)])


@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel"])
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_metrics_equal_scikit_learn_under_weights_and_on_repeated_rows(task, data):
    """Every name: with sample_weight, on rows repeated that often, and unweighted; ties in the scores included."""
    labels, scores, weights = data.draw(tables(task=task))
    statistic = ours(task, labels, scores)
    together = statistic(weights)
    assert primary_metric(task) in together
    for b, w in enumerate(weights.T):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # scikit-learn warns of classes that are never predicted
            expected = expect(task, labels, scores, w)
        rows = np.repeat(np.arange(len(labels)), w.astype(int))
        repeated = plug_in(ours(task, labels[rows], scores[rows]))
        expected["ece"] = expect_ece(task, labels[rows], scores[rows])
        assert set(together) == set(expected)
        for name, value in expected.items():
            assert repeated[name] == pytest.approx(together[name][b], nan_ok=True, abs=1e-12), name
            if not np.isnan(together[name][b]):
                assert together[name][b] == pytest.approx(value, abs=1e-9), name


@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel"])
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_only_precision_and_mcc_may_be_undefined_when_every_class_is_there(task, data):
    """NaN stands exactly where a class is never predicted (MCC: where all predictions agree), with its reason."""
    labels, scores, _ = data.draw(tables(task=task))
    statistic = ours(task, labels, scores)
    values = plug_in(statistic)
    guess = (scores > 0.5) if task == "multilabel" else np.eye(scores.shape[1])[scores.argmax(axis=1)]
    silent = [NAMES[c] for c in range(scores.shape[1]) if not guess[:, c].any()]
    undefined = {name for name, value in values.items() if np.isnan(value)}
    averaged_precisions = {n for n in values if n in ("precision_macro", "precision_weighted")}
    assert undefined - {"precision_binary", "mcc"} == (averaged_precisions if silent else set())
    for name in undefined:
        assert all(f"{c!r} is never predicted" in statistic.why_undefined(name) for c in silent)


def test_half_a_vote_is_not_a_prediction():
    """Equal scores go to the first class, and 0.5 is not above the threshold of a label."""
    even = np.full((4, 2), 0.5)
    labels = np.array([0, 1, 1, 0])
    assert plug_in(ours("binary", labels, even))["recall_binary"] == 0.0
    assert plug_in(ours("multilabel", np.stack([labels, labels], axis=1), even))["recall_macro"] == 0.0


def test_a_class_without_samples_makes_its_metrics_nan_and_says_which():
    """One class in the table: no curve, no recall of the other, no average over both; accuracy remains."""
    scores = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
    statistic = ours("binary", np.zeros(3, dtype=np.int64), scores)
    values = plug_in(statistic)
    for name in ("roc_auc", "average_precision", "recall_binary", "balanced_accuracy", "recall_macro", "mcc"):
        assert np.isnan(values[name]), name
        assert "no test sample is 'b'" in statistic.why_undefined(name)
    assert values["accuracy"] == pytest.approx(2 / 3)
    assert values["specificity"] == pytest.approx(2 / 3)
    everyone = ours("multilabel", np.array([[1, 0], [1, 1], [1, 0]]), scores)
    assert np.isnan(plug_in(everyone)["roc_auc_macro"])
    assert everyone.why_undefined("roc_auc_macro") == "every test sample is 'a'"


def test_scores_that_are_no_probabilities_have_no_calibration():
    """Brier, log-loss and ECE are left away rather than computed from anything."""
    labels, scores = np.array([0, 1, 1, 0]), np.array([[3.0, -2.0], [0.0, 1.0], [0.0, 2.0], [1.0, 0.0]])
    values = plug_in(Classification("binary", labels, scores, classes=("a", "b"), probabilities=False))
    assert not {"brier", "ece", "log_loss"} & set(values)
    assert values["roc_auc"] == 1.0


@pytest.mark.parametrize(("task", "n_classes"), [("binary", 2), ("multiclass", 3), ("multilabel", 3)])
def test_chance_is_what_random_scores_reach(task, n_classes):
    """Mean over random tables, for every metric that claims a chance level."""
    rng = np.random.default_rng(0)
    p = np.array([0.6, 0.4, 0.2])[:n_classes]
    labels = (
        (rng.random((3000, n_classes)) < p).astype(int)
        if task == "multilabel"
        else rng.choice(n_classes, 3000, p=p / p.sum())
    )
    drawn = [ours(task, labels, rng.dirichlet(np.ones(n_classes), 3000)) for _ in range(5)]
    values = [plug_in(statistic) for statistic in drawn]
    claimed = [name for name in values[0] if not np.isnan(drawn[0].chance(name))]
    assert primary_metric(task) in claimed
    for name in claimed:
        assert np.mean([v[name] for v in values]) == pytest.approx(drawn[0].chance(name), abs=0.02), name


@pytest.mark.parametrize("task", ["binary", "multilabel"])
@settings(max_examples=20, deadline=None)
@given(data=st.data(), t=st.lists(st.floats(0.05, 0.95), min_size=4, max_size=4))
def test_metrics_at_thresholds_are_those_of_scores_moved_to_them(task, data, t):
    """Scores whose order around 0.5 is that around the threshold give the same figures under all weights."""
    labels, scores, weights = data.draw(tables(task=task))
    limits = np.array(t[: 1 if task == "binary" else scores.shape[1]])
    classes = NAMES[: scores.shape[1]]
    statistic = Classification(
        task, labels, scores, classes=classes, probabilities=True, thresholds=[Threshold(v) for v in limits]
    )
    found, plain = statistic(weights), ours(task, labels, scores)(weights)
    guess = (scores[:, -len(limits) :] > limits).astype(float)
    moved = np.hstack([1 - guess, guess]) if task == "binary" else guess
    expected = ours(task, labels, moved)(weights)
    decided = {name.removesuffix(AT_VAL) for name in found if name.endswith(AT_VAL)}
    assert set(plain) == set(found) - {name + AT_VAL for name in decided}
    assert set(plain) - decided == {n for n in plain if n.startswith(("roc", "average_p", "brier", "log_", "ece"))}
    for name in decided:
        np.testing.assert_array_equal(found[name + AT_VAL], expected[name])
        np.testing.assert_array_equal(found[name], plain[name])
        assert np.isnan(statistic.chance(name)) == np.isnan(statistic.chance(name + AT_VAL))


def test_a_label_without_a_threshold_makes_its_averages_undefined_and_says_why():
    """Nothing is filled in at 0.5; the metrics that need no threshold stay."""
    labels, scores = (
        np.array([[1, 0], [0, 1], [1, 1], [0, 0]]),
        np.array([[0.9, 0.2], [0.1, 0.7], [0.8, 0.6], [0.3, 0.1]]),
    )
    thresholds = (Threshold(0.5), Threshold(np.nan, "no validation sample is positive"))
    statistic = Classification(
        "multilabel", labels, scores, classes=("a", "b"), probabilities=True, thresholds=thresholds
    )
    values = plug_in(statistic)
    assert np.isnan(values["f1_macro@val_threshold"])
    assert statistic.why_undefined("f1_macro@val_threshold") == "no threshold for 'b': no validation sample is positive"
    assert values["f1_macro"] == 1.0
    never = Classification(
        "binary", labels[:, 0], scores, classes="ab", probabilities=True, thresholds=(Threshold(1.0),)
    )
    assert np.isnan(plug_in(never)["precision_binary@val_threshold"])
    assert never.why_undefined("precision_binary@val_threshold") == "'b' is never predicted"


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_mean_over_draws_is_the_mean_of_their_metrics(data):
    """And undefined where one of them is."""
    labels, scores, weights = data.draw(tables(task="multiclass"))
    assume(scores.shape[1] == 3)
    pieces = [ours("multiclass", labels, scores), ours("multiclass", labels, scores[:, [1, 2, 0]])]
    values = MeanOver(pieces)(weights)
    for name in values:
        expected = (pieces[0](weights)[name] + pieces[1](weights)[name]) / 2
        np.testing.assert_allclose(values[name], expected, atol=1e-12)
