"""The page of `selfkd report`: sections, comparisons, findings, sizes, untrusted text and charts."""

import io
import json
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image
from report_runs import agreement, attention, audio_data, evaluation, evaluation_on, rendered, training

from selfkd.cli import main
from selfkd.data.dataset import ExampleFolder
from selfkd.data.example import MANIFEST, Example, write_shard
from selfkd.errors import InputError
from selfkd.evaluation.compare import CompareConfig, compare, run_name
from selfkd.evaluation.samples import read_samples, samples_path
from selfkd.files import write_json, write_text
from selfkd.report.charts import Bar, Dot, Line, bar_chart, line_chart, nice_ticks, scatter
from selfkd.report.html import MAX_IMAGE_SIDE, Styles, audio_uri, image_uri
from selfkd.report.inputs import averages_of, groups_of, read_runs
from selfkd.report.sections.attention import attention_findings, curves, direction
from selfkd.report.sections.items import items_section
from selfkd.run_dir import LOG

SECTIONS = ("scores", "attention", "agreement", "items", "training", "audio_quality")


@pytest.fixture(scope="module")
def page(runs, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    assert main(["report", *runs, "--output", str(path), "--items", "6", "--listed", "4"]) == 0
    return path.read_text()


def sections(html):
    return [s for s in SECTIONS if f'<section id="{s}"' in html]


def test_page_has_all_sections_and_fetches_nothing(page):
    assert sections(page) == list(SECTIONS)
    assert not re.search(r"""(src|href)=["'](?!data:|#|\.\.?/)""", page)
    assert "http://" not in page and "https://" not in page and "default-src 'none'" in page
    assert page.count("<article") == 10 and page.count("<audio") == 6 and page.count(">data</a>") == 4
    assert "Text 91.7%; audio, SFT 25.0%; audio, Self-KD 75.0%; cascade 83.3%." in page
    assert "Self-KD closes 75% of the gap left by SFT" in page
    assert "75% of the gap closed by Self-KD</p>" in page
    assert "audio queries of SFT and Self-KD against the same text queries of Base" in page
    assert "both correct" in page and "only text correct" in page and "neither correct" in page


def test_headings_are_in_order_and_charts_have_descriptions(page):
    levels = [int(level) for level in re.findall(r"<h([1-6])", page)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(b - a <= 1 for a, b in pairwise(levels))
    drawings = re.findall(r"<svg (?!class=\"swatch\")[^>]*>", page)
    assert len(drawings) > 10 and all('role="img"' in d and "aria-label=" in d for d in drawings)
    assert page.count("<svg") - page.count('class="swatch"') == page.count("<desc>")
    assert all("alt=" in image for image in re.findall(r"<img[^>]*>", page))
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))


def test_scores_equal_those_of_compare(runs, page, tmp_path):
    scores = compare(CompareConfig(runs[:3], tmp_path / "c"))["world"]
    gap = scores["gap"]["sft"]
    cells = [str(gap["n"]), f"{gap['gap']:.1%}", f"{gap['gap_interval'][0]:.1%} to {gap['gap_interval'][1]:.1%}"]
    cells += [f"{gap['mcnemar_p']:.2g}", "3", "8", "0", "1"]
    assert "".join(f"<td>{c}</td>" for c in cells) in page
    (group,) = groups_of(read_runs(runs[:3]), 0)
    assert group.scores == scores


@pytest.mark.parametrize("index", range(8))
def test_one_run_of_any_stage_makes_a_page(runs, tmp_path, index):
    expected = [["scores", "items"]] * 3 + [["attention"], ["agreement"], ["training"], ["training"], ["audio_quality"]]
    assert sections(rendered([runs[index]], tmp_path)) == expected[index]


