"""What this app refuses, and how a failed generation looks to a waiting client."""

from typing import Any, ClassVar

from generation.choices import ErrorCode
from imagegen_project.common.errors import DomainError


class GenerationNotFoundError(DomainError):
    """No such generation, or somebody else's."""

    code = "generation_not_found"
    http_status = 404
    title = "There is no such generation"


class ImageNotFoundError(DomainError):
    """The generation has no such picture."""

    code = "image_not_found"
    http_status = 404
    title = "There is no such picture"


class AddressExpiredError(DomainError):
    """A signed address that is not good any more, or never was, without credentials."""

    code = "address_expired"
    http_status = 403
    title = "The address has expired, or is not as it was signed"


class InputNotFoundError(DomainError):
    """The generation has no such input picture."""

    code = "input_not_found"
    http_status = 404
    title = "There is no such input picture"


class FetchBusyError(DomainError):
    """As many pictures are being fetched from elsewhere as this process does at once."""

    code = "busy"
    http_status = 503
    title = "Too many pictures are being fetched"


class InvalidImageError(DomainError):
    """An input picture that is not one, is broken, or is too large."""

    code = "invalid_image"
    title = "The input picture cannot be used"


class OrderNotFoundError(DomainError):
    """No such order to the workers."""

    code = "order_not_found"
    http_status = 404
    title = "There is no such order"


class GenerationEndedError(DomainError):
    """Only a queued or running generation can be canceled."""

    code = "generation_ended"
    http_status = 409
    title = "The generation has already ended"


class GenerationActiveError(DomainError):
    """The generation has not ended yet."""

    code = "generation_active"
    http_status = 409
    title = "The generation has not ended yet"


class NoReceiptError(DomainError):
    """Only a generation that succeeded has a receipt."""

    code = "no_receipt"
    http_status = 409
    title = "The generation has no receipt"


class ModelInUseError(DomainError):
    """Generations of other users need the model; only staff may unload it then."""

    code = "model_in_use"
    http_status = 409
    title = "The model is in use"


class OrdersLimitError(DomainError):
    """The user has as many unfinished orders as one user may."""

    code = "too_many_orders"
    http_status = 429
    title = "Too many of your orders are unfinished"


class ModelTooLargeError(DomainError):
    """No live worker has the memory that the model needs."""

    code = "model_too_large"
    http_status = 422
    title = "The model does not fit into any worker's memory"


class AccelerationUnsupportedError(DomainError):
    """The model's pipeline class has no such cache."""

    code = "acceleration_unsupported"
    http_status = 422
    title = "The model cannot be accelerated so"


class ModelNeedsLibraryError(DomainError):
    """No live worker has the library that reads the model's quantized weights."""

    code = "model_needs_library"
    http_status = 422
    title = "The model needs a library that no worker has"


class NoWorkerError(DomainError):
    """The order needs a live GPU worker."""

    code = "no_worker"
    http_status = 503
    title = "No GPU worker is alive"


class AdjustedError(DomainError):
    """`strict` was asked for and something had to be adjusted."""

    code = "would_be_adjusted"
    http_status = 422
    title = "The request cannot be met exactly"


class QueueFullError(DomainError):
    """The server's queue takes no more."""

    code = "queue_full"
    http_status = 503
    title = "The queue is full"


class UserQueueFullError(DomainError):
    """The user has as many generations waiting as one user may."""

    code = "user_queue_full"
    http_status = 429
    title = "Too many of your generations are waiting"


class WorkLimitError(DomainError):
    """The user has asked for as much work as one user may in a while."""

    code = "work_limit_reached"
    http_status = 429
    title = "Your limit of work is reached"


class StorageQuotaError(DomainError):
    """The user's pictures fill the disk space that one user may have."""

    code = "storage_quota_reached"
    http_status = 507
    title = "Your pictures fill your disk space"


class StorageUnavailableError(DomainError):
    """The storage takes no pictures: it is full, read-only or away."""

    code = "storage_unavailable"
    http_status = 507
    title = "The storage takes no pictures now"


class StorageUnreadableError(StorageUnavailableError):
    """A picture is there, or may be, and cannot be read now."""

    http_status = 503
    title = "The storage gives no pictures now"


class IdempotencyConflictError(DomainError):
    """The Idempotency-Key was used for another request before."""

    code = "idempotency_conflict"
    http_status = 409
    title = "This Idempotency-Key belongs to another request"


class NothingToShareError(DomainError):
    """The generation has no pictures."""

    code = "nothing_to_share"
    http_status = 409
    title = "There is nothing to share"


class TooManySharesError(DomainError):
    """The generation has as many links as one may have."""

    code = "too_many_shares"
    http_status = 409
    title = "There are too many links to this generation"


class ShareNotFoundError(DomainError):
    """No such link: unknown, revoked, or the generation is gone."""

    code = "share_not_found"
    http_status = 404
    title = "There is no such link"


class UnfinishedError(DomainError):
    """The wait ended before the generation did; it goes on."""

    code = "unfinished"
    http_status = 504
    title = "The generation has not finished in time; it goes on"


class CanceledError(DomainError):
    """The generation was canceled before it finished."""

    code = "canceled"
    http_status = 409
    title = "The generation was canceled"


class OrderUnfinishedError(UnfinishedError):
    """The wait ended before the order was carried out; it goes on."""

    title = "The order has not been carried out in time; it goes on"


class FailedError(DomainError):
    """The generation failed; `code` and the status follow its error code."""

    title = "The generation failed"
    STATUS: ClassVar[dict[str, int]] = {
        ErrorCode.TIMEOUT: 504,
        ErrorCode.OUT_OF_MEMORY: 507,
        ErrorCode.WORKER_LOST: 503,
        ErrorCode.MODEL_UNAVAILABLE: 503,
        ErrorCode.ENGINE_ERROR: 500,
        ErrorCode.LORA_UNAVAILABLE: 422,
        ErrorCode.LORA_INCOMPATIBLE: 422,
        ErrorCode.UNSAFE: 422,
        ErrorCode.WOULD_BE_ADJUSTED: 422,
        ErrorCode.STORAGE_UNAVAILABLE: 507,
    }

    def __init__(self, *, error_code: str, detail: str, **ids: Any) -> None:
        self.code = error_code  # type: ignore[misc]  # an instance's own code, one class for all failures
        self.http_status = self.STATUS.get(error_code, 500)  # type: ignore[misc]
        super().__init__(detail, **ids)


class OrderFailedError(FailedError):
    """An order to the workers failed: not a generation, so it names its own id."""

    title = "The order could not be carried out"
