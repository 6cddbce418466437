"""A value of another type in any file of a run is one line, and never a traceback, of every command that reads runs."""

import json
import random
import shutil

import pytest
from damage import damage_json

from selfkd.cards import model_card
from selfkd.errors import InputError
from selfkd.evaluation.compare import CompareConfig, compare
from selfkd.evaluation.config import JudgeConfig
from selfkd.evaluation.judge import judge_run
from selfkd.export import PublishDataConfig, publish_data
from selfkd.files import write_json
from selfkd.report.build import ReportConfig, report
from selfkd.report.sections.audio_quality import AudioQualityConfig, audio_quality_report

FILES = {
    "eval-sft": ("config.json", "result.json", "provenance.json", "questions.json", "samples/world.audio.jsonl"),
    "eval-base": ("samples/world.text.jsonl", "samples/world.cascade.jsonl", "judged.json", "result.json"),
    "attention": ("config.json", "result.json", "heads/world.sft.json", "maps/world.sft.jsonl"),
    "agreement": ("config.json", "result.json", "items/world.sft.jsonl"),
    "selfkd": ("config.json", "result.json", "log.jsonl", "provenance.json"),
    "world": ("manifest.json",),
    "comparison": ("scores.json",),
}
SEEDS = 12  # damages of each file


@pytest.fixture(scope="module")
def folders(runs, tmp_path_factory):
    """The folders of `runs` with a judge's verdicts and a comparison."""
    root = tmp_path_factory.mktemp("damaged")
    for run in runs:
        shutil.copytree(run, root / run.rpartition("/")[2])
    judge_run(JudgeConfig(root / "eval-base"))
    judged = json.loads((root / "eval-base/judged.json").read_text())
    agreement = {"n": 1, "without_verdict": 0, "agreement": 1.0, "stderr": None, "interval": [0.2, 1.0], "kappa": None}
    write_json(root / "eval-base/judged.json", judged | {"about": {"judge": "j", "agreement": agreement}})
    compare(CompareConfig([str(root / "eval-base"), str(root / "eval-sft")], root / "comparison"))
    return root


def commands(root, folder, output):
    """The commands that read a folder."""
    if folder == "comparison":
        return [lambda: model_card(root / "selfkd", "m", "mit", comparison=str(root / "comparison"))]
    others = [str(root / "eval-base")] if folder == "eval-sft" else []
    uses = [lambda: report(ReportConfig([*others, str(root / folder)], output / "r.html"))]
    if folder.startswith("eval"):
        uses.append(lambda: compare(CompareConfig([str(root / "eval-base"), str(root / "eval-sft")], output / "c")))
        uses.append(lambda: judge_run(JudgeConfig(root / folder)))
    if folder == "selfkd":
        uses.append(lambda: model_card(root / folder, "m", "mit"))
    if folder == "world":
        uses.append(lambda: publish_data(PublishDataConfig(root / folder, "me/d", "mit", dry_run=True)))
        uses.append(lambda: audio_quality_report(AudioQualityConfig([str(root / folder)], output / "q.html")))
    return uses


@pytest.mark.slow
@pytest.mark.parametrize(("folder", "name"), [(folder, name) for folder, names in FILES.items() for name in names])
def test_damaged_file_of_a_run(folders, tmp_path, folder, name):
    file, refused = folders / folder / name, 0
    whole = file.read_bytes()
    try:
        for seed in range(SEEDS):
            done = damage_json(file, random.Random(f"{name} {seed}"))
            for use in commands(folders, folder, tmp_path):
                try:
                    use()
                except InputError as error:
                    refused += 1
                    assert name.rpartition("/")[2] in str(error) or folder in str(error), (done, str(error))
                except Exception as error:
                    raise AssertionError(done) from error
            file.write_bytes(whole)
    finally:
        file.write_bytes(whole)
    assert refused or name in ("log.jsonl", "provenance.json")  # of which damaged parts are left out
