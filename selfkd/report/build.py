"""Run directories -> one HTML file that opens from disk: scores, attention, agreement, training, data and items, as far
as the runs hold them. Reads files alone; imports no torch."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from selfkd.errors import InputError
from selfkd.report.html import Styles, titled, write_page
from selfkd.report.inputs import RunFolder, averages_of, groups_of, read_runs
from selfkd.report.sections.agreement import agreement_section
from selfkd.report.sections.attention import attention_section
from selfkd.report.sections.audio_quality import quality_section
from selfkd.report.sections.items import items_section
from selfkd.report.sections.scores import scores_section
from selfkd.report.sections.training import training_section


@dataclass
class ReportConfig:
    """One HTML file from any run directories and folders of spoken questions; what each is stands in its files.

    A run's written view is what its spoken view is measured against; a run without one is measured against the nearest
    before it that was asked the same items.

    Args:
        runs: Runs of evaluate, align, distill, analyze attention, analyze agreement, and folders of synthesize: RUN or
            NAME=RUN; a folder eval-sft is called sft.
        output: The HTML file to write.
        title: Title of the page.
        intro: Sentences under the title, say on the data.
        items: How many items to show with picture and sound.
        listed: How many further items to list as text.
        seed: Seed of the bootstrap.
    """

    runs: list[str]
    output: Path = Path("report.html")
    title: str = "Written against spoken questions"
    intro: list[str] = field(default_factory=list)
    items: int = 96
    listed: int = 1000
    seed: int = 0


def report(config: ReportConfig) -> Path:
    """Writes the page and returns its path."""
    if config.items < 0 or config.listed < 0:
        raise InputError("items, listed: must not be negative")
    runs, styles = read_runs(config.runs), Styles()
    evaluated = [run for run in runs if run.kind == "evaluate"]
    groups = groups_of(evaluated, config.seed)
    sections = {
        "scores": scores_section(evaluated, groups, averages_of(groups, config.seed), styles),
        "attention": attention_section(runs, styles),
        "agreement": agreement_section(runs, styles),
        "items": items_section(groups, config.output, config.items, config.listed),
        "training": training_section(runs, styles),
        "quality": quality_section(runs),
    }
    headlines = [h for section in sections.values() if section for h in section.get("headlines", [])]
    origins = [_origin(run) for run in runs]
    write_page(
        config.output,
        "page.html",
        title=config.title,
        intro=config.intro,
        headlines=headlines,
        origins=origins,
        **sections,
    )
    print(f"{config.output}: {len(runs)} runs, {config.output.stat().st_size / 1e6:.1f} MB")
    return config.output


def _origin(run: RunFolder) -> dict[str, Any]:
    """Where a run's figures come from."""
    of_data = ("source", "split", "rows", "engine_name", "engine_license", "source_license", "voices")
    of_model = ("model", "data", "benchmarks", "url", "limit", "alpha", "response_weight")
    shown = of_data if run.kind == "data" else of_model
    settings = {name: run.config[name] for name in (*shown, "seed") if run.config.get(name) not in (None, "", [], {})}
    return {"name": titled(run.name), "kind": run.kind, "folder": str(run.folder), "made": run.provenance | settings}
