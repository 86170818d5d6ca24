"""The only module that reads environment variables.

Every variable has a default that works on a laptop; `.env.example` lists and explains all of them. A value that cannot
be parsed stops the start with a message that names the variable.
"""

import os
import re
import sys
from collections.abc import Iterable
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


def _is_base_url(text: str) -> None:
    """Raises ValueError unless a text is empty or begins with http:// or https:// and a host."""
    parts = urlsplit(text)
    if text and (
        parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment
    ):
        message = f"PUBLIC_URL is an address such as https://images.example.com, not {text!r}."
        raise ValueError(message)


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

# --- General ---
#: Where everything is kept; by default .imagegen here, and /var/lib/imagegen for root.
DATA_DIR: Path = _env.path("DATA_DIR", _DEFAULT_DATA_DIR).resolve()

# --- Command line ---
#: The service that `imagegen generate` and its like talk to; empty: the one of the data folder, else this machine's
#: port 8000.
IMAGEGEN_URL: str = _env.str("IMAGEGEN_URL", "")
#: The token that they send; empty: on this machine, the data folder's.
IMAGEGEN_TOKEN: str = _secret("IMAGEGEN_TOKEN")

# --- Servers ---
#: Password for DATABASE_URL where the address has none; so a container can have it as a file.
DATABASE_PASSWORD: str = _secret("DATABASE_PASSWORD")
#: PostgreSQL, e.g. postgresql://user:password@host:5432/imagegen; empty: the embedded one of the data folder.
DATABASE_URL: str = _with_password(_secret("DATABASE_URL"), DATABASE_PASSWORD)
#: Password for REDIS_URL where the address has none.
REDIS_PASSWORD: str = _secret("REDIS_PASSWORD")
#: Redis, e.g. redis://:password@host:6379/0; empty: the embedded one of the data folder.
REDIS_URL: str = _with_password(_secret("REDIS_URL"), REDIS_PASSWORD)
#: Connections to PostgreSQL that one process may hold.
DB_POOL_SIZE: int = _env.int("DB_POOL_SIZE", 16, validate=_AT_LEAST_ONE)

