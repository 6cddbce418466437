"""MMMB in its layout: the same questions in several languages, each in voices that speak it, to the gap by language."""

import base64
import json

import pytest
from published_sets import IMAGES

from selfkd.data.dataset import ExampleFolder
from selfkd.errors import InputError
from selfkd.evaluation.config import EvaluateConfig
from selfkd.evaluation.evaluate import evaluate
from selfkd.synthesis.config import SynthesizeConfig
from selfkd.synthesis.sources.mmmb import LANGUAGES
from selfkd.synthesis.sources.registry import open_source
from selfkd.synthesis.synthesize import synthesize
from selfkd.synthesis.tts.registry import open_engine, weighted_voices

COLUMNS = ("index", "question", "A", "B", "C", "D", "answer", "category", "image", "split")
IMAGE = base64.b64encode(IMAGES[0]).decode()
QUESTIONS = {
    "pt": ("Qual é a cor?", "vermelho", "azul"),
    "ru": ("Какой это цвет?", "красный", "синий"),
    "tr": ("Bu ne renk?", "kırmızı", "mavi"),
    "cn": ("这是什么颜色？", "红色", "蓝色"),
    "ar": ("ما هذا اللون؟", "أحمر", "أزرق"),
    "en": ("What color is it?", "red", "blue"),
}


def table(folder, code, *rows):
    path = folder / f"mmmb_{code}.tsv"
    question, red, blue = QUESTIONS[code]
    known = dict.fromkeys(COLUMNS, "") | {"index": "0", "question": question, "A": red, "B": blue, "C": "nan"}
    known |= {"answer": "A", "category": "color", "image": IMAGE}
    lines = [COLUMNS, *([(known | row)[name] for name in COLUMNS] for row in rows or ({},))]
    path.write_text("\n".join("\t".join(line) for line in lines), encoding="utf-8")
    return path


def opened(path, language, **changes):
    return open_source(SynthesizeConfig(path.parent / "o", "mmmb", str(path), language=language, count=0, **changes))


def test_rows_are_those_of_the_table(tmp_path):
    rows = {}, {"index": "7", "image": "0", "answer": "B", "category": "nan"}, {"index": "8", "answer": "D"}
    source = opened(table(tmp_path, "pt", *rows), "pt-BR")
    first, second = (source.example(i) for i in range(len(source)))
    assert first.question == "Qual é a cor?\nA. vermelho\nB. azul" and first.answer_format.startswith("\nAnswer with")
    assert json.loads(first.details) == {"options": {"A": "vermelho", "B": "azul"}} and first.category == "color"
    assert second.image == first.image == IMAGES[0], "an image that is given by the index of another row"
    assert (second.id, second.target, second.category) == ("mmmb-pt-7", "B", "")
    assert source.skipped == {"no question or answer": 1}, "its answer is no option"


@pytest.mark.parametrize(
    ("code", "language", "row", "message"),
    [
        ("pt", "en", {}, "language: en: the questions of mmmb_pt.tsv are in pt"),
        ("cn", "pt", {}, "language: pt: the questions of mmmb_cn.tsv are in zh"),
        ("en", "en", {"image": "not an image"}, "row 0: field image: neither base64 nor the index of an earlier row"),
        ("en", "en", {"image": "12"}, "field image: neither base64"),
    ],
)
def test_other_tables_are_refused(tmp_path, code, language, row, message):
    path = table(tmp_path, code, row)
    with pytest.raises(InputError, match=message):
        opened(path, language)
    other = path.rename(tmp_path / "mmmb.tsv")
    with pytest.raises(InputError, match=r"not a table of MMMB, whose names end in _ar.tsv, _cn.tsv"):
        opened(other, language)


def test_missing_columns_and_cells_are_named(tmp_path):
    path = table(tmp_path, "en")
    path.write_text(path.read_text().replace("question\t", "query\t", 1))
    with pytest.raises(InputError, match=r"no column 'question'; there are index, query"):
        opened(path, "en")
    path = table(tmp_path, "en")
    path.write_text(path.read_text() + "\n1\tWhat?")
    with pytest.raises(InputError, match="row 1: other columns"):
        opened(path, "en")


@pytest.mark.parametrize("language", [*LANGUAGES.values(), "cmn", "de", "es", "fr"])
@pytest.mark.parametrize("names", ["training", "heldout"])
def test_espeak_has_training_and_heldout_voices_of_each_language(language, names):
    engine = open_engine("espeak", "")
    voices = weighted_voices(names, engine, language)
    other = weighted_voices("heldout" if names == "training" else "training", engine, language)
    assert voices and not voices.keys() & other.keys()
    code = {"zh": "cmn"}.get(language, language)
    assert {voice.partition("+")[0].partition("-")[0].lower() for voice in voices} == {code}


def test_a_language_without_a_voice_is_refused_by_name():
    espeak = open_engine("espeak", "")
    with pytest.raises(InputError, match=r"voices: espeak-ng 1.52 has none that speaks xx"):
        weighted_voices("training", espeak, "xx")
    with pytest.raises(InputError, match=r"voices: 'en-.*' speaks en-us, the questions are in pt"):
        weighted_voices("random", espeak, "pt")


@pytest.mark.slow
def test_from_tables_to_the_gap_by_language(tmp_path):
    data = []
    for code in ("pt", "ru"):
        path = table(tmp_path, code, {}, {"index": "1", "answer": "B"})
        config = SynthesizeConfig(tmp_path / "data" / code, "mmmb", str(path), language=code, count=0, processes=1)
        manifest = synthesize(config)
        assert manifest["rejected"] == [] and manifest["language"] == code
        assert all(e.voice.startswith(code) and e.duration_seconds > 1 for e in ExampleFolder(tmp_path / "data" / code))
        data.append(f"{code}={tmp_path / 'data' / code}")
    result = evaluate(EvaluateConfig("selfkd-tiny", data, tmp_path / "run", max_new_tokens=4))
    assert list(result) == ["mmmb@pt", "mmmb@ru", "mmmb"] and result["mmmb"]["over_voices"]["voices"] == 2
    assert all(result[f"mmmb@{code}"]["gap"]["n"] == 2 for code in ("pt", "ru"))
