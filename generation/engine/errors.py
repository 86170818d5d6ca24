"""What the engine raises; only the worker translates it."""


class EngineError(Exception):
    """A run failed."""


class EngineModelUnavailable(EngineError):  # noqa: N818 - a state of the model, named as the field names it
    """The checkpoint's files are missing, broken or of a kind that is not loaded here."""


class EngineModelBroken(EngineModelUnavailable):
    """The files are there and cannot be used: they must not be tried again."""


class EngineAdapterUnusable(EngineError):  # noqa: N818
    """A LoRA file is missing, or cannot be put on this model."""


class EngineOutOfMemory(EngineError):  # noqa: N818
    """The device's memory did not suffice."""


class EngineDeviceLost(EngineError):  # noqa: N818
    """The device answers nothing any more, in this process: only a new one can draw again."""


class EngineRefused(EngineError):  # noqa: N818
    """The batch was `strict` and something would have to be adjusted; `warning` says what."""

    def __init__(self, warning: dict[str, object]) -> None:
        self.warning = warning
        super().__init__(str(warning["reason"]))


class EngineUnsafe(EngineError):  # noqa: N818
    """The safety filter blocked every picture, or it must block and cannot look."""


class EngineStopped(EngineError):  # noqa: N818
    """`should_stop` answered with a reason; nothing was decoded."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)
