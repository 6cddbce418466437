"""`--dry-run`: an estimate for every recipe without weights; parameter counts are those of the published models."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from examples import toy_examples, training_start
from transformers.utils import is_timm_available

from selfkd.cli import main
from selfkd.data.example import MANIFEST, Example, write_shard
from selfkd.errors import InputError
from selfkd.files import write_json
from selfkd.model.tiny import load_tiny_model
from selfkd.training import stage
from selfkd.training.align import AlignConfig, align
from selfkd.training.distill import DistillConfig, distill
from selfkd.training.estimate_counts import SENTENCES, TEMPLATE_TOKENS
from selfkd.training.trainable import freeze_all_but

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
# billions of parameters of the vision-language models, from their pages on the hub
PUBLISHED = {"internvl2_1b": 0.94, "internvl2_2b": 2.21, "internvl2_4b": 4.15, "internvl2_8b": 8.08,
             "qwen2_vl_2b": 2.21, "qwen2_vl_7b": 8.29, "qwen2_5_vl_3b": 3.75, "qwen3_vl_2b": 2.13,
             "smolvlm_2b": 2.25}  # fmt: skip
NATIVE = {"qwen2_5_omni_3b", "qwen2_5_omni_7b", "qwen3_omni_30b", "phi4_multimodal", "gemma3n_e4b"}
WHISPER_LARGE_ENCODER = 0.637


def settings(recipe: Path, **changes) -> DistillConfig:
    values = yaml.safe_load(recipe.read_text()) | {"dry_run": True} | changes
    values["model_config"] = str(ROOT / values["model_config"])
    return DistillConfig(**{k: Path(v) if k == "output" else v for k, v in values.items()})


def write_examples(folder: Path, examples: list[Example]) -> Path:
    folder.mkdir()
    write_shard(folder / "train.parquet", examples, {"rows": len(examples), "rejected": []})
    write_json(folder / MANIFEST, {"source": "world", "shards": [{"file": "train.parquet"}]})
    return folder


def test_every_backbone_has_a_recipe():
    assert (
        {r.stem for r in RECIPES}
        == {*PUBLISHED, *NATIVE}
        == {s.stem for s in (ROOT / "recipes/model_configs").iterdir()}
    )


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda r: r.stem)
def test_a_recipe_has_an_estimate(recipe, monkeypatch, tmp_path, capsys):
    if recipe.stem == "gemma3n_e4b" and not is_timm_available():
        with pytest.raises(InputError, match=r"model: .*requires the timm library"):
            distill(settings(recipe))
        return
    result = distill(settings(recipe))
    if recipe.stem in PUBLISHED:
        ours = result["trained_parameters"] / 1e9 + WHISPER_LARGE_ENCODER
        assert result["parameters"] / 1e9 == pytest.approx(PUBLISHED[recipe.stem] + ours, abs=0.006)
    assert 0.9 < result["epochs"] < 1.1
    monkeypatch.chdir(ROOT)
    assert main(["distill", "--recipe", str(recipe), "--dry-run", "--output", str(tmp_path / "run")]) == 0
    printed = capsys.readouterr().out
    assert "nothing was written" in printed and max(map(len, printed.splitlines())) <= 80
    assert not (tmp_path / "run").exists()


def test_image_tokens_are_counted_where_model_and_data_exist(parts, tmp_path):
    training_start(parts, tmp_path)
    data = [str(tmp_path / "data")]
    for model in ("", str(tmp_path / "model")):
        load = distill(DistillConfig(data, tmp_path / "run", model=model, dry_run=True))["load"]
        assert load["prefix_tokens"] == parts[1].image_tokens(64, 64) + TEMPLATE_TOKENS and load["examples"] == 16


def test_the_estimate_of_align_counts_trainable_parameters(tmp_path):
    estimated = align(AlignConfig([str(tmp_path / "none")], tmp_path / "run", dry_run=True))
    assert estimated["trained_parameters"] == freeze_all_but(load_tiny_model()[0], ["projector", "speech_encoder"])


def test_self_kd_costs_little_more_than_sft_and_adapters_train():
    recipe = ROOT / "recipes/internvl2_1b.yaml"
    selfkd, sft = distill(settings(recipe)), distill(settings(recipe, alpha=0.0))
    assert 1 < selfkd["step_teraflop"] / sft["step_teraflop"] < 1.06
    whole = distill(settings(recipe, trainable=["projector", "llm"]))
    assert whole["step_teraflop"] > 2 * selfkd["step_teraflop"]
    assert sum(whole["gigabytes"].values()) > 1.5 * sum(selfkd["gigabytes"].values())
    wider = distill(settings(recipe, trainable=["projector", "llm_adapters"]))
    assert wider["trained_parameters"] > selfkd["trained_parameters"]
    assert wider["parameters"] - selfkd["parameters"] == wider["trained_parameters"] - selfkd["trained_parameters"]


def test_ctc_only_training_costs_no_llm(tmp_path):
    estimated = DistillConfig([str(tmp_path / "none")], tmp_path / "run", dry_run=True)
    whole, ctc_only = distill(estimated), distill(replace(estimated, response_weight=0.0))
    assert ctc_only["step_teraflop"] < 0.5 * whole["step_teraflop"]
    assert set(ctc_only["gigabytes"]) == {
        "frozen weights",
        "trainable weights, gradients, optimizer",
        "speech encoder activations",
    }


def test_the_recipe_of_a_ctc_projector_has_an_estimate_without_checkpoints():
    """Measured on an H100 with 16 clips (2026-11-27_gpu): 12.7 TFLOP, 32.2 GB next to another VLM of 8B."""
    recipe = yaml.safe_load((ROOT / "recipes/ctc_projector/whisper_large_v3.yaml").read_text())
    recipe |= {"model_config": str(ROOT / recipe["model_config"]), "output": Path("runs/ctc")}
    estimated = align(AlignConfig(**recipe | {"batch_size": 16}, weight_averaging=0.0, dry_run=True))
    assert estimated["step_teraflop"] == pytest.approx(12.7, rel=0.05)
    assert sum(estimated["gigabytes"].values()) == pytest.approx(32.2, rel=0.1)
    padded = align(AlignConfig(**recipe | {"batch_size": 16}, pad_to_window=True, dry_run=True))
    assert padded["step_teraflop"] / estimated["step_teraflop"] == pytest.approx(30 / 4, rel=0.1)
    with pytest.raises(InputError, match=r"projector_learning_rate: -1.0: must be above 0"):
        align(AlignConfig(**recipe | {"projector_learning_rate": -1.0}, dry_run=True))


def test_ctc_only_training_has_its_own_speed():
    """Measured on an H100 with 16 clips (2026-11-27_gpu): 0.147 s, where an LLM's FLOPs would take a fifth of that."""
    recipe = yaml.safe_load((ROOT / "recipes/ctc_projector/whisper_large_v3.yaml").read_text())
    recipe |= {"model_config": str(ROOT / recipe["model_config"]), "output": Path("runs/ctc"), "dry_run": True}
    on_h100 = align(AlignConfig(**recipe | {"batch_size": 16, "device_kind": "h100"}))
    assert on_h100["step_seconds"] == pytest.approx(0.147, rel=0.15)
    assert on_h100["efficiency"]["speech encoder and projector"]["measured"] == "2026-11-27_gpu"
    assert on_h100["hours"] == pytest.approx(4000 * on_h100["step_seconds"] / 3600)
    on_a100 = align(AlignConfig(**recipe | {"batch_size": 16, "device_kind": "a100"}))
    assert on_a100["efficiency"]["speech encoder and projector"]["measured"] == ""
    assert on_a100["step_seconds"] == pytest.approx(on_h100["step_seconds"] * 989 / 312)


