"""A trained model -> the hub, with a card that says what it was made of and what it scored."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, ModelCard, ModelCardData

from selfkd.data.example import MANIFEST, read_manifest
from selfkd.data.mixture import split_weight
from selfkd.data.publish import checked_name
from selfkd.errors import InputError
from selfkd.evaluation.compare import accuracy_cells, closed_cell, titled_benchmark
from selfkd.evaluation.gap_table import chance_cell
from selfkd.files import read_json, write_text
from selfkd.runs import CONFIG, MODEL, PROVENANCE, RESULT

_TEMPLATE = """\
---
{metadata}
---
# {name}

A vision-language model with ears: it takes an image and a question, written or spoken. Trained with selfkd, an
independent implementation of Self-KD ([arXiv 2503.00059](https://arxiv.org/abs/2503.00059)); load it with
`selfkd.model.omni.OmniModel.from_pretrained`.

## Training

{training}

## Data and voices

{data}

## Scores

{scores}
"""


@dataclass
class PublishConfig:
    """A trained model to the hub, with a card: data, voices, licences, scores.

    Args:
        run: Run directory of selfkd distill or selfkd align.
        repo: Repository on the hub, as owner/name.
        license: Licence of the model, as the hub names it; the base's licence must allow it.
        base_model: Hub id of the vision-language model underneath.
        comparison: Folder of selfkd compare; its scores go into the card.
        private: Whether the repository is private.
        dry_run: Write the card beside the model and upload nothing.
    """

    run: Path
    repo: str
    license: str
    base_model: str = ""
    comparison: str = ""
    private: bool = False
    dry_run: bool = False


def publish(config: PublishConfig) -> Path:
    """Writes the card into the run's model folder, uploads the folder, and returns the card's path."""
    folder = config.run / MODEL
    if not (config.run / RESULT).is_file() or not (folder / "config.json").is_file():
        raise InputError(f"run: {config.run}: not a complete training run")
    checked_name(config.repo)
    path = folder / "README.md"
    write_text(path, card(config))
    ModelCard.load(path)  # the hub reads it the same way
    if not config.dry_run:
        hub = HfApi()
        hub.create_repo(config.repo, private=config.private, exist_ok=True)
        hub.upload_folder(repo_id=config.repo, folder_path=folder, commit_message="Model of selfkd")
    print(f"{path}{'' if config.dry_run else f' and its folder are at {config.repo}'}")
    return path


def card(config: PublishConfig) -> str:
    """The model card's text, from the files of the run and of the comparison."""
    asked, result, provenance = (read_json(config.run / name) for name in (CONFIG, RESULT, PROVENANCE))
    metadata = ModelCardData(
        license=config.license,
        base_model=config.base_model or None,
        library_name="selfkd",
        pipeline_tag="image-text-to-text",
        tags=["speech", "self-distillation", "arxiv:2503.00059"],
    )
    how = ("stage", "alpha", "divergence", "temperature", "response_weight", "transcript_weight", "trainable")
    fields = (*how, "steps", "batch_size", "learning_rate", "seed")
    settings = {name: asked[name] for name in fields if name in asked}
    settings |= {"examples": result["examples"], "trained parameters": result["trained_parameters"]}
    settings |= {name: provenance[name] for name in ("selfkd", "commit", "torch", "transformers")}
    return _TEMPLATE.format(
        metadata=metadata.to_yaml(),
        name=config.repo.partition("/")[2],
        training=_rows(("", ""), settings.items()),
        data="\n\n".join(map(_data, asked["data"])),
        scores=_scores(Path(config.comparison)) if config.comparison else "Not stated.",
    )


def _rows(head: tuple[str, ...], rows: Any) -> str:
    lines = [head, ("---",) * len(head), *(map(str, row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _data(entry: str) -> str:
    folder, weight = split_weight(entry)
    if not (folder / MANIFEST).is_file():
        return f"{folder.name}; its manifest is no longer there."
    manifest = read_manifest(folder)
    voices = manifest.get("voice_names", [])
    said = {
        **({} if weight is None else {"weight in the mixture": weight}),
        "source": manifest["source"],
        "licence of the source": manifest.get("source_license", "not stated"),
        "spoken questions": manifest.get("rows", "not stated"),
        "speech": manifest.get("engine_name", "not stated"),
        "licence of the speech engine": manifest.get("engine_license", "not stated"),
        "voices": f"{len(voices)}: {', '.join(voices[:8])}{', ...' if len(voices) > 8 else ''}",
    }
    return _rows(("", ""), said.items())


def _scores(comparison: Path) -> str:
    path = comparison / "scores.json"
    if not path.is_file():
        raise InputError(f"comparison: {comparison}: no scores.json there (selfkd compare writes it)")
    rows, systems = [], []
    for benchmark, scores in read_json(path).items():
        systems = list(scores["systems"])
        title, cells = titled_benchmark(benchmark, scores), accuracy_cells(scores).values()
        chance, closed = chance_cell(scores["systems"].values()), scores["gap_closed"].items()
        shares = "; ".join(f"{s} {closed_cell(c)}" for s, c in closed) or "–"
        rows.append((title, scores["systems"]["text"]["n"], chance, *cells, shares))
    head = ("benchmark", "n", "chance", *systems, "share of the gap closed")
    return f"Accuracy in % (standard error); text is the written question.\n\n{_rows(head, rows)}"