def test_models_with_different_text_responses_have_separate_gaps(tmp_path, data):
    evaluation(tmp_path / "qwen", data, suffix=" it is", text="111111111100", audio="111000000000")
    evaluation(tmp_path / "gemma", data, text="111111111111", audio="111111111111")
    evaluation(tmp_path / "tuned", data, audio="111111111110")
    runs = read_runs([str(tmp_path / name) for name in ("qwen", "gemma", "tuned")])
    groups = groups_of(runs, 0)
    assert [(g.text_run, g.audio_systems) for g in groups] == [("qwen", ["qwen"]), ("gemma", ["gemma", "tuned"])]
    assert [round(g.scores["gap"][s]["gap"] * 12) for g in groups for s in g.audio_systems] == [7, 0, 1]
    html = rendered([run.folder for run in runs], tmp_path)
    assert "world, qwen" in html and "Text, gemma" in html
    assert "qwen loses 58.3 points" in html and "There is no clear gap to close." in html
    # an item of both groups is one card with all responses
    assert html.count("<article") == 12 and html.count("<dt>Text, qwen</dt>") == 12


def test_rank_correlation_of_text_and_audio_scores(tmp_path, data):
    for name, text, audio in (("a", 4, 1), ("b", 8, 6), ("c", 12, 5)):
        text_marks, audio_marks = (("1" * correct).ljust(12, "0") for correct in (text, audio))
        evaluation(tmp_path / name, data, suffix=f" {name}", text=text_marks, audio=audio_marks)
    html = rendered([tmp_path / name for name in "abc"], tmp_path)
    assert (
        "world: rank correlation of text and audio scores 0.50 over 3 models: too few models (3, a verdict takes 10)."
        in html
    )
    assert "rank correlation" not in rendered([tmp_path / name for name in "ab"], tmp_path)


@pytest.mark.slow
def test_average_over_public_benchmarks_weighs_each_equally(tmp_path, capsys):
    pope, mme = (audio_data(tmp_path / name, n, benchmark=name) for name, n in (("pope", 96), ("mme", 80)))
    world = audio_data(tmp_path / "world")
    evaluation_on(
        tmp_path / "sft",
        {
            pope: {"text": "1" * 96, "audio": "1" * 48 + "0" * 48},
            mme: {"text": "1" * 80, "audio": "00000010" * 10},
            world: {"text": "1" * 12, "audio": "0" * 12},
        },
    )
    evaluation_on(
        tmp_path / "selfkd",
        {pope: {"audio": "1" * 72 + "0" * 24}, mme: {"audio": "01111110" * 10}, world: {"audio": "0" * 12}},
    )
    runs = [str(tmp_path / name) for name in ("sft", "selfkd")]
    scores = compare(CompareConfig(runs, tmp_path / "c"))
    average = scores["average"]
    assert list(scores) == ["pope", "mme", "world", "average"] and average["benchmarks"] == ["pope", "mme"]
    accuracies = {s: of["accuracy"] for s, of in average["systems"].items()}
    assert accuracies == pytest.approx({"text": 1.0, "sft": (1 / 2 + 1 / 8) / 2, "selfkd": (3 / 4 + 6 / 8) / 2})
    first, second = scores["pope"]["systems"]["sft"], scores["mme"]["systems"]["sft"]
    assert average["systems"]["sft"]["stderr"] == pytest.approx(
        (first["stderr"] ** 2 + second["stderr"] ** 2) ** 0.5 / 2
    )
    gap, closed = average["gap"]["sft"], average["gap_closed"]["selfkd"]
    assert gap["gap"] == pytest.approx(1 - 0.3125) and gap["gap_interval"][0] < gap["gap"] < gap["gap_interval"][1]
    assert closed["baseline"] == "sft" and closed["share"] == pytest.approx((0.75 - 0.3125) / (1 - 0.3125))
    # the first metric of MME is not the share of correct responses
    official = [[next(iter(scores[b]["systems"][s]["metrics"].values())) for b in ("pope", "mme")] for s in accuracies]
    text, baseline, model = (sum(of) / 2 for of in official)
    assert closed["headline"] == pytest.approx((model - baseline) / (text - baseline))
    printed = capsys.readouterr().out
    assert "average of 2" in printed and "headline metrics" in printed and "64%" in printed
    html = rendered(runs, tmp_path)
    assert "Text 100.0%; audio, SFT 31.2%; audio, Self-KD 75.0%." in html
    assert "Self-KD closes 64% of the gap left by SFT" in html
    assert html.index("<h3>average of 2</h3>") < html.index("<h3>pope</h3>")


