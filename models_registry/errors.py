"""What the registry refuses."""

from imagegen_project.common.errors import DomainError


class ModelNotFoundError(DomainError):
    """No enabled checkpoint has this id or repository name."""

    code = "model_not_found"
    http_status = 404
    title = "There is no such model"
