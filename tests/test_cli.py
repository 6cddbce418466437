"""The command line: one-line errors with exit code 2, help texts, lists, recipes, and the lock of a run directory."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import fields
from importlib import metadata

import pytest
from processes import run_selfkd

import selfkd
from selfkd import cli, run_dir
from selfkd.cli import COMMANDS, main, parse_command
from selfkd.errors import InputError
from selfkd.report.build import ReportConfig
from selfkd.run_dir import Run


def test_overview_lists_every_command_in_80_columns(capsys):
    assert main([]) == 0
    text = capsys.readouterr().out
    assert all(f"  {name}" in text for name in COMMANDS)
    assert max(map(len, text.splitlines())) <= 80


def test_version_is_the_same_everywhere(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"selfkd {selfkd.__version__}\n"
    assert metadata.version("selfkd") == selfkd.__version__


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_fields_and_example(name, capsys):
    assert main([*name.split(), "--help"]) == 0
    text = capsys.readouterr().out
    assert "Example:" in text and f"usage: selfkd {name}" in text and "--recipe" in text
    assert max(map(len, text.splitlines())) < 80
    for field in fields(COMMANDS[name].load_config()):
        assert re.search(rf"^  (?:--{field.name}|--no_{field.name})\b", text, re.MULTILINE), field.name
    example = text.partition("Example:\n")[2].partition("\n\n")[0].replace("\\\n", " ")
    assert " ".join(example.split()) == COMMANDS[name].example  # in lines that a shell joins


@pytest.mark.parametrize("group", ["data", "analyze", "mmalign"])
def test_group_lists_its_own_commands(group, capsys):
    for arguments in ([group], [group, "--help"]):
        assert main(arguments) == 0
        listed = re.findall(r"^  (\w+ \w+)  ", capsys.readouterr().out, re.MULTILINE)
        assert listed == [name for name in COMMANDS if name.startswith(f"{group} ")]


@pytest.mark.parametrize("name", COMMANDS)
def test_example_of_each_command_is_valid(name):
    words = shlex.split(COMMANDS[name].example)
    number = len(name.split())
    assert " ".join(words[: number + 1]) == f"selfkd {name}"
    config, stage = parse_command(name, words[number + 1 :])
    assert callable(stage) and config


@pytest.mark.slow
def test_no_help_imports_torch():
    """In one process: the overview, then the help of every command."""
    code = """
import sys
from selfkd.cli import COMMANDS, main
main([])
for name in COMMANDS:
    main([*name.split(), "--help"])
    assert "torch" not in sys.modules, name
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-500:]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["distil"], "unknown command 'distil'; did you mean distill\\? selfkd --help lists"),
        (["xyz"], "unknown command 'xyz'; selfkd --help lists the commands"),
        (["data", "chek", "x"], "unknown command 'data chek'; did you mean data check\\? selfkd data lists"),
        (["align", "--stpes", "3"], "--stpes: no such flag; did you mean --steps\\?"),
        (["align", "--step", "3"], "--step: no such flag; did you mean --steps\\?"),  # no abbreviations
        (["align", "--steps.x", "3"], "--steps.x: no such flag"),
        (["align", "--data", "a", "b"], "'b': a second value after --data; a list has commas: --data a,..."),
        (["align", "--output", "a", "b"], "'b': one value too many after --output"),
        (["align", "x"], "'x': this command takes no positional arguments"),
        (["align", "--data", "--output", "y"], "--data: expected a value, a list of text"),
        (["align", "--steps"], "--steps: expected a value, a whole number"),
        (["align", "--lora.r"], "--lora.r: expected a value"),
        (["align", "--lora", "3"], "lora: '3': expected fields, --NAME.KEY VALUE"),
        (["align", "--steps", "1.5"], "steps: '1.5': expected a whole number"),
        (["align", "--learning_rate", "fast"], "learning_rate: 'fast': expected a number"),
        (["align", "--skip_unusable=maybe"], "skip_unusable: 'maybe': expected true or false"),
        (["align", "--projector", "ctx"], "projector: 'ctx': expected one of ctc, stack; did you mean ctc\\?"),
        (["evaluate", "m", "--modalities", "text,adio"], "'adio': expected some of text, audio, .*mean audio\\?"),
        (["synthesize", "--output", "o", "--rate_wpm", "1"], "rate_wpm: '\\[1\\]': expected 2 values with a comma"),
        (["align", "--output", "{}/run"], "required: data"),
        (["align", "--data", "{}/none", "--output", "{}/run"], "none/manifest.json: not found"),
        (["align", "--data", "x", "--output", "{}/run", "--steps", "many"], "steps"),
        (["data", "check"], "required: data"),
        (["data", "check", "{}/none", "{}/more"], "none/manifest.json: not found"),
        (["data", "publish", "{}/none", "{}/more"], "only one positional argument is allowed, data"),
        (["data", "report", "{}/none", "--output", "{}/r.html"], "none/manifest.json: not found"),
        (["synthesize", "--output", "{}/d", "--voices", "nobody"], "voices: unknown voice 'nobody'"),
        (["synthesize", "--output", "{}/d", "--source", "nowhere"], "source"),
        (["distill", "--data", "x", "--output", "{}/run", "--model", "{}/none"], "model: .*no checkpoint there"),
        (["evaluate", "--model", "{}/none", "--data", "x", "--output", "{}/run"], "model: .*no checkpoint there"),
        (["compare", "{}", "--output", "{}/c"], "runs: .*not a complete evaluation"),
        (["report", "{}", "--output", "{}/r.html"], "runs: .*neither a run directory"),
        (["report", "{}/none", "--output", "{}/r.html"], "runs: .*no such folder"),
        (["synthesize", "--count", "1", "--output", "{}/file"], "file: File exists"),
        (["demo", "--output", "{}/file"], "file/data/train: Not a directory"),
        (["align", "--recipe", "{}/file"], "file: not a recipe in YAML"),
    ],
)
def test_invalid_input_is_one_line_and_exit_code_2(tmp_path, arguments, message, capsys):
    (tmp_path / "file").write_bytes(b"\xff")
    assert main([a.format(tmp_path) for a in arguments]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error) and len(error.splitlines()) == 1, error
    assert not any((tmp_path / name).exists() for name in ("d", "c", "r.html", "run/model", "run/result.json"))


