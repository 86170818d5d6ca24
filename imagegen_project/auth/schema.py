"""How the authenticator reads in OpenAPI."""

from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.openapi import AutoSchema


class BearerScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    """`Authorization: Bearer` with either kind of token."""

    target_class = "imagegen_project.auth.authentication.BearerAuthentication"
    name = "bearer"

    def get_security_definition(self, auto_schema: AutoSchema) -> dict[str, str]:
        """The OpenAPI security scheme."""
        return {
            "type": "http",
            "scheme": "bearer",
            "description": "A Hugging Face token (`hf_…`, with read scope) or a local token (`img_…`).",
        }