# --- Web ---
#: Signs sessions, addresses of pictures, shared links and webhooks, 50 characters or more; empty: a random one kept
#: in the data folder.
SECRET_KEY: str = _secret("SECRET_KEY")  # "" means the one kept in the data folder
#: Former values of SECRET_KEY, separated by commas: what they have signed is still good, except
#: webhooks; nothing new is signed by them.
SECRET_KEY_FALLBACKS: str = _secret("SECRET_KEY_FALLBACKS")
#: Django's debug pages; never in production.
DEBUG: bool = _env.bool("DEBUG", False)
#: Host names under which the service may be reached.
ALLOWED_HOSTS: list[str] = _env.list("ALLOWED_HOSTS", ["localhost", "127.0.0.1", "[::1]"])
#: Where clients reach the service, such as https://images.example.com, for the addresses that it tells them; empty:
#: as each request has it.
PUBLIC_URL: str = _env.str("PUBLIC_URL", "", validate=_is_base_url).rstrip("/")
#: Origins (https://name) whose forms may post when TLS ends at a proxy.
CSRF_TRUSTED_ORIGINS: list[str] = _env.list("CSRF_TRUSTED_ORIGINS", [])
#: Sites (https://name, or * for all) whose pages may call /api, /v1, /hf and /sdapi from a browser, with a token
#: and never with cookies; empty: none.
CORS_ALLOWED_ORIGINS: list[str] = _env.list("CORS_ALLOWED_ORIGINS", [], subcast=_origin)
#: How long a web process that is asked to stop may finish the answers that clients wait for, in seconds; waits for
#: jobs end after three quarters of it.
WEB_GRACE_S: float = _env.float("WEB_GRACE_S", 10.0, validate=_AT_LEAST_ZERO)
#: Whether a proxy ends TLS in front and sets X-Forwarded-Proto: secure cookies, HSTS, plain HTTP is redirected.
BEHIND_TLS: bool = _env.bool("BEHIND_TLS", False)
#: Bearer token with which Prometheus may read /metrics; empty: staff only.
METRICS_TOKEN: str = _secret("METRICS_TOKEN")
#: Folder where web processes that share a port count together; `manage.py web --processes` makes and sets it.
PROMETHEUS_MULTIPROC_DIR: str = _env.str("PROMETHEUS_MULTIPROC_DIR", "")
#: Tries with a bad token or password, per minute and address, before further ones are refused (429); 0: no limit.
AUTH_FAILURES: int = _env.int("AUTH_FAILURES", 30, validate=_AT_LEAST_ZERO)
#: Largest request body where pictures may come, in MiB; elsewhere 256 KiB or less are taken.
MAX_BODY_MB: float = _env.float("MAX_BODY_MB", 16.0, validate=_POSITIVE)
#: Room in TMPDIR for request bodies and their copies, per web process, in MiB; of several, one user gets half.
BODY_STORE_MB: float = _env.float("BODY_STORE_MB", 1792.0, validate=_POSITIVE)
#: After how many seconds a request body that has stopped, or comes at less than 4 kB/s, is given up (408).
BODY_PATIENCE_S: float = _env.float("BODY_PATIENCE_S", 30.0, validate=_POSITIVE)
#: Sockets and event streams that one user may have open, per web process.
CONNECTIONS_PER_USER: int = _env.int("CONNECTIONS_PER_USER", 500, validate=_AT_LEAST_ONE)
#: Requests that may be inside Django at once, per web process.
WEB_CONCURRENCY: int = _env.int("WEB_CONCURRENCY", 12, validate=_AT_LEAST_ONE)
#: Longest time a request waits for its picture, in seconds.
WAIT_LIMIT_S: int = _env.int("WAIT_LIMIT_S", 300, validate=_AT_LEAST_ONE)
#: Life of a socket ticket, in seconds.
TICKET_TTL_S: int = _env.int("TICKET_TTL_S", 30, validate=_AT_LEAST_ONE)
#: Requests for the list of models, per minute and address (or user); 0: no limit.
THROTTLE_MODELS: int = _env.int("THROTTLE_MODELS", 300, validate=_AT_LEAST_ZERO)
#: How many orders to load or unload a model each user may give per minute; 0: no limit.
THROTTLE_ORDERS: int = _env.int("THROTTLE_ORDERS", 30, validate=_AT_LEAST_ZERO)
#: Requests for socket tickets, tokens and signing secrets that a user may make per minute; 0: no limit.
THROTTLE_TICKETS: int = _env.int("THROTTLE_TICKETS", 120, validate=_AT_LEAST_ZERO)
#: LoRA a user may upload or load from the Hub per minute; 0: no limit.
THROTTLE_UPLOADS: int = _env.int("THROTTLE_UPLOADS", 60, validate=_AT_LEAST_ZERO)
#: Proxies in front whose X-Forwarded-For is believed when addresses are counted.
TRUSTED_PROXIES: int = _env.int("TRUSTED_PROXIES", 0, validate=_AT_LEAST_ZERO)
#: How long the signed address of a picture opens without a token, in seconds.
IMAGE_URL_TTL_S: int = _env.int("IMAGE_URL_TTL_S", 3600, validate=_AT_LEAST_ONE)
#: Where finished pictures are kept; by default media in the data folder.
MEDIA_ROOT: Path = _env.path("MEDIA_ROOT", DATA_DIR / "media")
#: S3 bucket for pictures instead of MEDIA_ROOT, so that several machines share them; empty: MEDIA_ROOT.
MEDIA_S3_BUCKET: str = _env.str("MEDIA_S3_BUCKET", "")
#: Address of an S3-compatible server; empty: Amazon's.
MEDIA_S3_ENDPOINT: str = _env.str("MEDIA_S3_ENDPOINT", "")
#: The bucket's region.
MEDIA_S3_REGION: str = _env.str("MEDIA_S3_REGION", "us-east-1")
#: Access key of the bucket; empty: what the AWS client finds (its variables, an instance's role).
MEDIA_S3_ACCESS_KEY: str = _secret("MEDIA_S3_ACCESS_KEY")
#: Secret key that goes with it.
MEDIA_S3_SECRET_KEY: str = _secret("MEDIA_S3_SECRET_KEY")
#: Life of the bucket's own signed addresses (`?redirect=1`), in seconds.
MEDIA_S3_URL_TTL_S: int = _env.int("MEDIA_S3_URL_TTL_S", 300, validate=_AT_LEAST_ONE)

