"""VLMEvalKit's loop, dataset and grading next to `selfkd evaluate`, on the questions and the tiny model of `peers.py`,
whose `--only lmms-eval` must have run.

    PYTHONPATH=VLMEvalKit python experiments/peers_vlmevalkit.py --folder runs/peers --output vlmevalkit.json

VLMEvalKit is on no package index: PYTHONPATH names a checkout, and its dependencies are installed by hand. Its wrapper
of InternVL runs on a GPU only and wants the remote code of InternVL's first checkpoints (`--probe` prints what its
wrappers do with the model). `LFM2VL` reads any image-text-to-text model of transformers; it is run here with what it
sends to a GPU left on the CPU, and with POPE's sentence on the form of the answer in place of its own.
"""

import argparse
import base64
import json
import os
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

import peers_items
from peers_items import Response, compared, rate
from peers_runs import in_turn, ratios, spread

from selfkd.evaluation.benchmarks.yes_no import ONE_WORD

SIDES = ("VLMEvalKit, LFM2VL", "selfkd evaluate")
PROBED: dict[str, dict[str, str]] = {
    "InternVLChat": {"version": "V2.0"}, "InternS1Chat": {}, "LFM2VL": {}, "Gemma3": {}, "Qwen2VLChat": {},
    "Qwen3VLChat": {},
}  # fmt: skip


def write_table(parquet: Path, file: Path, count: int) -> list[dict[str, Any]]:
    """The first questions, in VLMEvalKit's layout of POPE."""
    import pandas

    rows = pandas.read_parquet(parquet).head(count).to_dict("records")
    table = [
        {
            "index": number, "image": base64.b64encode(row["image"]["bytes"]).decode(), "question": row["question"],
            "answer": row["answer"].capitalize(), "category": row["category"],
        }
        for number, row in enumerate(rows)
    ]  # fmt: skip
    pandas.DataFrame(table).to_csv(file, sep="\t", index=False)
    return rows


def on_cpu() -> None:
    """What a wrapper sends to a GPU stays where it is."""
    import torch
    from transformers import BatchFeature

    whole_to = BatchFeature.to
    torch.nn.Module.cuda = lambda module, *_: module  # type: ignore[method-assign]
    BatchFeature.to = lambda batch, *_, **to: whole_to(batch, **to | {"device": "cpu"})  # type: ignore[method-assign]


def evaluate(folder: Path, items: int, sentence: str | None) -> tuple[float, dict[str, Response]]:
    """CPU seconds of `LFM2VL` on the questions, without its start, and its responses; with a sentence on the form of
    the answer, or its own."""
    from vlmeval.dataset.image_yorn import ImageYORNDataset
    from vlmeval.inference import infer_data_job
    from vlmeval.smp import get_intermediate_file_path, load
    from vlmeval.vlm import LFM2VL

    with tempfile.TemporaryDirectory() as data:
        os.environ["LMUData"] = data  # noqa: SIM112 VLMEvalKit's name
        rows = write_table(folder / "pope.parquet", Path(data) / "POPE.tsv", items)
        ImageYORNDataset.DATASET_MD5 = {"POPE": None}  # it would load POPE from the web in place of these questions
        dataset, tokens = ImageYORNDataset("POPE"), peers_items.NEW_TOKENS["tiny"]
        model = LFM2VL(str(folder / "tiny" / "evaluated" / "vlm"), max_new_tokens=tokens, do_sample=False)
        if sentence is not None:
            model.default_instruction_prompt = sentence
        start = time.process_time()
        infer_data_job(model=model, work_dir=data, model_name="LFM2VL", dataset=dataset)
        (predicted,) = (file for file in Path(data).glob("LFM2VL_POPE.*") if file.suffix in (".xlsx", ".tsv", ".json"))
        dataset.evaluate(str(predicted))
        seconds = time.process_time() - start
        graded = load(get_intermediate_file_path(str(predicted), "_auxmatch")).to_dict("records")
    return seconds, {
        row["question_id"]: Response(str(found["prediction"]).strip(), row["answer"], float(found["score"]))
        for row, found in zip(rows, graded, strict=True)
    }


def measure(folder: Path, items: int, repeats: int) -> dict[str, Any]:
    """Items a CPU second of both sides in each repeat, and their responses compared."""
    python, few = Path(sys.executable), items // 10
    rates, responses = [], {}
    for number in range(repeats):
        by_side = {}
        for side in in_turn(SIDES, number):
            if side == SIDES[0]:
                seconds, responses[side] = evaluate(folder, items, ONE_WORD)
                by_side[side] = items / seconds
            else:
                (start, _), (whole, output) = (
                    peers_items.evaluate(python, folder, "tiny", side, limit) for limit in (few, items)
                )
                responses[side] = peers_items.responses(output)
                by_side[side] = rate((few, start), (items, whole))
        rates.append(by_side)
    _, responses["VLMEvalKit, LFM2VL's own sentence"] = evaluate(folder, items, None)
    graded = compared({side: responses[side] for side in (*SIDES, *(responses.keys() - set(SIDES)))})
    for side in SIDES:
        print(side, spread([by[side] for by in rates]), "ratio by repeat", spread(ratios(rates, side, SIDES[0])))
    for side, found in graded.items():
        print(side, {name: value if name != "other responses" else len(value) for name, value in found.items()})
    return {"rates": rates, "responses": graded}


def probe(folder: Path) -> dict[str, str]:
    """By wrapper: the response to a question, or the error and the line of VLMEvalKit that it is from."""
    import vlmeval.vlm

    vlm, found = str(folder / "tiny" / "evaluated" / "vlm"), {}
    with tempfile.TemporaryDirectory() as data:
        write_table(folder / "pope.parquet", Path(data) / "POPE.tsv", 1)
        image = Path(data) / "image.png"
        image.write_bytes(base64.b64decode((Path(data) / "POPE.tsv").read_text().splitlines()[1].split("\t")[1]))
        message = [{"type": "image", "value": str(image)}, {"type": "text", "value": "Is there a circle?"}]
        for name, settings in PROBED.items():
            try:
                wrapper = getattr(vlmeval.vlm, name)(model_path=vlm, **settings)
                found[name] = f"no error: {wrapper.generate(message=message, dataset='POPE')!r}"
            except Exception as error:  # whatever its code raises is the finding
                where = [at for at in traceback.extract_tb(error.__traceback__) if "/vlmeval/" in at.filename][-1]
                line = str(error).strip().partition("\n")[0]
                found[name] = f"{type(error).__name__}: {line} ({Path(where.filename).name}:{where.lineno})"
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="of peers.py")
    parser.add_argument("--items", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--probe", action="store_true")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    if options.probe:
        found: Any = probe(options.folder)
        print("\n".join(f"{name}: {result}" for name, result in found.items()))
    else:
        on_cpu()
        found = measure(options.folder.resolve(), options.items, options.repeats)
    options.output.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