def test_worker_traceback_is_cut_from_the_message(monkeypatch, capsys):
    def stage(_):
        raise InputError("Caught in a worker\nselfkd.errors.InputError: a.parquet: unreadable (no field\nid: string)")

    monkeypatch.setattr(cli, "parse_command", lambda *_: (None, stage))
    assert main(["align"]) == 2
    assert capsys.readouterr().err == "selfkd align: a.parquet: unreadable (no field id: string)\n"


def test_unknown_field_of_a_recipe_is_named(tmp_path, capsys):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("alhpa: 0.5\n")
    assert main(["distill", "--recipe", str(recipe), "--data", "x", "--output", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert "recipe.yaml: 'alhpa': no such field; did you mean alpha?" in error and len(error.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_provenance_ignores_the_git_repository_around_a_virtual_environment(tmp_path, monkeypatch):
    """Installed in .venv of another project, the package is inside a repository that is not its own."""
    (tmp_path / ".venv" / "selfkd").mkdir(parents=True)
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    commit = ["git", "-C", tmp_path, *identity, "commit", "-q", "--allow-empty", "-m", "other project"]
    subprocess.run(commit, check=True)
    (tmp_path / ".venv" / "selfkd" / "run_dir.py").touch()
    monkeypatch.setattr(run_dir, "__file__", str(tmp_path / ".venv" / "selfkd" / "run_dir.py"))
    assert run_dir.provenance()["commit"] == "not from a git checkout"


def test_missing_recipe_is_named(tmp_path, capsys):
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
def test_comma_separated_lists(arguments, field, value):
    words = 2 if arguments[0] == "analyze" else 1
    assert getattr(parse_command(" ".join(arguments[:words]), arguments[words:])[0], field) == value


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], (False, True)),
        (["--dry_run"], (True, True)),
        (["--dry-run", "--no-private"], (True, False)),
        (["--no_private"], (False, False)),
        (["--dry_run", "--no_dry_run", "--private=false"], (False, False)),
        (["--dry_run", "true", "--private", "false"], (True, False)),
    ],
)
def test_booleans_are_flags(arguments, expected):
    config, _ = parse_command("data publish", ["d", *arguments, "--repo", "me/d", "--license", "mit"])
    assert (config.dry_run, config.private) == expected


def test_a_value_may_begin_with_a_minus():
    config, _ = parse_command("align", ["--data", "d", "--output", "o", "--learning_rate", "-1e-3", "--vlm", "-x"])
    assert (config.learning_rate, config.vlm) == (-1e-3, "-x")


def test_keys_of_mappings():
    config, _ = parse_command("align", ["--data=d", "--output=o", "--training.optim", "sgd", "--lora.r=4"])
    assert (config.training, config.lora) == ({"optim": "sgd"}, {"r": 4, "lora_alpha": 32})


