"""What can be typed, what help says of it, and that neither waits for Django."""

import re
import runpy
import shlex
import subprocess
import sys

import pytest
from django.core.management import get_commands

from imagegen_project.cli.exits import MEANINGS, Exit
from imagegen_project.cli.main import main
from imagegen_project.cli.parser import EXAMPLES, SERVICE_COMMANDS, parser_make
from imagegen_project.telemetry.logs import process_name


@pytest.mark.parametrize("example", [example for examples in EXAMPLES.values() for example in examples])
def test_the_examples_of_help_can_be_typed(example: str) -> None:
    program, *arguments = shlex.split(example)
    assert program == "imagegen"
    assert parser_make().parse_args(arguments).command == arguments[0]


def test_help_names_every_command_and_exit_status(capsys: pytest.CaptureFixture[str]) -> None:
    """And Django's own forty not."""
    with pytest.raises(SystemExit):
        main(["--help"])
    said = capsys.readouterr().out
    for name in (*EXAMPLES, *SERVICE_COMMANDS, "completion", "manage"):
        assert re.search(rf"^  {name}[ ,]|, {name} ", said, flags=re.MULTILINE), name
    assert {int(number) for number in re.findall(r"^ +(\d+)  ", said, flags=re.MULTILINE)} == set(Exit)
    assert set(MEANINGS) == set(Exit)
    assert "sqlsequencereset" not in said


def test_help_says_that_a_token_is_a_users(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["tokens", "create", "--help"])
    assert re.search(
        r"^  USER +whose; .*made where there is none$", capsys.readouterr().out, flags=re.MULTILINE
    )


@pytest.mark.parametrize(
    "name", ["generate", "demo", "standalone", "tell-schedulers", "prefetch-models", "create-superuser"]
)
def test_help_calls_a_command_as_it_is_typed(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["imagegen"])
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == Exit.DONE
    assert capsys.readouterr().out.startswith(f"usage: imagegen {name} [-h] ")


def test_a_service_command_says_what_kept_it_from_its_end(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the others do, and with the exit status of what cannot be."""
    monkeypatch.setattr(sys, "argv", ["imagegen"])
    assert main(["sweep", "--dry-run", "--skip-checks"]) == Exit.USAGE
    assert capsys.readouterr().err.startswith("imagegen: --dry-run says")


def test_a_command_is_not_taken_for_the_web_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither where it is called as a module, as `make install` has it."""
    monkeypatch.setattr(sys, "argv", ["/srv/imagegen_project/__main__.py", "status", "--help"])
    with pytest.raises(SystemExit):
        runpy.run_module("imagegen_project", run_name="__main__")
    assert process_name() == "status"


def test_service_commands_are_djangos() -> None:
    assert {command for command, _ in SERVICE_COMMANDS.values()} <= set(get_commands())


@pytest.mark.parametrize(
    "arguments",
    [
        ["generate"],
        ["generate", "x", "--size", "large"],
        ["nonsense"],
        ["tokens"],
        ["generate", "x", "--seed", "a"],
    ],
)
def test_what_cannot_be_understood_is_a_usage_error(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == Exit.USAGE
    assert "usage: imagegen" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [["--help"], ["generate", "--help"], ["completion", "bash"], ["--version"]]
)
def test_help_and_completion_import_neither_django_nor_settings(arguments: list[str]) -> None:
    program = f"""
import sys
from imagegen_project.cli.main import main
try:
    main({arguments!r})
finally:
    slow = {{"django", "environs", "torch", "websockets", "tqdm"}} & set(sys.modules)
    assert not slow, slow
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "imagegen" in done.stdout or done.stdout[0].isdigit()


def test_shells_complete_commands_and_options() -> None:
    """As bash asks: the line so far in a variable, candidates by file descriptor 8."""
    asked = {
        "COMP_LINE": "imagegen tokens re",
        "COMP_POINT": "18",
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_IFS": "\n",
    }
    script = f"exec 8>&1 9>/dev/null; exec {shlex.quote(sys.executable)} -m imagegen_project"
    done = subprocess.run(["bash", "-c", script], env=asked, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "revoke", done.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["--url", "http://127.0.0.1:9"], Exit.UNREACHABLE, "imagegen demo"),
        (["--url", "ftp://127.0.0.1"], Exit.USAGE, "is no address"),
    ],
)
def test_what_keeps_a_command_from_it_is_said_with_a_way_on(
    arguments: list[str], status: Exit, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["models", *arguments]) == status
    assert said in capsys.readouterr().err


def test_with_json_errors_are_json_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--json", "--url", "http://127.0.0.1:9"]) == Exit.UNREACHABLE
    assert '"code": "unreachable"' in capsys.readouterr().out
