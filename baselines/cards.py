"""The cards of published systems: light, so that they can be listed without torch."""

from __future__ import annotations

from benchmark.model import ModelCard, ModelEntry, ReportedFigures, Size, WeightSource

CONVIRT_RELEASE = WeightSource(
    repo_id="youngzhou12/ConVIRT",
    revision="main",
    unpinned="no commit of this repository is known to us",
    files=("ConVIRT.pth",),
    tower="both towers",
    licence="not stated",
)
BIOMED_ROBERTA = WeightSource(
    repo_id="allenai/biomed_roberta_base",
    revision="main",
    unpinned="no commit of this repository is known to us; only its tokenizer is read",
    files=("vocab.json", "merges.txt"),
    tower="tokenizer",
    licence="not stated",
)

CONVIRT = ModelEntry(
    card=ModelCard(
        name="convirt",
        title="ConVIRT (BenchX re-implementation)",
        summary="ResNet-50 and BioMed-RoBERTa, aligned by a bidirectional InfoNCE loss that weighs image-to-text "
        "three to one. ConVIRT's authors published no code and no weights; this is BenchX's version, which differs "
        "from the paper in text encoder, text pooling and width.",
        paper="Zhang, Jiang, Miura, Manning & Langlotz, Contrastive Learning of Medical Visual Representations from "
        "Paired Images and Text, MLHC 2022, arXiv:2010.00747; re-implemented in BenchX, arXiv:2410.21969",
        licence="Apache-2.0",
        inputs=("image",),
        training_data="Chest X-rays with their reports (MIMIC-CXR), without labels.",
        weights=(CONVIRT_RELEASE, BIOMED_ROBERTA),
        sizes={
            "paper": Size(parameters=148_153_664, image_dim=2048, text_dim=768, input_size=224),
            "tiny": Size(parameters=873_728, image_dim=512, text_dim=96, input_size=64),
        },
        reported=(
            ReportedFigures(
                source="arXiv:2509.20813, Table 2",
                dataset="Lumbar Spine MRI, Mendeley Data k57fr854j2 v2",
                values={"Accuracy": 81.52, "Precision": 85.10, "Recall": 94.47, "F1": 89.54},
                caveat="Precision, recall and F1 are binary with LBP as the positive class, while LumbarCLIP's rows of "
                "the same table are weighted averages; no confusion matrix of the printed test split (462 LBP of 528) "
                "gives this row, and always answering LBP scores accuracy 87.5 and F1 93.3 on it. Trained without the "
                "text augmentation that LumbarCLIP had.",
            ),
        ),
    ),
    build="baselines.convirt:build",
)