# --- Logs ---
#: DEBUG, INFO, WARNING, ERROR or CRITICAL.
LOG_LEVEL: str = _env.str(
    "LOG_LEVEL", "INFO", validate=validate.OneOf(("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"))
)
#: Folder for log files beside standard error; empty: none.
LOG_DIR: str = _env.str("LOG_DIR", "")
#: A log file is set aside when it has grown over this, in MiB.
LOG_MAX_MB: float = _env.float("LOG_MAX_MB", 64.0, validate=_POSITIVE)
#: How many log files that were set aside are kept, of each process.
LOG_KEEP: int = _env.int("LOG_KEEP", 5, validate=_AT_LEAST_ONE)
#: Log lines per minute and address that requests without an account may cause; the rest is told by number. 0: no limit.
LOG_STRANGER_LINES: int = _env.int("LOG_STRANGER_LINES", 300, validate=_AT_LEAST_ZERO)
#: Whether prompts stand in the log in clear text; false logs a hash.
LOG_PROMPTS: bool = _env.bool("LOG_PROMPTS", True)

# --- Traces ---
#: Where an OpenTelemetry collector takes OTLP over HTTP, e.g. http://127.0.0.1:4318; empty: no traces. Needs
#: requirements-otel.txt; the SDK reads its other variables (OTEL_EXPORTER_OTLP_HEADERS, OTEL_TRACES_SAMPLER, …) itself.
OTEL_EXPORTER_OTLP_ENDPOINT: str = _env.str("OTEL_EXPORTER_OTLP_ENDPOINT", "")

# --- Hugging Face Hub ---
#: The Hub that checks tokens and serves models.
HF_ENDPOINT: str = _env.str("HF_ENDPOINT", "https://huggingface.co")
#: Another name of HF_TOKEN.
HUGGINGFACE_API_KEY: str = _secret("HUGGINGFACE_API_KEY")
#: The server's own token, for downloads, LoRA that users name included: let it read only what they may use. A
#: caller's token is never used for them.
HF_TOKEN: str = _secret("HF_TOKEN") or HUGGINGFACE_API_KEY
#: Cache of the Hub's client; by default huggingface in the data folder.
HF_HOME: Path = _env.path("HF_HOME", DATA_DIR / "huggingface")
#: Hub users who may use this service; with both lists empty, every Hub account may.
HUB_ALLOWED_USERS: list[str] = _env.list("HUB_ALLOWED_USERS", [])
#: Hub organisations whose members may use this service.
HUB_ALLOWED_ORGS: list[str] = _env.list("HUB_ALLOWED_ORGS", [])
#: Longest wait for an answer of the Hub, in seconds.
HUB_TIMEOUT_S: float = _env.float("HUB_TIMEOUT_S", 5.0, validate=_POSITIVE)
#: How long the Hub's answer about a token is kept, in seconds.
HUB_CACHE_S: int = _env.int("HUB_CACHE_S", 60, validate=_AT_LEAST_ONE)
#: How long a token seen valid keeps working while the Hub cannot be reached, in seconds.
HUB_GRACE_S: int = _env.int("HUB_GRACE_S", 900, validate=_AT_LEAST_ONE)