def test_a_speed_that_nothing_measured_is_marked_assumed(capsys):
    recipe = ROOT / "recipes/internvl2_8b.yaml"
    projector = distill(settings(recipe, device_kind="h100"))
    assert {f["measured"] for f in projector["efficiency"].values()} == {"2026-11-27_gpu"}
    assert "assumed, data" in capsys.readouterr().out
    adapters = distill(settings(recipe, device_kind="h100", trainable=["llm_adapters"]))
    assert {f["measured"] for f in adapters["efficiency"].values()} == {""}
    assert "of the peak, assumed" in capsys.readouterr().out
    distill(settings(recipe, device_kind="a10"))
    assert "of 24 GB: too much" in capsys.readouterr().out


def test_text_costs_no_image_tokens(parts, tmp_path):
    """Sentences of stage 1, which have no images, whether or not they exist yet."""
    model_config = str(ROOT / "recipes/model_configs/internvl2_1b.json")
    config = AlignConfig(["none"], tmp_path / "run", projector="stack", model_config=model_config, dry_run=True)
    assumed = align(config)
    assert assumed["load"]["image_tokens"] == 0 and "vision encoder" not in assumed["efficiency"]
    assert assumed["load"]["prefix_tokens"] == SENTENCES.prefix_tokens == TEMPLATE_TOKENS
    examples = [replace(example, image=None) for example in toy_examples(8)]
    data = write_examples(tmp_path / "data", examples)
    counted = align(replace(config, data=[str(data)]))["load"]
    assert counted["image_tokens"] == 0 and counted["questions_per_image"] == 1.0
    half = write_examples(tmp_path / "half", [*toy_examples(8)[:4], *examples[4:]])
    assert align(replace(config, data=[str(half)]))["load"]["image_tokens"] == 7 * 256 / 2


