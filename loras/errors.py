"""What the services of LoRA refuse."""

from imagegen_project.common.errors import DomainError


class LoraNotFoundError(DomainError):
    """No such LoRA, or somebody else's private one."""

    code = "lora_not_found"
    http_status = 404
    title = "There is no such LoRA"


class LoraInvalidError(DomainError):
    """The file is no LoRA that can be used; the detail says why."""

    code = "invalid_lora"
    http_status = 400
    title = "The file cannot be used as a LoRA"


class LoraTooLargeError(DomainError):
    """The file is over `LORA_MAX_UPLOAD_MB`."""

    code = "lora_too_large"
    http_status = 413
    title = "The LoRA's file is too large"


class LoraNameTakenError(DomainError):
    """The caller has another LoRA of this name, or a shared one has it."""

    code = "lora_name_taken"
    http_status = 409
    title = "The name is taken"


class LoraIncompatibleError(DomainError):
    """The LoRA was made for another family of models."""

    code = "lora_incompatible"
    http_status = 422
    title = "The LoRA does not fit the model"


class LoraUnavailableError(DomainError):
    """The LoRA cannot be used now: disabled, broken, or not on disk yet."""

    code = "lora_unavailable"
    http_status = 409
    title = "The LoRA cannot be used now"


class LoraInUseError(DomainError):
    """Queued or running generations need the LoRA."""

    code = "lora_in_use"
    http_status = 409
    title = "The LoRA is in use"


class LoraStorageFullError(DomainError):
    """Uploads fill the space that LoRA may take, or the disk is full."""

    code = "lora_storage_full"
    http_status = 507
    title = "There is no room for the LoRA"