@pytest.mark.slow
@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_completes_commands_flags_and_values(shell, tmp_path, capsys):
    pytest.importorskip("shtab")
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell}")
    assert main(["completion", shell]) == 0
    (tmp_path / "completion").write_text(capsys.readouterr().out)
    assert subprocess.run([shell, "-n", tmp_path / "completion"]).returncode == 0
    if shell == "zsh":  # completes in an interactive shell only
        return
    code = f'source {tmp_path}/completion; COMP_CWORD=$(($# - 1)); COMP_WORDS=("$@"); _shtab_selfkd; '
    code += 'printf "%s\\n" "${COMPREPLY[@]}"'

    def completed(*words: str) -> set[str]:
        ended = subprocess.run(["bash", "-c", code, "bash", *words], capture_output=True, text=True, cwd=tmp_path)
        return set(ended.stdout.split())

    assert completed("selfkd", "") >= {name.split()[0] for name in COMMANDS}
    assert completed("selfkd", "data", "") == {"check", "report", "publish"}
    assert completed("selfkd", "align", "--proj") == {"--projector", "--projector_learning_rate"}
    assert completed("selfkd", "align", "--projector", "") == {"ctc", "stack"}
    assert completed("selfkd", "data", "check", "comp") == {"completion"}  # a file


def test_recipe_lists_and_overrides(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("runs: [1, 2026-01-01]\nintro: 'One, two: é'\noutput: there\ntitle: of the recipe\n")
    for arguments in (["--title", "mine", "--recipe", str(recipe)], [f"--recipe={recipe}", "--title=mine"]):
        config, _ = parse_command("report", arguments)
        assert (config.runs, config.intro, config.title) == (["1", "2026-01-01"], ["One, two: é"], "mine")
    assert parse_command("report", ["3", "--recipe", str(recipe)])[0].runs == ["3"]
    recipe.write_text("models: m\ndata: a,b\noutput: o\nmap_layers: 3\n")
    config, _ = parse_command("analyze attention", ["--recipe", str(recipe)])
    assert (config.models, config.data, config.map_layers) == (["m"], ["a", "b"], [3])
    for text, message in (("runs: {a: b}\noutput: o", "runs"), ("runs: [[a]]", "runs"), ("[", "recip"), ("3", "recip")):
        recipe.write_text(text)
        with pytest.raises(InputError, match=message):
            parse_command("report", ["--recipe", str(recipe)])
    with pytest.raises(InputError, match="recipe"):
        parse_command("report", ["a", "--recipe"])


def test_run_directory_in_use_is_refused(tmp_path):
    config = ReportConfig([], tmp_path / "run")
    to_child, to_parent = os.pipe(), os.pipe()
    child = os.fork()  # the lock belongs to a process
    if child == 0:
        with Run.open(tmp_path / "run", "report", config):
            os.write(to_parent[1], b"locked")
            os.read(to_child[0], 1)
        os._exit(0)
    assert os.read(to_parent[0], 6) == b"locked"
    with pytest.raises(InputError, match="in use by another process"), Run.open(tmp_path / "run", "report", config):
        pass
    os.write(to_child[1], b"x")
    assert os.waitpid(child, 0)[1] == 0
    with Run.open(tmp_path / "run", "report", config):
        pass


def test_run_resumes_after_a_full_disk(tmp_path, monkeypatch):
    config = ReportConfig([], tmp_path / "run")
    writes = [run_dir.write_json, lambda *_, **__: (_ for _ in ()).throw(OSError(28, "no space left"))]
    monkeypatch.setattr(run_dir, "write_json", lambda *given, **named: writes.pop(0)(*given, **named))
    with pytest.raises(OSError, match="no space left"), Run.open(tmp_path / "run", "report", config):
        pass
    monkeypatch.undo()
    with Run.open(tmp_path / "run", "report", config) as run:
        run_dir.append_log(run.folder, {"step": 1})
        with (run.folder / run_dir.LOG).open("a") as log:
            log.write('{"step": 2, "lo')
        run_dir.append_log(run.folder, {"step": 2})
    assert run_dir.read_log(tmp_path / "run") == [{"step": 1}, {"step": 2}]


def test_debug_shows_the_traceback(tmp_path):
    arguments = ("align", "--data", tmp_path / "none", "--output", tmp_path / "run")
    assert "Traceback" not in run_selfkd(*arguments).stderr
    shown = run_selfkd(*arguments, "--debug")
    assert "Traceback" in shown.stderr and "InputError" in shown.stderr


def test_a_list_that_is_repeated_adds_to_it():
    arguments = ["m", "--data", "a=x", "--limit", "3", "--data=b=y,c=z", "--modalities", "text", "--data", ""]
    config = parse_command("evaluate", arguments)[0]
    assert config.data == ["a=x", "b=y", "c=z"] and config.limit == 3 and config.modalities == ["text"]
    assert parse_command("evaluate", ["m", "--data", "", "--data", "a"])[0].data == ["a"]
