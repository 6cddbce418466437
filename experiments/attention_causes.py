"""Is attention the root of the gap? Attention of text and audio queries to the image, its correlation with the right
response, and interventions, on the models of `voices.py` over seeds.

    python experiments/voices.py --output runs/voices
    python experiments/attention_causes.py --voices runs/voices --output runs/causes [--seeds 0 1 2] [--limit 400]

Models: the frame-stacking projector after stage 1, SFT and Self-KD of every seed, the CTC projector. Items: the 400
questions in espeak-ng's held-out voices; the response is the right answer, teacher-forced. Nothing is trained or chosen
here. Writes OUTPUT/table.md and OUTPUT/summary.json; items are in OUTPUT/items. An interrupted call resumes.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, get_args

from voices import BUNDLED, TRAINED

from selfkd.analysis.analyze_attention import MEASURED_WITH_EXACT, analyze_attention
from selfkd.analysis.config import AttentionConfig, InterventionKind
from selfkd.demo import SYNTHESIZED_VOICE
from selfkd.files import write_json
from selfkd.run_dir import MODEL, once

THIRDS = ("early", "middle", "late")
Results = Sequence[Mapping[str, Any]]  # of one system, by seed


def systems(voices: Path, seeds: Sequence[int]) -> dict[str, dict[str, str]]:
    """{system: {name of a model: its path}}."""
    trained = {
        title: {f"{name}-{seed}": str(voices / f"seed-{seed}" / name / MODEL) for seed in seeds}
        for title, name in TRAINED.items()
    }
    stage_1, ctc = ({title: {name: model}} for title, (name, model) in BUNDLED.items())
    return {**stage_1, **trained, **ctc}


def mean_and_sd(values: Sequence[float], scale: float = 1.0, sign: str = "") -> str:
    mean = f"{scale * fmean(values):{sign}.{1 if scale > 1 else 3}f}"
    return mean if len(values) == 1 else f"{mean} ± {scale * stdev(values):.{1 if scale > 1 else 3}f}"


def attention_table(found: Mapping[str, Results]) -> list[str]:
    lines = [
        f"| system | measure | {' | '.join(f'text, {t}' for t in THIRDS)} | "
        f"{' | '.join(f'audio minus text, {t}' for t in THIRDS)} |",
        f"|---|---|{'---|' * 2 * len(THIRDS)}",
    ]
    for system, models in found.items():
        for measure in MEASURED_WITH_EXACT:
            cells = [
                mean_and_sd([m[part][measure]["thirds"][third]["mean"] for m in flat], sign=sign)
                for part, flat, sign in (
                    ("text", [m["modalities"] for m in models], ""),
                    ("audio_minus_text", models, "+"),
                )
                for third in THIRDS
            ]
            lines.append(f"| {system} | {measure.replace('_', ' ')} | {' | '.join(cells)} |")
    return lines


def correlation_table(found: Mapping[str, Results]) -> list[str]:
    """r over items of audio queries; an interval where there is one model, else each seed's r."""
    lines = [f"| system | exact, % | measure | {' | '.join(f'r, {t}' for t in THIRDS)} |", "|---|---|---|---|---|---|"]
    for system, models in found.items():
        exact = mean_and_sd([m["outcomes"]["audio"]["exact"]["mean"] for m in models], 100)
        for measure in MEASURED_WITH_EXACT:
            cells = []
            for third in THIRDS:
                all_r = [m["attention_and_exact"]["audio"][measure][third] for m in models]
                texts = ["–" if r["r"] is None else f"{r['r']:+.2f}" for r in all_r]
                one = all_r[0]
                with_interval = len(models) == 1 and one["low"] is not None
                cells.append(
                    f"{texts[0]} ({one['low']:+.2f} to {one['high']:+.2f})" if with_interval else ", ".join(texts)
                )
            lines.append(f"| {system} | {exact} | {measure.replace('_', ' ')} | {' | '.join(cells)} |")
    return lines


def intervention_table(found: Mapping[str, Results]) -> list[str]:
    """Change of the share of exact responses, in points; what the plain pass has stands in the first row."""
    lines = [
        f"| query | intervention | rows | layers | {' | '.join(found)} |",
        f"|---|---|---|---|{'---|' * len(found)}",
    ]
    for modality in ("text", "audio"):
        plain = [
            mean_and_sd([m["outcomes"][modality]["exact"]["mean"] for m in models], 100) for models in found.values()
        ]
        lines.append(f"| {modality} | none: exact, % | | | {' | '.join(plain)} |")
        for name in next(iter(found.values()))[0]["interventions"][modality]:
            kind, rows, layers = name.split(".")
            changes = [
                mean_and_sd([m["interventions"][modality][name]["exact_change"]["mean"] for m in models], 100, "+")
                for models in found.values()
            ]
            lines.append(f"| {modality} | {kind.replace('_', ' ')} | {rows} | {layers} | {' | '.join(changes)} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--voices", type=Path, required=True, help="output of voices.py")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--limit", type=int, default=0, help="items; 0 takes all")
    options = parser.parse_args()
    of_system = systems(options.voices, options.seeds)
    models = [f"{name}={path}" for named in of_system.values() for name, path in named.items()]
    config = AttentionConfig(models, [str(options.voices / "data" / SYNTHESIZED_VOICE)], options.output)
    config.limit, config.maps, config.batch_size = options.limit, 0, 25
    config.interventions = list(get_args(InterventionKind))
    (result,) = once(analyze_attention, config)["benchmarks"].values()
    found = {system: [result["models"][name] for name in named] for system, named in of_system.items()}
    parts = attention_table(found), correlation_table(found), intervention_table(found)
    table = "\n\n".join("\n".join(part) for part in parts) + "\n"
    (options.output / "table.md").write_text(table)
    kept = ("tokens", "audio_minus_text", "outcomes", "attention_and_exact", "interventions")
    write_json(options.output / "summary.json", {s: [{k: m[k] for k in kept} for m in ms] for s, ms in found.items()})
    print(table)


if __name__ == "__main__":
    main()
