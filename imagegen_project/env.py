"""The only module that reads environment variables.

Every variable has a default that works on a laptop; `.env.example` lists and explains all of them. A value that cannot
be parsed stops the start with a message that names the variable.
"""

import os
import re
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

from environs import Env, validate

_env = Env()
_env.read_env(Path.cwd() / ".env", recurse=False)

_AT_LEAST_ZERO = validate.Range(min=0)
_AT_LEAST_ONE = validate.Range(min=1)
_POSITIVE = validate.Range(min=0, min_inclusive=False)
_LOOPBACK = ("127.0.0.0/8", "::1/128")


def _secret(name: str) -> str:
    """A secret: the variable, or the contents of the file that `<name>_FILE` names. Raises ValueError."""
    value, file = _env.str(name, ""), _env.str(f"{name}_FILE", "")
    if value and file:
        message = f"{name} and {name}_FILE are both set: choose one."
        raise ValueError(message)
    try:
        return Path(file).read_text(encoding="utf-8").strip() if file else value
    except OSError as error:
        message = f"{name}_FILE cannot be read: {error}"
        raise ValueError(message) from error


def _with_password(url: str, password: str) -> str:
    """A server's address, with the password where it names a host and no password of its own."""
    parts = urlsplit(url)
    user, _, host = parts.netloc.rpartition("@")
    if not password or not host or ":" in user:
        return url
    return urlunsplit(parts._replace(netloc=f"{user}:{quote(password, safe='')}@{host}"))


def _device_class(name: str) -> str:
    """A class of devices, which becomes part of a queue's name. Raises ValueError."""
    if not re.fullmatch(r"[a-z0-9-]{1,32}", name):
        message = f"DEVICE_CLASSES holds names of small letters, digits and dashes, not {name!r}."
        raise ValueError(message)
    return name


def _networks(text: str) -> list[IPv4Network | IPv6Network]:
    """A network, an address, or with `loopback` this host's own ones. Raises ValueError."""
    try:
        return [
            ip_network(network) for network in (_LOOPBACK if text.strip() == "loopback" else (text.strip(),))
        ]
    except ValueError as error:
        message = f"A1111_OPEN_NETWORKS holds networks such as 192.168.1.0/24, or the word loopback: {error}"
        raise ValueError(message) from error


def _origin(text: str) -> str:
    """A site, as browsers name it, or `*` for all. Raises ValueError."""
    if text != "*" and not re.fullmatch(
        r"https?://[a-z0-9._-]+(:\d{1,5})?|https?://\[[0-9a-f:]+\](:\d{1,5})?", text
    ):
        message = f"CORS_ALLOWED_ORIGINS holds origins such as https://app.example.org, or *, not {text!r}."
        raise ValueError(message)
    return text


# For root the embedded PostgreSQL makes every folder above its own traversable: keep it out of /root.
_DEFAULT_DATA_DIR = Path("/var/lib/imagegen") if os.geteuid() == 0 else Path.cwd() / ".imagegen"

DATA_DIR: Path = _env.path("DATA_DIR", _DEFAULT_DATA_DIR).resolve()

# Servers: "" means the embedded one of the data folder.
DATABASE_PASSWORD: str = _secret("DATABASE_PASSWORD")
DATABASE_URL: str = _with_password(_secret("DATABASE_URL"), DATABASE_PASSWORD)
REDIS_PASSWORD: str = _secret("REDIS_PASSWORD")
REDIS_URL: str = _with_password(_secret("REDIS_URL"), REDIS_PASSWORD)
DB_POOL_SIZE: int = _env.int("DB_POOL_SIZE", 16, validate=_AT_LEAST_ONE)

