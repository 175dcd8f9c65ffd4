"""The cards of published systems: light, so that they can be listed without torch."""

from __future__ import annotations

from benchmark.model import ModelCard, ModelEntry, ReportedFigures, Scale, Size, WeightSource

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

BIO_CLINICAL_BERT = WeightSource(
    repo_id="emilyalsentzer/Bio_ClinicalBERT",
    revision="d5892b39a4adaed74b92212a44081509db72f87b",
    files=("pytorch_model.bin", "vocab.txt"),
    tower="text tower",
    licence="MIT",
)
"""Alsentzer et al., Clinical NLP 2019, arXiv:1904.03323."""
BIO_CLINICAL_VOCABULARY = BIO_CLINICAL_BERT.model_copy(update={"files": ("vocab.txt",), "tower": "tokenizer"})

TIMM_RESNET50 = WeightSource(
    repo_id="timm/resnet50.a1_in1k",
    revision="767268603ca0cb0bfe326fa87277f19c419566ef",
    files=("model.safetensors",),
    tower="image tower",
    licence="Apache-2.0",
)
"""Wightman, Touvron & Jégou, arXiv:2110.00476, recipe A1."""


def sizes(*, paper: tuple[int, int, int], tiny: tuple[int, int, int], tiny_input: int = 64) -> dict[Scale, Size]:
    """Sizes of a model at both scales, each as (parameters, image_dim, text_dim); 224 px at scale ``paper``."""
    (p, p_image, p_text), (t, t_image, t_text) = paper, tiny
    return {
        "paper": Size(parameters=p, image_dim=p_image, text_dim=p_text, input_size=224),
        "tiny": Size(parameters=t, image_dim=t_image, text_dim=t_text, input_size=tiny_input),
    }


TABLE_2 = "arXiv:2509.20813, Table 2"
TABLE_1_TEST = (462, 66)
"""LBP and No Finding in the test part, by the paper's Table 1."""
LUMBAR_SPINE = "Lumbar Spine MRI, Mendeley Data k57fr854j2 v2"


def _reported(accuracy: float, precision: float, recall: float, f1: float) -> ReportedFigures:
    """A baseline row of the paper's table."""
    return ReportedFigures(
        source=TABLE_2,
        dataset=LUMBAR_SPINE,
        values={"Accuracy": accuracy, "Precision": precision, "Recall": recall, "F1": f1},
        caveat="Precision, recall and F1 are binary with LBP as the positive class, while LumbarCLIP's rows of the "
        "same table are weighted averages; no confusion matrix of the printed test split (462 LBP of 528) gives this "
        "row, and always answering LBP scores accuracy 87.5 and F1 93.3 on it. Trained without the text augmentation "
        "that LumbarCLIP had.",
        counts=TABLE_1_TEST,
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
        sizes=sizes(paper=(148_153_664, 2048, 768), tiny=(873_728, 512, 96)),
        reported=(_reported(81.52, 85.10, 94.47, 89.54),),
    ),
    build="baselines.convirt:build",
)


GLORIA_PAPER = (
    "Huang, Shen, Lungren & Yeung, GLoRIA: A Multimodal Global-Local Representation Learning Framework for "
    "Label-efficient Medical Image Recognition, ICCV 2021, doi:10.1109/ICCV48922.2021.00391"
)
GLORIA_RELEASE = WeightSource(
    repo_id="marshuang80/gloria",
    revision="release",
    unpinned="its authors published it as a single file without versions",
    files=("chexpert_resnet50.ckpt",),
    tower="both towers",
    licence="not stated",
    address="https://stanfordmedicine.box.com/s/j5h7q99f3pfi7enc0dom73m4nsm6yzvh",
)
GLORIA_BENCHX_RELEASE = WeightSource(
    repo_id="youngzhou12/GLoRIA",
    revision="main",
    unpinned="no commit of this repository is known to us",
    files=("GLoRIA.ckpt",),
    tower="both towers",
    licence="MIT",
)

_GLORIA_SIZES = sizes(paper=(132_014_144, 2048, 768), tiny=(797_824, 512, 64), tiny_input=48)

GLORIA = ModelEntry(
    card=ModelCard(
        name="gloria",
        title="GLoRIA",
        summary="ResNet-50 and BioClinicalBERT, aligned globally by InfoNCE and locally by attention of words over "
        "image regions.",
        paper=GLORIA_PAPER,
        licence="Apache-2.0",
        inputs=("image",),
        training_data="Frontal chest X-rays of CheXpert with the impressions of their reports, which were never "
        "released; without labels.",
        weights=(GLORIA_RELEASE, BIO_CLINICAL_VOCABULARY),
        sizes=_GLORIA_SIZES,
    ),
    build="baselines.gloria:build",
)
BENCHX_GLORIA = ModelEntry(
    card=ModelCard(
        name="gloria-benchx",
        title="GLoRIA (BenchX re-training)",
        summary="GLoRIA's architecture and objective, trained anew by BenchX.",
        paper=f"{GLORIA_PAPER}; trained anew in BenchX, arXiv:2410.21969",
        licence="Apache-2.0",
        inputs=("image",),
        training_data="Chest X-rays with their reports (MIMIC-CXR), without labels.",
        weights=(GLORIA_BENCHX_RELEASE, BIO_CLINICAL_VOCABULARY),
        sizes=_GLORIA_SIZES,
        random_as="gloria",
        reported=(_reported(82.25, 84.54, 96.44, 90.09),),
    ),
    build="baselines.gloria:build_benchx",
)


