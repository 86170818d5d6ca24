"""Whether this web process is ending: who is cut off then has not hung up."""

_ending = False


def shutdown_begin() -> None:
    """Notes that it is."""
    global _ending  # noqa: PLW0603 - one fact about the process
    _ending = True


def is_ending() -> bool:
    """Whether it is."""
    return _ending
