"""Every block of commands in the documents does what it says, pasted in order into a shell in a clean folder."""

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.documents import NEEDS, REPOSITORY, Block, blocks
from tests.support.live import Live
from tests.support.service import SAFETY_S, environment

RUN = [block for block in blocks() if not block.need]


def test_every_block_is_run_or_says_what_it_needs() -> None:
    """And CONTRIBUTING.md lists what those need that are not run here."""
    assert {block.need for block in blocks()} <= {"", *NEEDS}
    listed = (REPOSITORY / "CONTRIBUTING.md").read_text()
    assert all(f"`{need}`" in listed for need in NEEDS)


def script(written: list[Block], port: int) -> str:
    """A document's blocks as one shell session, which ends at the first command that fails and says where."""
    lines = ["set -euo pipefail"]
    for block in written:
        text = block.text.replace("8000", str(port))
        lines.append(f"echo {shlex.quote(f'== {block.document}:{block.line}')} >&2")
        lines.append(text if block.language == "sh" else f"python3 - <<'END_OF_BLOCK'\n{text}END_OF_BLOCK")
    return "\n".join(lines)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("document", sorted({block.document for block in RUN}))
def test_the_blocks_of_a_document_run(document: str, live: Live, tmp_path: Path) -> None:
    """As after `make install` and `imagegen demo` in this folder."""
    bin_folder = tmp_path / ".venv" / "bin"
    bin_folder.mkdir(parents=True)
    for name, module in (("imagegen", "-m imagegen_project"), ("python", ""), ("python3", "")):
        program = bin_folder / name
        program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {module} "$@"\n')
        program.chmod(0o755)
    (tmp_path / ".imagegen").symlink_to(live.service.data_dir)
    variables = environment()
    done = subprocess.run(
        ["bash", "-c", script([block for block in RUN if block.document == document], live.service.port)],
        cwd=tmp_path,
        env=variables
        | {
            "PATH": f"{bin_folder}:{variables['PATH']}",
            "PYTHONPATH": str(REPOSITORY),
            # As root it is elsewhere by default.
            "DATA_DIR": str(tmp_path / ".imagegen"),
            "NO_PROXY": "127.0.0.1",
        },
        capture_output=True,
        text=True,
        timeout=3 * SAFETY_S,  # a document is a dozen commands
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