def test_no_share_is_closed_without_a_clear_gap(tmp_path):
    pope, mme = (audio_data(tmp_path / name, 8, benchmark=name) for name in ("pope", "mme"))
    evaluation_on(tmp_path / "a", {d: {"text": "11111110", "audio": "11111100"} for d in (pope, mme)})
    evaluation_on(tmp_path / "b", {d: {"audio": "11111111"} for d in (pope, mme)})
    closed = compare(CompareConfig([str(tmp_path / n) for n in "ab"], tmp_path / "c"))["average"]["gap_closed"]["b"]
    assert closed["difference"] == 0.25 and closed["share"] is closed["headline"] is None


def test_averages_are_over_benchmarks_of_the_same_systems(tmp_path):
    folders = [audio_data(tmp_path / name, 4, benchmark=name) for name in ("pope", "mme", "hallusionbench")]
    evaluation_on(tmp_path / "base", {d: {"text": "1111", "audio": "1100"} for d in folders})
    evaluation_on(tmp_path / "sft", {d: {"audio": "1110"} for d in folders[:2]})
    averages = averages_of(groups_of(read_runs([str(tmp_path / name) for name in ("base", "sft")]), 0), 0)
    assert {a.benchmark: list(a.samples) for a in averages} == {
        "average of 2": ["text", "base", "sft"],
        "average of 3": ["text", "base"],
    }


def test_different_questions_with_equal_ids_are_not_compared(tmp_path, data):
    evaluation(tmp_path / "base", data, text="1" * 12)
    changed = tmp_path / "changed"
    write_shard(changed / "a.parquet", [replace(e, question="How many?") for e in ExampleFolder(data)], {"rows": 12})
    write_json(changed / MANIFEST, json.loads((data / MANIFEST).read_text()) | {"shards": [{"file": "a.parquet"}]})
    evaluation(tmp_path / "sft", changed, audio="1" * 12)
    runs = [str(tmp_path / name) for name in ("base", "sft")]
    with pytest.raises(InputError, match=r"runs: .*sft: world has other items than .*base"):
        compare(CompareConfig(runs, tmp_path / "c"))
    assert [(g.text_run, g.audio_systems) for g in groups_of(read_runs(runs), 0)] == [("base", []), ("", ["sft"])]
    html = rendered(runs, tmp_path)
    assert html.count("<article") == 24 and html.count("<h3>How many?</h3>") == 12


def test_gap_sentence_follows_its_interval(tmp_path):
    data = audio_data(tmp_path / "world", 48)
    evaluation(tmp_path / "inverse", data, suffix=" or so", text="000001111111" * 4, audio="1" * 48)
    evaluation(tmp_path / "equal", data, suffix=" so", text="000001111111" * 4, audio="000001111111" * 4)
    html = rendered([tmp_path / "inverse", tmp_path / "equal"], tmp_path)
    # no difference in 48 images: by the interval up to 7.6% may lose, or gain
    assert "inverse gains 41.7 points" in html and "equal has no clear gap (0.0 points, −7.6 to 7.6)." in html


def test_runs_with_equal_text_responses_share_a_group(tmp_path, data):
    for name, audio in (("sft", "111000000000"), ("selfkd", "111111110000")):
        evaluation(tmp_path / name, data, text="111111111110", audio=audio)
    (group,) = groups_of(read_runs([str(tmp_path / "sft"), str(tmp_path / "selfkd")]), 0)
    assert group.audio_systems == ["sft", "selfkd"] and group.scores["gap_closed"]["selfkd"]["baseline"] == "sft"


