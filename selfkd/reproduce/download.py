"""The downloads of a recipe: repositories of the hub, archives, single images, and the benchmarks' tables.

Each part that is complete leaves a file in `download/done`; a part that was interrupted resumes (the hub's client does
by itself, an archive by a range request). Writes `download/manifest.json` last, with the commit of every repository.
"""

import shutil
import tarfile
import urllib.request
import zipfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.error import HTTPError, URLError

from huggingface_hub import HfApi, hf_hub_download, snapshot_download

from selfkd.data.example import MANIFEST
from selfkd.data.lazy_images import ImageInFolder
from selfkd.errors import InputError
from selfkd.evaluation.benchmarks.registry import open_benchmark
from selfkd.files import check_name, path_within, replace_durably, sync, write_json
from selfkd.hub import split_revision
from selfkd.json_files import read_json
from selfkd.progress import progress
from selfkd.run_dir import Settings
from selfkd.synthesis.config import SynthesizeConfig
from selfkd.synthesis.sources.registry import open_source
from selfkd.synthesis.sources.rows import RowSource

_PIECE, _TIMEOUT_SECONDS, _CONNECTIONS = 1 << 20, 60, 8
_MEGABYTE = 1e6


def check_reach(repo: str) -> None:
    """Raises InputError, before anything is written, where the hub cannot be reached. By one request: a download would
    be tried several times."""
    name, revision = split_revision(repo)
    try:
        HfApi().repo_info(name, revision=revision, timeout=10)
    except Exception as error:  # each version of the hub's client has errors of its own
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"downloads.vlm: {repo} cannot be reached on the hub ({reason:.200}); without a network --rehearse runs "
            "every stage with stand-ins"
        ) from error


def download(settings: Mapping[str, Any]) -> None:
    """`settings`: output, downloads, archives {folder: archives}, image_url and benchmarks, as in a recipe; with an
    image_url also questions, the fields of `selfkd synthesize` that sample them."""
    output = Path(settings["output"])
    done = output / "done"
    found: dict[str, Any] = {}
    for name, repository in settings["downloads"].items():
        with _once(done, f"repository-{name}", found) as part:
            if part is not None:
                part |= _repository(repository, output / name)
    for section, archives in settings["archives"].items():
        for number, archive in enumerate(archives):
            with _once(done, f"{section}-{number}", found) as part:
                if part is not None:
                    part |= _archive(archive, output / section, output / f"{section}-{number}.archive")
    if settings["image_url"]:
        with _once(done, "images", found) as part:
            if part is not None:
                part |= _single_images(settings["questions"], settings["image_url"])
    for name in settings["benchmarks"]:  # its files stay in the hub's own cache
        with _once(done, f"benchmark-{name}", found) as part:
            if part is not None:
                part["rows"] = len(open_benchmark(name))
    write_json(output / MANIFEST, found)


@contextmanager
def _once(done: Path, name: str, found: dict[str, Any]) -> Iterator[dict[str, Any] | None]:
    """Yields a mapping for what is to be known of a part, which is kept once the part is complete; None where it was
    complete before."""
    path = done / f"{name}.json"
    if path.is_file():
        found[name] = read_json(path, Settings)
        yield None
        return
    part: dict[str, Any] = {}
    yield part
    write_json(path, part)
    found[name] = part