# Web
SECRET_KEY: str = _secret("SECRET_KEY")  # "" means the one kept in the data folder
DEBUG: bool = _env.bool("DEBUG", False)
ALLOWED_HOSTS: list[str] = _env.list("ALLOWED_HOSTS", ["localhost", "127.0.0.1", "[::1]"])
CSRF_TRUSTED_ORIGINS: list[str] = _env.list("CSRF_TRUSTED_ORIGINS", [])
CORS_ALLOWED_ORIGINS: list[str] = _env.list("CORS_ALLOWED_ORIGINS", [], subcast=_origin)
WEB_GRACE_S: float = _env.float("WEB_GRACE_S", 10.0, validate=_AT_LEAST_ZERO)
BEHIND_TLS: bool = _env.bool("BEHIND_TLS", False)
METRICS_TOKEN: str = _secret("METRICS_TOKEN")
AUTH_FAILURES: int = _env.int("AUTH_FAILURES", 30, validate=_AT_LEAST_ZERO)
MAX_BODY_MB: float = _env.float("MAX_BODY_MB", 16.0, validate=_POSITIVE)
BODY_STORE_MB: float = _env.float("BODY_STORE_MB", 1792.0, validate=_POSITIVE)
BODY_PATIENCE_S: float = _env.float("BODY_PATIENCE_S", 30.0, validate=_POSITIVE)
CONNECTIONS_PER_USER: int = _env.int("CONNECTIONS_PER_USER", 500, validate=_AT_LEAST_ONE)
WEB_CONCURRENCY: int = _env.int("WEB_CONCURRENCY", 12, validate=_AT_LEAST_ONE)
WAIT_LIMIT_S: int = _env.int("WAIT_LIMIT_S", 300, validate=_AT_LEAST_ONE)
TICKET_TTL_S: int = _env.int("TICKET_TTL_S", 30, validate=_AT_LEAST_ONE)
THROTTLE_MODELS: int = _env.int("THROTTLE_MODELS", 300, validate=_AT_LEAST_ZERO)
THROTTLE_ORDERS: int = _env.int("THROTTLE_ORDERS", 30, validate=_AT_LEAST_ZERO)
THROTTLE_TICKETS: int = _env.int("THROTTLE_TICKETS", 120, validate=_AT_LEAST_ZERO)
THROTTLE_UPLOADS: int = _env.int("THROTTLE_UPLOADS", 60, validate=_AT_LEAST_ZERO)
TRUSTED_PROXIES: int = _env.int("TRUSTED_PROXIES", 0, validate=_AT_LEAST_ZERO)
MEDIA_ROOT: Path = _env.path("MEDIA_ROOT", DATA_DIR / "media")
MEDIA_S3_BUCKET: str = _env.str("MEDIA_S3_BUCKET", "")
MEDIA_S3_ENDPOINT: str = _env.str("MEDIA_S3_ENDPOINT", "")
MEDIA_S3_REGION: str = _env.str("MEDIA_S3_REGION", "us-east-1")
MEDIA_S3_ACCESS_KEY: str = _secret("MEDIA_S3_ACCESS_KEY")
MEDIA_S3_SECRET_KEY: str = _secret("MEDIA_S3_SECRET_KEY")
MEDIA_S3_URL_TTL_S: int = _env.int("MEDIA_S3_URL_TTL_S", 300, validate=_AT_LEAST_ONE)

# Logs
LOG_LEVEL: str = _env.str(
    "LOG_LEVEL", "INFO", validate=validate.OneOf(("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"))
)
LOG_DIR: str = _env.str("LOG_DIR", "")
LOG_MAX_MB: float = _env.float("LOG_MAX_MB", 64.0, validate=_POSITIVE)
LOG_KEEP: int = _env.int("LOG_KEEP", 5, validate=_AT_LEAST_ONE)
LOG_PROMPTS: bool = _env.bool("LOG_PROMPTS", True)

# Hugging Face Hub
HF_ENDPOINT: str = _env.str("HF_ENDPOINT", "https://huggingface.co")
HF_TOKEN: str = _secret("HF_TOKEN") or _secret("HUGGINGFACE_API_KEY")
HF_HOME: Path = _env.path("HF_HOME", DATA_DIR / "huggingface")
HUB_ALLOWED_USERS: list[str] = _env.list("HUB_ALLOWED_USERS", [])
HUB_ALLOWED_ORGS: list[str] = _env.list("HUB_ALLOWED_ORGS", [])
HUB_TIMEOUT_S: float = _env.float("HUB_TIMEOUT_S", 5.0, validate=_POSITIVE)
HUB_CACHE_S: int = _env.int("HUB_CACHE_S", 60, validate=_AT_LEAST_ONE)
HUB_GRACE_S: int = _env.int("HUB_GRACE_S", 900, validate=_AT_LEAST_ONE)

# Models
DEFAULT_MODEL_ID: str = _env.str("DEFAULT_MODEL_ID", "")
MODEL_CACHE_DIR: Path = _env.path("MODEL_CACHE_DIR", DATA_DIR / "models")
LORA_CACHE_DIR: Path = _env.path("LORA_CACHE_DIR", MODEL_CACHE_DIR / "loras")
LORA_CACHE_MAX_MB: float = _env.float("LORA_CACHE_MAX_MB", 10240.0, validate=_POSITIVE)
LORA_MAX_UPLOAD_MB: float = _env.float("LORA_MAX_UPLOAD_MB", 512.0, validate=_POSITIVE)
MODEL_CACHE_VRAM_MB: int = _env.int("MODEL_CACHE_VRAM_MB", 0, validate=_AT_LEAST_ZERO)
MODEL_CACHE_RAM_MB: int = _env.int("MODEL_CACHE_RAM_MB", 0, validate=_AT_LEAST_ZERO)
LORA_CACHE_VRAM_MB: int = _env.int("LORA_CACHE_VRAM_MB", 1024, validate=_AT_LEAST_ONE)
LORA_USER_SHARE_PERCENT: float = _env.float(
    "LORA_USER_SHARE_PERCENT", 25.0, validate=validate.Range(min=0, min_inclusive=False, max=100)
)
LORA_DOWNLOAD_LIMIT_S: int = _env.int("LORA_DOWNLOAD_LIMIT_S", 900, validate=_AT_LEAST_ZERO)
DOWNLOAD_MIN_KB_S: float = _env.float("DOWNLOAD_MIN_KB_S", 50.0, validate=_AT_LEAST_ZERO)
TORCH_HOME: Path = _env.path("TORCH_HOME", DATA_DIR / "torch")
TORCH_THREADS: int = _env.int("TORCH_THREADS", 0, validate=_AT_LEAST_ZERO)
# Kinds of workers that generations may ask for, and the one of this host's workers.
DEVICE_CLASSES: list[str] = _env.list("DEVICE_CLASSES", [], subcast=_device_class)
DEVICE_CLASS: str = _env.str("DEVICE_CLASS", "", validate=validate.OneOf(("", *DEVICE_CLASSES)))
CUDA_VISIBLE_DEVICES: str = _env.str("CUDA_VISIBLE_DEVICES", "")
if not CUDA_VISIBLE_DEVICES:  # to CUDA, unlike to us, an empty one means none
    os.environ.pop("CUDA_VISIBLE_DEVICES", None)

