"""Which service a command talks to, and as whom."""

from argparse import Namespace
from urllib.parse import urlsplit

from imagegen_project import env
from imagegen_project.cli.client import ServiceClient
from imagegen_project.standalone.addresses import DEFAULT_URL, address_read, own_host, token_read

_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def client_of(options: Namespace) -> ServiceClient:
    """A client of the service that `--url`, IMAGEGEN_URL or the data folder names. Raises CliError.

    The local user's token of the data folder goes to this machine only.
    """
    named = options.url or env.IMAGEGEN_URL
    url = named or address_read(env.DATA_DIR) or DEFAULT_URL
    parts = urlsplit(url if "//" in url else f"http://{url}")
    token = options.token or env.IMAGEGEN_TOKEN
    if not token and parts.hostname in _LOOPBACK:
        token = token_read(env.DATA_DIR)
    host = own_host(parts.port or 80) if not named else ""
    return ServiceClient(url=url, token=token, host=host)