def _repository(repository: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    name, revision = split_revision(repository["repo"])
    kind = repository.get("type", "model")
    try:
        commit = HfApi().repo_info(name, revision=revision, repo_type=kind).sha
        snapshot_download(name, revision=commit, repo_type=kind, allow_patterns=repository["files"], local_dir=folder)
    except OSError as error:  # those of the hub's client are among them
        raise InputError(f"downloads: {repository['repo']}: {(str(error).splitlines() or ['?'])[0]}") from error
    for published, here in repository.get("names", {}).items():
        if (folder / published).is_file():
            replace_durably(folder / published, folder / here)
    sync(folder)
    return {"repo": repository["repo"], "commit": commit}


def _archive(archive: Mapping[str, Any], folder: Path, file: Path) -> dict[str, Any]:
    """Fetches and unpacks an archive; returns its source and the number of its files."""
    into = path_within(folder, archive["into"])
    into.mkdir(parents=True, exist_ok=True)
    source = archive.get("url") or f"{archive['repo']}/{archive['file']}"
    if "url" in archive:
        fetch(archive["url"], file)
    else:
        name, revision = split_revision(archive["repo"])
        local = hf_hub_download(
            name, archive["file"], revision=revision, repo_type="dataset", local_dir=file.with_suffix(".hub")
        )
        replace_durably(Path(local), file)
    count = unpack_flat(file, into, source) if zipfile.is_zipfile(file) else unpack_folders(file, into, source)
    sync(into)
    file.unlink()
    shutil.rmtree(file.with_suffix(".hub"), ignore_errors=True)
    return {"source": source, "files": count}


def fetch(url: str, file: Path) -> None:
    """Downloads a URL; what an interrupted download left is continued. Raises InputError."""
    if file.is_file():
        return
    if not url.startswith(("http://", "https://")):
        raise InputError(f"archives: {url}: not a URL of http or https")
    partial = file.with_name(f".{file.name}.partial")
    start = partial.stat().st_size if partial.is_file() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as response:  # noqa: S310  # nosec B310 checked above
            if response.status != 206:  # the server sends the whole file
                start = 0
            length = start + int(response.headers.get("Content-Length") or 0)
            title, total = PurePosixPath(url).name, max(1, round(length / _MEGABYTE))
            with partial.open("ab" if start else "wb") as there, progress(title, total, "MB") as shown:
                shown.resume_at(round(start / _MEGABYTE))
                while piece := response.read(_PIECE):
                    there.write(piece)
                    shown.advance(round(there.tell() / _MEGABYTE) - shown.done)
                end = there.tell()
            if end < length:  # a connection that ends early looks like the end of the file
                raise InputError(f"archives: {url}: ended after {end:,} of {length:,} bytes; the same command resumes")
    except HTTPError as error:
        if error.code != 416:  # nothing is left to fetch
            raise InputError(f"archives: {url}: {error.code} {error.reason}") from error
    except (URLError, TimeoutError, ConnectionError) as error:
        raise InputError(f"archives: {url}: {error}; the same command resumes") from error
    replace_durably(partial, file)


def unpack_flat(file: Path, into: Path, source: str) -> int:
    """Unpacks a zip by the names of its files, whatever its folders; returns their number. Raises InputError."""
    try:
        with zipfile.ZipFile(file) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
            with progress(f"unpack {into.name}", len(members), "files") as shown:
                for member in shown.over(members):
                    name = PurePosixPath(member.filename).name
                    check_name(name)
                    with archive.open(member) as content, (into / name).open("wb") as there:
                        shutil.copyfileobj(content, there)
    except (zipfile.BadZipFile, EOFError) as error:
        raise InputError(f"archives: {source}: not a whole zip ({error}); remove {file}") from error
    return len(members)


def unpack_folders(file: Path, into: Path, source: str) -> int:
    """Unpacks a tar; returns the number of its entries. Raises InputError, also for paths that lead out of `into`."""
    try:
        with tarfile.open(file) as archive:
            count = 0
            for member in archive:
                archive.extract(member, into, filter="data")
                count += 1
    except (tarfile.TarError, EOFError, OSError) as error:
        raise InputError(f"archives: {source}: cannot be unpacked ({error}); remove {file}") from error
    return count


def _single_images(questions: Mapping[str, Any], url: str) -> dict[str, Any]:
    """Fetches the images that the sampled questions are about."""
    source = open_source(SynthesizeConfig(Path(), **questions))
    assert isinstance(source, RowSource)  # noqa: S101 as llava makes it
    images = {row.image.name: row.image.read() for row in source.rows if isinstance(row.image, ImageInFolder)}

    def fetch_one(name: str) -> None:
        images[name].parent.mkdir(parents=True, exist_ok=True)
        fetch(f"{url}{name}", images[name])

    with ThreadPoolExecutor(_CONNECTIONS) as pool, progress("images", len(images), "images") as shown:
        for _ in shown.over(pool.map(fetch_one, images)):
            pass
    return {"url": url, "files": len(images)}
