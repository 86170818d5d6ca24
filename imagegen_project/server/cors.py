"""Lets the pages of chosen sites call the API from a browser (CORS)."""

import re
from collections.abc import Collection
from typing import Final

from starlette.middleware.cors import CORSMiddleware

from imagegen_project.common.asgi import Application, Receive, Scope, Send

# The native API and the dialects; never the pages that people use.
SHARED_PATHS: Final = re.compile(r"/(?:api|v1|hf|sdapi)(?:/|$)")
METHODS: Final = ("GET", "HEAD", "POST", "PATCH", "DELETE")
# What a page may read of an answer beside its body.
EXPOSED_HEADERS: Final = ("Location", "Retry-After", "WWW-Authenticate", "X-Job-Id", "X-Request-Id", "ETag")


def shared_with_sites(application: Application, *, origins: Collection[str]) -> Application:
    """The application, which also answers what browsers ask before a request, and says that such a page may read it.

    It stands before everything that answers, so that streams and refusals are readable too. A page needs a token as
    everybody does: cookies are not accepted from there, so that no session is lent to it.
    """
    if not origins:
        return application
    shared = CORSMiddleware(
        application,
        allow_origins=origins,
        allow_methods=METHODS,
        allow_headers=("*",),  # clients' libraries send some of their own
        expose_headers=EXPOSED_HEADERS,
    )

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        if SHARED_PATHS.match(scope["path"]):
            await shared(scope, receive, send)
        else:
            await application(scope, receive, send)

    return serve
