"""The command line as a user meets it: one clear line for bad input, exit code 2, nothing half-written."""

import re
import subprocess
import sys
from importlib import metadata

import pytest

import selfkd
from selfkd import cli
from selfkd import run_dir as runs
from selfkd.cli import COMMANDS, main, parsed
from selfkd.errors import InputError
from selfkd.report.build import ReportConfig
from selfkd.run_dir import Run


def run(*arguments, timeout=120):
    command = [sys.executable, "-m", "selfkd.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout)


def test_overview_names_every_command_and_fits_the_window(capsys):
    assert main([]) == 0
    text = capsys.readouterr().out
    assert all(f"  {name}" in text for name in COMMANDS)
    assert max(map(len, text.splitlines())) <= 80


def test_version_is_told_alike_everywhere(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"selfkd {selfkd.__version__}\n"
    assert metadata.version("selfkd") == selfkd.__version__


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_fields_and_an_example(name, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*name.split(), "--help"])
    text = capsys.readouterr().out
    assert stop.value.code == 0 and "Example:" in text and f"selfkd {name}" in text and "--recipe" in text


def test_overview_and_report_import_no_torch():
    code = "import sys; from selfkd.cli import main; from selfkd.cli import COMMANDS; main([])"
    code += "; COMMANDS['report'].load(); COMMANDS['data report'].load(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["distil"], "no command 'distil'"),
        (["align", "--output", "{}/run"], "required: data"),
        (["align", "--data", "{}/none", "--output", "{}/run"], "none/manifest.json: not found"),
        (["align", "--data", "x", "--output", "{}/run", "--steps", "many"], "steps"),
        (["data", "check"], "required: data"),
        (["data", "check", "{}/none", "{}/more"], "none/manifest.json: not found"),
        (["data", "publish", "{}/none", "{}/more"], "only data may stand without its name"),
        (["data", "report", "{}/none", "--output", "{}/r.html"], "none/manifest.json: not found"),
        (["synthesize", "--output", "{}/d", "--voices", "nobody"], "voices: unknown voice 'nobody'"),
        (["synthesize", "--output", "{}/d", "--source", "nowhere"], "source"),
        (["distill", "--data", "x", "--output", "{}/run", "--model", "{}/none"], "model: .*no checkpoint there"),
        (["evaluate", "--model", "{}/none", "--data", "x", "--output", "{}/run"], "model: .*no checkpoint there"),
        (["compare", "{}", "--output", "{}/c"], "runs: .*not a complete evaluation"),
        (["report", "{}", "--output", "{}/r.html"], "runs: .*neither a run directory"),
        (["report", "{}/none", "--output", "{}/r.html"], "runs: .*no such folder"),
        (["synthesize", "--count", "1", "--output", "{}/file"], "file: File exists"),
        (["demo", "--output", "{}/file"], "file/data/words: Not a directory"),
        (["align", "--recipe", "{}/file"], "file or on the command line"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(tmp_path, arguments, message, capsys):
    (tmp_path / "file").write_bytes(b"\xff")
    assert main([a.format(tmp_path) for a in arguments]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error) and len(error.splitlines()) == 1, error
    assert not any((tmp_path / name).exists() for name in ("d", "c", "r.html", "run/model", "run/result.json"))


def test_a_message_of_several_lines_keeps_the_first(monkeypatch, capsys):
    def stage(_):
        raise InputError("Caught in a worker\nselfkd.errors.InputError: a.parquet: unreadable (no field\nid: string)")

    monkeypatch.setattr(cli, "parsed", lambda *_: (None, stage))
    assert main(["align"]) == 2
    assert capsys.readouterr().err == "selfkd align: a.parquet: unreadable (no field id: string)\n"


def test_a_wrong_field_in_a_recipe_is_named(tmp_path, capsys):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("alhpa: 0.5\n")
    assert main(["distill", "--recipe", str(recipe), "--data", "x", "--output", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert "alhpa" in error and "recipe.yaml" in error and len(error.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_the_commit_of_a_run_is_this_packages_own(tmp_path, monkeypatch):
    """Installed into somebody's project, the package lies in a repository that is not its own."""
    (tmp_path / ".venv" / "selfkd").mkdir(parents=True)
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    commit = ["git", "-C", tmp_path, *identity, "commit", "-q", "--allow-empty", "-m", "theirs"]
    subprocess.run(commit, check=True)
    (tmp_path / ".venv" / "selfkd" / "run_dir.py").touch()
    monkeypatch.setattr(runs, "__file__", str(tmp_path / ".venv" / "selfkd" / "run_dir.py"))
    assert runs.provenance()["commit"] == "not from a git checkout"


def test_a_recipe_that_is_not_there_is_named(tmp_path, capsys):
    assert main(["distill", "--recipe", str(tmp_path / "none.yaml")]) == 2
    assert "none.yaml" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "field", "value"),
    [
        (["evaluate", "m", "--modalities=text", "--output", "o"], "modalities", ["text"]),
        (["evaluate", "m", "--data=a,b=c", "--output=o"], "data", ["a", "b=c"]),
        (["evaluate", "m", "--data", "[a, b]", "--output", "o"], "data", ["a", "b"]),
        (["evaluate", "m", "--data", "null,é😀", "--output", "o"], "data", ["null", "é😀"]),
        (["report", "1", "2e3", "--output", "o"], "runs", ["1", "2e3"]),
        (["report", "a", "--output", "o", "--intro", "See: one, two"], "intro", ["See: one, two"]),
        (["report", "a", "--output", "o", "--intro", "[a, b] is a pair"], "intro", ["[a, b] is a pair"]),
        (["analyze", "attention", "a", "--data=d", "--output", "o", "--map_layers=1,2"], "map_layers", [1, 2]),
        (["synthesize", "--output", "o", "--rate_wpm", "150,200"], "rate_wpm", (150, 200)),
        (["synthesize", "--output", "o", "--noise_snr_db", "0,7.5"], "noise_snr_db", (0.0, 7.5)),
    ],
)
def test_lists_are_written_with_commas(arguments, field, value):
    words = 2 if arguments[0] == "analyze" else 1
    assert getattr(parsed(" ".join(arguments[:words]), arguments[words:])[0], field) == value


def test_a_recipe_writes_lists_as_the_command_line_does_and_is_overridden_by_it(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("runs: [1, 2026-01-01]\nintro: 'One, two: é'\noutput: there\ntitle: theirs\n")
    for arguments in (["--title", "mine", "--recipe", str(recipe)], [f"--recipe={recipe}", "--title=mine"]):
        config, _ = parsed("report", arguments)
        assert (config.runs, config.intro, config.title) == (["1", "2026-01-01"], ["One, two: é"], "mine")
    assert parsed("report", ["3", "--recipe", str(recipe)])[0].runs == ["3"]
    recipe.write_text("models: m\ndata: a,b\noutput: o\nmap_layers: 3\n")
    config, _ = parsed("analyze attention", ["--recipe", str(recipe)])
    assert (config.models, config.data, config.map_layers) == (["m"], ["a", "b"], [3])
    for text, message in (("runs: {a: b}\noutput: o", "runs"), ("runs: [[a]]", "runs"), ("[", "recip"), ("3", "recip")):
        recipe.write_text(text)
        with pytest.raises(InputError, match=message):
            parsed("report", ["--recipe", str(recipe)])
    with pytest.raises(InputError, match="recipe"):
        parsed("report", ["a", "--recipe"])


def test_a_run_directory_in_use_is_refused(tmp_path):
    config = ReportConfig([], tmp_path / "run")
    holder = (
        "import sys; from pathlib import Path\n"
        "from selfkd.report.build import ReportConfig; from selfkd.run_dir import Run\n"
        "folder = Path(sys.argv[1])\n"
        "with Run.open(folder / 'run', 'report', ReportConfig([], folder / 'run')):\n"
        "    print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", holder, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "held\n"
        with (
            pytest.raises(InputError, match="in use by another process"),
            Run.open(tmp_path / "run", "report", config),
        ):
            pass
        process.stdin.close()
    with Run.open(tmp_path / "run", "report", config):
        pass


def test_a_full_disk_leaves_a_run_that_can_be_gone_on_with(tmp_path, monkeypatch):
    config = ReportConfig([], tmp_path / "run")
    written = [runs.write_json, lambda *_: (_ for _ in ()).throw(OSError(28, "no room"))]
    monkeypatch.setattr(runs, "write_json", lambda *given: written.pop(0)(*given))
    with pytest.raises(OSError, match="no room"), Run.open(tmp_path / "run", "report", config):
        pass
    monkeypatch.undo()
    with Run.open(tmp_path / "run", "report", config) as run:
        runs.append_log(run.folder, {"step": 1})
        with (run.folder / runs.LOG).open("a") as log:
            log.write('{"step": 2, "lo')
        runs.append_log(run.folder, {"step": 2})
    assert runs.read_log(tmp_path / "run") == [{"step": 1}, {"step": 2}]


def test_debug_shows_the_traceback(tmp_path):
    arguments = ("align", "--data", tmp_path / "none", "--output", tmp_path / "run")
    assert "Traceback" not in run(*arguments).stderr
    shown = run(*arguments, "--debug")
    assert "Traceback" in shown.stderr and "InputError" in shown.stderr
