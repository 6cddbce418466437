"""Writes the report: run directories -> one HTML file that opens from disk, with a section for each kind of run.

The first screen is four answers. Folded under it are the sections: findings, scores, attention, agreement, items,
training, audio quality, provenance. Reads files only; imports no torch.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from selfkd.errors import InputError
from selfkd.report.html import Styles, run_title, write_page
from selfkd.report.inputs import DATA, RunFolder, averages_of, groups_of, pooled_voices, read_runs
from selfkd.report.sections.agreement import agreement_section
from selfkd.report.sections.answers import answers_section
from selfkd.report.sections.attention import attention_section
from selfkd.report.sections.audio_quality import audio_quality_section
from selfkd.report.sections.items import items_section
from selfkd.report.sections.scope import Scope
from selfkd.report.sections.scores import Names, scores_section
from selfkd.report.sections.training import training_section
from selfkd.stage_function import stage_function


@dataclass
class ReportConfig:
    """One HTML file from any run directories and dataset folders; the files of each say what it is.

    The audio modality of a run is compared with its text modality. A run without text is compared with the nearest run
    before it that has text on the same items.

    Args:
        runs: Runs of evaluate, align, distill, analyze attention and analyze agreement, and folders of synthesize: RUN
            or NAME=RUN; a folder eval-sft is called sft.
        output: The HTML file to write.
        title: Title of the page.
        intro: Sentences under the title, for example about the data.
        items: How many items to show with image and audio.
        listed: How many more items to list as text only.
        seed: Seed of the bootstrap.
    """

    runs: list[str]
    output: Path = Path("report.html")
    title: str = "Text queries against audio queries"
    intro: list[str] = field(default_factory=list)
    items: int = 96
    listed: int = 1000
    seed: int = 0


@stage_function(ReportConfig)
def report(config: ReportConfig) -> Path:
    """Writes the page and returns its path."""
    if config.items < 0 or config.listed < 0:
        raise InputError("items, listed: must not be negative")
    runs, styles = read_runs(config.runs), Styles()
    evaluated = [run for run in runs if run.kind == "evaluate"]
    groups = groups_of(evaluated, config.seed)
    averages = averages_of(groups, config.seed)
    shown = [*averages, *pooled_voices(groups, config.seed).values(), *groups]
    scopes = [Scope(group, Names(shown).group(group), config.seed) for group in shown]
    sections = {
        "answers": answers_section(scopes, runs),
        "scores": scores_section(evaluated, groups, averages, styles),
        "attention": attention_section(runs, styles),
        "agreement": agreement_section(runs, styles),
        "items": items_section(groups, config.output, config.items, config.listed),
        "training": training_section(runs, styles),
        "audio_quality": audio_quality_section(runs),
    }
    findings = [f for section in sections.values() if section for f in section.get("findings", [])]
    provenance = [_provenance(run) for run in runs]
    write_page(
        config.output,
        "page.html",
        title=config.title,
        intro=config.intro,
        findings=findings,
        provenance=provenance,
        **sections,
    )
    print(f"{config.output}: {len(runs)} runs, {config.output.stat().st_size / 1e6:.1f} MB")
    return config.output


def _provenance(run: RunFolder) -> dict[str, Any]:
    """The settings and versions behind the metrics of a run."""
    data_fields = ("source", "split", "rows", "engine_name", "engine_license", "source_license", "voices")
    run_fields = ("model", "data", "benchmarks", "url", "limit", "alpha", "response_weight")
    shown = data_fields if run.kind == DATA else run_fields
    settings = {name: run.config[name] for name in (*shown, "seed") if run.config.get(name) not in (None, "", [], {})}
    details = run.provenance | settings
    return {"name": run_title(run.name), "kind": run.kind, "folder": str(run.folder), "details": details}
