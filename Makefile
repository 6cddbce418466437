# make demo    measure the vision-audio gap of the tiny model and close it; ends in runs/demo/report.html
# make test    linters, type checker, import contracts, generated docs, all tests
# make quick   the tests that are not slow, want no browser and start no training processes: under 2 minutes on 2 cores
# make fuzz    an hour of malformed inputs (FUZZ_SECONDS) and kills of each command; ends in a table of what they found
# make docs    the documentation site, into site/: strict, with links and anchors checked
# make gallery the images and the recording of docs/gallery: runs the demo in a terminal, into runs/gallery, a quarter of an hour
# make study-projector   projectors x losses x data over five seeds, into runs/projector: hours; a second call resumes
# make study-real        the same with pretrained LLM, speech encoder and voices: MODELS=DIR holds them; into runs/real
# make study-voices      the demo's models in the voices of several engines and in noise, three seeds, into runs/voices
# make study-when        SFT, the mix, Self-KD, on-policy Self-KD on training responses of five kinds, three seeds, into runs/when: hours
# make study-attention   is attention the root? after study-voices, on its models, into runs/causes
# make study-alignment   soft-DTW, contrastive, hidden-state and attention losses, alone and added to Self-KD, into runs/alignment: hours
# make study-scale       accuracy against questions, voices, steps and hours of audio, with fitted laws, into runs/scale: hours
# make study-stamps      people's recordings in three languages about natural images; MODELS holds whisper-base; into runs/stamps: hours
# make study-noise       a CTC projector against the strongest cascade in babble and rooms; MODELS as study-real's; into runs/noise: hours
# make test-vllm VLLM=DIR  the tests of selfkd.vllm in a virtual environment that has vLLM 0.32 and pytest, tests/vllm
# All make .venv with pinned versions first. PYTHON=python3.12 chooses another interpreter (3.11 or later).
PYTHON ?= python3
VENV ?= .venv
MODELS ?= models
FUZZ_SECONDS ?= 2400
PYTEST = $(VENV)/bin/python -m pytest --numprocesses 2 --dist worksteal --durations 20

.PHONY: demo test quick fuzz check docs gallery study-projector study-real study-voices study-when study-attention study-alignment study-scale study-stamps study-noise test-vllm

demo: $(VENV)/installed
	$(VENV)/bin/selfkd demo --output runs/demo

test: check
	$(PYTEST)

quick: $(VENV)/installed
	$(PYTEST) -m "not slow and not browser and not distributed"

fuzz: $(VENV)/installed
	$(VENV)/bin/python -m pytest tests/fuzz --fuzz-seconds $(FUZZ_SECONDS) --show-capture no --tb short

study-projector: $(VENV)/installed
	$(VENV)/bin/python experiments/projector_study.py --output runs/projector

study-real: $(VENV)/installed
	$(VENV)/bin/python experiments/real_parts.py --models $(MODELS) --output runs/real

study-voices: $(VENV)/installed
	$(VENV)/bin/python experiments/voices.py --output runs/voices

study-when: $(VENV)/installed
	$(VENV)/bin/python experiments/when_to_distill.py --output runs/when

study-attention: study-voices
	$(VENV)/bin/python experiments/attention_causes.py --voices runs/voices --output runs/causes

test-vllm:
	$(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --editable . # for its entry point
	$(VLLM)/bin/python -m pytest tests/vllm

docs: $(VENV)/installed
	$(VENV)/bin/python docs/build.py --check
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict

gallery: $(VENV)/installed
	rm -rf runs/gallery
	$(VENV)/bin/python docs/record_demo.py runs/gallery
	$(VENV)/bin/python docs/screenshots.py runs/gallery

check: $(VENV)/installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	$(VENV)/bin/python docs/build.py --check

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

study-alignment: $(VENV)/installed
	$(VENV)/bin/python experiments/alignment.py --output runs/alignment

study-scale: $(VENV)/installed
	$(VENV)/bin/python experiments/scale.py --output runs/scale

study-stamps: $(VENV)/installed
	$(VENV)/bin/python experiments/stamps_sources.py runs/stamps/sources
	$(VENV)/bin/python experiments/stamps.py --sources runs/stamps/sources --models $(MODELS) --output runs/stamps

study-noise: $(VENV)/installed
	$(VENV)/bin/python experiments/noise.py --models $(MODELS) --output runs/noise
