"""The page of `selfkd report`, from any runs: what is compared with what, sentences that follow the numbers, sizes, and
runs that are not as they should be."""

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
from report_runs import agreement, all_question_types, attention, evaluation, evaluation_on, spoken_data, training

from selfkd.cli import main
from selfkd.data.dataset import ExampleFolder
from selfkd.data.example import MANIFEST, Example, write_shard
from selfkd.errors import InputError
from selfkd.evaluation.compare import CompareConfig, compare, run_name
from selfkd.evaluation.samples import read_samples, samples_path
from selfkd.files import write_json, write_text
from selfkd.report.build import ReportConfig, report
from selfkd.report.charts import Bar, Dot, Line, bar_chart, line_chart, nice_ticks, scatter
from selfkd.report.html import LONGEST_SIDE, Styles, audio_uri, image_uri
from selfkd.report.inputs import averages_of, groups_of, read_runs
from selfkd.report.sections.attention import curves, direction, findings
from selfkd.report.sections.items import items_section
from selfkd.run_dir import LOG

SECTIONS = ("scores", "attention", "agreement", "items", "training", "quality")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return all_question_types(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def page(runs, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    assert main(["report", *runs, "--output", str(path), "--items", "6", "--listed", "4"]) == 0
    return path.read_text()


@pytest.fixture
def data(tmp_path):
    return spoken_data(tmp_path / "world")


def rendered(runs, tmp_path, **settings):
    return report(ReportConfig(list(map(str, runs)), tmp_path / "page" / "r.html", **settings)).read_text()


def sections(html):
    return [s for s in SECTIONS if f'<section id="{s}"' in html]


def test_everything_is_there_and_nothing_is_fetched(page):
    assert sections(page) == list(SECTIONS)
    assert not re.search(r"""(src|href)=["'](?!data:|#|\.\.?/)""", page)
    assert "http://" not in page and "https://" not in page and "default-src 'none'" in page
    assert page.count("<article") == 10 and page.count("<audio") == 6 and page.count(">data</a>") == 4
    assert "Written 91.7%; spoken, SFT 25.0%; spoken, Self-KD 75.0%; cascade 83.3%." in page
    assert "With Self-KD, 75% of the gap that SFT leaves is closed" in page
    assert "75% of the gap closed with Self-KD</p>" in page
    assert "questions spoken to SFT and Self-KD, against the same questions written to Base" in page
    assert "both right" in page and "only written right" in page and "neither right" in page


def test_headings_are_in_order_and_charts_say_what_they_show(page):
    levels = [int(level) for level in re.findall(r"<h([1-6])", page)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(b - a <= 1 for a, b in pairwise(levels))
    drawings = re.findall(r"<svg (?!class=\"swatch\")[^>]*>", page)
    assert len(drawings) > 10 and all('role="img"' in d and "aria-label=" in d for d in drawings)
    assert page.count("<svg") - page.count('class="swatch"') == page.count("<desc>")
    assert all("alt=" in image for image in re.findall(r"<img[^>]*>", page))
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))


def test_figures_are_those_of_compare(runs, page, tmp_path, capsys):
    scores = compare(CompareConfig(runs[:3], tmp_path / "c"))["world"]
    gap = scores["gap"]["sft"]
    cells = [str(gap["n"]), f"{gap['gap']:.1%}", f"{gap['gap_interval'][0]:.1%} to {gap['gap_interval'][1]:.1%}"]
    cells += [f"{gap['mcnemar_p']:.2g}", "3", "8", "0", "1"]
    assert "".join(f"<td>{c}</td>" for c in cells) in page
    (group,) = groups_of(read_runs(runs[:3]), 0)
    assert group.scores == scores


@pytest.mark.parametrize("question_type", range(8))
def test_one_run_of_any_kind_makes_a_page(runs, tmp_path, question_type):
    expected = [["scores", "items"]] * 3 + [["attention"], ["agreement"], ["training"], ["training"], ["quality"]]
    assert sections(rendered([runs[question_type]], tmp_path)) == expected[question_type]


def test_bases_with_their_own_written_view_have_their_own_gaps(tmp_path, data):
    evaluation(tmp_path / "qwen", data, wording=" it is", text="111111111100", audio="111000000000")
    evaluation(tmp_path / "gemma", data, text="111111111111", audio="111111111111")
    evaluation(tmp_path / "tuned", data, audio="111111111110")
    runs = read_runs([str(tmp_path / name) for name in ("qwen", "gemma", "tuned")])
    groups = groups_of(runs, 0)
    assert [(g.writer, g.spoken) for g in groups] == [("qwen", ["qwen"]), ("gemma", ["gemma", "tuned"])]
    assert [round(g.scores["gap"][s]["gap"] * 12) for g in groups for s in g.spoken] == [7, 0, 1]
    html = rendered([run.folder for run in runs], tmp_path)
    assert "world, qwen" in html and "Written, gemma" in html
    assert "qwen loses 58.3 points" in html and "There is no clear gap to close." in html
    # an item that both were asked is one card with all the answers
    assert html.count("<article") == 12 and html.count("<dt>Written, qwen</dt>") == 12


def test_whether_the_stronger_in_writing_is_the_stronger_in_speech(tmp_path, data):
    for name, written, spoken in (("a", 4, 1), ("b", 8, 6), ("c", 12, 5)):
        marks = {"text": written, "audio": spoken}
        evaluation(tmp_path / name, data, wording=f" {name}", **{v: ("1" * n).ljust(12, "0") for v, n in marks.items()})
    html = rendered([tmp_path / name for name in "abc"], tmp_path)
    assert (
        "world: rank correlation of written and spoken 0.50 over 3 models: too few models (3, a verdict takes 10)."
        in html
    )
    assert "rank correlation" not in rendered([tmp_path / name for name in "ab"], tmp_path)


def test_the_average_over_public_benchmarks_counts_each_the_same(tmp_path, capsys):
    pope, mme = (spoken_data(tmp_path / name, n, benchmark=name) for name, n in (("pope", 96), ("mme", 80)))
    world = spoken_data(tmp_path / "world")
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
    assert closed["of"] == "sft" and closed["share"] == pytest.approx((0.75 - 0.3125) / (1 - 0.3125))
    # MME's first figure is another than the share of right answers
    metrics = [[next(iter(scores[b]["systems"][s]["figures"].values())) for b in ("pope", "mme")] for s in accuracies]
    text, left, right = (sum(of) / 2 for of in metrics)
    assert closed["headline"] == pytest.approx((right - left) / (text - left))
    printed = capsys.readouterr().out
    assert "average of 2" in printed and "own figures" in printed and "64%" in printed
    html = rendered(runs, tmp_path)
    assert "Written 100.0%; spoken, SFT 31.2%; spoken, Self-KD 75.0%." in html
    assert "With Self-KD, 64% of the gap that SFT leaves is closed" in html
    assert html.index("<h3>average of 2</h3>") < html.index("<h3>pope</h3>")


def test_without_a_clear_gap_no_share_of_it_is_closed(tmp_path, capsys):
    pope, mme = (spoken_data(tmp_path / name, 8, benchmark=name) for name in ("pope", "mme"))
    evaluation_on(tmp_path / "a", {d: {"text": "11111110", "audio": "11111100"} for d in (pope, mme)})
    evaluation_on(tmp_path / "b", {d: {"audio": "11111111"} for d in (pope, mme)})
    closed = compare(CompareConfig([str(tmp_path / n) for n in "ab"], tmp_path / "c"))["average"]["gap_closed"]["b"]
    assert closed["difference"] == 0.25 and closed["share"] is closed["headline"] is None


def test_averages_are_over_what_the_same_systems_were_asked(tmp_path):
    folders = [spoken_data(tmp_path / name, 4, benchmark=name) for name in ("pope", "mme", "hallusionbench")]
    evaluation_on(tmp_path / "base", {d: {"text": "1111", "audio": "1100"} for d in folders})
    evaluation_on(tmp_path / "sft", {d: {"audio": "1110"} for d in folders[:2]})
    averages = averages_of(groups_of(read_runs([str(tmp_path / name) for name in ("base", "sft")]), 0), 0)
    assert {a.benchmark: list(a.samples) for a in averages} == {
        "average of 2": ["text", "base", "sft"],
        "average of 3": ["text", "base"],
    }


def test_other_questions_under_the_same_ids_are_not_compared(tmp_path, data):
    evaluation(tmp_path / "base", data, text="1" * 12)
    moved = tmp_path / "moved"
    write_shard(moved / "a.parquet", [replace(e, question="How many?") for e in ExampleFolder(data)], {"rows": 12})
    write_json(moved / MANIFEST, json.loads((data / MANIFEST).read_text()) | {"shards": [{"file": "a.parquet"}]})
    evaluation(tmp_path / "sft", moved, audio="1" * 12)
    runs = [str(tmp_path / name) for name in ("base", "sft")]
    with pytest.raises(InputError, match=r"runs: .*sft: world has other items than .*base"):
        compare(CompareConfig(runs, tmp_path / "c"))
    assert [(g.writer, g.spoken) for g in groups_of(read_runs(runs), 0)] == [("base", []), ("", ["sft"])]
    html = rendered(runs, tmp_path)
    assert html.count("<article") == 24 and html.count("<h3>How many?</h3>") == 12


def test_a_gap_is_said_as_its_interval_is(tmp_path):
    data = spoken_data(tmp_path / "world", 48)
    evaluation(tmp_path / "deaf", data, wording=" or so", text="000001111111" * 4, audio="1" * 48)
    evaluation(tmp_path / "even", data, wording=" so", text="000001111111" * 4, audio="000001111111" * 4)
    html = rendered([tmp_path / "deaf", tmp_path / "even"], tmp_path)
    # nothing differs in 48 images: no more is known than that up to 7.4% may lose, or gain
    assert "deaf gains 41.7 points" in html and "even shows no clear gap (0.0 points, −7.6 to 7.6)." in html


def test_runs_with_the_same_written_replies_share_a_group(tmp_path, data):
    for name, spoken in (("sft", "111000000000"), ("selfkd", "111111110000")):
        evaluation(tmp_path / name, data, text="111111111110", audio=spoken)
    (group,) = groups_of(read_runs([str(tmp_path / "sft"), str(tmp_path / "selfkd")]), 0)
    assert group.spoken == ["sft", "selfkd"] and group.scores["gap_closed"]["selfkd"]["of"] == "sft"


def test_other_items_are_not_compared(tmp_path, data):
    evaluation(tmp_path / "base", data, text="1" * 12)
    evaluation(tmp_path / "few", spoken_data(tmp_path / "smaller", 6), audio="111000")
    html = rendered([tmp_path / "base", tmp_path / "few"], tmp_path)
    assert "few: no run was asked the same items in writing, so there is no gap." in html
    assert "Spoken, few" in html and "Written against spoken</span></caption>" not in html


def test_what_was_spoken_otherwise_is_not_compared(tmp_path, data):
    evaluation(tmp_path / "base", data, text="1" * 12)
    evaluation(tmp_path / "sft", data, audio="1" * 6 + "0" * 6)
    low = spoken_data(tmp_path / "low", pitch_hz=110)
    evaluation(tmp_path / "selfkd", low, audio="1" * 12)
    evaluation(tmp_path / "again", low, text="1" * 12, audio="1" * 11 + "0")
    paths = [str(tmp_path / name) for name in ("base", "sft", "selfkd", "again")]
    groups = groups_of(read_runs(paths), 0)
    assert [(g.writer, g.spoken) for g in groups] == [("base", ["selfkd", "again"]), ("base", ["sft"])]
    assert not groups[1].scores["gap_closed"]
    first, second = groups_of(read_runs(paths[:3]), 0)  # the written view is the same, whoever speaks
    assert (first.writer, first.spoken, second.writer, second.spoken) == ("base", ["sft"], "base", ["selfkd"])
    html = rendered(paths[:3], tmp_path)
    assert "world (SFT)" in html and "world (Self-KD)" in html
    evaluation(tmp_path / "writer", data, wording=" so", text="1" * 12)
    cards = rendered([tmp_path / "writer", *paths[:3]], tmp_path).split("<article")[1:]
    # an item of each way of speaking, with its own clip; what was written alone joins one of them
    heard = {name: {re.search(r'<audio[^>]* src="([^"]*)"', c)[1] for c in cards if f"Spoken, {name}" in c}
             for name in ("SFT", "Self-KD")}  # fmt: skip
    assert len(cards) == 24 and [len(clips) for clips in heard.values()] == [1, 1] and heard["SFT"] != heard["Self-KD"]
    assert not any("Spoken, SFT" in c and "Spoken, Self-KD" in c for c in cards)
    assert sum("Written, writer" in c for c in cards) == 12
    with pytest.raises(InputError, match=r"runs: .*selfkd: world was spoken otherwise than in .*sft"):
        compare(CompareConfig(paths[:3], tmp_path / "c"))


def test_the_cascade_of_another_recogniser_stands_apart(tmp_path, data):
    evaluation(tmp_path / "whisper", data, text="1" * 12, audio="1" * 6 + "0" * 6, cascade="1" * 12)
    for name in ("own", "again"):
        evaluation(tmp_path / name, data, text="1" * 12, audio="1" * 8 + "0" * 4, cascade="1" * 9 + "0" * 3)
    evaluation(tmp_path / "alone", data, cascade="1" * 3 + "0" * 9)
    paths = [str(tmp_path / name) for name in ("whisper", "own", "again", "alone")]
    groups = groups_of(read_runs(paths), 0)
    assert [(g.writer, g.spoken, g.owners["cascade"]) for g in groups] == [
        ("whisper", ["whisper", "own", "again"], "whisper"), ("own", [], "own"), ("whisper", [], "alone"),
    ]  # fmt: skip
    assert [g.scores["systems"]["cascade"]["accuracy"] for g in groups] == [1.0, 0.75, 0.25]
    html = rendered(paths, tmp_path)
    assert all(f"<dt>Cascade, {name}</dt>" in html for name in ("whisper", "own", "alone"))
    assert html.count("<article") == 12 and "world, whisper (alone)" in html


def test_a_run_may_have_an_equals_sign_in_its_name(tmp_path, data, monkeypatch):
    evaluation(tmp_path / "alpha=0.5", data, text="1" * 12, audio="0" * 12)
    evaluation(tmp_path / "eval-sft", data, audio="1" * 12)
    scores = compare(CompareConfig([str(tmp_path / "alpha=0.5"), f"x={tmp_path / 'eval-sft'}"], tmp_path / "c"))
    assert list(scores["world"]["systems"]) == ["text", "alpha=0.5", "x"]
    assert [run.name for run in read_runs([str(tmp_path / "alpha=0.5")])] == ["alpha=0.5"]
    monkeypatch.chdir(tmp_path / "eval-sft")
    assert [run.name for run in read_runs(["."])] == ["sft"] == [run_name(Path())]
    monkeypatch.chdir(tmp_path)
    assert [run.name for run in read_runs(["alpha=0.5", "y=alpha=0.5"])] == ["alpha=0.5", "y"]


def test_items_without_a_reply_count_nowhere_and_are_shown(tmp_path, data):
    evaluation(tmp_path / "base", data, text="1" * 12, audio="1" * 6 + "-" * 6)
    html = rendered([tmp_path / "base"], tmp_path)
    assert "no reply: it fell over" in html and "<td>6</td>" in html
    nothing = evaluation(tmp_path / "mute", data, audio="-" * 12)
    assert "No replies." in rendered([nothing], tmp_path)


def around(mean):
    return {"mean": mean, "low": mean - 0.01, "high": mean + 0.01}


def thirds(middle, late):
    return {"query_to_image": {"thirds": {"early": around(0), "middle": around(middle), "late": around(late)}}}


@pytest.mark.parametrize(
    ("gap", "moved", "spoken_text"),
    [
        ((-0.1, -0.2), (0.05, 0.07), ["falls in the middle and the late third", "It rises again from SFT to Self-KD"]),
        ((-0.1, -0.2), (-0.05, -0.07), ["It does not rise again", "it falls in the middle and the late third"]),
        ((-0.1, 0.0), (0.0, 0.07), ["falls in the middle third of the layers and shows no clear difference in the late",
                                    "It does not clearly rise again"]),
        ((0.1, 0.2), (0.0, 0.0), ["rises in the middle and the late", "it shows no clear difference in the middle"]),
    ],
)  # fmt: skip
def test_what_is_found_follows_the_intervals(gap, moved, said):
    models = {name: {"audio_minus_text": thirds(*gap)} for name in ("sft", "selfkd")}
    text = " ".join(findings({"models": models, "between_models": {"selfkd minus sft": {"audio": thirds(*moved)}}}))
    assert all(part in text for part in said), text
    back = {"sft minus selfkd": {"audio": thirds(*(-m for m in moved))}}
    assert " ".join(findings({"models": models, "between_models": back})) == text, "the order of the models matters"


def test_an_interval_at_zero_shows_nothing():
    ends = [direction({"mean": 0, "low": low, "high": high}) for low, high in ((-2, -1), (1, 2), (-1, 0), (0, 1))]
    assert ends == ["falls", "rises", "shows no clear difference", "shows no clear difference"]


def test_attention_on_the_page(page):
    assert "falls in the middle and the late third of the layers with Base, SFT and Self-KD" in page
    assert "It rises again from SFT to Self-KD" in page
    assert page.count('class="map"') == 3 * 2 * 2 and page.count('alt="The picture of ') == 1
    assert page.count('class="map heads"') == 3 * 2
    assert "Self-KD, spoken: 8% to 42% by head, most in layer 0, head 4" in page
    assert "Base, written: 49.5% of attention on the picture, most in row 2 of 2, column 2 of 2" in page


def test_written_views_that_differ_can_be_told_apart(tmp_path, data):
    def of(*levels):
        run = attention(tmp_path / str(levels), data, {f"m{i}": (level, 0.3) for i, level in enumerate(levels)})
        return read_runs([str(run)])[0].result["benchmarks"]["world"]["models"]

    alone = of(0.4)
    assert curves("query_to_image", alone, Styles()).legend == [("Written, m0", 0), ("Spoken, m0", 1)]
    same = {name: alone["m0"] for name in ("m0", "m1")}
    assert [name for name, _ in curves("query_to_image", same, Styles()).legend] == [
        "Written, every model", "Spoken, m0", "Spoken, m1",
    ]  # fmt: skip
    legend = curves("query_to_image", of(0.4, 0.5), Styles()).legend
    assert [name for name, _ in legend] == ["Written, m0", "Written, m1", "Spoken, m0", "Spoken, m1"]
    assert len({style for _, style in legend}) == 4


def test_agreement_on_the_page(page):
    assert "SFT 3.28 nats per response row" in page and "the same top token in 50.0%" in page
    plain = page.replace(' class="word"', "")
    assert "<td>SFT</td><td>anna</td><td>6</td><td>3.275 [3.255, 3.295] (too few)</td>" in plain
    assert "agreement by kind" in page and "items that flip" in page and "Relative distance of hidden states" in page


def test_spoken_data_on_the_page(page, tmp_path):
    plain = page.replace(' class="word"', "")
    assert "<td>anna</td><td>some engine</td><td>6</td><td>0.083 ± 0.053</td><td>66.7%</td><td>0</td>" in plain
    unheard = rendered([spoken_data(tmp_path / "unheard", transcript=False)], tmp_path)
    assert "No recogniser listened" in unheard and "<td>12</td><td>–</td><td>–</td><td>0</td>" in unheard
    assert "anna" not in unheard


def test_media_are_few_and_small(tmp_path, data):
    example = ExampleFolder(data)[0]
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((800, 600)).save(buffer, "PNG")
    photograph = Example("p", "q", "a", "s", "exists", "yes", image=buffer.getvalue())
    uri = image_uri(photograph)
    assert uri.startswith("data:image/webp") and len(uri) < len(buffer.getvalue()) / 4 and LONGEST_SIDE < 800
    assert len(image_uri(example)) <= len(example.image) * 4 / 3 + 40
    assert image_uri(Example("p", "q", "a", "s", "exists", "yes")) is None
    audio_clip = audio_uri(example)
    assert audio_clip.startswith("data:audio/") and len(audio_clip) < len(example.audio) * 4 / 3 + 30
    assert soundfile.info(io.BytesIO(example.audio)).duration == pytest.approx(0.6)


def test_a_thousand_items_are_a_few_megabytes(tmp_path):
    data = spoken_data(tmp_path / "world", 1000)
    evaluation(tmp_path / "base", data, text="10" * 500, audio="1100" * 250)
    html = rendered([tmp_path / "base"], tmp_path)
    assert html.count("<article") == 1000 and html.count("<audio") == 96 and len(html) < 4e6
    shown = re.findall(r'data-outcomes="([^"]+)"', html)[:4]
    assert len(set(shown)) == 4, "the outcomes do not take turns"


def test_text_of_others_is_text(tmp_path, data):
    evaluation(tmp_path / "base", data, wording="<script>alert(1)</script>", text="1" * 12, audio="0" * 12)
    html = rendered([tmp_path / "base"], tmp_path, title="<b>", intro=["<i>"])
    assert "<script>alert" not in html and "&lt;script&gt;alert" in html and "<b>" not in html and "<i>" not in html


def test_a_reply_may_hold_any_sign(tmp_path, data):
    """Unicode has more ends of lines than files of lines have, as `selfkd evaluate` writes them too."""
    run = evaluation(tmp_path / "base", data, wording=" one\u2028two\x85three\x0cfour", text="1" * 12, audio="0" * 12)
    path = samples_path(run, "world", "text")
    write_text(path, "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in read_samples(path)))
    assert path.read_text(encoding="utf-8").count("\u2028") == 12 and len(read_samples(path)) == 12
    assert rendered([run], tmp_path).count("one\u2028two\x85three") == 24


def test_a_link_leads_to_a_folder_of_any_name(tmp_path):
    data = spoken_data(tmp_path / "50% of #1?")
    evaluation(tmp_path / "base", data, text="1" * 12, audio="0" * 12)
    (link,) = set(re.findall(r'href="([^"#]+)">data</a>', rendered([tmp_path / "base"], tmp_path, items=0)))
    assert link == "../50%25%20of%20%231%3F"


def test_nothing_of_other_kinds_is_made_up(tmp_path, data):
    """Agreement and training alone: no scores, no items, no headline of a gap."""
    runs = [agreement(tmp_path / "agreement", data, {"one": 0.1}), training(tmp_path / "one", 1.0)]
    html = rendered(runs, tmp_path)
    assert sections(html) == ["agreement", "training"] and "gap closed" not in html
    assert items_section([], tmp_path / "r.html", 5, 5) is None


def test_every_term_of_the_objective_has_its_curve(tmp_path):
    run = training(tmp_path / "encoder", 1.0)
    assert "CTC on what was said" not in rendered([run], tmp_path)
    with (run / LOG).open("a") as file:
        file.write(json.dumps({"step": 40, "transcript_per_token": 0.25, "alignment_per_token": 1.5}) + "\n")
        file.write(json.dumps({"step": 48, "transcript_per_token": float("nan"), "kd_per_token": float("inf")}) + "\n")
    html = rendered([run], tmp_path)
    assert 'aria-label="Stage 2: CTC on what was said. ears: 0.25 at optimizer step 40"' in html
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
    dots = scatter("s", [Dot("m on x", (0.9, 0.5), 1, "x"), Dot("n on x", (0.9, 0.5), 2, "x")], "written", "spoken")
    heights = [float(y) for y in re.findall(r'class="mark end" x="[\d.]+" y="([\d.]+)"', dots.svg)]
    assert heights[1] - heights[0] == 12 and dots.legend == [("m", 1), ("n", 2)]
