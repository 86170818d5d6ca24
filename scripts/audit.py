"""Asks PyPI's list of known holes about every locked package, by pip-audit.

pip-audit takes a package that it cannot find for one without holes. So what was really asked is counted here: where
no answer came at all, the audit is skipped and says so; a finding fails it.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from scripts.locks import REPOSITORY, lock_path

AUDITED = ("dev", "torch-cuda", "quantized")
# What requests and urllib3 say where there is no way to PyPI.
NO_NETWORK = (
    "ConnectionError",
    "Could not connect",
    "NewConnectionError",
    "NameResolutionError",
    "ProxyError",
)


@dataclass(frozen=True)
class Verdict:
    """What to print, and whether the audit passes."""

    text: str
    passed: bool


def verdict(*, stdout: str, stderr: str) -> Verdict:
    """What pip-audit's JSON and its complaints mean."""
    try:
        dependencies = json.loads(stdout)["dependencies"]
    except (ValueError, KeyError):
        if any(sign in stderr for sign in NO_NETWORK):
            return Verdict("no network: skipped. Nothing was audited.", passed=True)
        return Verdict(f"pip-audit failed:\n{stderr.strip()}", passed=False)
    asked = [each for each in dependencies if "skip_reason" not in each]
    unknown = [each["name"] for each in dependencies if "skip_reason" in each]
    if not asked:
        return Verdict("no network: skipped. PyPI's list of holes answered for no package.", passed=True)
    lines = [
        f"{each['name']} {each['version']}: {hole['id']}, mended in {', '.join(hole['fix_versions']) or 'no version'}"
        for each in asked
        for hole in each["vulns"]
    ]
    passed = not lines
    lines.append(f"{len(asked)} packages audited, {len(lines)} holes known.")
    if unknown:
        lines.append(f"Not audited, since PyPI does not know them: {', '.join(unknown)}.")
    return Verdict("\n".join(lines), passed=passed)


def main(arguments: Sequence[str]) -> int:
    """Runs pip-audit over the locks, with further options for it."""
    command = [
        sys.executable,
        "-m",
        "pip_audit",
        "--format",
        "json",
        "--progress-spinner",
        "off",
        "--desc",
        "off",
    ]
    command += ["--disable-pip", "--require-hashes", *arguments]
    for name in AUDITED:
        command += ["--requirement", str(lock_path(name, root=REPOSITORY))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = verdict(stdout=done.stdout, stderr=done.stderr)
    sys.stdout.write(f"{found.text}\n")
    return 0 if found.passed else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
