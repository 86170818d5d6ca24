"""Writes `docs/settings.md` and `.env.example` from `imagegen_project/env.py`, or checks that they fit it.

`python -m scripts.settings write` after a change of a setting; `check` needs nothing but Python, and ends with 1 if a
document is out of date. In `env.py`, `# --- Title ---` begins a section; the `#:` lines above a variable explain it.
"""

import argparse
import ast
import re
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
SOURCE = REPOSITORY / "imagegen_project" / "env.py"
DOCUMENT = REPOSITORY / "docs" / "settings.md"
EXAMPLE = REPOSITORY / ".env.example"

# What the folder of an ordinary user is called in documents.
_NAMES = {"_DEFAULT_DATA_DIR": ".imagegen"}

_HEAD = """# Settings

Environment variables, or lines of a `.env` file in the working folder; `.env.example` has them all. Each has a default
that works on a laptop. Made from `imagegen_project/env.py` by `python -m scripts.settings write`.
"""
_FOOT = """
## Secrets in files

{names} name files that hold what the variables would.
"""


@dataclass(frozen=True)
class Setting:
    """One environment variable: its section, default as one would write it, sentence, and whether it is a secret."""

    section: str
    name: str
    default: str
    sentence: str
    is_secret: bool


def settings_read(source: str) -> list[Setting]:
    """The settings of `env.py`, in its order. Raises ValueError for one without a sentence."""
    lines = source.splitlines()
    found: list[Setting] = []
    names = dict(_NAMES)
    for node in ast.parse(source).body:
        if not isinstance(node, ast.AnnAssign) or node.value is None:
            continue
        call = next(
            (call for call in ast.walk(node.value) if isinstance(call, ast.Call) and _reads(call)), None
        )
        if call is None:
            continue
        name = _text(call.args[0])
        default = _shown(call.args[1], names) if len(call.args) > 1 else ""
        names[ast.unparse(node.target)] = default
        sentence = _sentence(lines, node.lineno - 1)
        if not sentence.endswith((".", ":")):
            message = f"{name} has no sentence in `#:` lines above it."
            raise ValueError(message)
        secret = isinstance(call.func, ast.Name)
        found.append(Setting(_section(lines, node.lineno - 1), name, default, sentence, secret))
    return found


def _reads(call: ast.Call) -> bool:
    """Whether a call reads an environment variable."""
    return bool(re.match(r"(_env\.\w+|_secret)$", ast.unparse(call.func)))


def _text(node: ast.expr) -> str:
    return str(ast.literal_eval(node))


def _shown(node: ast.expr, names: dict[str, str]) -> str:
    """A default as one would write it."""
    match node:
        case ast.Constant(value=bool(value)):
            return str(value).lower()
        case ast.Constant(value=float(value)):
            return f"{value:.12g}"
        case ast.Constant(value=value):
            return str(value)
        case ast.List(elts=items):
            return ",".join(_text(item) for item in items)
        case ast.BinOp(left=left, right=right):
            return f"{_shown(left, names)}/{_text(right)}"
    return names[ast.unparse(node)]


def _sentence(lines: list[str], index: int) -> str:
    """The `#:` lines above a line, as one."""
    first = index
    while lines[first - 1].startswith("#:"):
        first -= 1
    return " ".join(line.removeprefix("#:").strip() for line in lines[first:index])


def _section(lines: list[str], index: int) -> str:
    for line in reversed(lines[:index]):
        if title := re.fullmatch(r"# --- (.+) ---", line):
            return title[1]
    return ""


def document(settings: list[Setting]) -> str:
    """The page of all settings."""
    parts = [_HEAD]
    section = None
    for setting in settings:
        if setting.section != section:
            section = setting.section
            parts.append(f"\n## {section}\n\n| variable | default | meaning |\n| --- | --- | --- |\n")
        default = f"`{setting.default}`" if setting.default else "empty"
        parts.append(f"| `{setting.name}` | {default} | {setting.sentence} |\n")
    names = [f"`{setting.name}_FILE`" for setting in settings if setting.is_secret]
    listed = f"{', '.join(names[:-1])} and {names[-1]}"
    return "".join(parts) + "\n".join(
        textwrap.fill(line, 120, break_on_hyphens=False) for line in _FOOT.format(names=listed).split("\n")
    )


def example(settings: list[Setting]) -> str:
    """A `.env` file that changes nothing as it is."""
    lines = [
        "# Copy to .env and change what you need; every line that is not set keeps the default shown here."
    ]
    section = None
    for setting in settings:
        if setting.section != section:
            section = setting.section
            lines += ["", f"# --- {section} ---"]
        lines += [f"# {setting.sentence}", f"# {setting.name}={setting.default}"]
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="scripts.settings", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("action", choices=("write", "check"))
    action = parser.parse_args(arguments).action
    settings = settings_read(SOURCE.read_text(encoding="utf-8"))
    made = {DOCUMENT: document(settings), EXAMPLE: example(settings)}
    old = [
        path for path, text in made.items() if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    names = ", ".join(str(path.relative_to(REPOSITORY)) for path in old)
    if action == "write":
        for path in old:
            path.write_text(made[path], encoding="utf-8")
        sys.stdout.write(f"Written: {names or 'nothing, all fit'}.\n")
        return 0
    if old:
        sys.stderr.write(f"Out of date: {names}. Run `python -m scripts.settings write`.\n")
    return int(bool(old))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