# Safety filter
SAFETY_FILTER: str = _env.str("SAFETY_FILTER", "off", validate=validate.OneOf(("off", "flag", "block")))
SAFETY_MODEL: str = _env.str("SAFETY_MODEL", "")
SAFETY_LABELS: list[str] = _env.list("SAFETY_LABELS", ["nsfw", "porn", "hentai", "sexy", "unsafe"])
SAFETY_THRESHOLD: float = _env.float("SAFETY_THRESHOLD", 0.5, validate=_POSITIVE)

# Jobs
DEFAULT_TIMEOUT_S: int = _env.int("DEFAULT_TIMEOUT_S", 600, validate=_AT_LEAST_ONE)
MAX_TIMEOUT_S: int = _env.int("MAX_TIMEOUT_S", 3600, validate=_AT_LEAST_ONE)
MAX_ATTEMPTS: int = _env.int("MAX_ATTEMPTS", 3, validate=_AT_LEAST_ONE)
LEASE_S: int = _env.int("LEASE_S", 15, validate=validate.Range(min=3, max=60))
WATCHDOG_S: int = _env.int("WATCHDOG_S", 600, validate=_AT_LEAST_ZERO)
WORKER_GRACE_S: int = _env.int("WORKER_GRACE_S", 20, validate=_AT_LEAST_ZERO)
FEED_TTL_S: int = _env.int("FEED_TTL_S", 86400, validate=_AT_LEAST_ONE)
FEED_MAX_EVENTS: int = _env.int("FEED_MAX_EVENTS", 1000, validate=validate.Range(min=16))

# Limits: 0 means none
MAX_QUEUED: int = _env.int("MAX_QUEUED", 10000, validate=_AT_LEAST_ZERO)
MAX_QUEUED_PER_USER: int = _env.int("MAX_QUEUED_PER_USER", 1000, validate=_AT_LEAST_ZERO)
WORK_LIMIT: float = _env.float("WORK_LIMIT", 100000.0, validate=_AT_LEAST_ZERO)
WORK_WINDOW_S: int = _env.int("WORK_WINDOW_S", 3600, validate=_AT_LEAST_ONE)
STORAGE_QUOTA_MB: float = _env.float("STORAGE_QUOTA_MB", 10240.0, validate=_AT_LEAST_ZERO)

# A1111's API
A1111_OPEN_NETWORKS: list[IPv4Network | IPv6Network] = [
    network for networks in _env.list("A1111_OPEN_NETWORKS", [], subcast=_networks) for network in networks
]
A1111_OPEN_USER: str = _env.str("A1111_OPEN_USER", "a1111", validate=validate.Length(min=1, max=150))
A1111_STRICT: bool = _env.bool("A1111_STRICT", False)

# Webhooks
WEBHOOK_ALLOW_PRIVATE: bool = _env.bool("WEBHOOK_ALLOW_PRIVATE", False)
WEBHOOK_TIMEOUT_S: float = _env.float("WEBHOOK_TIMEOUT_S", 10.0, validate=_POSITIVE)
WEBHOOK_MAX_ATTEMPTS: int = _env.int("WEBHOOK_MAX_ATTEMPTS", 10, validate=_AT_LEAST_ONE)


def configure_torch_process() -> None:
    """Prepares the environment of a process that is about to import torch; a no-op where already set.

    Passive OpenMP waiting: spinning threads slow every step by an order of magnitude beside a busy process.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # They write to standard error beside the log, for instance that torchvision is missing, which nothing here needs.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    for name, folder in (("HF_HOME", HF_HOME), ("TORCH_HOME", TORCH_HOME)):
        os.environ.setdefault(name, str(folder))
    # Weights are put in place by the downloader; a generation never opens a connection of its own.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")


def child_environment(**changes: str) -> dict[str, str]:
    """The environment for a child process of the service: this one's, with `changes` on top.

    The data folder is made explicit, and the project can be imported from any working folder.
    """
    project = str(Path(__file__).resolve().parent.parent)
    search_path = os.pathsep.join(filter(None, (project, os.environ.get("PYTHONPATH"))))
    return {**os.environ, "DATA_DIR": str(DATA_DIR), "PYTHONPATH": search_path, **changes}