def _medclip(
    name: str, encoder: str, archive: str, size: dict[Scale, Size], values: tuple[float, float, float, float]
) -> ModelEntry:
    """One of the two releases, which differ in the image tower."""
    return ModelEntry(
        card=ModelCard(
            name=f"medclip-{name}",
            title=f"MedCLIP ({encoder})",
            summary=f"{encoder} and BioClinicalBERT, aligned by a soft InfoNCE loss whose targets come from labels "
            "that pictures and sentences share.",
            paper="Wang, Wu, Agarwal & Sun, MedCLIP: Contrastive Learning from Unpaired Medical Images and Text, "
            "EMNLP 2022, arXiv:2210.10163",
            licence="Apache-2.0",
            inputs=("image",),
            training_data="Chest X-rays of CheXpert and sentences of MIMIC-CXR, matched by labels of 14 findings: "
            "labels of a benchmark's kind were seen.",
            weights=(
                WeightSource(
                    repo_id=f"RyanWangZf/{archive}",
                    revision="release",
                    unpinned="its authors published it as an archive without versions",
                    files=("pytorch_model.bin",),
                    tower="both towers",
                    licence="not stated",
                    address=f"https://storage.googleapis.com/pytrial/{archive}.zip (unpack it)",
                ),
                BIO_CLINICAL_VOCABULARY,
            ),
            sizes=size,
            reported=(_reported(*values),),
        ),
        build=f"baselines.medclip:build_{name}",
    )


MEDCLIP_RESNET50 = _medclip(
    "resnet50",
    "ResNet-50",
    "medclip-pretrained",
    sizes(paper=(131_227_712, 2048, 768), tiny=(939_104, 512, 96)),
    (84.24, 86.94, 95.52, 91.03),
)
MEDCLIP_VIT = _medclip(
    "vit",
    "Swin-T",
    "medclip-vit-pretrained",
    sizes(paper=(135_239_034, 768, 768), tiny=(826_814, 128, 96)),
    (82.94, 84.16, 98.08, 90.59),
)

BIOMEDCLIP_RELEASE = WeightSource(
    repo_id="microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224",
    revision="9f341de24bfb00180f1b847274256e9b65a3a32e",
    files=("open_clip_pytorch_model.bin", "open_clip_config.json", "vocab.txt"),
    tower="both towers",
    licence="MIT",
)
BIOMEDCLIP = ModelEntry(
    card=ModelCard(
        name="biomedclip",
        title="BiomedCLIP",
        summary="ViT-B/16 and PubMedBERT, aligned by InfoNCE on figures and captions of biomedical articles.",
        paper="Zhang et al., A Multimodal Biomedical Foundation Model Trained from Fifteen Million Image-Text Pairs, "
        "NEJM AI 2025, arXiv:2303.00915",
        licence="Apache-2.0",
        inputs=("image",),
        training_data="15 million figures of PubMed Central with their captions, MRI among them; without labels. "
        "Figures of public datasets may be among them.",
        weights=(BIOMEDCLIP_RELEASE,),
        sizes=sizes(paper=(194_690_304, 768, 768), tiny=(468_288, 64, 96)),
    ),
    build="baselines.biomedclip:build",
)

CLIP_RELEASE = WeightSource(
    repo_id="openai/clip-vit-base-patch16",
    revision="57c216476eefef5ab752ec549e440a49ae4ae5f3",
    files=("pytorch_model.bin", "vocab.json", "merges.txt"),
    tower="both towers",
    licence="not stated",
)
CLIP = ModelEntry(
    card=ModelCard(
        name="clip",
        title="CLIP (ViT-B/16)",
        summary="ViT-B/16 and a causal text transformer, aligned by InfoNCE on pictures of the web: what medical "
        "pre-training must beat.",
        paper="Radford et al., Learning Transferable Visual Models From Natural Language Supervision, ICML 2021, "
        "arXiv:2103.00020",
        licence="Apache-2.0",
        inputs=("image",),
        training_data="400 million pictures of the web with their texts; without labels.",
        weights=(CLIP_RELEASE,),
        sizes=sizes(paper=(148_965_376, 768, 512), tiny=(468_160, 64, 96)),
    ),
    build="baselines.clip:build",
)

IMAGENET_RESNET50 = ModelEntry(
    card=ModelCard(
        name="imagenet-resnet50",
        title="ResNet-50 (ImageNet)",
        summary="Features of a classifier of everyday objects, which has seen no medical picture and no report: "
        "what medical and vision-language training must add to.",
        paper="Wightman, Touvron & Jégou, ResNet strikes back: An improved training procedure in timm, "
        "arXiv:2110.00476",
        licence="Apache-2.0",
        inputs=("image",),
        encodes=("image",),
        training_data="1.3 million photographs of ImageNet-1k with their classes; nothing medical.",
        weights=(TIMM_RESNET50,),
        sizes=sizes(paper=(23_508_032, 2048, 0), tiny=(513_152, 512, 0)),
        published_only=True,
        naive=True,
    ),
    build="baselines.imagenet:build",
    trainable=False,
)
