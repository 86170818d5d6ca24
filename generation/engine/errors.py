"""What the engine raises; only the worker translates it."""


class EngineError(Exception):
    """A run failed."""


class EngineModelUnavailable(EngineError):  # noqa: N818 - a state of the model, named as the field names it
    """The checkpoint's files are missing, broken or of a kind that is not loaded here."""


class EngineOutOfMemory(EngineError):  # noqa: N818
    """The device's memory did not suffice."""


class EngineStopped(EngineError):  # noqa: N818
    """`should_stop` answered with a reason; nothing was decoded."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)
