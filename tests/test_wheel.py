"""The wheel, in an environment that has nothing of this checkout: it holds the package alone, and runs."""

import os
import re
import shlex
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path
from shutil import copytree, ignore_patterns

import pytest

import selfkd

ROOT = Path(__file__).parents[1]
QUICK_FORM = re.compile(r"^selfkd (demo .*--test_share \S+) --output \S+$", re.MULTILINE)

pytestmark = pytest.mark.slow


def run(*command: object, cwd: Path, timeout: int = 900) -> str:
    """Standard output of a command that sees neither this checkout nor what the caller's environment adds."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment["OMP_NUM_THREADS"] = "1"  # two threads would spin against the other tests
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of a copy of the checkout: building writes into its folder."""
    source = tmp_path_factory.mktemp("source") / "selfkd"
    source.mkdir()
    ignored = ignore_patterns("__pycache__", "*.egg-info", "records")
    for name in ("selfkd", "tools", "tests", "experiments"):
        copytree(ROOT / name, source / name, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        (source / name).write_bytes((ROOT / name).read_bytes())
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", source / "dist", source, cwd=source)
    (file,) = (source / "dist").iterdir()
    return file


@pytest.fixture(scope="module")
def bin_folder(wheel, tmp_path_factory):
    """Commands of an environment with the wheel, and with this environment's packages but for the editable selfkd."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    environment_python = folder / "bin" / "python"
    install = ["install", "--quiet", "--no-deps", "--no-index", "--disable-pip-version-check", wheel]
    run(sys.executable, "-m", "pip", "--python", environment_python, *install, cwd=folder)
    (packages,) = folder.glob("lib/python*/site-packages")
    # only a folder of `site` has its .pth files read, so the editable install of this checkout is not found
    (packages / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n{sysconfig.get_path('platlib')}\n")
    return environment_python.parent


def test_wheel_holds_the_package_and_its_data_only(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0] for name in names} == {"selfkd", f"selfkd-{selfkd.__version__}.dist-info"}
    tracked = subprocess.run(["git", "ls-files", "selfkd"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    assert not [name for name in tracked if name not in names], "files of the package that the wheel lacks"


def test_wheel_runs_the_demo_in_an_empty_folder(bin_folder, tmp_path):
    where = run(bin_folder / "python", "-c", "import selfkd; print(selfkd.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(bin_folder.parent)
    assert selfkd.__version__ in run(bin_folder / "selfkd", "--version", cwd=tmp_path)
    (quick,) = QUICK_FORM.findall((ROOT / "docs" / "commands" / "demo.md").read_text())
    output = run(bin_folder / "selfkd", *shlex.split(quick), "--output", "demo", cwd=tmp_path)
    assert "Report:" in output and (tmp_path / "demo" / "report.html").stat().st_size > 100_000
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]
