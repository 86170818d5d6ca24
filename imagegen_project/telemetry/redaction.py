"""Takes secrets and bulk out of log lines, as the last thing before they are written."""

import json
import re
from collections.abc import Iterable
from typing import Any

from pythonjsonlogger.json import JsonFormatter

REDACTED = "[redacted]"
# Shorter values would also be found inside ordinary words.
MIN_SECRET_CHARACTERS = 8
# A picture, or a token's worth: no word, hash, id or path is as long.
MIN_BASE64_CHARACTERS = 256
# Of a field of a line: a path, a host or a header is named by a stranger.
MAX_FIELD_CHARACTERS = 1000

# Long and without underscores: `hf_hub_download` is a function.
_TOKENS = re.compile(r"\b(hf|img|whsec)_[A-Za-z0-9+/]{12,}={0,2}")
_CREDENTIALS = re.compile(r"(?i)\b(bearer|basic)(\s+)[A-Za-z0-9._~+/-]{16,}=*")
_URL_PASSWORDS = re.compile(r"(://[^/\s:@\"\\]*:)[^/\s@\"\\]+@")
_PARAMETERS = re.compile(
    r"(?i)\b((?:[a-z]+[_-])?(?:ticket|token|password|passwd|secret|api_?key|signature|sessionid|csrftoken)"
    r"(?:=|\\?[\"']\s*:\s*\\?[\"']))[^&\s\"'\\,;]+"
)
# Links that sign in, until they are used, and links to shared pictures, until they are revoked.
_LINKS = re.compile(r"(/sign-in/once/|/s/(?=[0-9a-f]{32}\.))[^/\s\"\\]+")
_BASE64 = re.compile(rf"[A-Za-z0-9+/_-]{{{MIN_BASE64_CHARACTERS},}}={{0,2}}")


class Redactor:
    """Replaces known secrets, what looks like one, and long base64."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        given = [secret for secret in secrets if len(secret) >= MIN_SECRET_CHARACTERS]
        # As JSON writes them too: a quotation mark gets a backslash.
        known = sorted({*given, *(json.dumps(secret)[1:-1] for secret in given)}, key=len)
        # The longest first: one may be a part of another.
        self._known = re.compile("|".join(map(re.escape, reversed(known)))) if known else None

    def __call__(self, text: str) -> str:
        """The text without them; what is left of a JSON document is one."""
        if self._known is not None:
            text = self._known.sub(REDACTED, text)
        text = _BASE64.sub(lambda found: f"[{len(found[0])} characters of base64]", text)
        text = _LINKS.sub(rf"\1{REDACTED}", text)
        text = _TOKENS.sub(rf"\1_{REDACTED}", text)
        text = _CREDENTIALS.sub(rf"\1\2{REDACTED}", text)
        text = _URL_PASSWORDS.sub(rf"\1{REDACTED}@", text)
        return _PARAMETERS.sub(rf"\1{REDACTED}", text)


class RedactingJsonFormatter(JsonFormatter):
    """One JSON object a line: message, fields and traceback alike are redacted."""

    def __init__(self, *args: object, secrets: Iterable[str] = (), **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]  # passed on as they are
        self._redact = Redactor(secrets)

    def process_log_record(self, log_data: Any) -> Any:
        """The record's fields, none of them as long as whoever sends a request may want."""
        for name, value in log_data.items():
            if isinstance(value, str) and len(value) > MAX_FIELD_CHARACTERS and name != "exc_info":
                log_data[name] = f"{value[:MAX_FIELD_CHARACTERS]}… ({len(value)} characters)"
        return super().process_log_record(log_data)

    def jsonify_log_record(self, log_data: object) -> str:
        """The record as a line."""
        return self._redact(super().jsonify_log_record(log_data))  # type: ignore[arg-type]  # passed on as it is
