"""What the task worker does with a pending adapter: fetch it, look at every weight, put the file in place."""

import logging
from pathlib import Path
from uuid import UUID

from django.conf import settings
from django.db import InterfaceError, OperationalError
from psycopg_pool import PoolTimeout

from imagegen_project.common.safetensors_header import HeaderError
from loras.cache import cache_prune
from loras.choices import PENDING, LoraSource, LoraState
from loras.files import content_place, files_lock, incoming_folder, incoming_path, lora_lock
from loras.finite import check_finite
from loras.key_styles import AdapterError
from loras.models import MAX_WEIGHT_NAME_CHARACTERS, Lora
from loras.reading import AdapterFacts, read_adapter
from loras.services import facts_values, lora_break, lora_move
from loras.signals import lora_ready
from models_registry.choices import DownloadProblem
from models_registry.errors import DownloadFailedError, disk_failed
from models_registry.hub import Repository, file_fetch, repository_read
from models_registry.selection import RemoteFile
from models_registry.weights import file_digests

logger = logging.getLogger(__name__)


def lora_process(*, lora_id: UUID) -> None:
    """Brings a pending adapter to `present` or `broken`; a no-op when it is not pending or somebody else is at it."""
    with lora_lock(lora_id) as mine:
        lora = Lora.objects.filter(pk=lora_id, state__in=PENDING).first() if mine else None
        if lora is None:
            return
        try:
            _process(lora)
        except DownloadFailedError as error:
            lora_break(lora=lora, problem=error.problem, detail=error.detail)
        except (HeaderError, AdapterError) as error:
            problem = (
                DownloadProblem.BAD_HEADER if isinstance(error, HeaderError) else DownloadProblem.UNSUPPORTED
            )
            lora_break(lora=lora, problem=problem, detail=f"The file cannot be used: {error.reason}.")
        except FileNotFoundError:
            lora_break(lora=lora, problem=DownloadProblem.UNUSABLE, detail="Its file is gone from the disk.")
        except OSError as error:
            failed = disk_failed(error)
            lora_break(lora=lora, problem=failed.problem, detail=failed.detail)
        except (OperationalError, InterfaceError, PoolTimeout):
            raise  # the database is away: the row stays pending, and is seen to again
        except Exception:
            # Were it left pending, it would be tried again for ever.
            logger.exception("adapter failed", extra={"lora": str(lora_id)})
            detail = "The server made a mistake while seeing to it; its log says which."
            lora_break(lora=lora, problem=DownloadProblem.INTERNAL_ERROR, detail=detail)
        incoming_path(lora_id).unlink(missing_ok=True)
    cache_prune()


def _process(lora: Lora) -> None:
    path = incoming_path(lora.id)
    origin = _fetch(lora, path) if lora.source == LoraSource.HUB else {}
    facts = _read(path)
    check_finite(path)
    digests = file_digests(path)
    sha256, size = digests.sha256, digests.size
    values = facts_values(facts) | origin
    if not lora.trigger_words:
        values["trigger_words"] = list(facts.trigger_words)
    with files_lock():
        placed = lora_move(
            lora_id=lora.id, to=LoraState.PRESENT, origins=PENDING, sha256=sha256, size_bytes=size, **values
        )
        if placed:
            content_place(path, sha256)
    if placed:
        logger.info("adapter present", extra={"lora": str(lora.id), "family": facts.family, "bytes": size})
        lora.refresh_from_db()
        lora_ready.send(sender=Lora, lora=lora)


def _read(path: Path) -> AdapterFacts:
    with path.open("rb") as file:
        return read_adapter(file, size=path.stat().st_size)


def _fetch(lora: Lora, path: Path) -> dict[str, str]:
    """Downloads the adapter's file to `path`; returns which file at which commit it was. Raises DownloadFailedError."""
    # What has been pinned stays pinned: the same bytes come again after a pruning.
    repository = repository_read(name=lora.repository, revision=lora.revision or lora.wanted_revision)
    file = _choose(repository, lora.weight_name or lora.wanted_weight_name)
    if file.size > settings.LORA_MAX_UPLOAD_BYTES:
        limit = settings.LORA_MAX_UPLOAD_BYTES / 1024 / 1024
        raise DownloadFailedError(
            DownloadProblem.UNSUPPORTED,
            f"{file.path} has {file.size} bytes; {limit:g} MiB are the limit (LORA_MAX_UPLOAD_MB).",
        )
    # Its own folder, so that what an interrupted download left is found again under the row's id.
    fetched = incoming_folder() / str(lora.id) / f"{repository.commit}.safetensors"
    try:
        file_fetch(repository=repository, file=file, target=fetched, on_size=lambda size: None)
    except DownloadFailedError as error:
        # The sentence names the file by where it lies here, which tells nobody anything.
        _, named, reason = error.detail.partition(f"{fetched.name}.part")
        raise DownloadFailedError(error.problem, f"{file.path}{reason}" if named else error.detail) from error
    fetched.replace(path)
    fetched.parent.rmdir()
    return {"weight_name": file.path, "revision": repository.commit}


def _choose(repository: Repository, weight_name: str) -> RemoteFile:
    """The file that was named, or the only one that it can be. Raises DownloadFailedError."""
    candidates = sorted(
        path
        for path in repository.files
        if path.endswith(".safetensors") and len(path) <= MAX_WEIGHT_NAME_CHARACTERS
    )
    if not weight_name:
        named = [path for path in candidates if path == "pytorch_lora_weights.safetensors"]
        candidates = named or [path for path in candidates if "/" not in path]
        if len(candidates) == 1:
            return repository.files[candidates[0]]
        which = f": {', '.join(candidates[:10])}" if candidates else ""
        problem = (
            "several safetensors files; name one in weight_name" if candidates else "no safetensors file"
        )
        raise DownloadFailedError(DownloadProblem.UNSUPPORTED, f"{repository.name} has {problem}{which}.")
    if weight_name not in candidates:
        raise DownloadFailedError(
            DownloadProblem.NOT_FOUND, f"{repository.name} has no {weight_name} at {repository.commit[:12]}."
        )
    return repository.files[weight_name]