@pytest.mark.parametrize("average", [0.0, 1.0])
def test_disk_of_a_run_is_that_of_its_folder(parts, tmp_path, monkeypatch, average):
    start = training_start(parts, tmp_path)
    settings = {
        "model": str(start / "model"),
        "steps": 2,
        "batch_size": 2,
        "save_steps": 1,
        "weight_averaging": average,
    }
    config = DistillConfig([str(start / "data")], tmp_path / "run", **settings)
    estimated = distill(replace(config, dry_run=True))["disk_gigabytes"]
    monkeypatch.setattr(stage.shutil, "rmtree", lambda *_, **__: None)  # keeps the last checkpoint
    distill(config)
    sizes = [sum(p.stat().st_size for p in (tmp_path / "run" / name).rglob("*") if p.is_file()) / 1e9
             for name in ("model", "checkpoints/checkpoint-2")]  # fmt: skip
    assert sizes[0] == pytest.approx(estimated["kept"], rel=0.05)
    assert sizes[1] + max(sizes) == pytest.approx(estimated["peak"], rel=0.05)


def test_a_device_kind_without_an_estimate_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"device_kind: has no effect without dry_run"):
        distill(DistillConfig([str(tmp_path)], tmp_path / "run", device_kind="a100"))


def test_a_larger_stack_factor_has_more_trainable_parameters():
    model_config = str(ROOT / "recipes/model_configs/internvl2_1b.json")
    whole = AlignConfig(["none"], Path("run"), projector="stack", model_config=model_config, dry_run=True)
    wide = align(replace(whole, stack_factor=16))["trained_parameters"]
    assert wide > 3 * align(whole)["trained_parameters"]


def test_an_existing_model_and_data_are_counted(parts, tmp_path):
    start = training_start(parts, tmp_path)
    config = DistillConfig(
        [str(start / "data")], tmp_path / "run", model=str(start / "model"), steps=4, batch_size=8, dry_run=True
    )
    result = distill(config)
    assert result["parameters"] == sum(p.numel() for p in parts[0].parameters())
    assert result["load"]["examples"] == 16 and result["epochs"] == 2
    assert result["load"]["speech_seconds"] == pytest.approx(0.5 + 0.17 * 7.5, abs=0.01)
    aligned = align(AlignConfig([str(start / "data")], tmp_path / "run", projector="stack", dry_run=True))
    assert aligned["parameters"] == result["parameters"]


def test_a_missing_or_damaged_model_config_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"model_config: .*no such file"):
        distill(DistillConfig([str(tmp_path)], tmp_path / "run", model_config="none.json", dry_run=True))
    (tmp_path / "recipe.yaml").write_text("alpha: 1\n")
    with pytest.raises(InputError, match=r"recipe.yaml: not JSON"):
        distill(
            DistillConfig([str(tmp_path)], tmp_path / "run", model_config=str(tmp_path / "recipe.yaml"), dry_run=True)
        )
