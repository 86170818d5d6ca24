"""The events of a generation's feed, as they travel and as clients receive them (see API_REFERENCE.md)."""

from typing import Any, Literal, NotRequired, TypedDict

EventType = Literal[
    "accepted",
    "snapshot",
    "queued",
    "downloading",
    "started",
    "progress",
    "phase",
    "succeeded",
    "failed",
    "canceled",
    "warning",
]
# What each type of event has beside what all have, and what may be missing of it.
EVENT_FIELDS: dict[str, tuple[str, ...]] = {
    "accepted": ("status", "model", "seed", "total_steps", "warnings"),
    "snapshot": (
        *("status", "phase", "step", "total_steps", "percent", "seed", "model", "warnings"),
        *("images?", "error?"),
    ),
    "queued": ("phase?", "total_steps?", "reason?"),
    "downloading": ("phase?", "model", "percent", "downloaded_bytes", "total_bytes"),
    "started": ("phase?", "worker", "model", "seed", "total_steps", "warnings"),
    "progress": ("phase?", "step", "total_steps", "percent", "eta_s", "preview"),
    "phase": ("phase",),
    "succeeded": ("seed", "images"),
    "failed": ("error",),
    "canceled": ("reason?",),
    "warning": ("phase?", "warnings"),
}
TERMINAL_EVENTS = ("succeeded", "failed", "canceled")


class ImageRef(TypedDict):
    """A finished picture in an event: what it is and where to fetch it."""

    index: int
    seed: int
    width: int
    height: int
    sha256: str
    url: str


class Event(TypedDict):
    """One item of a generation's feed.

    `seq` only grows within a generation; `prev` is the `seq` of the event before it, so a reader sees a gap at once.
    """

    type: EventType
    seq: int
    prev: int
    job_id: str
    at: str
    attempt: int
    status: NotRequired[str]
    phase: NotRequired[str | None]
    reason: NotRequired[str]
    step: NotRequired[int]
    total_steps: NotRequired[int]
    percent: NotRequired[float]
    downloaded_bytes: NotRequired[int]
    total_bytes: NotRequired[int]
    eta_s: NotRequired[float | None]
    preview: NotRequired[str | None]
    seed: NotRequired[int]
    model: NotRequired[str]
    worker: NotRequired[str]
    images: NotRequired[list[ImageRef]]
    error: NotRequired[dict[str, Any]]
    warnings: NotRequired[list[dict[str, Any]]]
