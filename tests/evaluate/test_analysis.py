"""What a run's rows say together: chosen on validation, without naive rows, by the tests of single comparisons."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from benchmark.errors import BadInput
from benchmark.evaluate import analysis
from benchmark.evaluate.analysis import Analysis, analyse, best_naive, choose, identity
from benchmark.evaluate.compare import Difference, Side, exchanged, paired
from benchmark.evaluate.metrics import Areas
from benchmark.evaluate.ranking import components
from benchmark.evaluate.resample import percentile_interval, plug_in, replicate
from benchmark.evaluate.significance import adjust
from benchmark.result import CellResult, CellSpec, DatasetRecord, RunRecord, SplitRecord
from benchmark.run_folder import RunFolder

GROUPS = np.repeat(np.arange(40), 2)
LABELS = GROUPS % 2
CLASSES = ("no", "yes")


@pytest.fixture(autouse=True)
def _few_flips(monkeypatch):
    monkeypatch.setattr(analysis, "FLIPS", 199)


def record(**config) -> RunRecord:
    return RunRecord(
        name="r",
        started="2026-01-01T00:00:00Z",
        config={"evaluation": {"replicates": 120}, **config},
        dataset=DatasetRecord(name="d", task="binary", classes=CLASSES, n=200, has_reports=True, has_structured=True),
        split=SplitRecord(
            fingerprint="f", origin="seeded", grouped_by="patient", seed=0, n={}, n_patients={}, class_counts={}
        ),
        cells=(),
    )


def row(model, val, *, inputs=("image",), naive=False, status="done", **spec) -> CellResult:
    of = CellSpec(
        model=model,
        model_version="1",
        provider="test",
        scale="tiny",
        weights="none" if naive else "published",
        **{"regime": "frozen", "augmentation": "none", "head": "none", "seed": 0, **spec},
        dataset="d",
        split="f",
        content="c",
        protocol={},
    )
    selection = {} if val is None else {"selection": {"metric": "roc_auc", "value": val}}
    return CellResult(id=of.id, spec=of, title=model.title(), inputs=inputs, status=status, fits=selection)


def table(seed: int, signal: float, labels=LABELS) -> pd.DataFrame:
    """Test predictions that follow the labels by ``signal``; what makes a patient hard is shared by all rows."""
    shared = np.random.default_rng(99).normal(size=40)[GROUPS]
    score = stats.norm.cdf(signal * LABELS + 0.5 * shared + 0.5 * np.random.default_rng(seed).normal(size=80))
    return pd.DataFrame(
        {
            "sample": [f"s{i}" for i in range(80)],
            "group": GROUPS,
            "evaluator": pd.Categorical(["probe_standard"] * 80),
            "space": pd.Categorical(["pooled"] * 80),
            "draw": 0,
            "split": "test",
            "label": labels,
            "score_0": 1 - score,
            "score_1": score,
        }
    )


A_PLAIN = row("a", 0.9)
A_EDA = row("a", 0.8, regime="full", augmentation="eda", head="linear-8")
B = row("b", 0.6)
MAJORITY = row("majority", 0.5, inputs=(), naive=True)
METADATA = row("metadata-only", 0.7, inputs=("structured",), naive=True)
REPORT = row("tfidf-report", 0.99, inputs=("text",), naive=True)
ROWS = (MAJORITY, METADATA, REPORT, A_PLAIN, A_EDA, B)
SIGNALS = (0.0, 0.4, 3.0, 1.2, 2.0, 0.5)
TABLES = {r.id: table(seed, signal) for seed, (r, signal) in enumerate(zip(ROWS, SIGNALS, strict=True))}


def side(result: CellResult) -> Side:
    return Side([TABLES[result.id]], "pooled", "binary", CLASSES, "f")


@pytest.fixture(scope="module")
def found() -> Analysis:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(analysis, "FLIPS", 199)
        return analyse(record(), ROWS, TABLES.__getitem__)


# --------------------------------------------------------------------------------------------- who is in it


def test_the_row_that_stands_for_a_model_is_best_on_validation_though_another_is_better_on_test(found):
    aucs = [roc_auc_score(LABELS, TABLES[r.id]["score_1"]) for r in (A_PLAIN, A_EDA)]
    assert aucs[1] > aucs[0]
    assert set(found.standings) == {A_PLAIN.id, B.id}
    assert set(found.ranks) == {A_PLAIN.id, A_EDA.id, B.id}
    assert found.ranks[A_EDA.id].rank == 1


def test_a_variant_counts_by_the_mean_over_its_seeds_and_no_seed_is_chosen():
    """The luckiest seed of the worse variant is the highest figure of all; the first seed of the better one stands."""
    plain = [row("a", val, seed=seed) for seed, val in ((1, 0.80), (0, 0.70))]
    eda = [row("a", val, seed=seed, augmentation="eda") for seed, val in ((0, 0.60), (1, 0.85))]
    assert choose([*plain, *eda], "roc_auc").best == {"a": plain[1].id}


def test_naive_rows_are_in_no_rank_however_good(found):
    """The report states the answer; it is neither ranked nor what a model of pictures must beat."""
    assert found.ranks.keys() == {A_PLAIN.id, A_EDA.id, B.id}
    assert found.skill.keys() == found.ranks.keys()
    assert found.naive == METADATA.id
    assert {mean.model for mean in found.factorial.means} == {"", "a", "b"}


def test_a_row_that_reads_more_than_the_picture_is_not_ranked():
    """Nor is a cell that failed, whose predictions there are none of."""
    reader = row("c", 0.95, inputs=("image", "text"))
    failed = row("e", None, status="failed")
    tables = {**TABLES, reader.id: table(50, 2.5)}
    found = analyse(record(), [*ROWS, reader, failed], tables.__getitem__)
    assert not {reader.id, failed.id} & (found.ranks.keys() | found.standings.keys() | found.skill.keys())
    assert not found.left_out


def test_the_best_naive_row_is_chosen_on_validation_and_reads_no_report():
    unknown = row("image-statistics", None, naive=True)
    assert best_naive([MAJORITY, METADATA, REPORT, unknown, A_PLAIN], "roc_auc") == METADATA.id
    assert best_naive([MAJORITY, REPORT], "roc_auc") == MAJORITY.id
    assert best_naive([REPORT, unknown, A_PLAIN], "roc_auc") == ""
    both = row("both", 0.95, inputs=("text", "structured"), naive=True)
    assert best_naive([MAJORITY, both], "roc_auc") == MAJORITY.id


def test_wrong_test_labels_change_figures_but_no_choice(found):
    """Whatever was chosen cannot have seen them."""
    wrong = np.random.default_rng(7).permutation(LABELS)
    poisoned = analyse(record(), ROWS, lambda cell: TABLES[cell].assign(label=wrong))
    assert poisoned.standings.keys() == found.standings.keys()
    assert poisoned.naive == found.naive
    assert poisoned.skill[A_PLAIN.id].gain.value != found.skill[A_PLAIN.id].gain.value


def test_without_naive_rows_there_is_no_skill_and_without_rows_there_is_nothing():
    alone = analyse(record(), [A_PLAIN, B], TABLES.__getitem__)
    assert (alone.naive, alone.skill) == ("", {})
    assert alone.ranks.keys() == {A_PLAIN.id, B.id}
    nothing = analyse(record(), [], TABLES.__getitem__)
    assert not nothing.standings
    assert nothing.factorial is None
    only_naive = analyse(record(), [MAJORITY], TABLES.__getitem__)
    assert (only_naive.naive, only_naive.ranks, only_naive.factorial) == (MAJORITY.id, {}, None)


def test_rows_without_predictions_are_left_out_and_the_others_stay(found):
    def some(cell):
        if cell == A_EDA.id:
            raise BadInput(f"/home/somebody/run/{cell}.parquet: the predictions are gone")
        return TABLES[cell].assign(evaluator="knn") if cell == B.id else TABLES[cell]

    partly = analyse(record(), ROWS, some)
    assert partly.left_out[A_EDA.id] == f"{A_EDA.id}.parquet: the predictions are gone"
    assert (
        partly.left_out[B.id] == "no predictions of probe_standard in the space 'pooled'; it was not run for this row"
    )
    assert partly.standings.keys() == {A_PLAIN.id}
    assert partly.skill[A_PLAIN.id].gain == found.skill[A_PLAIN.id].gain


# --------------------------------------------------------------------------------------------- what it says


@pytest.mark.parametrize("result", [A_PLAIN, A_EDA, B])
def test_a_gain_is_the_paired_difference_from_the_naive_row(found, result):
    gain = found.skill[result.id].gain
    expected = paired(side(result), side(METADATA), "probe_standard", replicates=120)["roc_auc"]
    assert (gain.value, gain.low, gain.high) == pytest.approx((expected.value, expected.low, expected.high))
    assert (gain.n, gain.n_patients) == (80, 40)


@pytest.mark.parametrize("adjustment", ["holm", "benjamini-hochberg"])
def test_the_test_of_skill_is_that_of_exchange_adjusted_over_the_chosen_rows(adjustment):
    found = analyse(record(adjustment=adjustment), ROWS, TABLES.__getitem__)
    raw = [exchanged(side(r), side(METADATA), "probe_standard", flips=199)["roc_auc"].p for r in (A_PLAIN, B)]
    assert found.adjustment == adjustment
    assert [found.skill[r.id].p for r in (A_PLAIN, B)] == pytest.approx(adjust(np.array(raw), adjustment))
    assert math.isnan(found.skill[A_EDA.id].p)
    assert found.skill[A_PLAIN.id].shown
    assert not found.skill[B.id].shown


def test_the_group_of_the_best_follows_the_adjustment():
    """Three rows far behind the best: with Holm the p-values are the larger ones."""
    rows = [row(name, 0.5) for name in "pqrs"]
    tables = {r.id: table(60 + i, signal) for i, (r, signal) in enumerate(zip(rows, (2.0, 1.0, 1.1, 1.2), strict=True))}
    holm, bh = (
        analyse(record(adjustment=how), rows, tables.__getitem__).standings for how in ("holm", "benjamini-hochberg")
    )
    others = [r.id for r in rows[1:]]
    assert all(bh[cell].p <= holm[cell].p for cell in others)
    assert any(bh[cell].p < holm[cell].p for cell in others)


def test_an_effect_of_the_design_is_the_paired_difference_of_the_rows(found):
    (effect,) = [e for e in found.factorial.effects if e.axis == "regime"]
    expected = paired(side(A_EDA), side(A_PLAIN), "probe_standard", replicates=120)["roc_auc"]
    assert (effect.level, effect.base, effect.pairs, effect.models) == ("full", "frozen", 1, 1)
    assert (effect.estimate.value, effect.estimate.low) == pytest.approx((expected.value, expected.low))
    assert found.factorial.not_varied["augmentation"] == "every trained row has the augmentation 'eda'"


def test_seeds_have_their_spread_where_there_are_several():
    rows = [row("a", 0.5 + seed / 10, regime="heads", head="linear-8", seed=seed) for seed in range(3)]
    tables = {r.id: table(30 + i, 1.0) for i, r in enumerate(rows)}
    found = analyse(record(), [*rows, B], {**TABLES, **tables}.__getitem__)
    assert found.seeds.keys() == {r.id for r in rows}
    areas = [Side([tables[r.id]], "pooled", "binary", CLASSES, "f").areas("probe_standard") for r in rows]
    values = np.array([plug_in(area)["roc_auc"] for area in areas])
    drawn = np.stack([of["roc_auc"] for of in replicate(areas, GROUPS, replicates=120, fingerprint="f")])
    parts, spread = components(values, drawn), found.seeds[rows[0].id]
    assert spread.seeds == 3
    assert spread.mean == pytest.approx(values.mean())
    assert spread.seeds_sd**2 == pytest.approx(parts.seeds)
    assert spread.patients_sd**2 == pytest.approx(parts.patients)
    assert spread.interaction_sd**2 == pytest.approx(parts.interaction)
    assert spread.standard_error == pytest.approx(parts.standard_error)


def test_intervals_of_a_gain_cover_the_truth_and_seldom_find_skill_where_there_is_none():
    """400 test sets of 80 patients with two pictures each, gains of 0.2 and of 0: 95% within 2 points."""
    rng, groups = np.random.default_rng(11), np.repeat(np.arange(80), 2)
    labels = groups % 2
    covered, false = np.zeros(2), 0
    signals = (0.5, 1.5, 0.5)
    auc = stats.norm.cdf(np.array(signals) / np.sqrt(2 * (0.4 + 0.6)))
    for i in range(400):
        hard = np.sqrt(0.2) * rng.normal(size=80)[groups]

        def areas(signal, hard=hard):
            own = np.sqrt(0.2) * rng.normal(size=80)[groups] + np.sqrt(0.6) * rng.normal(size=160)
            score = signal * labels + hard + own
            return Areas("binary", labels, np.column_stack([-score, score]), classes=CLASSES)

        naive, *models = map(areas, signals)
        gains = [Difference(model, naive) for model in models]
        for j, drawn in enumerate(replicate(gains, groups, replicates=300, fingerprint=f"{i}")):
            interval = percentile_interval(drawn["roc_auc"])
            covered[j] += interval.low <= auc[j + 1] - auc[0] <= interval.high
            false += j == 1 and interval.low > 0
    assert ((covered >= 372) & (covered <= 388)).all(), covered
    assert false <= 20


# --------------------------------------------------------------------------------------------- whether it is made anew


def test_the_identity_is_that_of_what_the_analysis_is_made_from():
    """The same rows have the same one, whatever they cost; what a figure or a choice follows from changes it."""
    same = identity(record(), ROWS, None)
    timed = [r.model_copy(update={"profile": r.profile.model_copy(update={"adapt_s": 5.0})}) for r in ROWS]
    assert identity(record(), timed, None) == same
    split = record().split.model_copy(update={"fingerprint": "g"})
    others = [
        identity(record(), ROWS[:-1], None),
        identity(record(), [*ROWS[:-1], B.model_copy(update={"status": "failed"})], None),
        identity(record(), [*ROWS[:-1], B.model_copy(update={"primary_space": "projected"})], None),
        identity(record(), [*ROWS[:-1], B.model_copy(update={"fits": {}})], None),
        identity(record().model_copy(update={"split": split}), ROWS, None),
        identity(record(evaluation={"replicates": 121}), ROWS, None),
        identity(record(adjustment="benjamini-hochberg"), ROWS, None),
    ]
    assert len({same, *others}) == 1 + len(others)
    assert identity(record(adjustment="holm"), ROWS, None) == same


def test_a_folder_keeps_its_analysis_until_its_rows_change(tmp_path):
    folder = RunFolder(tmp_path)
    for result in ROWS:
        folder.write(result, TABLES[result.id])
    made = folder.analysis(record(), ROWS)
    for result in ROWS:
        (tmp_path / "predictions" / f"{result.id}.parquet").unlink()
    again = folder.analysis(record(), ROWS)
    assert again.model_dump_json() == made.model_dump_json()
    assert not again.left_out
    anew = folder.analysis(record(adjustment="benjamini-hochberg"), ROWS)
    assert set(anew.left_out) == {r.id for r in ROWS}
    (tmp_path / "analysis.json").write_text('{"of": "damaged')
    assert folder.analysis(record(), ROWS).left_out
