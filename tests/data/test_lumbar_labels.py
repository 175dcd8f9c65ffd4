"""What the labelling rule makes of notes: spelled in many ways, denied, hedged, incidental, or of another region."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark.data.lumbar_labels import FINDINGS, RULES, read_note
from benchmark.data.table import read_table

BULGE = "Diffuse disc bulge noted at L4-L5 level."


@pytest.mark.parametrize(
    ("note", "why"),
    [
        ("LSS MRI\n" + BULGE, "bulge"),
        ("Lt para central disc protrotion noted at L4/L5", "protrusion"),
        ("posterior central disc prortusion at L5/S1", "protrusion"),
        ("L2-3: broad based right paramedian disc extrusion", "extrusion"),
        ("large herniated disc", "herniation"),
        ("sequestrated disc fragment", "sequestration"),
        ("prolapsed disc at L5/S1", "prolapse"),
        ("secandary spinal canal stenosis", "stenosis"),
        ("spinal canal appeared narrow at L3-L4", "narrowing"),
        ("largely comprssing the thecal sac", "compression"),
        ("enrcoaching exit neural canal", "compression"),
        ("Grade I spodylolisthesis of L5 over S1", "listhesis"),
        ("Dissicating disc materials at L4/L5", "degeneration"),
        ("ligamentum flavum hyperatrophy", "degeneration"),
        ("multiple Schmorl’s nodes", "degeneration"),
        ("annular tear", "tear"),
        ("Wedging fracture of L2", "fracture"),
        ("No significant thecal sac compression noted. " + BULGE, "bulge"),
        ("No herniation, mild bulge at L4-5", "bulge"),
        ("No herniation but a small bulge", "bulge"),
        ("No abnormality other than a bulge", "bulge"),
        ("Mild bulge, no compression of the thecal sac", "bulge"),
        ("Unremarkable study except for a bulge", "bulge"),
        ("Mild disc bulge at L3-L4 \nNo evidence of disc Herniation at other levels", "bulge"),
        ("C4-C5 \nmild disc protrusion.\n\nL4-L5: diffuse disc bulge", "bulge"),
        ("LSS AND C. SPINE MRI \nmild disc bulge noted at L4-L5 level", "bulge"),
    ],
)
def test_an_affirmed_finding_is_lbp(note: str, why: str) -> None:
    reading = read_note(note)
    assert (reading.label, reading.why) == ("LBP", why)


@pytest.mark.parametrize(
    "note",
    [
        "No evidence of disc herniation.\nNo significant thecal sac or nerve root compression noted.",
        "no evidence of disc herniation, protrusion or stenosis",
        "No disc bulge, no herniation, no stenosis.",
        "Disc herniation is absent.",
        "Nerve root compression: none. Bulge not seen",
        "Adequate thecal sac with no exit nerve root compression .",
        "No definite thecal sca or nerve roots compressioon",
        "No evidence of\ndisc herniation",
        "No disc bulge or\nprotrusion",
        "negative for disc prolapse",
        "Normal MRI of the lumbar spine.",
        "LSS MRI: unremarkable study",
        "Normal.",
        "Feature of muscle spasm. No disc protruion or herniation seen",
        "C.SPINE MRI : wide base disc bulge at C5/C6.\nLSS MRI : No disc herniation.",
        "No herniation. Preserved vertebral bodies and bone marrow signal.",
    ],
)
def test_nothing_but_denials_or_a_normal_study_is_no_finding(note: str) -> None:
    assert read_note(note).label == "No Finding"


@pytest.mark.parametrize(
    ("note", "why"),
    [
        ("", "no note"),
        (" \n", "no note"),
        ("LSS MRI", "neither a finding nor a denial"),
        ("Adequate spinal canal.", "neither a finding nor a denial"),
        ("The study is not normal", "neither a finding nor a denial"),
        ("C5-C6: disc bulge", "neither a finding nor a denial"),
        ("Feature of muscle spasm.", "neither a finding nor a denial"),
        ("No compression. ? sequestrated disc", "findings are only suspected"),
        ("possible small protrusion at L5/S1, no compression", "findings are only suspected"),
        ("Disc herniation cannot be excluded", "findings are only suspected"),
        ("MRI is advised to rule out fracture. No bulge", "findings are only suspected"),
        ("L2 hemngioma.\nNo evidence of disc herniation.", "only what is no named finding"),
        ("Small Tarlov cyst at S2. No compression", "only what is no named finding"),
        ("Previous operation at L4/L5. No herniation", "only what is no named finding"),
    ],
)
def test_what_a_note_leaves_open_has_no_label_and_a_reason(note: str, why: str) -> None:
    reading = read_note(note)
    assert (reading.label, reading.why) == (None, why)


@pytest.mark.parametrize(
    "note", ["IMPRESSION: no herniation", "no bulge, extending studies advised", "bulky muscle, no bulge"]
)
def test_words_that_only_look_like_findings_are_none(note: str) -> None:
    assert read_note(note).label == "No Finding"


def test_spasm_alone_is_a_finding_for_its_own_rule_only() -> None:
    note = "LSS MRI : \nFeature of musclespasm. \nNo significant thecal sac or nerve roots compression seen"
    assert read_note(note, "notes-v1").label == "No Finding"
    assert read_note(note, "notes-spasm-v1").label == "LBP"
    assert read_note(note, "notes-spasm-v1").why == "spasm"
    assert list(RULES) == ["notes-v1", "notes-spasm-v1"]


words = st.sampled_from([word for group in FINDINGS.values() for word in group.split()])


@given(word=words, prefix=st.sampled_from(["No ", "no evidence of ", "without ", "There is no significant "]))
def test_every_word_of_the_vocabulary_is_affirmed_alone_and_denied_under_a_negation(word: str, prefix: str) -> None:
    assert read_note(f"{word} noted").label == "LBP"
    assert read_note(f"{prefix}{word} noted").label == "No Finding"


@given(
    word=words.filter(lambda word: len(word) >= 10), place=st.integers(1, 7), swap=st.booleans(), upper=st.booleans()
)
def test_one_slip_in_a_long_word_changes_nothing(word: str, place: int, swap: bool, upper: bool) -> None:
    a, b = word[place], word[place + 1]
    slip = word[:place] + (b + a if swap else b) + word[place + 2 :]
    assert read_note(slip.upper() if upper else slip).label == "LBP"


@given(note=st.text(max_size=200))
def test_any_text_is_read(note: str) -> None:
    for rule in RULES:
        reading = read_note(note, rule)
        assert reading.label in ("LBP", "No Finding", None)
        assert reading.why or reading.label == "No Finding"


def test_the_real_notes_have_about_the_share_that_the_paper_counts(real_data) -> None:
    notes = read_table(real_data / "sudirman_lumbar_notes" / "manifest.csv")["report"].tolist()
    readings = [read_note(note) for note in notes]
    labels = [reading.label for reading in readings]
    known = labels.count("LBP") + labels.count("No Finding")
    assert labels.count(None) - sum(not note.strip() for note in notes) <= 0.03 * known
    assert labels.count("No Finding") / known == pytest.approx(492 / 3360, abs=0.02)  # 0.138 of half the notes