# --- Models ---
#: The model used when a request names none; empty: the registry's default.
DEFAULT_MODEL_ID: str = _env.str("DEFAULT_MODEL_ID", "")
#: Names that OpenAI's clients may use for models, as name=model, without a model for the default one; in a name *
#: stands for anything.
MODEL_ALIASES: list[str] = _env.list("MODEL_ALIASES", ["dall-e-*", "gpt-image-*", "chatgpt-image-latest"])
#: Whether /v1/models lists those names too (`?aliases=true` does in any case).
LIST_MODEL_ALIASES: bool = _env.bool("LIST_MODEL_ALIASES", False)
#: Whether pictures that OpenAI's clients name by an address are fetched: off, public (https on the open internet only)
#: or any (private addresses too).
FETCH_PICTURES: str = _env.str("FETCH_PICTURES", "public", validate=validate.OneOf(("off", "public", "any")))
#: Where model weights are kept; by default models in the data folder.
MODEL_CACHE_DIR: Path = _env.path("MODEL_CACHE_DIR", DATA_DIR / "models")
#: Where LoRA are kept; by default loras in MODEL_CACHE_DIR.
LORA_CACHE_DIR: Path = _env.path("LORA_CACHE_DIR", MODEL_CACHE_DIR / "loras")
#: Disk for LoRA, in MiB: above it the least recently used go, and uploads are refused.
LORA_CACHE_MAX_MB: float = _env.float("LORA_CACHE_MAX_MB", 10240.0, validate=_POSITIVE)
#: Largest LoRA that may be uploaded or downloaded, in MiB.
LORA_MAX_UPLOAD_MB: float = _env.float("LORA_MAX_UPLOAD_MB", 512.0, validate=_POSITIVE)
#: Memory of the device that loaded models may take, in MiB; 0: three quarters of a GPU, half of the host's (or
#: container's) without one.
MODEL_CACHE_VRAM_MB: int = _env.int("MODEL_CACHE_VRAM_MB", 0, validate=_AT_LEAST_ZERO)
#: Host memory for models that wait to be used again, in MiB, per worker; 0: a quarter of the host's, or of its
#: container's, among its workers.
MODEL_CACHE_RAM_MB: int = _env.int("MODEL_CACHE_RAM_MB", 0, validate=_AT_LEAST_ZERO)
#: A worker without work for this long lets its models go, from the device and from host memory, in seconds; 0: never.
MODEL_IDLE_UNLOAD_S: float = _env.float("MODEL_IDLE_UNLOAD_S", 0.0, validate=_AT_LEAST_ZERO)
#: LoRA that stay attached to one loaded model, in MiB of their weights.
LORA_CACHE_VRAM_MB: int = _env.int("LORA_CACHE_VRAM_MB", 1024, validate=_AT_LEAST_ONE)
#: How much of `LORA_CACHE_MAX_MB` one user's LoRA may take (staff: all of it).
LORA_USER_SHARE_PERCENT: float = _env.float(
    "LORA_USER_SHARE_PERCENT", 25.0, validate=validate.Range(min=0, min_inclusive=False, max=100)
)
#: Longest time that a LoRA's download may take, in seconds; 0: no limit.
LORA_DOWNLOAD_LIMIT_S: int = _env.int("LORA_DOWNLOAD_LIMIT_S", 900, validate=_AT_LEAST_ZERO)
#: Downloads slower than this for half a minute are given up, in kB per second; 0: none.
DOWNLOAD_MIN_KB_S: float = _env.float("DOWNLOAD_MIN_KB_S", 50.0, validate=_AT_LEAST_ZERO)
#: torch's own cache; by default torch in the data folder.
TORCH_HOME: Path = _env.path("TORCH_HOME", DATA_DIR / "torch")
#: CPU threads of one GPU worker; 0: chosen by the number of cores and workers.
TORCH_THREADS: int = _env.int("TORCH_THREADS", 0, validate=_AT_LEAST_ZERO)
#: Whether GPU workers compile blocks of the default model before they are ready (docs/operations.md).
COMPILE_MODELS: bool = _env.bool("COMPILE_MODELS", False)
#: Whether GPU workers record a denoiser's steps on a card and play them again (docs/operations.md).
CUDA_GRAPHS: bool = _env.bool("CUDA_GRAPHS", True)
#: Kinds of workers that a generation may ask for in device_class, e.g. large,small; the same on every host.
DEVICE_CLASSES: list[str] = _env.list("DEVICE_CLASSES", [], subcast=_device_class)
#: Which of them this host's GPU workers are; empty: they run what asks for none.
DEVICE_CLASS: str = _env.str("DEVICE_CLASS", "", validate=validate.OneOf(("", *DEVICE_CLASSES)))
#: GPUs that workers may use, e.g. 0,1; empty: all, -1: none; several are dealt out to the workers of standalone.
CUDA_VISIBLE_DEVICES: str = _env.str("CUDA_VISIBLE_DEVICES", "")
if not CUDA_VISIBLE_DEVICES:  # to CUDA, unlike to us, an empty one means none
    os.environ.pop("CUDA_VISIBLE_DEVICES", None)

