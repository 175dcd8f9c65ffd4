"""A made-up run for the tests of the page: seven models, forty rows, one failure, one undefined metric."""

from __future__ import annotations

import math

import numpy as np

from benchmark.evaluate.analysis import (
    Analysis,
    DetectableRecord,
    RankRecord,
    SeedSpread,
    SkillRecord,
    StandingRecord,
    choose,
    competes,
)
from benchmark.evaluate.factorial import CellMean, Effect, Factorial, Interaction
from benchmark.result import (
    CellResult,
    CellSpec,
    DatasetRecord,
    Estimate,
    Failure,
    Finding,
    Maps,
    Measurement,
    ModelRecord,
    PictureMaps,
    Profile,
    ReportedRecord,
    RunRecord,
    SplitRecord,
)

HOSTILE = '<script>document.title="owned"</script>'
HOSTILE_ATTRIBUTE = '"><img src=x onerror="document.title=1">'

ENCODERS = (
    # name, title, quality, images per second, parameters
    ("lumbarclip-resnet50", "LumbarCLIP ResNet-50", 0.80, 212.0, 25_600_000),
    ("lumbarclip-vit", "LumbarCLIP ViT", 0.77, 148.0, 86_400_000),
    ("lumbarclip-swin", "LumbarCLIP Swin", 0.82, 97.0, 87_800_000),
    ("convirt", "ConVIRT", 0.74, 230.0, 25_900_000),
)
NAIVE = (
    ("majority", "Majority class", (), 0.5),
    ("metadata-only", "Metadata only", ("structured",), 0.58),
    ("tfidf-report", "TF-IDF on the report", ("text",), 0.96),
)
VARIANTS = (
    ("frozen", "none", "none"),
    *(
        (regime, aug, head)
        for regime in ("heads", "full")
        for aug in ("none", "eda")
        for head in ("linear-64", "mlp-64")
    ),
)
REPORTED = ReportedRecord(
    source="A paper, Table 2",
    dataset="Other pictures",
    values={"Accuracy": 81.52, "Precision": 85.1, "Recall": 94.47, "F1": 89.54},
    caveat="No averaging is named.",
    counts=(462, 66),
    fits=(),
)
SPREADS = {"seeds_sd": 0.012, "patients_sd": 0.025, "interaction_sd": 0.004}
GAIN = {"frozen": -0.12, "heads": -0.04, "full": 0.0}


def maps(results: list[CellResult], phrase: str = "mild canal stenosis") -> dict[str, Maps]:
    """Maps of two pictures for every trained row: one with a mask and two phrases, one without a mask."""
    rng = np.random.default_rng(3)
    mask = np.zeros((32, 32), dtype=bool)
    mask[12:20, 12:20] = True

    def picture(region: np.ndarray, *phrases: str) -> PictureMaps:
        cosines = rng.uniform(-0.2, 0.4, (len(phrases), 4, 4)).astype(np.float32)
        about = tuple("canal" in each for each in phrases)
        return PictureMaps(rng.integers(0, 255, (32, 32), dtype=np.uint8), region, phrases, about, cosines)

    both = Maps((picture(mask, "no disc bulge", phrase), picture(~mask & mask, "unremarkable facet joints")))
    return {r.id: both for r in results if r.spec.start != "none" and r.spec.regime != "frozen"}


def demo() -> tuple[RunRecord, list[CellResult]]:
    """The run and its results; the last planned cell failed."""
    rng = np.random.default_rng(7)
    results = [_naive(*row) for row in NAIVE]
    for model in ENCODERS:
        results += [_encoder(model, variant, rng) for variant in VARIANTS]
    results[-1] = _failed(results[-1])
    results[4] = _undefined(results[4])
    return run_record(results), results


