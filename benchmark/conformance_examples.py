"""What models are checked on: pictures, texts and a small dataset, all drawn here, all awkward on purpose."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
from PIL import Image

from benchmark.data.manifest import Dataset, DatasetCard

EXAMPLE_REPORTS = (
    "At L3/4 there is a moderate disc bulge with narrowing of the left lateral recess.",
    "At L4/5 a right paracentral disc herniation compresses the traversing nerve root.",
    "Fatty infiltration of the multifidus muscle, more on the left than on the right.",
    "Mild disc degeneration at L5/S1 without stenosis of the spinal canal.",
    "No finding.",
    "Normal appearance of the disc, the facet joints and the thecal sac at L4/5.",
    "Severe stenosis of the spinal canal with hypertrophy of the ligamentum flavum.",
    "The facet joints are degenerated on both sides; the neural foramina are free.",
)
"""Reports that a tiny model may train its tokenizer on: sorted and distinct, as a train split's are."""

PAIRED_TEXTS = (*EXAMPLE_REPORTS[:4], "")
"""One text per example picture, of different lengths."""

HARD_TEXTS = ("", " ".join(EXAMPLE_REPORTS * 60), "Ödem bei L4/5 – 腰椎间盘突出 🩻\u200b\n", "No finding.")
"""Empty, about 5000 words, beyond ASCII, ordinary."""

TRAIN = np.arange(16)
"""Train rows of the example dataset; the rest are held out."""


def example_pictures() -> list[Image.Image]:
    """Wide, tall, large, blank and very small; grey and colour."""
    rng = np.random.default_rng(0)
    shapes = [(40, 96), (96, 40, 3), (256, 256), (64, 64), (17, 23, 3)]
    arrays = [rng.integers(0, 256, shape, dtype=np.uint8) for shape in shapes]
    arrays[3][:] = 0
    return [Image.fromarray(array) for array in arrays]


def example_dataset() -> Dataset:
    """24 samples of 12 patients with everything a row could be made from, some of it missing."""
    rng = np.random.default_rng(0)
    n = 24
    pixels = [rng.integers(0, 256, (20 + i % 3, 32), dtype=np.uint8) for i in range(n)]
    return Dataset(
        card=DatasetCard(name="example", task="binary", label="label"),
        classes=("no finding", "finding"),
        sample_ids=tuple(f"sample {i}" for i in range(n)),
        rows=np.arange(1, n + 1),
        labels=np.arange(n) % 2,
        groups=np.arange(n) // 2,
        grouped_by="patient",
        pixels=pixels,
        pixel_hashes=tuple(f"example {i}" for i in range(n)),
        reports=tuple(None if i == 5 else EXAMPLE_REPORTS[i % len(EXAMPLE_REPORTS)] for i in range(n)),
        structured=pd.DataFrame(
            {
                "age": np.where(np.arange(n) == 3, np.nan, 40.0 + np.arange(n)),
                "sex": pd.Categorical(["female" if i % 3 else "male" for i in range(n)]),
            }
        ),
        views=tuple("axial" if i % 2 else "sagittal" for i in range(n)),
        masks=[(p > 128).astype(np.uint8) for p in pixels],
    )


def with_other_held_out_inputs(dataset: Dataset) -> Dataset:
    """The example dataset with every input and label of its held-out rows exchanged for others."""
    rng = np.random.default_rng(1)
    held_out = range(len(TRAIN), len(dataset))
    assert dataset.reports is not None
    assert dataset.structured is not None
    kept = len(TRAIN)
    pixels = [*dataset.pixels[:kept], *(rng.integers(0, 256, (50, 30), dtype=np.uint8) for _ in held_out)]
    structured = dataset.structured.copy()
    structured["age"] = [*structured["age"][:kept], *(900.0 + i for i in held_out)]
    structured["sex"] = pd.Categorical([*structured["sex"][:kept], *("not recorded" for _ in held_out)])
    return replace(
        with_other_held_out_labels(dataset),
        pixels=pixels,
        pixel_hashes=(*dataset.pixel_hashes[:kept], *(f"other {i}" for i in held_out)),
        reports=(*dataset.reports[:kept], *(f"unheard of wording {i} {i}" for i in held_out)),
        structured=structured,
        views=tuple("axial" if i % 2 or i >= kept else "sagittal" for i in range(len(dataset))),
        masks=[(p > 128).astype(np.uint8) for p in pixels],
    )


def with_other_held_out_labels(dataset: Dataset) -> Dataset:
    """The example dataset with the labels of its held-out rows turned round."""
    labels = dataset.labels.copy()
    labels[len(TRAIN) :] = 1 - labels[len(TRAIN) :]
    return replace(dataset, labels=labels)
