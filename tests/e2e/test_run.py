"""The main job through its command line: results, resume, isolation of failures, exit codes.

One small phantom and one toy plug-in; each command runs in this process, so that the heavy imports are paid once.
"""

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from click.testing import CliRunner, Result

from benchmark.cli import main

CONFIG = {
    "phantom_patients": 60,
    "workers": 1,
    "heads_training": {"epochs": 3, "batch_size": 32, "learning_rate": 1e-3},
    "full_training": {"epochs": 1, "batch_size": 32, "learning_rate": 1e-3},
    "evaluation": {"replicates": 50, "paper_epochs": 2},
    "heads": ["linear-8"],
}
"""Small enough that a whole run takes seconds."""

Command = Callable[..., Result]


@pytest.fixture
def command(tmp_path: Path, toy_file: Path) -> Command:
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(CONFIG))

    def call(*arguments: str, models: str = "majority,toy", code: int = 0) -> Result:
        words = ["run", "--models", models, "--config", str(config), "--plugin", str(toy_file), "--json"]
        result = CliRunner().invoke(main, [*words, "--out", str(tmp_path / "run"), *arguments])
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == code, result.output
        return result

    return call


def document(result: Result) -> dict[str, object]:
    found: dict[str, object] = json.loads(result.stdout)
    return found


def without_timings(folder: Path) -> dict[str, object]:
    """All cells with what may differ between two runs of one command taken out: timings and provenance."""
    cells = {}
    for file in sorted((folder / "cells").glob("*.json")):
        cell = json.loads(file.read_text())
        del cell["profile"], cell["provenance"]
        cells[file.stem] = cell
    assert cells
    return cells


def predictions(folder: Path) -> dict[str, bytes]:
    return {file.stem: file.read_bytes() for file in sorted((folder / "predictions").glob("*.parquet"))}


def test_a_run_leaves_every_file_it_promises(command: Command, tmp_path: Path) -> None:
    cells = document(command())["cells"]
    assert isinstance(cells, list)
    assert [c["model"] for c in cells] == ["majority"] + ["toy"] * 5
    assert {(c["regime"], c["augmentation"]) for c in cells if c["model"] == "toy"} == {
        ("frozen", "none"),
        ("heads", "none"),
        ("heads", "eda"),
        ("full", "none"),
        ("full", "eda"),
    }
    assert all(c["status"] == "done" and 0 <= c["low"] <= c["value"] <= c["high"] <= 1 for c in cells[1:])
    assert cells[0]["value"] == 0.5
    folder = tmp_path / "run"
    assert json.loads((folder / "run.json").read_text())["status"] == "done"
    assert set(without_timings(folder)) == set(predictions(folder)) == {c["id"] for c in cells}
    for name in ("index.html", "leaderboard.csv", "leaderboard.json"):
        assert (folder / "leaderboard" / name).stat().st_size > 1000


def test_results_say_how_pictures_were_prepared_and_what_a_file_gave(tmp_path: Path) -> None:
    """A state saved from one model and named by its path: its tensors are counted in every result."""
    from benchmark.model import BuildRequest
    from benchmark.registry import Registry

    model = Registry.load().model("clip").entry.make(BuildRequest(seed=7, train_reports=("no disc bulge",)))
    torch.save(model.state_dict(), tmp_path / "clip.pt")
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({**CONFIG, "models": ["clip"], "regimes": ["frozen", "heads"]}))
    words = ["run", "--config", str(config), "--weights", str(tmp_path / "clip.pt"), "--out", str(tmp_path / "run")]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    cells = [json.loads(file.read_text()) for file in (tmp_path / "run" / "cells").glob("*.json")]
    assert {cell["spec"]["regime"] for cell in cells} == {"frozen", "heads"}
    n = len(model.state_dict())
    for cell in cells:
        origin = cell["provenance"]["model"]
        assert origin["tensors_loaded"] == {"whole model": f"{n}/{n}"}
        assert origin["preprocess"]["fit"] == "crop"


def test_the_table_says_what_each_row_starts_from_reads_and_which_was_chosen(toy_file: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(CONFIG))
    words = [
        "run",
        "--models",
        "majority,toy",
        "--regime",
        "frozen",
        "--config",
        str(config),
        "--plugin",
        str(toy_file),
    ]
    shown = CliRunner().invoke(main, [*words, "--out", str(tmp_path / "run")]).stdout
    (row,) = [line for line in shown.splitlines() if " toy " in line]
    assert row.split()[:7] == ["*", "toy", "image", "frozen", "none", "none", "0"]
    assert " random " in row
    assert "None of them says what the published model can do" in shown
    assert shown.index(" toy ") < shown.index(" majority ")


