"""The card; light, so that models can be listed without torch."""

from benchmark.model import ModelCard, ModelEntry

TIMM_TFIDF = ModelEntry(
    card=ModelCard(
        name="timm-tfidf",
        title="ResNet-18 + TF-IDF",
        summary="ResNet-18 image tower, one learned layer over TF-IDF as text tower, symmetric InfoNCE.",
        paper="He et al. 2016, arXiv:1512.03385; Salton & Buckley 1988, doi:10.1016/0306-4573(88)90021-0",
        licence="Apache-2.0",
        inputs=("image",),
    ),
    build="timm_tfidf.model:build",
)
