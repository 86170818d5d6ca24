"""The safety filter's classifier: downloaded beside the checkpoints, once, and kept as it was then."""

from typing import Final

from models_registry.choices import DownloadProblem
from models_registry.errors import DownloadFailedError, disk_failed
from models_registry.hub import file_fetch, repository_read
from models_registry.selectors import safety_classifier_folder

# What transformers loads an image classifier from.
FILES: Final = ("config.json", "preprocessor_config.json", "model.safetensors")


def classifier_prefetch(*, name: str) -> bool:
    """Brings a classifier's repository to disk, verified; False when it was there, or the filter needs none.

    Raises DownloadFailedError.
    """
    folder = safety_classifier_folder()
    if folder is None or folder.is_dir():
        return False
    repository = repository_read(name=name)
    lacking = [file for file in FILES if file not in repository.files]
    if lacking:
        raise DownloadFailedError(
            DownloadProblem.UNSUPPORTED,
            f"{name} is no image classifier with safetensors: it has no {' and no '.join(lacking)}.",
        )
    staging = folder.with_name(f".staging-{folder.name}-{repository.commit}")
    try:
        for file in FILES:
            if not (staging / file).is_file():
                file_fetch(
                    repository=repository,
                    file=repository.files[file],
                    target=staging / file,
                    on_size=lambda size: None,
                )
        staging.rename(folder)
    except OSError as error:
        raise disk_failed(error) from error
    return True