def many(count: int) -> tuple[RunRecord, list[CellResult]]:
    """The demo's rows under as many seeds as it takes."""
    run, results = demo()
    specs = [
        (r, r.spec.model_copy(update={"seed": seed})) for seed in range(count // len(results) + 1) for r in results
    ]
    rows = [r.model_copy(update={"spec": spec, "id": spec.id}) for r, spec in specs[:count]]
    return run.model_copy(update={"cells": tuple(r.id for r in rows)}), rows


def analysis(results: list[CellResult]) -> Analysis:
    """Made up as the results are: of the chosen models the first two tie, and one is not shown to have skill."""
    done = [r for r in results if r.status == "done"]
    rows = sorted((r for r in done if competes(r)), key=lambda r: -_auc(r))
    best = set(choose(done, "roc_auc").best.values())
    chosen = [r for r in rows if r.id in best]

    def rank(place: int, of: int) -> RankRecord:
        joint = {"joint_low": max(1, place - 3), "joint_high": min(of, place + 3)}
        return RankRecord(rank=place, low=max(1, place - 1), high=min(of, place + 1), **joint)

    def skill(result: CellResult) -> SkillRecord:
        gain = _auc(result) - NAIVE[1][3]
        p = (0.3 if result is chosen[-1] else 0.01) if result in chosen else math.nan
        estimate = Estimate(value=gain, low=gain - 0.1, high=gain + 0.1, n=270, n_patients=45)
        return SkillRecord(gain=estimate, p=p)

    return Analysis(
        of="made up",
        metric="roc_auc",
        replicates=1000,
        standings={
            r.id: StandingRecord(rank=rank(i, len(chosen)), tied=i <= 2, p=math.nan if i == 1 else 0.4 if i == 2 else 0)
            for i, r in enumerate(chosen, start=1)
        },
        detectable=DetectableRecord(median=0.08, smallest=0.06, largest=0.11),
        ranks={r.id: rank(i, len(rows)) for i, r in enumerate(rows, start=1)},
        naive=next(r.id for r in results if r.spec.model == NAIVE[1][0]),
        skill={r.id: skill(r) for r in rows},
        factorial=factorial(),
        seeds={rows[0].id: SeedSpread(seeds=3, mean=0.8, standard_error=0.03, **SPREADS)},
    )


def factorial() -> Factorial:
    """Effects of every kind: of all models, of a regime, of a model with a hostile name, without an interval."""

    def around(value: float, half: float = 0.03) -> Estimate:
        return Estimate(value=value, low=value - half, high=value + half, n=270, n_patients=45)

    nothing = Estimate(value=0.02, n=270, n_patients=45, why_undefined="no interval: one patient")
    eda = {"axis": "augmentation", "level": "eda", "base": "none", "pairs": 8, "models": 4, "models_sd": 0.01}
    return Factorial(
        effects=(
            Effect(axis="regime", level="full", base="heads", estimate=around(0.05), pairs=8, models=4, models_sd=0.02),
            Effect(**eda, estimate=around(-0.06)),
            Effect(**eda, regime="full", estimate=around(0.01)),
            Effect(**eda | {"models": 1, "models_sd": math.nan}, model="convirt", estimate=nothing),
        ),
        interactions=(
            Interaction(
                augmentation="eda",
                base_augmentation="none",
                head="mlp-64",
                base_head="linear-64",
                estimate=around(0.0),
                pairs=4,
                models=4,
            ),
        ),
        means=tuple(
            CellMean(regime=regime, augmentation=text, head=head, estimate=around(0.7 + 0.01 * i), models=4)
            for i, (regime, text, head) in enumerate(VARIANTS[1:])
        ),
        not_varied={"head": "only in one regime"},
    )


def _auc(result: CellResult) -> float:
    mine = ("probe_standard", result.primary_space, "roc_auc")
    return next(m.estimate.value for m in result.measurements if (m.evaluator, m.space, m.metric) == mine)


def run_record(results: list[CellResult], **dataset: object) -> RunRecord:
    """A run of these results on a synthetic dataset with an audit warning."""
    values = {
        "name": "Lumbar phantom",
        "task": "binary",
        "classes": ("No finding", "Low back pain"),
        "positive_class": "Low back pain",
        "n": 1800,
        "has_reports": True,
        "has_structured": True,
        "synthetic": True,
        "licence": "Apache-2.0",
    }
    return RunRecord(
        name="demo",
        started="2025-01-31T09:30:00+00:00",
        config={"preset": "quick", "scale": "tiny", "evaluation": {"replicates": 1000}, "seeds": [0]},
        dataset=DatasetRecord.model_validate(values | dataset),
        split=SplitRecord(
            fingerprint="8f14e45fceea167a5a36",
            origin="seeded",
            grouped_by="patient",
            seed=0,
            n={"train": 1260, "val": 270, "test": 270},
            n_patients={"train": 210, "val": 45, "test": 45},
            class_counts={
                "train": {"No finding": 504, "Low back pain": 756},
                "val": {"No finding": 108, "Low back pain": 162},
                "test": {"No finding": 102, "Low back pain": 168},
            },
        ),
        audit=(
            Finding(
                code="LB004",
                severity="warning",
                message="the report alone determines the label of nearly every sample",
                count=1712,
                rows=(1, 2, 3),
                remedy="read rows that score the report as a ceiling, not as a competitor",
            ),
            Finding(code="LB003", severity="note", message="near-duplicate pictures inside one part", count=4),
        ),
        cells=tuple(result.id for result in results),
        collapsed={"frozen / eda / linear-64": "the same as frozen / none / none: nothing is trained in it"},
        models={
            name: ModelRecord(
                title=title,
                summary=f"What the card says of {title}.",
                paper="A paper, 2025",
                licence="Apache-2.0",
                training_data="Pictures of chests.",
                parameters=parameters,
                input_size=64,
                reported=(REPORTED,) if name == "convirt" else (),
            )
            for name, title, _, _, parameters in ENCODERS
        },
        impossible={"clip: full / none / linear-64": "this model passes no gradients to its towers"},
        provenance={
            "hardware": "AMD EPYC 7763, 4 cores, 16 GiB, no accelerator",
            "python": "3.11.9",
            "commit": "0123456789ab",
            "packages": {"lumbarclip-benchmark": "0.1.0", "torch": "2.8.0"},
        },
        status="done",
    )


def spec(model: str, variant: tuple[str, str, str], weights: str, seed: int = 0) -> CellSpec:
    """A cell of the demo run."""
    regime, augmentation, head = variant
    return CellSpec.model_validate(
        {
            "model": model,
            "model_version": "1",
            "provider": "lumbarclip-benchmark 0.1.0",
            "scale": "tiny",
            "weights": weights,
            "regime": regime,
            "augmentation": augmentation,
            "head": head,
            "seed": seed,
            "dataset": "Lumbar phantom",
            "split": "8f14e45fceea167a5a36",
            "content": "c9f0f895fb98ab9159f5",
            "protocol": {},
        }
    )


def measure(
    evaluator: str, metric: str, value: float, *, space: str = "pooled", chance: float = math.nan
) -> Measurement:
    """A measurement with an interval of plausible width."""
    half = 0.05 + 0.1 * abs(value) * abs(1 - value)
    estimate = Estimate(value=value, low=max(0.0, value - half), high=min(1.0, value + half), n=270, n_patients=45)
    return Measurement.model_validate(
        {"evaluator": evaluator, "space": space, "metric": metric, "estimate": estimate, "chance": chance}
    )


def _probe(auc: float, space: str) -> list[Measurement]:
    shift = auc - 0.5
    values = {
        "roc_auc": (auc, 0.5),
        "average_precision": (0.62 + 0.7 * shift, 0.622),
        "balanced_accuracy": (0.5 + 0.8 * shift, 0.5),
        "f1_macro": (0.48 + 0.85 * shift, math.nan),
        "mcc": (1.6 * shift, 0.0),
        "balanced_accuracy@val_threshold": (0.5 + 0.9 * shift, 0.5),
        "specificity@val_threshold": (0.4 + 0.9 * shift, math.nan),
        "brier": (0.24 - 0.3 * shift, math.nan),
        "ece": (0.04 + 0.05 * shift, math.nan),
    }
    return [measure("probe_standard", name, v, space=space, chance=c) for name, (v, c) in values.items()]


def _encoder(
    model: tuple[str, str, float, float, int], variant: tuple[str, str, str], rng: np.random.Generator
) -> CellResult:
    name, title, quality, speed, parameters = model
    auc = quality + GAIN[variant[0]] + float(rng.normal(0, 0.02))
    space = "projected" if variant[0] == "heads" else "pooled"
    cell = spec(name, variant, "random:0")
    measurements = _probe(auc, space)
    if space == "projected":
        measurements.append(measure("probe_standard", "roc_auc", auc - 0.03, space="pooled", chance=0.5))
    measurements += [
        measure(f"few_shot_k{k}", "roc_auc", 0.5 + (auc - 0.5) * share, space=space, chance=0.5)
        for k, share in ((1, 0.3), (4, 0.5), (16, 0.8))
    ]
    left_out = {
        "zero_shot": "an untrained projection has no common space",
        "retrieval": "an untrained projection has no common space",
    }
    fits: dict[str, object] = {"selection": {"metric": "roc_auc", "value": auc + float(rng.normal(0, 0.02))}}
    speed *= float(rng.uniform(0.95, 1.05))
    provenance: dict[str, object] = {}
    if variant[0] != "frozen":
        left_out = {}
        measurements.append(measure("zero_shot", "roc_auc", auc - 0.1, space="projected", chance=0.5))
        measurements += [
            measure("retrieval", f"recall@{k}_{way}", 0.02 * k + 0.3 * (auc - 0.5), space="projected", chance=k / 270)
            for k in (1, 5, 10)
            for way in ("image_to_text", "text_to_image")
        ]
        measurements += [
            measure("maps", "pointing_game", 0.07, space="projected", chance=0.031),
            measure("maps", "pointing_game_ceiling", 0.62, space="projected"),
        ]
        fits["training"] = {"losses": [4.8, 4.1, 3.9]}
        provenance = {"hardware": "AMD EPYC 7763", "model": {"preprocess": {"size": 64, "fit": "pad"}}}
    return CellResult.model_validate(
        {
            "id": cell.id,
            "spec": cell,
            "title": title,
            "inputs": ("image",),
            "status": "done",
            "primary_space": space,
            "measurements": tuple(measurements),
            "fits": fits,
            "left_out": left_out,
            "profile": Profile(
                images_per_s=speed,
                texts_per_s=speed * 5,
                parameters=parameters,
                peak_memory_mb=812.0,
                adapt_s=math.nan if variant[0] == "frozen" else 14.2,
            ),
            "provenance": provenance,
        }
    )


def _naive(name: str, title: str, inputs: tuple[str, ...], auc: float) -> CellResult:
    cell = spec(name, ("frozen", "none", "none"), "none")
    return CellResult(
        id=cell.id,
        spec=cell,
        title=title,
        inputs=inputs,
        status="done",
        measurements=tuple(_probe(auc, "pooled")),
        left_out={"zero_shot": "no text encoder", "retrieval": "no text encoder"},
    )


def _failed(result: CellResult) -> CellResult:
    failure = Failure(
        kind="TrainingDiverged",
        message=f"the training loss is not finite at step 12 {HOSTILE}",
        traceback_tail="SECRET-TRACEBACK",
    )
    return result.model_copy(
        update={"status": "failed", "failure": failure, "measurements": (), "fits": {}, "profile": Profile()}
    )


def _undefined(result: CellResult) -> CellResult:
    nothing = Estimate(value=math.nan, n=270, n_patients=45, why_undefined="the prediction never names one class")
    return result.model_copy(
        update={
            "measurements": tuple(
                m.model_copy(update={"estimate": nothing}) if m.metric == "mcc" else m for m in result.measurements
            )
        }
    )
