"""Every written file has the permissions of the umask, a trained model too: data_19_model_mode."""

import os
import stat

import pytest
from examples import interrupted_at

from selfkd.analysis.analyze_agreement import AgreementConfig, analyze_agreement
from selfkd.evaluation.compare import CompareConfig, compare
from selfkd.evaluation.evaluate import EvaluateConfig, evaluate
from selfkd.export import MergeConfig, merge
from selfkd.publish import PublishConfig, publish
from selfkd.report.build import ReportConfig, report
from selfkd.run_dir import MODEL
from selfkd.synthesis.synthesize import SynthesizeConfig, synthesize
from selfkd.training.align import AlignConfig, align
from selfkd.training.distill import DistillConfig, distill


@pytest.fixture
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def check(folder, umask):
    """Returns how many files there are."""
    paths = [folder, *folder.rglob("*")]
    for path in paths:
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o777 if path.is_dir() else 0o666) & ~umask, f"{path}: {mode:o}"
    return sum(path.is_file() for path in paths)


# no fixed mode of a file (0600 of tempfile, 0644) is right under this one, so that others need no run
@pytest.mark.slow
@pytest.mark.parametrize("umask", [0o027], indirect=True)
def test_every_file_of_every_stage(tmp_path, umask, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    out = tmp_path / "out"
    synthesize(SynthesizeConfig(out / "data", "world-noisy", count=4, processes=1))
    config = AlignConfig([str(out / "data")], out / "align", steps=2, batch_size=4, save_steps=1, weight_averaging=0.9)
    with pytest.raises(KeyboardInterrupt), interrupted_at(2):
        align(config)
    assert list((out / "align").rglob("averaged-0.safetensors")) and check(out, umask) > 10  # a checkpoint
    align(config)
    start = str(out / "align" / MODEL)
    lora = {"trainable": ["llm_adapters"], "lora": {"r": 2, "lora_alpha": 2}}
    distill(DistillConfig([str(out / "data")], out / "distill", model=start, steps=1, batch_size=4, **lora))
    model = str(out / "distill" / MODEL)
    merge(MergeConfig(model, out / "merged"))
    evaluation = EvaluateConfig(model, config.data, out / "eval", limit=2)
    evaluate(evaluation)
    analyze_agreement(AgreementConfig([model], config.data, out / "agreement", limit=2))
    compare(CompareConfig([str(out / "eval")], out / "compared"))
    report(ReportConfig([str(out / "eval"), str(out / "distill")], out / "report" / "report.html"))
    publish(PublishConfig(out / "distill", "me/name", "apache-2.0", dry_run=True))
    assert check(out, umask) > 40
    assert check(out / "merged", umask) >= 5
    for folder in (tmp_path / "cache").rglob("*"):
        if folder.is_dir() and not folder.is_symlink():
            assert stat.S_IMODE(folder.stat().st_mode) == 0o777 & ~umask