def test_different_items_are_not_compared(tmp_path, data):
    evaluation(tmp_path / "base", data, text="1" * 12)
    evaluation(tmp_path / "few", audio_data(tmp_path / "smaller", 6), audio="111000")
    html = rendered([tmp_path / "base", tmp_path / "few"], tmp_path)
    assert "few: no run has text queries on the same items, so there is no gap." in html
    assert "Audio, few" in html and "Modality gap</span></caption>" not in html


def test_different_audio_is_not_compared(tmp_path, data):
    evaluation(tmp_path / "base", data, text="1" * 12)
    evaluation(tmp_path / "sft", data, audio="1" * 6 + "0" * 6)
    low = audio_data(tmp_path / "low", pitch_hz=110)
    evaluation(tmp_path / "selfkd", low, audio="1" * 12)
    evaluation(tmp_path / "again", low, text="1" * 12, audio="1" * 11 + "0")
    paths = [str(tmp_path / name) for name in ("base", "sft", "selfkd", "again")]
    groups = groups_of(read_runs(paths), 0)
    assert [(g.text_run, g.audio_systems) for g in groups] == [("base", ["selfkd", "again"]), ("base", ["sft"])]
    assert not groups[1].scores["gap_closed"]
    first, second = groups_of(read_runs(paths[:3]), 0)  # both share the text modality
    assert (first.text_run, first.audio_systems) == ("base", ["sft"])
    assert (second.text_run, second.audio_systems) == ("base", ["selfkd"])
    html = rendered(paths[:3], tmp_path)
    assert "world (SFT)" in html and "world (Self-KD)" in html
    evaluation(tmp_path / "text-only", data, suffix=" so", text="1" * 12)
    cards = rendered([tmp_path / "text-only", *paths[:3]], tmp_path).split("<article")[1:]
    # an item for each audio; a run with text only joins one of them
    clips = {name: {re.search(r'<audio[^>]* src="([^"]*)"', c)[1] for c in cards if f"Audio, {name}" in c}
             for name in ("SFT", "Self-KD")}  # fmt: skip
    assert len(cards) == 24 and [len(of) for of in clips.values()] == [1, 1] and clips["SFT"] != clips["Self-KD"]
    assert not any("Audio, SFT" in c and "Audio, Self-KD" in c for c in cards)
    assert sum("Text, text-only" in c for c in cards) == 12
    with pytest.raises(InputError, match=r"runs: .*selfkd: world has other audio than .*sft"):
        compare(CompareConfig(paths[:3], tmp_path / "c"))


def test_cascade_of_another_asr_model_has_its_own_group(tmp_path, data):
    evaluation(tmp_path / "whisper", data, text="1" * 12, audio="1" * 6 + "0" * 6, cascade="1" * 12)
    for name in ("own", "again"):
        evaluation(tmp_path / name, data, text="1" * 12, audio="1" * 8 + "0" * 4, cascade="1" * 9 + "0" * 3)
    evaluation(tmp_path / "cascade-only", data, cascade="1" * 3 + "0" * 9)
    paths = [str(tmp_path / name) for name in ("whisper", "own", "again", "cascade-only")]
    groups = groups_of(read_runs(paths), 0)
    assert [(g.text_run, g.audio_systems, g.run_names["cascade"]) for g in groups] == [
        ("whisper", ["whisper", "own", "again"], "whisper"), ("own", [], "own"), ("whisper", [], "cascade-only"),
    ]  # fmt: skip
    assert [g.scores["systems"]["cascade"]["accuracy"] for g in groups] == [1.0, 0.75, 0.25]
    html = rendered(paths, tmp_path)
    assert all(f"<dt>Cascade, {name}</dt>" in html for name in ("whisper", "own", "cascade-only"))
    assert html.count("<article") == 12 and "world, whisper (cascade-only)" in html


