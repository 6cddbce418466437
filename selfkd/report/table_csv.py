"""A table as CSV in a data URI: the page holds what it offers for download."""

import csv
import io
import re

from markupsafe import Markup

from selfkd.report.charts import Table
from selfkd.report.data_uris import data_uri

_NUMBER = re.compile(r"[+-]?\d[\d,]*(\.\d+)?(e-?\d+)?%?( .*)?")


def csv_text(table: Table) -> str:
    """The cells as shown, with ASCII minus signs and no thousands separators; a dash, "not known", is an empty cell."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\r\n")
    writer.writerow(table.columns)
    writer.writerows([_cell(cell) for cell in row] for row in table.rows)
    return buffer.getvalue()


def csv_uri(table: Table) -> Markup:
    return data_uri(csv_text(table).encode(), "text/csv;charset=utf-8")


def csv_name(table: Table) -> str:
    """ "scores-by-modality.csv"."""
    return f"{re.sub(r'[^a-z0-9]+', '-', table.caption.lower()).strip('-') or 'table'}.csv"


def _cell(text: str) -> str:
    plain = "" if text == "–" else str(text).replace("\u2212", "-")
    if _NUMBER.fullmatch(plain):
        return re.sub(r"(?<=\d),(?=\d{3})", "", plain)
    # a spreadsheet would run what begins so as a formula, and IDs and names come from data
    return f"'{plain}" if plain.startswith(("=", "+", "-", "@", "\t", "\r")) else plain
