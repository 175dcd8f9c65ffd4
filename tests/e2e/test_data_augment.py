"""Texts written to a file, corrected by hand, and trained on: only of training samples, and counted on the page."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from benchmark.cli import main
from benchmark.data.manifest import load
from benchmark.data.split import make_split

Call = Callable[..., Result]

SETTINGS = {
    "workers": 1,
    "regimes": ["heads"],
    "heads": ["linear-8"],
    "heads_training": {"epochs": 2, "batch_size": 16, "learning_rate": 1e-3},
    "evaluation": {"replicates": 20, "paper_epochs": 1},
}


def call(*words: object, code: int = 0) -> Result:
    result = CliRunner().invoke(main, [str(word) for word in words])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantom")
    call("data", "phantom", "--out", folder, "--patients", 30)
    (folder / "config.yaml").write_text(yaml.safe_dump(SETTINGS))
    return folder / "card.yaml"


def augment(card: Path, out: Path, *more: object, name: str = "paraphrase", code: int = 0) -> Result:
    cache = card.parent / "cache"
    return call(
        "data", "augment", card, "--augmentation", name, "--out", out, "--cache", cache, "--json", *more, code=code
    )


def run(card: Path, texts: Path, out: Path, *more: object, code: int = 0) -> Result:
    words = ["run", "--data", card, "--config", card.parent / "config.yaml", "--models", "toy", "--json"]
    words += ["--plugin", Path(__file__).parents[1] / "plugins" / "toy.py", "--cache", card.parent / "cache"]
    return call(*words, "--augmentation", "file", "--rewordings", texts, "--out", out, *more, code=code)


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8-sig", newline="") as opened:
        return list(csv.DictReader(opened))


def save(file: Path, rows: list[dict[str, str]]) -> None:
    with file.open("w", encoding="utf-8", newline="") as opened:
        writer = csv.DictWriter(opened, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def test_texts_go_out_and_come_back_with_a_persons_word(card: Path, tmp_path: Path) -> None:
    written = json.loads(augment(card, tmp_path / "texts.csv").stdout)["rewordings"]
    assert (written["dropped"], written["kept"]) == (0, written["asked"])
    dataset = load(card, cache=card.parent / "cache")
    split = make_split(dataset)
    rows = rows_of(tmp_path / "texts.csv")
    assert {row["sample"] for row in rows} <= {dataset.sample_ids[i] for i in split.train}
    assert {row["verdict"] for row in rows} == {"kept"}

    changed = [dict(row) for row in rows]
    changed[0] |= {"rewording": "Normal spine, grade D, left.", "use": "yes"}
    changed[1] |= {"use": "no"}
    changed[2] |= {"rewording": "A bulge of 99 mm."}
    changed.append(changed[3] | {"sample": dataset.sample_ids[split.test[0]]})
    save(tmp_path / "corrected.csv", changed)
    cells = {}
    for name in ("texts", "corrected"):
        (cell,) = json.loads(run(card, tmp_path / f"{name}.csv", tmp_path / name).stdout)["cells"]
        file = next((tmp_path / name / "cells").glob("*.json"))
        cells[name] = (cell["id"], json.loads(file.read_text())["fits"]["training"]["rewordings"])
    assert cells["texts"][0] != cells["corrected"][0], "the texts are part of what a cell is"
    assert cells["texts"][1]["dropped"] == 0
    record = cells["corrected"][1]
    same = sum(report == rows[0]["report"] for report in (dataset.reports[i] for i in split.train))  # type: ignore[index]
    assert (record["kept_by_hand"], record["left_out_by_hand"], record["dropped"]) == (same, same, same)
    assert record["rows_of_other_samples"] == 1
    assert {"contradicts number", "adds number"} & set(record["dropped_by_kind"])

    page = (tmp_path / "corrected" / "leaderboard" / "index.html").read_text()
    assert "Rewordings of the augmentation file" in page
    assert "by hand against the check" in page
    assert "A bulge of 99 mm" not in page
    assert "Rewordings of the augmentation" not in (tmp_path / "texts" / "leaderboard" / "index.html").read_text()
    assert str(tmp_path) not in (tmp_path / "corrected" / "run.json").read_text()


def test_another_split_is_another_choice_of_samples(card: Path, tmp_path: Path) -> None:
    """Texts of samples that are not in this run's train split are counted and not used."""
    augment(card, tmp_path / "texts.csv", "--split-seed", 7, name="eda")
    cells = json.loads(run(card, tmp_path / "texts.csv", tmp_path / "run").stdout)["cells"]
    record = json.loads((tmp_path / "run" / "cells" / f"{cells[0]['id']}.json").read_text())["fits"]["training"]
    assert record["rewordings"]["rows_of_other_samples"] > 0


def test_refused_texts_are_written_only_where_asked_for(card: Path, tmp_path: Path) -> None:
    plugin = tmp_path / "liar.py"
    plugin.write_text(
        "from benchmark.model import AugmentationEntry\n"
        "class Liar:\n"
        "    name = 'liar'\n"
        "    def reword(self, report, count, rng):\n"
        "        return [report + ' Spondylolisthesis.'] * count\n"
        "ENTRIES = [AugmentationEntry('liar', 'Adds a finding.', Liar)]\n"
    )
    augment(card, tmp_path / "kept.csv", "--plugin", plugin, name="liar")
    assert rows_of(tmp_path / "kept.csv") == []
    out = augment(card, tmp_path / "all.csv", "--plugin", plugin, "--include-dropped", "--count", 1, name="liar")
    record = json.loads(out.stdout)["rewordings"]
    assert record["dropped"] == record["asked"] == record["pairs"] == record["original_alone"]
    assert record["dropped_by_kind"] == {"adds finding": record["pairs"]}
    assert {row["verdict"] for row in rows_of(tmp_path / "all.csv")} == {"dropped: adds finding (spondylolisthesis)"}


def test_what_cannot_be_done_is_one_sentence(card: Path, tmp_path: Path) -> None:
    (tmp_path / "texts.csv").write_text("mine")
    assert "may hold corrections" in augment(card, tmp_path / "texts.csv", code=2).stderr
    assert "writes no texts" in augment(card, tmp_path / "a.csv", name="file", code=2).stderr
    assert "Did you mean 'eda'" in augment(card, tmp_path / "a.csv", name="edda", code=2).stderr
    absent = augment(card, tmp_path / "a.csv", "--weights-dir", tmp_path, name="mllm", code=2).stderr
    assert "llava-med-v1.5-mistral-7b, which is not on this machine" in absent
    assert absent.count("\n") == 1
    save(tmp_path / "b.csv", [{"sample": "x", "report": "a", "rewording": "b", "use": "perhaps"}])
    assert "write yes, no, or nothing" in run(card, tmp_path / "b.csv", tmp_path / "run", code=2).stderr
    sample = load(card, cache=card.parent / "cache").sample_ids
    save(tmp_path / "c.csv", [{"sample": each, "report": "a", "rewording": "b", "use": ""} for each in sample])
    refused = run(card, tmp_path / "c.csv", tmp_path / "run", code=2)
    assert "is another one in the dataset" in refused.stderr
    words = ["run", "--models", "majority", "--augmentation", "none,mllm", "--out", tmp_path / "run"]
    assert "not on this machine" in call(*words, code=2).stderr
    assert not (tmp_path / "run").exists(), "all of this is said before anything is trained"
