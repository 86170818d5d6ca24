"""Brings the browser's libraries into the repository, from npm's own archives, and notes what they are.

`imagegen_project/static/vendor/manifest.json` names each package with its version and licence, and each file with its
place in the package and its SHA-256. `python -m scripts.vendor` fetches all of them anew at the versions that stand
there (with `npm pack`, which runs none of their scripts); `python -m scripts.vendor htm@3.1.1` moves one to a version.
"""

import argparse
import hashlib
import json
import re
import subprocess
import sys
import tarfile
import tempfile
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
MANIFEST = REPOSITORY / "imagegen_project" / "static" / "vendor" / "manifest.json"
SPEC = re.compile(r"(?P<name>(?:@[a-z0-9-]+/)?[a-z0-9.-]+)@(?P<version>[0-9]+(?:\.[0-9]+){2})")
SVG = "http://www.w3.org/2000/svg"


def archive(*, name: str, version: str, folder: Path) -> Path:
    """A package's archive, from the registry that npm is set to. Raises CalledProcessError."""
    command = ["npm", "pack", "--silent", "--ignore-scripts", f"{name}@{version}"]
    answer = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    return folder / answer.stdout.split()[-1]


def member(package: tarfile.TarFile, path: str) -> bytes:
    """A file of a package. Raises KeyError where it has none of that name."""
    found = package.extractfile(f"package/{path}")
    if found is None:
        raise KeyError(path)
    return found.read()


def sprite(package: tarfile.TarFile, icons: list[str]) -> bytes:
    """Icons as the symbols of one SVG, which pages show with `<use href="….svg#name">`."""
    ET.register_namespace("", SVG)
    root = ET.Element(f"{{{SVG}}}svg")
    for name in sorted(icons):
        # What npm's archive holds is trusted as far as the scripts beside it are.
        icon = ET.fromstring(member(package, f"icons/{name}.svg"))  # noqa: S314
        symbol = ET.SubElement(root, f"{{{SVG}}}symbol", {"id": name, "viewBox": icon.attrib["viewBox"]})
        symbol.extend(icon)
        for element in symbol.iter():
            element.text = element.tail = None
    return ET.tostring(root) + b"\n"


def renew(entry: dict[str, Any]) -> None:
    """Writes the files of one package, and notes what they are."""
    with tempfile.TemporaryDirectory() as folder:
        found = archive(name=entry["name"], version=entry["version"], folder=Path(folder))
        with tarfile.open(found) as package:
            entry["licence"] = json.loads(member(package, "package.json"))["license"]
            for file in entry["files"]:
                data = sprite(package, file["icons"]) if "icons" in file else member(package, file["from"])
                target = REPOSITORY / file["path"]
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(data)
                file["sha256"] = hashlib.sha256(data).hexdigest()
    sys.stdout.write(f"{entry['name']} {entry['version']} ({entry['licence']})\n")


def main() -> None:
    """Renews every package, or moves those that are named to a version."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("specs", nargs="*", metavar="NAME@VERSION", help="what to move (default: renew all)")
    wanted = {}
    for spec in parser.parse_args().specs:
        match = SPEC.fullmatch(spec)
        if match is None:
            parser.error(f"{spec} is no NAME@VERSION such as htm@3.1.1")
        wanted[match["name"]] = match["version"]
    manifest = json.loads(MANIFEST.read_text())
    if unknown := wanted.keys() - {entry["name"] for entry in manifest}:
        parser.error(f"the manifest has no {', '.join(sorted(unknown))}: write its entry first")
    for entry in manifest:
        entry["version"] = wanted.get(entry["name"], entry["version"])
        if not wanted or entry["name"] in wanted:
            renew(entry)
            MANIFEST.write_text(json.dumps(manifest, indent=2) + "\n")


if __name__ == "__main__":
    main()
