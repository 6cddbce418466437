"""Every recipe of recipes/paper: its stages, their commands' fields, sizes, and errors before anything begins."""

import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from selfkd.cli import main, parse_command
from selfkd.errors import InputError
from selfkd.reproduce import costs
from selfkd.reproduce.config import ReproduceConfig
from selfkd.reproduce.recipe import load_recipe
from selfkd.reproduce.records import begin, check_begun
from selfkd.reproduce.reproduce import reproduce
from selfkd.reproduce.stages import stages_of

ROOT = Path(__file__).parents[2]
PAPER = ROOT / "recipes" / "paper"
NAMES = ["internvl2_1b", "internvl2_2b", "internvl2_4b", "internvl2_8b", "qwen2_vl_2b", "qwen2_vl_7b"]
STAGES = ["download", "convert", "questions", "check", "asr-data", "align", "sft", "selfkd", "ctc"]
STAGES += ["evaluate-text", "evaluate-sft", "evaluate-selfkd", "evaluate-ctc", "table"]


def config_of(name="internvl2_1b", **changes) -> ReproduceConfig:
    return ReproduceConfig(PAPER / f"{name}.yaml", **changes)


def stages_by_name(config):
    return {stage.name: stage for stage in stages_of(config, load_recipe(config))}


@pytest.fixture
def own_recipes(tmp_path):
    """A copy of the recipes, to edit."""
    return Path(shutil.copytree(ROOT / "recipes", tmp_path / "recipes")) / "paper"


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_every_model_of_the_paper_has_a_recipe():
    assert {path.stem for path in PAPER.iterdir()} == {*NAMES, "shared"}


@pytest.mark.parametrize("name", NAMES)
def test_stages_are_commands_with_valid_fields(name, tmp_path):
    for scale, rehearse in (("full", False), ("smoke", False), ("full", True), ("tiny", True)):
        config = config_of(name, scale=scale, rehearse=rehearse, output=tmp_path)
        stages = stages_by_name(config)
        converted = name.startswith("internvl2")
        assert list(stages) == [s for s in STAGES if converted or s not in ("convert", "check")]
        for stage in stages.values():
            assert set(stage.needs) <= set(stages)
            if stage.command:  # as its process reads them
                found, _ = parse_command(stage.command, ["--recipe", str(begin(tmp_path, stage))])
                assert str(found.output) == stage.settings["output"]


@pytest.mark.parametrize("name", NAMES)
def test_scores_and_batch_sizes_are_those_of_the_training_recipe(name):
    recipe = load_recipe(config_of(name))
    header = (ROOT / "recipes" / f"{name}.yaml").read_text()
    expected = [float(n) for n in re.findall(r"[\d.]+ (?=with text|with audio after SFT|after Self-KD)", header)]
    assert [recipe["paper"][key] for key in ("text", "sft", "selfkd")] == expected
    stages = stages_by_name(config_of(name))
    training = yaml.safe_load(header)
    assert stages["align"].settings["batch_size"] == training["batch_size"]
    assert stages["selfkd"].settings["steps"] == training["steps"]
    assert stages["selfkd"].settings["alpha"] == 1.0 and stages["sft"].settings["alpha"] == 0.0
    assert f"--steps {stages['align'].settings['steps']} " in header
    rest = {k: v for k, v in stages["sft"].settings.items() if k not in ("alpha", "output")}
    assert rest == {k: v for k, v in stages["selfkd"].settings.items() if k not in ("alpha", "output")}


def test_the_ctc_projector_mixes_the_data_made_here():
    ctc = stages_by_name(config_of())["ctc"].settings
    out = "runs/paper/internvl2_1b"
    assert ctc["data"] == [f"{out}/data/llava-audio:2", f"{out}/data/asr:1"] and ctc["vlm"] == f"{out}/models/vlm"


def test_smoke_has_its_sizes():
    stages = stages_by_name(config_of(scale="smoke"))
    assert stages["questions"].settings["count"] == stages["asr-data"].settings["count"] == 200
    assert {stages[name].settings["steps"] for name in ("align", "sft", "selfkd", "ctc")} == {100}
    assert {stages[f"evaluate-{name}"].settings["limit"] for name in ("text", "sft", "selfkd", "ctc")} == {50}
    assert stages["check"].settings["answers"] == 20
    assert not stages["download"].settings["archives"]["images"]


def test_smoke_takes_about_half_an_hour_on_a_gpu(monkeypatch):
    monkeypatch.setattr(costs, "available_cores", lambda: 16)
    monkeypatch.setattr(costs, "_training", lambda config, stage: costs.Cost(1.0, 0.02))  # an H100, 1B
    config = config_of(scale="smoke")
    recipe = load_recipe(config)
    assert sum(c.hours for c in costs.costs_of(config, recipe, stages_of(config, recipe)).values()) < 0.6


