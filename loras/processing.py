"""What the task worker does with a pending adapter: fetch it, look at every weight, put the file in place."""

import logging
from pathlib import Path
from uuid import UUID

from django.conf import settings
from django.db import InterfaceError, OperationalError
from django.db.models.functions import Now
from psycopg_pool import PoolTimeout

from imagegen_project.common.safetensors_header import HeaderError
from loras.cache import cache_prune, cache_prune_owner
from loras.choices import PENDING, LoraSource, LoraState
from loras.distilled import scheduler_told
from loras.files import advisory_lock, content_place, files_lock, incoming_folder, incoming_path, lora_lock
from loras.finite import check_finite
from loras.key_styles import AdapterError
from loras.models import MAX_WEIGHT_NAME_CHARACTERS, Lora
from loras.reading import AdapterFacts, read_adapter
from loras.selectors import loras_in_turn, owned_bytes
from loras.services import facts_values, lora_break, lora_move
from loras.signals import lora_ready
from loras.trials import QUARANTINED, content_is_quarantined
from models_registry.choices import DownloadProblem
from models_registry.downloads import stop_when_told
from models_registry.errors import DownloadFailedError, DownloadStoppedError, disk_failed
from models_registry.hub import Repository, file_fetch, repository_read
from models_registry.selection import RemoteFile
from models_registry.weights import file_digests

logger = logging.getLogger(__name__)

_OWNER_LOCK = b"loras.owner.%d"


def lora_process_next() -> bool:
    """Sees to the pending adapter whose turn it is; False when there is none, or each is in hand or must wait.

    Owners take turns, and each has one in hand at a time, in all task workers together: the other places are for
    other people's. An owner with many pending adapters, or with a source that drips, waits for himself.
    """
    for lora_id, owner_id in loras_in_turn():
        with advisory_lock(_OWNER_LOCK % owner_id) as his_turn:
            if his_turn and lora_process(lora_id=lora_id):
                return True
    return False


def lora_process(*, lora_id: UUID) -> bool:
    """Brings a pending adapter to `present`, `broken` or `absent`; False when it is not pending or in other hands."""
    with lora_lock(lora_id) as mine:
        lora = Lora.objects.filter(pk=lora_id, state__in=PENDING).first() if mine else None
        if lora is None:
            return False
        Lora.objects.filter(pk=lora_id).update(taken_at=Now())
        try:
            _process(lora)
        except DownloadFailedError as error:
            lora_break(lora=lora, problem=error.problem, detail=error.detail)
        except DownloadStoppedError:
            return False  # what has arrived stays, and whoever comes next goes on
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
            logger.exception("LoRA failed", extra={"lora": str(lora_id)})
            detail = "The server made a mistake while seeing to it; its log says which."
            lora_break(lora=lora, problem=DownloadProblem.INTERNAL_ERROR, detail=detail)
        incoming_path(lora_id).unlink(missing_ok=True)
    cache_prune()
    return True


def _process(lora: Lora) -> None:
    path = incoming_path(lora.id)
    origin = _fetch(lora, path) if lora.source == LoraSource.HUB else {}
    facts = _read(path)
    check_finite(path)
    digests = file_digests(path)
    sha256, size = digests.sha256, digests.size
    if content_is_quarantined(sha256):
        raise AdapterError(QUARANTINED)
    values = facts_values(facts) | origin
    if not lora.trigger_words:
        values["trigger_words"] = list(facts.trigger_words)
    if not lora.sha256:  # afterwards staff may have said otherwise
        names = (facts.title, origin.get("weight_name", ""), lora.repository, lora.name)
        values["scheduler"] = scheduler_told(*names, family=facts.family)
    with files_lock():
        placed = lora_move(
            lora_id=lora.id, to=LoraState.PRESENT, origins=PENDING, sha256=sha256, size_bytes=size, **values
        )
        if placed:
            content_place(path, sha256)
    if placed:
        logger.info("LoRA present", extra={"lora": str(lora.id), "family": facts.family, "bytes": size})
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
    _make_room(lora, file.size)
    # Its own folder, so that what an interrupted download left is found again under the row's id.
    fetched = incoming_folder() / str(lora.id) / f"{repository.commit}.safetensors"
    try:
        file_fetch(
            repository=repository,
            file=file,
            target=fetched,
            on_size=stop_when_told,
            limit_s=settings.LORA_DOWNLOAD_LIMIT_S,
        )
    except DownloadFailedError as error:
        # The sentence names the file by where it lies here, which tells nobody anything.
        _, named, reason = error.detail.partition(f"{fetched.name}.part")
        raise DownloadFailedError(error.problem, f"{file.path}{reason}" if named else error.detail) from error
    fetched.replace(path)
    fetched.parent.rmdir()
    return {"weight_name": file.path, "revision": repository.commit}


def _make_room(lora: Lora, size: int) -> None:
    """Lets the owner's other adapters of the Hub go until one of `size` bytes is within his share of the disk.

    Raises DownloadFailedError where even that does not suffice.
    """
    owner = lora.owner
    if owner is None or owner.is_staff:
        return
    excess = owned_bytes(owner) + size - settings.LORA_USER_SHARE_BYTES
    if excess > 0:
        excess -= cache_prune_owner(owner=owner, excess=excess)
    if excess > 0:
        limit = settings.LORA_USER_SHARE_BYTES / 1024 / 1024
        raise DownloadFailedError(
            DownloadProblem.DISK_FULL,
            f"It has {size / 1024 / 1024:.1f} MiB; your LoRA may take {limit:g} MiB together "
            "(LORA_USER_SHARE_PERCENT), and those that are there cannot go.",
        )


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