def test_run_name_may_contain_an_equals_sign(tmp_path, data, monkeypatch):
    evaluation(tmp_path / "alpha=0.5", data, text="1" * 12, audio="0" * 12)
    evaluation(tmp_path / "eval-sft", data, audio="1" * 12)
    scores = compare(CompareConfig([str(tmp_path / "alpha=0.5"), f"x={tmp_path / 'eval-sft'}"], tmp_path / "c"))
    assert list(scores["world"]["systems"]) == ["text", "alpha=0.5", "x"]
    assert [run.name for run in read_runs([str(tmp_path / "alpha=0.5")])] == ["alpha=0.5"]
    monkeypatch.chdir(tmp_path / "eval-sft")
    assert [run.name for run in read_runs(["."])] == ["sft"] == [run_name(Path())]
    monkeypatch.chdir(tmp_path)
    assert [run.name for run in read_runs(["alpha=0.5", "y=alpha=0.5"])] == ["alpha=0.5", "y"]


def test_items_without_a_response_are_shown_and_not_counted(tmp_path, data):
    evaluation(tmp_path / "base", data, text="1" * 12, audio="1" * 6 + "-" * 6)
    html = rendered([tmp_path / "base"], tmp_path)
    assert "no response: connection lost" in html and "<td>6</td>" in html
    nothing = evaluation(tmp_path / "failed", data, audio="-" * 12)
    assert "No responses." in rendered([nothing], tmp_path)


def interval_around(mean):
    return {"mean": mean, "low": mean - 0.01, "high": mean + 0.01}


def thirds(middle, late):
    means = {"early": 0, "middle": middle, "late": late}
    return {"query_to_image": {"thirds": {third: interval_around(mean) for third, mean in means.items()}}}


@pytest.mark.parametrize(
    ("gap", "moved", "sentences"),
    [
        ((-0.1, -0.2), (0.05, 0.07), ["falls in the middle and the late third", "It rises again from SFT to Self-KD"]),
        ((-0.1, -0.2), (-0.05, -0.07), ["It does not rise again", "it falls in the middle and the late third"]),
        ((-0.1, 0.0), (0.0, 0.07), ["falls in the middle third of the layers and shows no clear difference in the late",
                                    "It does not clearly rise again"]),
        ((0.1, 0.2), (0.0, 0.0), ["rises in the middle and the late", "it shows no clear difference in the middle"]),
    ],
)  # fmt: skip
def test_attention_findings_follow_the_intervals(gap, moved, sentences):
    models = {name: {"audio_minus_text": thirds(*gap)} for name in ("sft", "selfkd")}
    difference = {"selfkd minus sft": {"audio": thirds(*moved)}}
    text = " ".join(attention_findings({"models": models, "between_models": difference}))
    assert all(part in text for part in sentences), text
    reverse = {"sft minus selfkd": {"audio": thirds(*(-m for m in moved))}}
    reversed_text = " ".join(attention_findings({"models": models, "between_models": reverse}))
    assert reversed_text == text, "the order of the models matters"


def test_interval_that_touches_zero_shows_no_difference():
    directions = [direction({"mean": 0, "low": low, "high": high}) for low, high in ((-2, -1), (1, 2), (-1, 0), (0, 1))]
    assert directions == ["falls", "rises", "shows no clear difference", "shows no clear difference"]


def test_attention_section(page):
    assert "falls in the middle and the late third of the layers with Base, SFT and Self-KD" in page
    assert "It rises again from SFT to Self-KD" in page
    assert page.count('class="map"') == 3 * 2 * 2 and page.count('alt="The image of ') == 1
    assert page.count('class="map heads"') == 3 * 2
    assert "Self-KD, audio: 8% to 42% by head, highest in layer 0, head 4" in page
    assert "Base, text: 49.5% of attention to the image, highest in row 2 of 2, column 2 of 2" in page
    assert "world: attention by word" in page and "36 words" in page
    # the difference of each item is the same, so that there is no interval
    assert page.count('<td class="text">AUC</td>') == 3 * 2 * 3 and "<td>+0.200</td><td>+0.250</td>" in page
    assert "world: interventions" in page and page.count('<td class="text">image cut</td>') == 3 * 2


