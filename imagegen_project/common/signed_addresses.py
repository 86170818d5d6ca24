"""Addresses that open without a token, for a while: `/path?expires=<seconds since 1970>&signature=<HMAC>`.

Whoever has such an address may read what lies there until it expires, and nothing else. What is deleted is gone at
once. The signature is Django's, by SECRET_KEY, and those of SECRET_KEY_FALLBACKS are still good.
"""

import math
import time
from functools import lru_cache
from urllib.parse import urlencode

from django.conf import settings
from django.core.signing import BadSignature, Signer
from django.http import HttpRequest

EXPIRES, SIGNATURE = "expires", "signature"
_SIGNER_SALT = "imagegen.signed-address"
# Answers within a sixtieth of an address's life name the same one, so that browsers and caches know it again.
_STEPS = 60


def address_sign(path: str, *, base: str = "", ttl_s: int | None = None) -> str:
    """The signed address of a path of this service, below `base` (`https://host`), without one relative.

    It is good for `ttl_s`, by default IMAGE_URL_TTL_S, and for a sixtieth of that more at most.
    """
    life = settings.IMAGE_URL_TTL_S if ttl_s is None else ttl_s
    step = max(1, life // _STEPS)
    expires = math.ceil((time.time() + life) / step) * step
    signature = _signature(_signed(path, str(expires)), settings.SECRET_KEY)
    return f"{base}{path}?{urlencode({EXPIRES: expires, SIGNATURE: signature})}"


@lru_cache(maxsize=8192)
def _signature(text: str, key: str) -> str:
    """Each address is shown many times: in an answer twice, and to whoever looks again."""
    return Signer(key=key, salt=_SIGNER_SALT).signature(text)


def address_claims(request: HttpRequest) -> bool:
    """Whether a request's address says that it is signed."""
    return SIGNATURE in request.GET


def address_seconds_left(request: HttpRequest) -> int:
    """For how many seconds a request's signed address is still good; 0 where it is not, or not signed."""
    expires = request.GET.get(EXPIRES, "")
    signer = Signer(salt=_SIGNER_SALT)
    try:
        signer.unsign(
            f"{_signed(request.path.rstrip('/'), expires)}{signer.sep}{request.GET.get(SIGNATURE, '')}"
        )
    except (BadSignature, UnicodeEncodeError):
        return 0
    return max(0, int(expires) - int(time.time()))


def _signed(path: str, expires: str) -> str:
    return f"{path} {expires}"
