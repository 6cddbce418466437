"""Speech of several engines for the bundled models: to train the ASR model, and to train and evaluate in the demo.

    python -m tools.tiny_model.speech training OUTPUT --kokoro FOLDER
    python -m tools.tiny_model.speech questions OUTPUT --kokoro FOLDER
    python -m tools.tiny_model.speech test OUTPUT --kokoro FOLDER

`training`: sentences of the toy world by espeak-ng in 3,600 random voices, Flite in all of its English voices, and
Kokoro-82M (FOLDER holds model.onnx and voices.bin) in 22 of its 28. Never trained on: espeak-ng's held-out
accents and variants, Kokoro's other six voices, all of SVOX Pico and of Festival, and every recording of a person.

`questions`: training questions of the demo in the same voices of Kokoro and Flite, as Opus: the folders in
`selfkd/assets/speech/training`. `test`: the demo's 400 test questions in voices that were never trained on, by Kokoro,
SVOX Pico and Festival, as Opus: the folders in `selfkd/assets/speech/test`. The demo reads both because a user has
none of these engines.

A second call resumes. Half an hour each on one core, most of it Kokoro.
"""

import argparse
import io
from dataclasses import replace
from pathlib import Path

import soundfile

from selfkd.data.example import SAMPLE_RATE_HZ, Example
from selfkd.data.rewrite import rewrite
from selfkd.demo import QUESTIONS_A_VOICE, TEST_SEED
from selfkd.synthesis.config import SynthesizeConfig
from selfkd.synthesis.synthesize import synthesize

KOKORO_TRAINING = (
    "af_alloy,af_aoede,af_bella,af_heart,af_jessica,af_kore,af_nicole,af_nova,af_sky,am_adam,am_echo,am_eric,am_fenrir,"
    "am_liam,am_michael,am_santa,bf_alice,bf_emma,bf_isabella,bm_daniel,bm_fable,bm_george"
)
KOKORO_HELDOUT = "af_river,af_sarah,am_onyx,am_puck,bf_lily,bm_lewis"
OPUS_LEVEL = 0.95  # compression level of libsndfile: 20 kbit/s


def training_speech(output: Path, kokoro: Path) -> list[SynthesizeConfig]:
    voices: dict = {"engine": "kokoro", "engine_path": str(kokoro), "voices": KOKORO_TRAINING, "shard_rows": 100}
    wide: dict = {"source": "words", "rate_wpm": (140, 215), "processes": 1}
    widest: dict = wide | {"rate_wpm": (130, 220), "pitch": (20, 80)}
    return [
        SynthesizeConfig(output / "kokoro-1", count=600, seed=11, **voices, **wide),
        SynthesizeConfig(output / "flite-1", count=4000, seed=12, engine="flite", voices="training", **wide),
        SynthesizeConfig(output / "espeak-1", count=9000, seed=13, voices="random", **widest),
        SynthesizeConfig(output / "kokoro-2", count=200, seed=14, **voices, **wide),
        SynthesizeConfig(output / "flite-2", count=2500, seed=15, engine="flite", voices="training", **wide),
        SynthesizeConfig(output / "espeak-2", count=4000, seed=16, voices="random", **widest),
    ]


def training_questions(output: Path, kokoro: Path) -> list[SynthesizeConfig]:
    same: dict = {"source": "world-noisy", "rate_wpm": (140, 215), "processes": 1, "shard_rows": 100}
    voices: dict = {"engine": "kokoro", "engine_path": str(kokoro), "voices": KOKORO_TRAINING}
    return [
        SynthesizeConfig(output / "flite", count=700, seed=17, engine="flite", voices="training", **same),
        SynthesizeConfig(output / "kokoro", count=500, seed=18, **voices, **same),
    ]


def test_speech(output: Path, kokoro: Path) -> list[SynthesizeConfig]:
    same: dict = {"source": "world", "split": "test", "count": QUESTIONS_A_VOICE, "seed": TEST_SEED, "processes": 1}
    return [
        SynthesizeConfig(output / "kokoro", engine="kokoro", engine_path=str(kokoro), voices=KOKORO_HELDOUT, **same),
        SynthesizeConfig(output / "pico", engine="pico", voices="en-GB,en-US", **same),
        SynthesizeConfig(output / "festival", engine="festival", voices="training", **same),
    ]


def as_opus(example: Example) -> Example:
    """Its audio as Opus: a seventh of the size of FLAC."""
    file = io.BytesIO()
    samples = example.samples()
    soundfile.write(file, samples, SAMPLE_RATE_HZ, "OPUS", format="OGG", compression_level=OPUS_LEVEL)
    return replace(example, audio=file.getvalue())


SPEECH = {"training": training_speech, "questions": training_questions, "test": test_speech}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("speech", choices=tuple(SPEECH))
    parser.add_argument("output", type=Path)
    parser.add_argument("--kokoro", type=Path, required=True, help="folder of Kokoro-82M")
    options = parser.parse_args()
    for config in SPEECH[options.speech](options.output, options.kokoro):
        synthesize(config)
        if options.speech != "training":
            rewrite(config.output, options.output / "opus" / config.output.name, as_opus)
