"""A table as CSV: the cells as shown, for a program and for a spreadsheet."""

import base64
import csv
import io

import pytest

from selfkd.report.charts import Table
from selfkd.report.table_csv import csv_name, csv_text, csv_uri
from selfkd.report.terms import TERMS, mark_terms, term_id, term_of


def cells(*row):
    table = Table("t", [f"c{i}" for i in range(len(row))], [row])
    return next(iter(list(csv.reader(io.StringIO(csv_text(table))))[1:]))


def test_numbers_are_plain():
    shown = ["1,600", "12,345,678", "−3.5%", "+0.200 [−0.1, 0.5]", "97.0% (95 to 99)", "–", "1e-05", "12.1% to 20.3%"]
    plain = ["1600", "12345678", "-3.5%", "+0.200 [-0.1, 0.5]", "97.0% (95 to 99)", "", "1e-05", "12.1% to 20.3%"]
    assert cells(*shown) == plain


@pytest.mark.parametrize("text", ["=1+1", "+SUM(A1)", "-cmd", "@x", "\tx"])
def test_text_that_a_spreadsheet_would_run_is_text(text):
    assert cells(text) == [f"'{text}"]


def test_any_text_is_one_cell():
    text = 'a "quoted", name; line\nend √'
    assert cells(text, "<b>") == [text, "<b>"]


def test_data_uri_and_name():
    table = Table("world@pico: agreement by voice", ["A"], [["1"]])
    kind, _, content = str(csv_uri(table)).partition(";base64,")
    assert kind == "data:text/csv;charset=utf-8" and base64.b64decode(content) == b"A\r\n1\r\n"
    assert csv_name(table) == "world-pico-agreement-by-voice.csv" and csv_name(Table("–", [], [])) == "table.csv"


def test_first_of_each_term_is_marked():
    html = str(mark_terms("The gap of <b> is clear: a gap, at chance; the gaps of SFT-like models"))
    assert html.count("<dfn") == 3 and html.count('data-term="term-gap"') == 1 and "&lt;b&gt;" in html
    assert html.startswith(
        'The <dfn class="term" tabindex="0" data-term="term-gap" aria-describedby="term-gap">gap</dfn>'
    )
    assert 'data-term="term-chance"' in html and "gaps" in html and "SFT-like" in html, "whole words only"


def test_heads_of_columns_are_terms():
    assert term_of("Std. error") == "standard error" and term_of("WER") == "word error rate" and term_of("Run") == ""
    assert len({term_id(term) for term in TERMS}) == len(TERMS)
