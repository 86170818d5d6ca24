"""Where a service answers on this machine: what listens there, and what its data folder says of it."""

from contextlib import suppress
from pathlib import Path

from imagegen_project import env

DEFAULT_URL = "http://127.0.0.1:8000"


def reachable_host(host: str) -> str:
    """The address under which a server bound to `host` answers on this machine."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound


def base_url(host: str, port: int) -> str:
    """The address of a server bound to `host` and `port`, for clients on this machine."""
    name = reachable_host(host)
    return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"


def own_host(port: int) -> str:
    """A Host header that the service accepts."""
    names = [name.lstrip(".") for name in env.ALLOWED_HOSTS if name != "*"]
    return f"{(names or ['localhost'])[0]}:{port}"


def address_file(data_dir: Path) -> Path:
    """Where a running `standalone` notes its address."""
    return data_dir / "address"


def address_read(data_dir: Path) -> str:
    """The address that was noted last, or ""."""
    with suppress(OSError):
        return address_file(data_dir).read_text(encoding="ascii").strip()
    return ""


def token_read(data_dir: Path) -> str:
    """The local user's token, or ""."""
    with suppress(OSError):
        return (data_dir / "token").read_text(encoding="ascii").strip()
    return ""
