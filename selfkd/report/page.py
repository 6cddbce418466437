"""A page: a template with the styles and the script inside, and nothing that is fetched from anywhere."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from selfkd.files import write_text
from selfkd.report.charts import swatch
from selfkd.report.naming import STYLES


def write_page(path: Path, template: str, **values: Any) -> None:
    environment = Environment(
        loader=PackageLoader("selfkd", "report/templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"swatch": swatch, "style_count": STYLES}
    write_text(path, environment.get_template(template).render(**values))