def test_encoders_run_once_per_weights_and_image_set(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The frozen and heads cells of a model share one pass over the pictures and one over the distinct texts."""
    from benchmark import profile
    from benchmark.embed import Extractor
    from benchmark.result import Profile

    monkeypatch.setattr(profile, "measure", lambda *_, **__: Profile())
    extractors: list[Extractor] = []
    build = Extractor.__init__

    def seen(extractor: Extractor) -> dict[str, int]:
        counts: dict[str, int] = sys.modules[type(extractor.model).__module__].SEEN
        return counts

    def spy(self: Extractor, *arguments: object, **named: object) -> None:
        build(self, *arguments, **named)  # type: ignore[arg-type]
        seen(self).update(image=0, text=0)
        extractors.append(self)

    monkeypatch.setattr(Extractor, "__init__", spy)
    command("--regime", "frozen,heads", "--heads", "linear-8,linear-16,mlp-8", models="toy")
    assert len(extractors) == 1
    mapped = 4  # seen again for their patch vectors, which toy has none of and the store does not hold
    assert extractors[0].passes["image"] == 60 * 6 + mapped
    assert seen(extractors[0]) == extractors[0].passes
    command("--regime", "frozen,heads", "--heads", "linear-4", models="toy")
    assert extractors[1].passes == {"image": mapped, "text": 0}


def test_the_same_command_again_runs_nothing_and_keeps_every_byte(command: Command, tmp_path: Path) -> None:
    command()
    folder = tmp_path / "run"
    before = {f: f.read_bytes() for f in folder.rglob("cells/*.json")} | {
        f: f.read_bytes() for f in folder.rglob("*.parquet")
    }
    result = command()
    assert "4 of 4 units are finished already and are kept" in result.stderr
    assert all(file.read_bytes() == data for file, data in before.items())


def test_two_runs_from_nothing_agree_in_every_bit_but_timings(command: Command, tmp_path: Path) -> None:
    command()
    first = without_timings(tmp_path / "run"), predictions(tmp_path / "run")
    shutil.rmtree(tmp_path / "run")
    shutil.rmtree(tmp_path / ".cache")
    command()
    assert (without_timings(tmp_path / "run"), predictions(tmp_path / "run")) == first


def test_workers_side_by_side_agree_with_one_process_in_every_bit_but_timings(command: Command, tmp_path: Path) -> None:
    command()
    alone = without_timings(tmp_path / "run"), predictions(tmp_path / "run")
    shutil.rmtree(tmp_path / "run")
    result = command("--workers", "2", "--out", str(tmp_path / "run"))
    assert "4 units, 2 at a time" in result.stderr
    assert (without_timings(tmp_path / "run"), predictions(tmp_path / "run")) == alone


def test_a_model_that_raises_is_recorded_and_the_rest_goes_on(command: Command, tmp_path: Path) -> None:
    result = command("--regime", "frozen", models="majority,toy-crash,toy", code=1)
    by_model = {c["model"]: c for c in document(result)["cells"]}  # type: ignore[attr-defined]
    assert {m: c["status"] for m, c in by_model.items()} == {"majority": "done", "toy-crash": "failed", "toy": "done"}
    assert "out of cheese" in (tmp_path / "run" / "leaderboard" / "index.html").read_text()
    cell = json.loads((tmp_path / "run" / "cells" / f"{by_model['toy-crash']['id']}.json").read_text())
    assert (cell["failure"]["kind"], cell["failure"]["message"]) == ("RuntimeError", "out of cheese")
    assert "encode_image" in cell["failure"]["traceback_tail"]
    again = command("--regime", "frozen", "--workers", "3", models="majority,toy-crash,toy,toy-silent", code=1)
    assert again.stderr.count("toy-crash: frozen, seed 0: FAILED") == 1
    assert "[2/2]" in again.stderr


@pytest.mark.parametrize(
    ("model", "kind"), [("toy-silent", "ValueError"), ("toy-quits", "SystemExit"), ("toy-objective", "")]
)
def test_however_a_model_breaks_the_others_go_on(command: Command, tmp_path: Path, model: str, kind: str) -> None:
    regimes = "frozen,heads" if model == "toy-objective" else "frozen"
    result = command("--regime", regimes, models=f"majority,{model},toy", code=1)
    states = {(c["model"], c["regime"]): c["status"] for c in document(result)["cells"]}  # type: ignore[attr-defined]
    assert {state for (name, _), state in states.items() if name != model} == {"done"}
    if model == "toy-objective":
        assert states[model, "frozen"] == "done"
        assert states[model, "heads"] == "failed"
        assert "this objective refuses" in result.stderr
    else:
        assert states[model, "frozen"] == "failed"
        assert f"toy-{model[4:]}: frozen, seed 0: FAILED, 1 of 1 cells: {kind}" in result.stderr


def test_a_model_that_takes_its_process_with_it_is_recorded_and_the_rest_goes_on(
    command: Command, tmp_path: Path
) -> None:
    result = command("--regime", "frozen", "--workers", "2", models="majority,toy-dies,toy,toy-image", code=1)
    cells = document(result)["cells"]
    assert {c["model"]: c["status"] for c in cells} == {  # type: ignore[attr-defined]
        "majority": "done",
        "toy-dies": "failed",
        "toy": "done",
        "toy-image": "done",
    }
    assert "its process died without a word" in result.stderr
    assert result.stderr.count("toy-dies: frozen, seed 0: FAILED") == 1


def test_an_augmentation_that_breaks_costs_only_the_rows_that_use_it(command: Command) -> None:
    result = command("--augmentation", "none,one-too-few", "--regime", "frozen,heads", models="toy", code=1)
    states = {(c["regime"], c["augmentation"]): c["status"] for c in document(result)["cells"]}  # type: ignore[attr-defined]
    assert states == {("frozen", "none"): "done", ("heads", "none"): "done", ("heads", "one-too-few"): "failed"}
    assert "was asked for 4 texts and gave 3" in result.stderr


def test_training_to_nan_fails_those_cells_and_keeps_the_frozen_one(command: Command) -> None:
    cells = document(command(models="toy-nan", code=1))["cells"]
    assert isinstance(cells, list)
    assert {(c["regime"], c["status"]) for c in cells} == {("frozen", "done"), ("heads", "failed"), ("full", "failed")}


def test_a_model_that_says_it_encodes_no_text_has_its_frozen_row_and_the_page_says_why_it_has_no_other(
    command: Command, tmp_path: Path
) -> None:
    cells = document(command(models="toy-picture"))["cells"]
    assert isinstance(cells, list)
    assert [c["status"] for c in cells] == ["done"]
    (cell,) = without_timings(tmp_path / "run").values()
    assert {"zero_shot", "retrieval"} <= set(cell["left_out"])  # type: ignore[index]
    assert "this model encodes no text" in (tmp_path / "run" / "leaderboard" / "index.html").read_text()


def test_a_model_that_does_not_say_it_encodes_no_text_keeps_its_frozen_row(command: Command) -> None:
    result = command("--regime", "frozen,heads", models="toy-image", code=1)
    states = {c["regime"]: c["status"] for c in document(result)["cells"]}  # type: ignore[attr-defined]
    assert states == {"frozen": "done", "heads": "failed"}
    assert "encodes=('image',)" in result.stderr


def test_what_a_row_was_computed_from_decides_whether_it_is_run_again(tmp_path: Path, toy_file: Path) -> None:
    """A changed report, prompt or structured value gives other cells; the same files give the same ones."""
    data = tmp_path / "phantom"
    assert CliRunner().invoke(main, ["data", "phantom", "--out", str(data), "--patients", "40"]).exit_code == 0
    card, manifest = data / "card.yaml", data / "manifest.csv"

    def run() -> list[dict[str, object]]:
        words = ["run", "--models", "metadata-only,tfidf-report", "--data", str(data), "--out", str(tmp_path / "run")]
        result = CliRunner().invoke(main, [*words, "--json", "--workers", "1"])
        assert result.exit_code == 0, result.output
        cells: list[dict[str, object]] = json.loads(result.stdout)["cells"]
        return cells

    first = run()
    assert run() == first
    text = manifest.read_text()
    manifest.write_text(text.replace("stenosis", "narrowing"))
    reworded = run()
    assert {c["id"] for c in reworded}.isdisjoint(c["id"] for c in first)
    manifest.write_text(text)
    assert run() == first
    words = card.read_text()
    prompts = yaml.safe_load(words)["prompts"]
    old = next(iter(prompts.values()))[0]
    card.write_text(words.replace(old, f"{old} indeed"))
    assert {c["id"] for c in run()}.isdisjoint(c["id"] for c in first)


def test_a_second_command_in_one_folder_says_what_its_page_leaves_out(command: Command, tmp_path: Path) -> None:
    command("--regime", "frozen", models="majority")
    result = command("--regime", "frozen", models="toy")
    assert "1 finished rows of other commands" in result.stderr
    both = document(command("--regime", "frozen", models="majority,toy"))["cells"]
    assert [c["status"] for c in both] == ["done", "done"]  # type: ignore[attr-defined]


def test_damaged_files_of_a_run_are_written_anew_and_the_others_kept(command: Command, tmp_path: Path) -> None:
    command("--regime", "frozen")
    whole = without_timings(tmp_path / "run")
    files = sorted((tmp_path / "run" / "cells").glob("*.json"))
    kept = files[1].stat().st_mtime_ns
    files[0].write_text("{")
    (tmp_path / "run" / "run.json").write_text("[]")
    refused = CliRunner().invoke(main, ["report", str(tmp_path / "run")])
    assert refused.exit_code == 2
    assert "given again, writes it anew" in refused.stderr
    command("--regime", "frozen")
    assert without_timings(tmp_path / "run") == whole
    assert files[1].stat().st_mtime_ns == kept


def test_interrupting_keeps_what_is_finished_and_exits_130(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmark import execute

    work = execute._full

    def interrupted(*_: object) -> object:
        raise KeyboardInterrupt

    monkeypatch.setattr(execute, "_full", interrupted)
    result = command(code=130)
    assert "the same command resumes" in result.stderr
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "interrupted"
    kept = without_timings(tmp_path / "run")
    assert len(kept) == 4
    monkeypatch.setattr(execute, "_full", work)
    command()
    assert kept.items() <= without_timings(tmp_path / "run").items()


def test_a_dry_run_shows_cells_and_an_estimate_and_writes_nothing(command: Command, tmp_path: Path) -> None:
    torch.set_num_threads(2)
    shown = document(command("--dry-run"))
    assert torch.get_num_threads() == 1, "timed with as many threads as a run at this scale has"
    assert len(shown["cells"]) == 6  # type: ignore[arg-type]
    assert shown["estimate"]["image_passes"] == 60 * 6  # type: ignore[index]
    assert not (tmp_path / "run").exists()


def test_another_dataset_in_the_same_folder_is_refused(command: Command, tmp_path: Path) -> None:
    command("--regime", "frozen", models="majority")
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({**CONFIG, "phantom_patients": 62}))
    result = command("--regime", "frozen", models="majority", code=2)
    assert re.search(r"holds a run on another dataset or split .* choose another folder with --out", result.stderr)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--heads", "conv-3"], "unknown head 'conv-3'"),
        (["--preset", "fast"], "unknown preset 'fast'"),
        (["--regime", "thawed"], "'frozen', 'heads' or 'full'"),
        (["--augmentation", "edda"], "Did you mean 'eda'"),
        (["--device", "quantum"], "unknown device 'quantum'"),
        (["--data", "nowhere.csv"], "nowhere.csv"),
        (["--weights", "pretrained"], "random"),
        (["--workers", "-2"], "option --workers"),
        (["--seeds", "x"], "(given: 'x')"),
        (["--out", __file__], "give another place"),
        (["--out", f"{__file__}/x"], "give another place"),
        (["--config", str(Path(__file__).parent)], "is not a configuration file"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(command: Command, arguments: list[str], message: str) -> None:
    result = command(*arguments, models="toy", code=2)
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert message in lines[0]
    assert "Traceback" not in result.stderr


def test_an_unknown_model_gets_a_suggestion(command: Command) -> None:
    assert "Did you mean 'toy'" in command(models="toi", code=2).stderr


# --------------------------------------------------------------------------------------------- similarity maps


def maps_in(folder: Path) -> dict[str, bytes]:
    return {file.stem: file.read_bytes() for file in sorted((folder / "maps").glob("*.npz"))}


def cells_in(folder: Path) -> dict[str, dict[str, object]]:
    return {file.stem: json.loads(file.read_text()) for file in (folder / "cells").glob("*.json")}


def test_cells_with_patch_vectors_leave_maps_and_a_pointing_game(command: Command, tmp_path: Path) -> None:
    """Trained cells do, an untrained one says why not; the report has the same bytes as the run's."""
    command("--augmentation", "none", models="toy-patches,majority")
    folder = tmp_path / "run"
    trained = {k for k, c in cells_in(folder).items() if c["spec"]["regime"] != "frozen"}  # type: ignore[index]
    assert set(maps_in(folder)) == trained
    assert len(trained) == 2
    for cell in cells_in(folder).values():
        played = {m["metric"]: m for m in cell["measurements"] if m["evaluator"] == "maps"}  # type: ignore[attr-defined]
        if cell["id"] in trained:
            assert set(played) == {"pointing_game", "pointing_game_ceiling"}
            assert 0 < played["pointing_game"]["chance"] < played["pointing_game_ceiling"]["estimate"]["value"]
        elif cell["spec"]["model"] == "toy-patches":  # type: ignore[index]
            assert cell["left_out"]["maps"] == "an untrained projection has no common space"  # type: ignore[index]
    site = {file.name: file.read_bytes() for file in (folder / "leaderboard").iterdir()}
    assert site["model-toy-patches.html"].count(b"<img ") > 8
    shutil.rmtree(folder / "leaderboard")
    result = CliRunner().invoke(main, ["report", str(folder)])
    assert result.exit_code == 0, result.output
    assert {file.name: file.read_bytes() for file in (folder / "leaderboard").iterdir()} == site
    (folder / "maps" / f"{min(trained)}.npz").write_bytes(b"cut off")
    damaged = CliRunner().invoke(main, ["report", str(folder)])
    assert damaged.exit_code == 2
    assert "delete it, or run with --fresh" in damaged.stderr


def test_maps_are_the_same_in_every_run(command: Command, tmp_path: Path) -> None:
    arguments = ("--augmentation", "none", "--regime", "heads,full")
    command(*arguments, models="toy-patches")
    first = maps_in(tmp_path / "run")
    assert len(first) == 2
    command(*arguments, "--fresh", models="toy-patches")
    assert maps_in(tmp_path / "run") == first


def test_a_failure_in_explaining_costs_a_cell_its_maps_and_nothing_else(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmark import explain

    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("no paint left")

    monkeypatch.setattr(explain, "read", refuse)
    command("--augmentation", "none", "--regime", "heads", models="toy-patches")
    (cell,) = cells_in(tmp_path / "run").values()
    assert cell["status"] == "done"
    assert cell["left_out"] == {"maps": "explaining failed: RuntimeError: no paint left"}
    assert maps_in(tmp_path / "run") == {}


def test_pictures_of_real_data_are_kept_only_where_that_is_asked_for(command: Command, tmp_path: Path) -> None:
    """Without it no map is written and no page shows one; with it, a finished cell is named and left as it is, and
    run afresh it has the same id and the same figures."""
    assert (
        CliRunner().invoke(main, ["data", "phantom", "--patients", "30", "--out", str(tmp_path / "d")]).exit_code == 0
    )
    card = yaml.safe_load((tmp_path / "d" / "card.yaml").read_text())
    (tmp_path / "d" / "card.yaml").write_text(yaml.safe_dump(card | {"synthetic": False}))
    arguments = ("--augmentation", "none", "--regime", "heads", "--data", str(tmp_path / "d" / "card.yaml"))
    folder = tmp_path / "run"
    command(*arguments, models="toy-patches")
    page = folder / "leaderboard" / "model-toy-patches.html"
    assert maps_in(folder) == {}
    assert b"data:image" not in page.read_bytes()
    cells = without_timings(folder)
    again = command(*arguments, "--include-images", models="toy-patches")
    assert "1 finished rows were run without --include-images" in again.stderr
    assert maps_in(folder) == {}
    command(*arguments, "--include-images", "--fresh", models="toy-patches")
    assert set(maps_in(folder)) == set(cells)
    assert without_timings(folder) == cells
    assert b"data:image" in page.read_bytes()
    quiet = command(*arguments, models="toy-patches")
    assert "--include-images" not in quiet.stderr
    assert b"data:image" not in page.read_bytes()
    command(*arguments, "--fresh", models="toy-patches")
    assert maps_in(folder) == {}
