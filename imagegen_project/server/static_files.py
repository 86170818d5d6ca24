"""Static files where nobody has collected them: packed all the same, as `collectstatic` would have done it."""

import gzip
from typing import Any

from django.http import FileResponse, HttpRequest, HttpResponse
from whitenoise.middleware import WhiteNoiseMiddleware

# What else there is, pictures and fonts, is packed already.
PACKABLE = ("text/", "application/json", "image/svg+xml")


class PackedStaticFiles(WhiteNoiseMiddleware):  # type: ignore[misc]  # the library has no types
    """WhiteNoise, which finds packed copies beside files; where there is none, one is made and kept in memory."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        # By address: of which state of the file, and its bytes.
        self._packed: dict[str, tuple[str, bytes]] = {}

    def serve(self, static_file: Any, request: HttpRequest) -> HttpResponse | FileResponse:
        """The file, as the client can take it."""
        response: FileResponse = super().serve(static_file, request)
        has_copies = "Vary" in response
        if response.status_code != 200 or has_copies or not response["Content-Type"].startswith(PACKABLE):
            return response
        response["Vary"] = "Accept-Encoding"
        if request.method != "GET" or "gzip" not in request.headers.get("Accept-Encoding", ""):
            return response
        state, body = self._packed.get(request.path_info, ("", b""))
        if state != response["ETag"]:
            body = gzip.compress(b"".join(response))
            self._packed[request.path_info] = (response["ETag"], body)
        response.close()
        headers = dict(response.items()) | {"Content-Encoding": "gzip", "Content-Length": str(len(body))}
        return HttpResponse(body, headers=headers)