# --- Safety filter ---
#: off, flag (say so in the answer) or block (an unsafe picture is neither stored nor sent).
SAFETY_FILTER: str = _env.str("SAFETY_FILTER", "off", validate=validate.OneOf(("off", "flag", "block")))
#: Hub repository of a transformers image classifier with safetensors; empty: the checker that a model ships.
SAFETY_MODEL: str = _env.str("SAFETY_MODEL", "")
#: The classifier's labels that mean unsafe, separated by commas.
SAFETY_LABELS: list[str] = _env.list("SAFETY_LABELS", ["nsfw", "porn", "hentai", "sexy", "unsafe"])
#: How sure the classifier must be, from 0 to 1: the sum over those labels.
SAFETY_THRESHOLD: float = _env.float("SAFETY_THRESHOLD", 0.5, validate=_POSITIVE)

# --- Jobs ---
#: Time limit of a generation that asks for none, in seconds.
DEFAULT_TIMEOUT_S: int = _env.int("DEFAULT_TIMEOUT_S", 600, validate=_AT_LEAST_ONE)
#: Longest time limit a request may ask for, in seconds.
MAX_TIMEOUT_S: int = _env.int("MAX_TIMEOUT_S", 3600, validate=_AT_LEAST_ONE)
#: How often a generation is tried before it fails for good.
MAX_ATTEMPTS: int = _env.int("MAX_ATTEMPTS", 3, validate=_AT_LEAST_ONE)
#: Time without a sign of life after which a worker's generation goes back to the queue, in seconds.
LEASE_S: int = _env.int("LEASE_S", 15, validate=validate.Range(min=3, max=60))
#: Longest time without a step before a worker ends itself and is restarted, in seconds; 0: for ever.
WATCHDOG_S: int = _env.int("WATCHDOG_S", 600, validate=_AT_LEAST_ZERO)
#: How long a worker that is asked to stop may go on with what it draws, in seconds.
WORKER_GRACE_S: int = _env.int("WORKER_GRACE_S", 20, validate=_AT_LEAST_ZERO)
#: How long a generation's events can be read again, in seconds.
FEED_TTL_S: int = _env.int("FEED_TTL_S", 86400, validate=_AT_LEAST_ONE)
#: Most events kept of one generation.
FEED_MAX_EVENTS: int = _env.int("FEED_MAX_EVENTS", 1000, validate=validate.Range(min=16))

# --- Limits ---
#: Generations that may wait altogether; above it new ones are refused (503); 0: no limit.
MAX_QUEUED: int = _env.int("MAX_QUEUED", 10000, validate=_AT_LEAST_ZERO)
#: Generations of one user that may wait (429); 0: no limit.
MAX_QUEUED_PER_USER: int = _env.int("MAX_QUEUED_PER_USER", 1000, validate=_AT_LEAST_ZERO)
#: Work one user may ask for within WORK_WINDOW_S (429), in megapixels x steps; 0: no limit.
WORK_LIMIT: float = _env.float("WORK_LIMIT", 100000.0, validate=_AT_LEAST_ZERO)
#: The time that WORK_LIMIT counts, in seconds.
WORK_WINDOW_S: int = _env.int("WORK_WINDOW_S", 3600, validate=_AT_LEAST_ONE)
#: Disk for one user's pictures, in MiB; above it new generations are refused (507); 0: no limit.
STORAGE_QUOTA_MB: float = _env.float("STORAGE_QUOTA_MB", 10240.0, validate=_AT_LEAST_ZERO)

