"""The model keeps the contract, what it fits travels with its weights, and no fact is lost by shuffling."""

from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmark.conformance import EXAMPLE_REPORTS, check
from benchmark.data.facts import facts
from benchmark.errors import UnsupportedModality
from benchmark.model import BuildRequest
from timm_tfidf.cards import TIMM_TFIDF
from timm_tfidf.model import build
from timm_tfidf.sentence_order import SentenceOrder

REPORT = "Mild bulge at L3/4. No stenosis of the canal.\nSevere stenosis at L4/5,\nmore on the left. The canal is 9 mm."


def shuffled(report, count, seed=0):
    return SentenceOrder().reword(report, count, np.random.default_rng(seed))


def test_the_model_keeps_every_clause_of_the_contract():
    clauses = check(TIMM_TFIDF, BuildRequest(train_reports=EXAMPLE_REPORTS))
    assert [clause for clause in clauses if clause.passed is False] == []


def test_saved_weights_bring_their_own_document_frequencies(tmp_path: Path):
    saved = build(BuildRequest(train_reports=EXAMPLE_REPORTS[:4]))
    torch.save(saved.state_dict(), tmp_path / "weights.pt")
    loaded = build(BuildRequest(train_reports=EXAMPLE_REPORTS[4:], weights=tmp_path / "weights.pt", seed=1))
    assert torch.equal(loaded.encode_text(EXAMPLE_REPORTS).pooled, saved.encode_text(EXAMPLE_REPORTS).pooled)


@pytest.mark.parametrize("scale", ["tiny", "paper"])
def test_without_reports_it_encodes_images_alone(scale):
    model = build(BuildRequest(scale=scale))
    assert model.encode_image(torch.zeros(2, 3, 64, 64)).pooled.shape == (2, model.image_dim)
    with pytest.raises(UnsupportedModality, match="train reports"):
        model.encode_text(["No finding."])


@pytest.mark.parametrize(("report", "orders"), [(REPORT, 24), (f"{REPORT} No cyst", 24), ("At L4. 5 mm cyst.", 1)])
def test_shuffling_keeps_every_fact_and_depends_on_the_generator_alone(report, orders):
    assert len(set(shuffled(report, 500))) == orders
    assert shuffled(report, 5) == shuffled(report, 5)
    for reworded in shuffled(report, 50):
        for found, stated in zip(astuple(facts(reworded)), astuple(facts(report)), strict=True):
            assert sorted(found) == sorted(stated)


@pytest.mark.parametrize("report", ["", "No finding.", "bulge at\nL4/5"])
def test_a_report_of_one_sentence_comes_back_unchanged(report):
    assert shuffled(report, 2) == [report] * 2
