# make demo   measure the vision-audio gap of the embedded model and close it; ends in runs/demo/report.html
# make test   linter, type checker, tests
# make study-ears   ears x objective x data over five seeds, into runs/ears: hours; stopped and started again it goes on
# make study-real   the same where others pretrained LLM, ears and voices: MODELS=DIR holds them; into runs/real
# All make .venv with pinned versions first. PYTHON=python3.12 chooses another interpreter (3.11 or later).
PYTHON ?= python3
VENV ?= .venv
MODELS ?= models

.PHONY: demo test check study-ears study-real

demo: $(VENV)/installed
	$(VENV)/bin/selfkd demo --output runs/demo

test: check
	$(VENV)/bin/python -m pytest --numprocesses 2 --dist loadfile

study-ears: $(VENV)/installed
	$(VENV)/bin/python experiments/projector_study.py --output runs/ears

study-real: $(VENV)/installed
	$(VENV)/bin/python experiments/real_parts.py --models $(MODELS) --output runs/real

check: $(VENV)/installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@
