"""Benchmarks from local datasets in the layout of the hub: exact prompts, checks of columns, whole groups; MMAlign."""

import json
from collections import Counter
from pathlib import Path

import pytest
from benchmark_datasets import (
    ANSWERS,
    HEADLINES,
    IDS,
    IMAGE,
    LAYOUTS,
    LETTER,
    NUMBER,
    PROMPTS,
    ROWS,
    TEXT,
    TEXTS,
    local_dataset,
)
from datasets import Value
from PIL import Image as PILImage

from selfkd.errors import InputError
from selfkd.evaluation.backends.local import option_letters
from selfkd.evaluation.benchmarks.base import whole_groups
from selfkd.evaluation.benchmarks.mmalign import open_mmalign
from selfkd.evaluation.benchmarks.registry import BENCHMARKS, PAPER8, open_benchmark
from selfkd.evaluation.grading import parse
from selfkd.synthesis.sources.toy import ToyMMAlign
from selfkd.synthesis.text_normalization import spoken_form


@pytest.mark.parametrize("name", BENCHMARKS)
def test_prompts_targets_and_ids(tmp_path, name):
    source = open_benchmark(name, local_dataset(tmp_path, name))
    examples = [source.example(i) for i in range(len(source))]
    assert [e.question + e.answer_format for e in examples] == PROMPTS[name]
    assert [e.target for e in examples] == ANSWERS[name] and [e.id for e in examples] == IDS[name]
    assert all(e.image == IMAGE and e.source == source.name == name for e in examples)
    assert not any("Answer the" in e.question or "Answer with" in e.question for e in examples)
    assert source.license == BENCHMARKS[name].license
    if examples[0].question_type == "multiple_choice":  # scored by likelihood over the letters of grading
        assert [option_letters(e) for e in examples] == [list(json.loads(e.details)["options"]) for e in examples]
    # the stored details are enough to grade: the target as response is correct
    for e in examples:
        sample = {"id": e.id, "question": e.question, "target": e.target, "category": e.category,
                  "details": json.loads(e.details)}  # fmt: skip
        grade, empty = BENCHMARKS[name].grade(sample, e.target), BENCHMARKS[name].grade(sample, " \n")
        assert grade.score == 1 and grade.parsed is not None, (name, grade)
        assert (empty.parsed, empty.score) == (None, 0.0)
        metrics = BENCHMARKS[name].metrics([sample | {"parsed": grade.parsed, "score": grade.score}])
        assert next(iter(metrics.items())) == (HEADLINES[name], 100.0), metrics


def test_thirteen_benchmarks_include_the_eight_of_the_paper():
    assert len(BENCHMARKS) == 13 and len(PAPER8) == len(set(PAPER8)) == 8 and set(PAPER8) < set(BENCHMARKS)
    assert set(BENCHMARKS) == set(LAYOUTS)
    for name, benchmark in BENCHMARKS.items():
        assert benchmark.name == name and set(benchmark.columns) <= set(LAYOUTS[name])


@pytest.mark.parametrize("name", BENCHMARKS)
def test_missing_column_is_reported(tmp_path, name):
    column = next(c for c in BENCHMARKS[name].columns if c != "image")
    with pytest.raises(InputError, match=rf"^{name}: .*column '{column}' is missing; there are .*image"):
        open_benchmark(name, local_dataset(tmp_path, name, without=(column,)))


@pytest.mark.parametrize(("name", "column", "column_type", "value", "message"), [
    ("textvqa", "answers", TEXT, "dakota", "string, expected texts"),  # otherwise d, a, k, ... would be the answers
    ("ai2d", "options", TEXT, "egg, larva", "string, expected texts"),
    ("mmstar", "answer", NUMBER, 2, "int64, expected text"),
    ("chartqa", "answer", TEXTS, ["14"], "list<.*>, expected text"),
    ("pope", "answer", Value("bool"), True, "bool, expected text"),
    ("mme", "image", TEXT, "0020.png", "string, expected an image"),
    ("docvqa", "questionId", Value("float64"), 1.5, "double, expected text or number"),
])  # fmt: skip
def test_column_of_another_type_is_reported(tmp_path, monkeypatch, name, column, column_type, value, message):
    monkeypatch.setitem(LAYOUTS[name], column, column_type)
    path = local_dataset(tmp_path, name, [ROWS[name][0] | {column: value}])
    with pytest.raises(InputError, match=rf"^{name}: path: .*column '{column}' is {message}$"):
        open_benchmark(name, path)