def test_text_lines_of_different_models_have_different_styles(tmp_path, data):
    def models_with(*levels):
        run = attention(tmp_path / str(levels), data, {f"m{i}": (level, 0.3) for i, level in enumerate(levels)})
        return read_runs([str(run)])[0].result["benchmarks"]["world"]["models"]

    single = models_with(0.4)
    assert curves("query_to_image", single, Styles()).legend == [("Text, m0", 0), ("Audio, m0", 1)]
    same = {name: single["m0"] for name in ("m0", "m1")}
    assert [name for name, _ in curves("query_to_image", same, Styles()).legend] == [
        "Text, all models", "Audio, m0", "Audio, m1",
    ]  # fmt: skip
    legend = curves("query_to_image", models_with(0.4, 0.5), Styles()).legend
    assert [name for name, _ in legend] == ["Text, m0", "Text, m1", "Audio, m0", "Audio, m1"]
    assert len({style for _, style in legend}) == 4


def test_agreement_section(page):
    assert "SFT 3.28 nats per response token" in page and "the same top token for 50.0%" in page
    plain = page.replace(' class="text"', "")
    assert "<td>SFT</td><td>anna</td><td>6</td><td>3.275 [3.255, 3.295] (too few)</td>" in plain
    assert "agreement by question type" in page and "agreement by outcome" in page
    assert "Relative distance of hidden states" in page


def test_audio_quality_section(page, tmp_path):
    plain = page.replace(' class="text"', "")
    assert "<td>anna</td><td>some engine</td><td>6</td><td>0.083 ± 0.053</td><td>66.7%</td><td>0</td>" in plain
    html = rendered([audio_data(tmp_path / "unfiltered", transcribed=False)], tmp_path)
    assert "The word error rate is not known" in html and "<td>12</td><td>–</td><td>–</td><td>0</td>" in html
    assert "anna" not in html


def test_media_are_few_and_small(data):
    example = ExampleFolder(data)[0]
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((800, 600)).save(buffer, "PNG")
    photograph = Example("p", "q", "a", "s", "exists", "yes", image=buffer.getvalue())
    uri = image_uri(photograph)
    assert uri.startswith("data:image/webp") and len(uri) < len(buffer.getvalue()) / 4 and MAX_IMAGE_SIDE < 800
    assert len(image_uri(example)) <= len(example.image) * 4 / 3 + 40
    assert image_uri(Example("p", "q", "a", "s", "exists", "yes")) is None
    clip_uri = audio_uri(example)
    assert clip_uri.startswith("data:audio/") and len(clip_uri) < len(example.audio) * 4 / 3 + 30
    assert soundfile.info(io.BytesIO(example.audio)).duration == pytest.approx(0.6)


@pytest.mark.slow
def test_thousand_items_are_a_few_megabytes(tmp_path):
    """A page of 1,000 items has 96 with media: less than 4 MB, from the size per item with and without media."""
    data = audio_data(tmp_path / "world", 200)
    evaluation(tmp_path / "base", data, text="10" * 100, audio="1100" * 50)
    html = rendered([tmp_path / "base"], tmp_path)
    assert html.count("<article") == 200 and html.count("<audio") == 96
    with_media = rendered([tmp_path / "base"], tmp_path, listed=0)
    assert with_media.count("<article") == 96
    assert len(with_media) + (len(html) - len(with_media)) / 104 * 904 < 4e6
    shown = re.findall(r'data-outcomes="([^"]+)"', html)[:4]
    assert len(set(shown)) == 4, "outcomes do not alternate"


