"""The checkpoints that a trained model was put together from, VLM and speech encoder, with their licences.

A run knows what it started from: `selfkd align` a VLM and a speech encoder, `selfkd distill` the model of
another run, or a native omni model. `parts_of_run` follows them back.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download, metadata_load
from typing_extensions import TypedDict

from selfkd.files import asset_path
from selfkd.hub import is_hub_id, split_revision
from selfkd.json_files import read_json
from selfkd.run_dir import CONFIG, INPUTS, MODEL, Settings

_MAX_RUNS = 20  # that a model can have gone through; a run that starts from its own model would have no end
_COMMIT = "commit "  # in `inputs.json`, before the commit of a hub id


@dataclass(frozen=True)
class Part:
    """One checkpoint of a model.

    Attributes:
        role: "VLM", "speech encoder" or, of a native omni model, "model".
        source: Hub id, folder, or a name of what the package holds.
        commit: Of a hub id, as the run recorded it; "" otherwise.
        license: As its own card states it; "" where no card could be read.
    """

    role: str
    source: str
    commit: str = ""
    license: str = ""


class _Start(TypedDict, total=False):
    """The fields of a run's `config.json` that name checkpoints."""

    vlm: str
    speech_encoder: str
    model: str


# what the package holds, by the folder of `selfkd/assets`
_BUNDLED = {
    "vlm": Part("VLM", "selfkd's bundled VLM", license="apache-2.0"),
    "asr_model": Part("speech encoder", "the encoder of openai/whisper-tiny.en, trained on by selfkd", license="mit"),
}


def parts_of_run(run: Path) -> list[Part]:
    """The parts of a run's model. A part whose run was moved or deleted is left out."""
    for _ in range(_MAX_RUNS):
        if not (run / CONFIG).is_file():
            return []
        start: dict[str, Any] = read_json(run / CONFIG, _Start)
        if "vlm" in start:
            return [
                _part(run, "VLM", "vlm", start["vlm"] or str(asset_path("vlm"))),
                _part(run, "speech encoder", "speech_encoder", start["speech_encoder"] or str(asset_path("asr_model"))),
            ]
        source = Path(start.get("model", ""))
        if source.name != MODEL or not source.is_dir():
            return list(_parts_of_model(run, str(source)))
        run = source.parent
    return []


def _parts_of_model(run: Path, source: str) -> Iterator[Part]:
    """Of a checkpoint that no run of selfkd wrote."""
    from selfkd.model.tiny import TINY_MODELS  # with torch

    if source in TINY_MODELS:
        yield from _BUNDLED.values()
    elif Path(source).is_dir() or is_hub_id(source):
        yield _part(run, "model", "model", source)


def _part(run: Path, role: str, field: str, source: str) -> Part:
    for folder, bundled in _BUNDLED.items():
        if Path(source) == asset_path(folder):
            return bundled
    inputs: dict[str, Any] = read_json(run / INPUTS, Settings) if (run / INPUTS).is_file() else {}
    recorded = str(inputs.get(f"{field}: {source}", ""))
    commit = recorded.removeprefix(_COMMIT) if recorded.startswith(_COMMIT) else ""
    name = Path(source).name if Path(source).is_dir() else source  # a path of this machine says nothing to others
    return Part(role, name, commit, license_of(source, commit))


def license_of(source: str, commit: str = "") -> str:
    """The licence in the metadata of a checkpoint's card; "" where there is none, or the hub cannot be reached."""
    path = Path(source) / "README.md"
    if not Path(source).is_dir():
        name, revision = split_revision(source)
        try:
            path = Path(hf_hub_download(name, "README.md", revision=commit or revision))
        except (OSError, ValueError):  # the hub's errors are OSErrors; of a name that is none, ValueErrors
            return ""
    try:
        found = metadata_load(path) if path.is_file() else None
    except (OSError, ValueError, TypeError):  # a card whose metadata are no YAML object
        return ""
    stated = (found or {}).get("license")
    stated = (found or {}).get("license_name") or stated if stated == "other" else stated
    return stated if isinstance(stated, str) else ""