def test_columns_of_all_files_are_checked(tmp_path):
    (tmp_path / "local").mkdir()
    for number, without in enumerate([(), ("category",)]):
        (tmp_path / str(number)).mkdir()
        made = Path(local_dataset(tmp_path / str(number), "mme", without=without))
        made.rename(tmp_path / "local" / f"test-0000{number}-of-00002.parquet")
    with pytest.raises(InputError, match=r"mme: path: .*column 'category' is missing"):
        open_benchmark("mme", str(tmp_path / "local"))


def test_audio_instruction_is_part_of_the_question(tmp_path):
    path = local_dataset(tmp_path, "ai2d")
    assert open_benchmark("ai2d", path).rows[0].answer_format == LETTER
    with_instruction = open_benchmark("ai2d", path, audio_instruction=True).rows[0]
    assert (with_instruction.question, with_instruction.answer_format) == (PROMPTS["ai2d"][0], "")
    assert "Option B is one. Option C is C." in spoken_form(with_instruction.question)


def test_limit_takes_a_random_sample_by_the_seed(tmp_path):
    rows = [{**ROWS["chartqa"][0], "question": f"What is {i}?"} for i in range(40)]
    path = local_dataset(tmp_path, "chartqa", rows)

    def ids(seed):
        return [row.id for row in open_benchmark("chartqa", path, limit=10, seed=seed).rows]

    assert ids(0) == ids(0) == sorted(ids(0)) and len(ids(0)) == 10 and ids(0) != ids(1)
    assert len(open_benchmark("chartqa", path, limit=41)) == 40  # at most the whole