def test_until_is_the_last_stage():
    assert list(stages_by_name(config_of(until="check"))) == STAGES[:4]
    with pytest.raises(InputError, match="until: 'train': no stage; there are download, convert"):
        stages_by_name(config_of(until="train"))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_dry_run_prints_disk_and_hours_and_writes_nothing(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["reproduce", str(PAPER / f"{name}.yaml"), "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80
    total = [line for line in printed.splitlines() if "estimated, not measured" in line]
    gigabytes, hours = (float(cell.replace(",", "")) for cell in total[0].split("│")[-3:-1])
    assert gigabytes > 200 and 5 < hours < 500, "hours of a GPU, also on a machine without one"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("scale", "rehearse"), [("tiny", False), ("smoke", True)])
def test_scales_without_a_meaning_are_refused(scale, rehearse):
    with pytest.raises(InputError, match=f"scale: {scale} "):
        reproduce(config_of(scale=scale, rehearse=rehearse))


def test_unknown_fields_and_files_are_refused(own_recipes, tmp_path):
    with pytest.raises(InputError, match=r"shared.yaml: field shared: missing"):
        load_recipe(ReproduceConfig(own_recipes / "shared.yaml"))
    edit(own_recipes / "internvl2_1b.yaml", "convert: true", "converts: true")
    with pytest.raises(InputError, match=r"internvl2_1b.yaml: 'converts': no such field; did you mean convert\?"):
        load_recipe(ReproduceConfig(own_recipes / "internvl2_1b.yaml"))
    edit(own_recipes / "internvl2_2b.yaml", "convert: true", "convert: often")
    with pytest.raises(InputError, match=r"internvl2_2b.yaml: field convert: 'often'"):
        load_recipe(ReproduceConfig(own_recipes / "internvl2_2b.yaml"))
    edit(own_recipes / "internvl2_4b.yaml", "../internvl2_4b.yaml", "../internvl2_3b.yaml")
    with pytest.raises(InputError, match=r"field distill.recipe: .*internvl2_3b.yaml: no such file"):
        load_recipe(ReproduceConfig(own_recipes / "internvl2_4b.yaml"))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("voices: [af_heart]", "voicez: [af_heart]", r"stage evaluate-text: 'voicez': no such field; did you mean"),
        ("steps: 8000", "steps: many", r"stage align: steps: 'many': expected a whole number"),
        ("files: [llava_v1_5_mix665k.json]", "files: []", r"field downloads.questions.files: expected one file"),
        ("benchmarks: [paper8]", "benchmark: [paper8]", r"field evaluate.benchmarks: missing"),
    ],
)
def test_errors_of_later_stages_are_found_before_the_first(own_recipes, tmp_path, old, new, message):
    edit(own_recipes / "shared.yaml", old, new)
    with pytest.raises(InputError, match=message):
        reproduce(ReproduceConfig(own_recipes / "internvl2_1b.yaml", output=tmp_path / "runs"))
    assert not (tmp_path / "runs").exists()


def test_fields_that_are_set_here_are_refused(own_recipes):
    edit(own_recipes / "internvl2_1b.yaml", "align: {batch_size: 32}", "align: {batch_size: 32, vlm: other}")
    config = ReproduceConfig(own_recipes / "internvl2_1b.yaml")
    with pytest.raises(InputError, match=r"align.vlm: is set by selfkd reproduce; remove it"):
        stages_of(config, load_recipe(config))


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("shared.yaml", "count: 50000", "count: 5000", r"stage questions .*\(count: 50000 there, 5000 here\)"),
        ("internvl2_1b.yaml", "{batch_size: 32}", "{batch_size: 8}", r"stage align .*\(batch_size: 32 there, 8 here\)"),
        ("../internvl2_1b.yaml", "5.0e-4", "1.0e-4", r"stage sft .*\(learning_rate: 0.0005 there, 0.0001 here\)"),
    ],
)
def test_an_edited_recipe_is_refused_by_stage_and_field(own_recipes, tmp_path, file, old, new, message):
    config = ReproduceConfig(own_recipes / "internvl2_1b.yaml", output=tmp_path / "runs")
    for stage in stages_of(config, load_recipe(config)):
        begin(tmp_path / "runs" / "internvl2_1b", stage)
    edit(own_recipes / file, old, new)
    with pytest.raises(InputError, match=message):
        reproduce(config)


def test_stages_that_have_not_begun_may_change(own_recipes, tmp_path):
    config = ReproduceConfig(own_recipes / "internvl2_1b.yaml", output=tmp_path / "runs")
    begin(tmp_path / "runs" / "internvl2_1b", stages_of(config, load_recipe(config))[0])
    edit(own_recipes / "internvl2_1b.yaml", "{batch_size: 32}", "{batch_size: 8}")
    check_begun(tmp_path / "runs" / "internvl2_1b", stages_of(config, load_recipe(config)))


def test_a_small_disk_is_refused_before_anything_begins(tmp_path, monkeypatch):
    monkeypatch.setattr(costs.shutil, "disk_usage", lambda path: SimpleNamespace(free=1e6))
    with pytest.raises(InputError, match=r"output: .*tiny-disk.*: 0 GB are needed and 0 GB are free; give a folder"):
        reproduce(config_of(scale="tiny", rehearse=True, output=tmp_path / "tiny-disk"))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_offline_a_real_run_names_the_model_and_the_rehearsal(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["reproduce", str(PAPER / "internvl2_1b.yaml"), "--scale", "smoke"]) == 2
    err = capsys.readouterr().err
    assert "downloads.vlm: OpenGVLab/InternVL2-1B cannot be reached on the hub" in err and "--rehearse" in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("gpu", "kind"), [(None, "h100"), ("NVIDIA A100-SXM4-80GB", "a100"), ("NVIDIA L4", "h100")])
def test_hours_are_those_of_a_gpu(gpu, kind, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpu is not None)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: gpu)
    assert costs.gpu_kind() == kind