def test_untrusted_text_is_escaped(tmp_path, data):
    evaluation(tmp_path / "base", data, suffix="<script>alert(1)</script>", text="1" * 12, audio="0" * 12)
    html = rendered([tmp_path / "base"], tmp_path, title="<b>", intro=["<i>"])
    assert "<script>alert" not in html and "&lt;script&gt;alert" in html and "<b>" not in html and "<i>" not in html


def test_responses_may_contain_unicode_line_ends(tmp_path, data):
    """Unicode has more line ends than JSON lines have, and `selfkd evaluate` writes them as they are."""
    run = evaluation(tmp_path / "base", data, suffix=" one\u2028two\x85three\x0cfour", text="1" * 12, audio="0" * 12)
    path = samples_path(run, "world", "text")
    write_text(path, "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in read_samples(path)))
    assert path.read_text(encoding="utf-8").count("\u2028") == 12 and len(read_samples(path)) == 12
    assert rendered([run], tmp_path).count("one\u2028two\x85three") == 24


def test_link_to_a_folder_name_with_special_characters(tmp_path):
    data = audio_data(tmp_path / "50% of #1?")
    evaluation(tmp_path / "base", data, text="1" * 12, audio="0" * 12)
    (link,) = set(re.findall(r'href="([^"#]+)">data</a>', rendered([tmp_path / "base"], tmp_path, items=0)))
    assert link == "../50%25%20of%20%231%3F"


def test_sections_without_runs_are_left_out(tmp_path, data):
    """Agreement and training only: no scores, no items, no finding on a gap."""
    runs = [agreement(tmp_path / "agreement", data, {"one": 0.1}), training(tmp_path / "one", 1.0)]
    html = rendered(runs, tmp_path)
    assert sections(html) == ["agreement", "training"] and "gap closed" not in html
    assert items_section([], tmp_path / "r.html", 5, 5) is None


def test_each_loss_has_its_curve(tmp_path):
    run = training(tmp_path / "ctc", 1.0)
    assert "CTC loss" not in rendered([run], tmp_path)
    with (run / LOG).open("a") as file:
        file.write(json.dumps({"step": 40, "ctc_per_token": 0.25, "soft_dtw_per_token": 1.5}) + "\n")
        file.write(json.dumps({"step": 48, "ctc_per_token": float("nan"), "kd_per_token": float("inf")}) + "\n")
    html = rendered([run], tmp_path)
    assert 'aria-label="Stage 2: CTC loss. CTC projector: 0.25 at optimizer step 40"' in html
    assert "Stage 2: soft-DTW" in html and "hidden states" not in html


def test_charts():
    assert nice_ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert nice_ticks(-0.3, 0.45)[0] <= -0.3 and nice_ticks(0, 437)[-1] >= 437
    bars = bar_chart(
        "b", [Bar("<one>", 0.5, (0.4, 0.6), 0), Bar("few", 0.5, (0.1, 0.9), 0, True), Bar("one", 1, None, 0)]
    )
    assert "&lt;one&gt;: 50.0% (40.0% to 60.0%)" in bars.svg and bars.legend == ()
    assert "few: 50.0% (too few: 10.0% to 90.0%); one: 100.0%" in bars.svg and bars.svg.count('class="whisker"') == 2
    lines = line_chart("l", [Line("a", [(0, 1.0), (1, 3.0)], 1, [(0.5, 1.5), (2, 4)]), Line("none", [], 2)], "step")
    assert lines.legend == [("a", 1)] and "a: 1 at step 0, 3 at 1" in lines.svg and "polygon" in lines.svg
    dots = scatter("s", [Dot("m on x", (0.9, 0.5), 1, "x"), Dot("n on x", (0.9, 0.5), 2, "x")], "text", "audio")
    heights = [float(y) for y in re.findall(r'class="label end" x="[\d.]+" y="([\d.]+)"', dots.svg)]
    assert heights[1] - heights[0] == 12 and dots.legend == [("m", 1), ("n", 2)]
