"""The service's OpenAPI document, which takes a second to make: once per process, and by none that only collects."""

from functools import cache
from typing import Any

from drf_spectacular.generators import SchemaGenerator


@cache
def openapi_document() -> dict[str, Any]:
    """As everybody may read it."""
    document: dict[str, Any] = SchemaGenerator().get_schema(request=None, public=True)
    return document
