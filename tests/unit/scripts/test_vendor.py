"""The browser's libraries are those that the manifest names."""

import gzip
import hashlib
import json
from pathlib import Path

import pytest

from scripts import vendor
from scripts.vendor import MANIFEST, REPOSITORY

ENTRIES = json.loads(MANIFEST.read_text())
FILES = {file["path"]: file for entry in ENTRIES for file in entry["files"]}
# Compressed; a new version of a library that is much larger wants a second thought.
MOST_BYTES = 30_000


def test_every_file_is_what_the_manifest_says() -> None:
    """Nobody has changed one by hand."""
    sums = {path: hashlib.sha256((REPOSITORY / path).read_bytes()).hexdigest() for path in FILES}
    assert sums == {path: file["sha256"] for path, file in FILES.items()}


def test_every_file_of_the_folders_is_in_the_manifest() -> None:
    folders = (MANIFEST.parent, REPOSITORY / "tests" / "browser" / "vendor")
    present = {file for folder in folders for file in folder.rglob("*") if file.is_file()} - {MANIFEST}
    ours = {file for file in present if file.name.endswith(".d.ts")}
    assert {str(file.relative_to(REPOSITORY)) for file in present - ours} == set(FILES)


def test_every_package_has_a_version_and_a_licence_that_allows_it() -> None:
    for entry in ENTRIES:
        assert vendor.SPEC.fullmatch(f"{entry['name']}@{entry['version']}"), entry
        assert entry["licence"] in ("MIT", "ISC", "Apache-2.0", "MPL-2.0"), entry


def test_libraries_stay_small() -> None:
    """What pages load."""
    for path in FILES:
        if path.startswith("imagegen_project/"):
            assert len(gzip.compress((REPOSITORY / path).read_bytes())) <= MOST_BYTES, path


def test_only_what_the_manifest_has_is_fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A name that was mistyped installs nothing."""
    monkeypatch.setattr("sys.argv", ["vendor", "htmm@3.1.1"])
    with pytest.raises(SystemExit):
        vendor.main()
