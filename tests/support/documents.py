"""The blocks of commands in the documents, and what each needs."""

import re
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
DOCUMENTS = (
    "README.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "API_REFERENCE.md",
    "docs/*.md",
    "deploy/kubernetes/README.md",
    "models_registry/builtin/weights/README.md",
)
# The word behind the fence's language says where a block can be run; without one it is run by the tests.
NEEDS = {
    "install": "installs: run by `make test-install`",
    "development": "what `.ci/run` does itself, or a developer's tool",
    "network": "the Hugging Face Hub",
    "docker": "Docker",
    "kubernetes": "a cluster",
}
# A fence's language, word, and text; what is in another language shows, and is not run.
_FENCE = re.compile(r"^```(\w+)(?: (\w+))?\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
_RUN = ("sh", "python")


@dataclass(frozen=True)
class Block:
    """One block of commands."""

    document: str
    line: int
    language: str
    need: str
    text: str


def blocks() -> list[Block]:
    """Every block of commands in every document."""
    found = []
    for pattern in DOCUMENTS:
        for path in sorted(REPOSITORY.glob(pattern)):
            text = path.read_text(encoding="utf-8")
            name = path.relative_to(REPOSITORY).as_posix()
            found += [
                Block(name, text[: match.start()].count("\n") + 1, match[1], match[2] or "", match[3])
                for match in _FENCE.finditer(text)
                if match[1] in _RUN
            ]
    return found
