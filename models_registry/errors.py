"""What the registry refuses."""

import errno

from imagegen_project.common.errors import DomainError
from models_registry.choices import DownloadProblem


class ModelNotFoundError(DomainError):
    """No enabled checkpoint has this id or repository name."""

    code = "model_not_found"
    http_status = 404
    title = "There is no such model"


class ModelNotEnabledError(ModelNotFoundError):
    """A checkpoint has it, and requests may not name it."""


class ModelUnsupportedError(DomainError):
    """The model's files, as its repository has them, cannot be used here: asking again would change nothing."""

    code = "model_unsupported"
    http_status = 422
    title = "The model is not supported"


class DownloadFailedError(Exception):
    """A file or a whole checkpoint did not come, or is not what it should be; `detail` is a sentence for people."""

    def __init__(self, problem: DownloadProblem, detail: str) -> None:
        self.problem = problem
        self.detail = detail
        super().__init__(detail)


class DownloadStoppedError(Exception):
    """The process was told to stop; what has arrived stays, and the download goes on from there."""


class DownloadLostError(Exception):
    """Another process has taken the download over, or the row is gone."""


def disk_failed(error: OSError) -> DownloadFailedError:
    """What an error of the file system means for a download."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return DownloadFailedError(DownloadProblem.DISK_FULL, "The disk of MODEL_CACHE_DIR is full.")
    return DownloadFailedError(
        DownloadProblem.DISK_ERROR, f"The disk of MODEL_CACHE_DIR does not work: {error.strerror}."
    )