# --- A1111's API ---
#: Networks that need no credentials on /sdapi, such as 192.168.1.0/24; `loopback` is this host itself; empty: none.
A1111_OPEN_NETWORKS: list[IPv4Network | IPv6Network] = [
    network for networks in _env.list("A1111_OPEN_NETWORKS", [], subcast=_networks) for network in networks
]
#: The user that requests without credentials belong to.
A1111_OPEN_USER: str = _env.str("A1111_OPEN_USER", "a1111", validate=validate.Length(min=1, max=150))
#: Whether what A1111's API does not know, or cannot do, is refused (422) instead of warned of.
A1111_STRICT: bool = _env.bool("A1111_STRICT", False)

# --- Webhooks ---
#: Whether webhooks may go to private, link-local and loopback addresses.
WEBHOOK_ALLOW_PRIVATE: bool = _env.bool("WEBHOOK_ALLOW_PRIVATE", False)
#: Time limit of one delivery of a webhook, in seconds.
WEBHOOK_TIMEOUT_S: float = _env.float("WEBHOOK_TIMEOUT_S", 10.0, validate=_POSITIVE)
#: How often a webhook is delivered before it is given up.
WEBHOOK_MAX_ATTEMPTS: int = _env.int("WEBHOOK_MAX_ATTEMPTS", 10, validate=_AT_LEAST_ONE)


def configure_torch_process() -> None:
    """Prepares the environment of a process that is about to import torch; a no-op where already set.

    Passive OpenMP waiting: spinning threads slow every step by an order of magnitude beside a busy process.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Else MKL, on AMD's processors, rounds by where in memory the numbers lie: the same request drew other pixels.
    os.environ.setdefault("MKL_CBWR", "AUTO")
    # They write to standard error beside the log, for instance that torchvision is missing, which nothing here needs.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    for name, folder in (("HF_HOME", HF_HOME), ("TORCH_HOME", TORCH_HOME)):
        os.environ.setdefault(name, str(folder))
    # What was compiled stays for the next start; but headers, which torch keeps among temporary files, are read anew.
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(DATA_DIR / "compiled"))
    os.environ.setdefault("TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS", "0")
    # Weights are put in place by the downloader; a generation never opens a connection of its own.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")


# How a GPU worker's C library (glibc) allocates, docs/decisions.md says why; and torch, which would round each pinned
# tensor up to a power of two otherwise: half as much again of a model's weights.
WORKER_ALLOCATOR = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "17179869184",
    "PYTORCH_ALLOC_CONF": "pinned_max_round_threshold_mb:1",
}


def worker_environment(**changes: str) -> dict[str, str]:
    """The environment of a GPU worker; what somebody set for its allocator stays.

    Freed memory stays with the process: else every tensor of every step has its pages zeroed by the kernel anew, which
    takes as long as the arithmetic. One arena, since those of threads are given back whenever they are empty.
    """
    return child_environment(**{**WORKER_ALLOCATOR, **_set_already(WORKER_ALLOCATOR), **changes})


def _set_already(names: Iterable[str]) -> dict[str, str]:
    return {name: os.environ[name] for name in names if name in os.environ}


def worker_process_ensure() -> None:
    """Starts this process's program anew, under the same process id, where its allocator was not set before it began.

    The C library reads its variables once, before anything of ours runs.
    """
    if sys.platform == "linux" and len(_set_already(WORKER_ALLOCATOR)) < len(WORKER_ALLOCATOR):
        os.execve(sys.executable, sys.orig_argv, worker_environment())  # noqa: S606 - our own command line


def child_environment(**changes: str) -> dict[str, str]:
    """The environment for a child process of the service: this one's, with `changes` on top.

    The data folder is made explicit, and the project can be imported from any working folder.
    """
    project = str(Path(__file__).resolve().parent.parent)
    search_path = os.pathsep.join(filter(None, (project, os.environ.get("PYTHONPATH"))))
    return {**os.environ, "DATA_DIR": str(DATA_DIR), "PYTHONPATH": search_path, **changes}
