"""The cards of the LumbarCLIP models, one per image encoder: light, so that they can be listed without torch."""

from __future__ import annotations

from baselines.cards import BIO_CLINICAL_BERT, LUMBAR_SPINE, TABLE_1_TEST, TABLE_2, TIMM_RESNET50, sizes
from benchmark.model import AugmentationEntry, ModelCard, ModelEntry, ReportedFigures, Scale, Size, WeightSource

_AVERAGING = (
    "Precision, recall and F1 are weighted averages printed as whole percents, while the paper's baseline rows are "
    "binary with LBP as the positive class, so the two halves of the table do not compare; always answering LBP scores "
    "accuracy 87.5 on the printed test split (462 of 528)."
)


def _timm(repo_id: str, revision: str, licence: str) -> WeightSource:
    return WeightSource(
        repo_id=repo_id, revision=revision, files=("model.safetensors",), tower="image tower", licence=licence
    )


def _card(
    name: str,
    encoder: str,
    source: WeightSource,
    size: dict[Scale, Size],
    values: tuple[float, float, float, float],
    caveat: str,
    decimals: int = 0,
) -> ModelCard:
    row = dict(zip(("Accuracy", "Precision", "Recall", "F1"), values, strict=True))
    return ModelCard(
        name=f"lumbarclip-{name}",
        title=f"LumbarCLIP ({encoder})",
        summary=f"{encoder} and BioClinicalBERT, aligned by a soft CLIP loss whose targets come from the class labels.",
        paper="Le, Vo, Mai & Phan, Revolutionizing Precise Low Back Pain Diagnosis via Contrastive Learning, "
        "arXiv:2509.20813",
        licence="Apache-2.0",
        inputs=("image",),
        training_data="No weights were published: the towers start from ImageNet and clinical notes (MIMIC-III). "
        "Training aligns them with the class labels of the train split, the very labels a probe is scored on.",
        weights=(source, BIO_CLINICAL_BERT),
        sizes=size,
        reported=(
            ReportedFigures(
                source=f"{TABLE_2} (linear heads, d = 256)",
                dataset=LUMBAR_SPINE,
                values=row,
                caveat=f"{caveat}{_AVERAGING}",
                counts=TABLE_1_TEST,
                decimals=decimals,
            ),
        ),
    )


RESNET50 = ModelEntry(
    card=_card(
        "resnet50",
        "ResNet-50",
        TIMM_RESNET50,
        sizes(paper=(131_227_712, 2048, 768), tiny=(864_320, 512, 96)),
        (95.00, 94.50, 98.08, 94.75),
        "The row fits no averaging: F1 94.75 needs recall 95.00, and 98.08 is MedCLIP-ViT's. ",
        decimals=2,
    ),
    build="lumbarclip.model:build_resnet50",
)
VIT = ModelEntry(
    card=_card(
        "vit",
        "ViT-B/16",
        _timm(
            "timm/vit_base_patch16_224.augreg2_in21k_ft_in1k", "063c6c38a5d8510b2e57df480445e94b231dad2c", "Apache-2.0"
        ),
        sizes(paper=(193_518_336, 768, 768), tiny=(468_288, 64, 96)),
        (94.00, 94.00, 94.00, 94.00),
        "",
    ),
    build="lumbarclip.model:build_vit",
)
SWIN = ModelEntry(
    card=_card(
        "swin",
        "Swin-B",
        _timm("timm/swin_base_patch4_window7_224.ms_in22k_ft_in1k", "a6a1eb2321b4f556fa0fa243fb777d47679f13c9", "MIT"),
        sizes(paper=(194_462_904, 1024, 768), tiny=(752_030, 128, 96)),
        (89.00, 89.00, 90.00, 89.00),
        "The row contradicts itself: weighted recall is accuracy, and 90 is not 89. ",
    ),
    build="lumbarclip.model:build_swin",
)

MLLM = AugmentationEntry(
    name="mllm",
    summary="A multimodal language model that sees the picture, by default LLaVA-Med v1.5 (LumbarCLIP, section 3.1)",
    build="lumbarclip.augment.mllm:MLLM",
    may_omit=True,
)
"""The paper's augmentation. Its texts may leave detail out: it is asked to *rephrase or expand* in one sentence."""
