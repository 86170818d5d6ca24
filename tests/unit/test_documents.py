"""The documents say what the code does."""

import re
from pathlib import Path
from typing import get_args

import pytest

from generation.choices import ErrorCode
from generation.feed.messages import EventType
from imagegen_project.common.errors import DomainError
from models_registry.family_facts import FAMILY_FACTS
from models_registry.schedulers import SAMPLERS, SCHEDULES, scheduler_name
from tests.support.openapi import openapi_document

REPOSITORY = Path(__file__).resolve().parents[2]
REFERENCE = (REPOSITORY / "API_REFERENCE.md").read_text(encoding="utf-8")


def codes_below(cls: type[DomainError]) -> set[str]:
    """The codes of all refusals."""
    found = {cls.code}
    for below in cls.__subclasses__():
        found |= codes_below(below)
    return found


def test_every_route_of_the_schema_is_in_the_reference() -> None:
    """And no other."""
    native = {path: item for path, item in openapi_document()["paths"].items() if path.startswith("/api/v1")}
    routes = {f"{method.upper()} {path}" for path, methods in native.items() for method in methods}
    listed = set(re.findall(r"^\| `([A-Z]+ /api/v1/\S+)`", REFERENCE, flags=re.MULTILINE))
    assert listed == routes


def test_every_request_field_is_in_the_reference() -> None:
    """And no other."""
    fields = set(openapi_document()["components"]["schemas"]["GenerationCreateInRequest"]["properties"])
    section = REFERENCE.partition("## Request fields")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`.*?) \|", section, flags=re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == fields


def scheduler_rows() -> list[str]:
    """One row a sampler: the schedules that it can follow on noise-predicting models, `builtin` and flow models."""

    def cell(family: str, sampler: str) -> str:
        fitting = FAMILY_FACTS[family].schedulers
        words = [
            f"`{schedule}`" if schedule else "alone"
            for schedule in ("", *SCHEDULES)
            if scheduler_name(sampler, schedule) in fitting
        ]
        return ", ".join(words) or "-"

    return [
        f"| `{sampler}` | {label} | {' | '.join(cell(family, sampler) for family in ('sd1', 'builtin', 'sd3'))} |"
        for sampler, label in SAMPLERS.items()
    ]


def test_every_scheduler_is_in_the_reference() -> None:
    """With the schedules that it can follow, and no other."""
    section = REFERENCE.partition("## Schedulers")[2].partition("\n## ")[0]
    assert [line for line in section.splitlines() if line.startswith("| `")] == scheduler_rows()
    for same, family in (("sd1", "sd2"), ("sd1", "sdxl"), ("sd3", "flux")):
        assert FAMILY_FACTS[same].schedulers == FAMILY_FACTS[family].schedulers


def test_every_event_is_in_the_reference() -> None:
    """And no other."""
    section = REFERENCE.partition("## Events")[2].partition("\n## ")[0]
    listed = set(re.findall(r"^\| `(\w+)` \|", section, flags=re.MULTILINE))
    assert listed == set(get_args(EventType))


@pytest.mark.parametrize("code", sorted((codes_below(DomainError) - {"error"}) | set(ErrorCode)))
def test_every_code_is_in_the_reference(code: str) -> None:
    """Clients can rely on it."""
    section = REFERENCE.partition("## Errors")[2]
    assert f"`{code}`" in section


@pytest.mark.parametrize(
    "name",
    sorted(
        path.relative_to(REPOSITORY).as_posix()
        for path in (*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/*.md"))
    ),
)
def test_links_between_documents_lead_somewhere(name: str) -> None:
    """Relative ones."""
    text = (REPOSITORY / name).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert ((REPOSITORY / name).parent / target).exists(), target


def test_every_requirement_says_what_it_is_for() -> None:
    """In a comment at its line's end."""
    for file in REPOSITORY.glob("requirements*.txt"):
        for line in file.read_text().splitlines():
            assert re.fullmatch(r"#.*|-r \S+|.+  # \S.*", line), f"{file.name}: {line}"
