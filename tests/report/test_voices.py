"""Tables of the report by voice and by speaker."""

from voice_samples import sample, samples_of, speakers

from selfkd.evaluation.compare import compare_samples
from selfkd.report.inputs import Group, RunFolder
from selfkd.report.sections.voices import by_voice_tables, voices_table


def group(benchmark, text, audio):
    samples = {"text": text, "selfkd": audio}
    return Group(benchmark, samples, scores=compare_samples(samples, 0))


def test_a_benchmark_in_two_voices_has_its_spread():
    groups = []
    for voice, scores in (("anna", [1.0, 1.0, 0.0, 1.0]), ("pico", [1.0, 0.0, 0.0, 1.0])):
        audio = samples_of(scores, voice)
        groups.append(group(f"mine@{voice}", [sample(s["id"], 1.0, "", s["group"]) for s in audio], audio))
    (table,) = by_voice_tables(groups)
    assert table.caption == "mine by voice"
    assert [row[0] for row in table.rows] == ["anna", "pico", "mean (95%)", "SD over voices", "min, max"]
    column = [row[table.columns.index("Audio, Self-KD")] for row in table.rows]
    assert column[2].startswith("62.5% (") and column[3:] == ["17.7%", "50.0%, 75.0%"]
    assert all(len(row) == len(table.columns) for row in table.rows)


def test_a_folder_with_two_speakers_is_divided():
    text, audio = speakers()
    (table,) = by_voice_tables([group("mine", text, audio)])
    assert table.caption == "mine by speaker" and table.columns[:2] == ["Person", "n"]
    assert [row[:2] for row in table.rows][:2] == [["anna", "10"], ["ben", "10"]]
    assert table.rows[-1] == ["min, max", "", "40.0%, 90.0%"]
    assert by_voice_tables([group("mine", text[:10], audio[:10])]) == [], "one speaker has no spread"


def test_spread_in_a_run(tmp_path):
    over = {"voices": 2, "gap": {"mean": 0.1, "sd": 0.05, "min": 0.05, "max": 0.15, "interval": [0.02, 0.2]}}
    run = RunFolder("selfkd", tmp_path, "evaluate", {}, {"mine": {"over_voices": over}}, {})
    table = voices_table([run])
    assert table.rows == [["mine", "Self-KD", "gap", "2", "10.0%", "5.0%", "5.0%", "15.0%", "2.0% to 20.0%"]]
    assert len(table.columns) == len(table.rows[0])