def in_groups(name, groups):
    """Rows in groups of the given sizes; the rows of a group are apart where they are so on the hub."""
    first = ROWS[name][0]
    rows = [(group, member) for group, size in enumerate(groups) for member in range(size)]
    if name == "mme":
        return [first | {"question_id": f"{g}.png", "question": f"{g} {m}?"} for g, m in rows]
    if name == "pope":  # category by category
        rows.sort(key=lambda row: row[1])
        return [first | {"question_id": f"{g}-{m}", "image_source": f"COCO_{g}"} for g, m in rows]
    if name == "hallusionbench":
        return [first | {"set_id": str(g), "figure_id": str(m // 2 + 1), "question_id": str(m % 2)} for g, m in rows]
    rows.sort(key=lambda row: row[1])  # MMBench: each rotation follows all questions
    return [first | {"index": str(1_000_000 * m + g)} for g, m in rows]


@pytest.mark.parametrize(("name", "groups"), [
    ("mme", [2] * 12), ("pope", [6] * 8), ("hallusionbench", [4, 2, 6, 3, 5, 4]), ("mmbench", [4, 3, 2, 4, 4, 4]),
])  # fmt: skip
def test_limit_takes_whole_groups(tmp_path, name, groups):
    path = local_dataset(tmp_path, name, in_groups(name, groups))

    def group_sizes(limit, seed):
        rows = open_benchmark(name, path, limit=limit, seed=seed).rows
        return Counter(BENCHMARKS[name].group({"category": r.category, "details": json.loads(r.details)}) for r in rows)

    whole = group_sizes(0, 0)
    assert sorted(whole.values()) == sorted(groups)
    selections = set()
    for seed in range(6):
        sizes = group_sizes(13, seed)
        assert 13 - max(groups) < sizes.total() <= 13 and all(whole[group] == n for group, n in sizes.items())
        selections.add(frozenset(sizes))
    assert len(selections) > 1  # not always the first groups
    assert len(group_sizes(1, 0)) == 1  # at least one group
    assert group_sizes(1000, 0) == whole


def test_whole_groups_within_a_limit():
    assert whole_groups("aabbcab", 5) == [0, 1, 5] and whole_groups("aabbcab", 6) == [0, 1, 2, 3, 5, 6]
    assert whole_groups("aabbcab", 1) == [0, 1, 5] and whole_groups("aabbcab", 0) == [*range(7)]
    assert whole_groups("aabbcab", 99) == [*range(7)] and whole_groups("", 5) == []


def test_downloaded_repository_with_configs_and_splits(tmp_path):
    """Like lmms-lab/DocVQA: two configs in folders, each with validation and test, listed in the README."""
    configs = ""
    for config, name in (("DocVQA", "docvqa"), ("InfographicVQA", "infovqa")):
        (tmp_path / "local" / config).mkdir(parents=True)
        configs += f"- config_name: {config}\n  data_files:\n"
        for split in ("validation", "test"):
            rows = [ROWS[name][0] | ({} if split == "validation" else {"answers": None})]
            made = tmp_path / name
            made.mkdir(exist_ok=True)
            file = tmp_path / "local" / config / f"{split}-00000-of-00001.parquet"
            file.write_bytes(Path(local_dataset(made, name, rows)).read_bytes())
            configs += f"  - split: {split}\n    path: {config}/{split}-*\n"
    (tmp_path / "local" / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    assert open_benchmark("docvqa", str(tmp_path / "local")).rows[0].id == "docvqa-49153"
    assert open_benchmark("infovqa", str(tmp_path / "local")).rows[0].id == "infovqa-98313"
    with pytest.raises(InputError, match=r"mmbench: path: .*no config 'en'; there are DocVQA, InfographicVQA"):
        open_benchmark("mmbench", str(tmp_path / "local"))
    only_test = str(tmp_path / "local" / "DocVQA" / "test-00000-of-00001.parquet")
    with pytest.raises(InputError, match=r"docvqa: .*row 0: field answers: empty"):
        open_benchmark("docvqa", only_test)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("mme", {"answer": "maybe"}, "row 0: field answer: 'maybe' is neither yes nor no"),
        ("hallusionbench", {"gt_answer": "2"}, "row 0: field gt_answer: '2' is neither 0 nor 1"),
        ("ai2d", {"answer": "4"}, "row 0: field answer: '4' is no index of the 4 options"),
        ("mmstar", {"answer": "Z"}, "row 0: field answer: 'Z' is no option letter"),
        ("mmbench", {"index": "x"}, "row 0: field index: 'x' is no number"),
        ("pope", {"image": None}, "row 0: field image: no image"),
        ("ocrbench", {"question": ""}, "row 0: field question: empty"),
    ],
)
def test_unusable_rows_are_reported(tmp_path, name, change, message):
    with pytest.raises(InputError, match=rf"^{name}: .*{message}"):
        open_benchmark(name, local_dataset(tmp_path, name, [ROWS[name][0] | change]))


def test_unreadable_local_datasets_are_reported(tmp_path):
    with pytest.raises(InputError, match="'vqav2' is not known; there are mme, hallusionbench"):
        open_benchmark("vqav2")
    with pytest.raises(InputError, match="mme: path: nowhere: no such file or folder"):
        open_benchmark("mme", "nowhere")
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "all.jsonl").write_text('{"question": "?"}\n')
    with pytest.raises(InputError, match=r"mme: path: .*texts: .*all\.jsonl is not Parquet"):
        open_benchmark("mme", str(tmp_path / "texts"))
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 no table")
    with pytest.raises(InputError, match=r"mme: path: .*broken\.parquet"):
        open_benchmark("mme", str(tmp_path / "broken.parquet"))


@pytest.fixture
def aro(tmp_path):
    """The two files of ARO, 20 items each, and an image of four colored quarters (20 x 10 pixels)."""
    (tmp_path / "images").mkdir()
    image = PILImage.new("RGB", (20, 10), "red")
    for color, corner in (("green", (10, 0)), ("blue", (0, 5)), ("white", (10, 5))):
        image.paste(color, (*corner, corner[0] + 10, corner[1] + 5))
    image.save(tmp_path / "images" / "1.jpg", "PNG")
    items = [
        {"image_id": "1", "image_path": "1.jpg", "bbox_x": 10 * (i % 2), "bbox_y": 5, "bbox_w": 10, "bbox_h": 5,
         "true_caption": f"the dog is above the cat {i}", "false_caption": f"the cat is above the dog {i}",
         "relation_name": "above", "attributes": ["big", "small"]} for i in range(20)
    ]  # fmt: skip
    for name in ("relation", "attribution"):
        (tmp_path / f"visual_genome_{name}.json").write_text(json.dumps(items))
    return tmp_path


def open_aro(folder, **settings):
    files = (folder / f"visual_genome_{name}.json" for name in ("relation", "attribution"))
    return open_mmalign(*files, folder / "images", **settings)


def test_mmalign_is_balanced_and_cropped_to_the_box(aro):
    source = open_aro(aro, per_type=10)
    examples = [source.example(i) for i in range(len(source))]
    assert [e.category for e in examples] == ["relation"] * 10 + ["attribution"] * 10
    for question_type in ("relation", "attribution"):
        assert sorted(e.target for e in examples if e.category == question_type) == ["A"] * 5 + ["B"] * 5
    for e in examples:
        number = int(e.id.rpartition("-")[2])
        true, false = f"the dog is above the cat {number}", f"the cat is above the dog {number}"
        first, second = (true, false) if e.target == "A" else (false, true)
        assert e.question == f"Which caption is right? Option A is {first}. Option B is {second}."
        crop = e.load_image()
        color = (255, 255, 255) if number % 2 else (0, 0, 255)  # the lower right quarter, or the lower left
        assert crop.size == (10, 5) and crop.getcolors() == [(50, color)]
        assert e.question_type == "choice" and parse(e.question_type, e.question, f"Option {e.target}.") == e.target
    assert json.loads(examples[0].details)["swapped"] == "above"
    world = ToyMMAlign("test", 0).example(0)
    assert (
        world.question.split("Option A")[0] == examples[0].question.split("Option A")[0]
        and world.question_type == e.question_type
    )


def test_mmalign_is_sampled_by_the_seed(aro):
    assert open_aro(aro, per_type=10) == open_aro(aro, per_type=10)
    assert open_aro(aro, per_type=10).rows != open_aro(aro, per_type=10, seed=1).rows
    assert len({row.id for row in open_aro(aro, per_type=20).rows}) == 40


def test_box_over_the_edge_is_filled_with_black_as_in_aro(aro):
    file = aro / "visual_genome_relation.json"
    file.write_text(json.dumps([item | {"bbox_x": 15, "bbox_w": 10} for item in json.loads(file.read_text())]))
    crop = open_aro(aro, per_type=1).example(0).load_image()
    assert [crop.getpixel((x, 0)) for x in (0, 4, 5, 9)] == [(255, 255, 255)] * 2 + [(0, 0, 0)] * 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_path": "gone.jpg"}, r"relation\.json: item \d+: field image: .*gone\.jpg: no such file"),
        ({"bbox_x": 20}, r"relation\.json: item \d+: field bbox: .* is outside the image of 20 x 10"),
        ({"bbox_w": 0}, r"relation\.json: item \d+: field bbox: .* is outside the image"),
        ({"bbox_h": "5"}, r"relation\.json: item \d+: field bbox: .* are not four numbers"),
        ({"true_caption": None}, r"relation\.json: item \d+: field true_caption: missing"),
        ({"relation_name": None}, r"relation\.json: item \d+: field relation_name: missing"),
    ],
)
def test_unusable_items_of_aro_are_reported(aro, change, message):
    file = aro / "visual_genome_relation.json"
    items = [{k: v for k, v in (item | change).items() if v is not None} for item in json.loads(file.read_text())]
    file.write_text(json.dumps(items))
    with pytest.raises(InputError, match=message):
        open_aro(aro, per_type=2)


def test_unusable_files_of_aro_are_reported(aro):
    with pytest.raises(InputError, match=r"relation\.json: per_type: 21: there are only 20 items"):
        open_aro(aro, per_type=21)
    (aro / "visual_genome_attribution.json").write_text("{}")
    with pytest.raises(InputError, match=r"attribution\.json: does not begin like a JSON file of this source"):
        open_aro(aro, per_type=2)
    (aro / "visual_genome_attribution.json").unlink()
    with pytest.raises(InputError, match=r"attribution\.json: no such file"):
        open_aro(aro, per_type=2)
