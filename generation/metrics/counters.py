"""What is counted of jobs, orders, sweeps and events."""

from django.contrib.auth.models import User
from django.utils import timezone

from generation.choices import Status
from generation.models import Generation, WorkerCommand
from imagegen_project.auth.models import HubAccount
from imagegen_project.common.counters import SharedCounter, SharedHistogram, count

_SECONDS = (0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600, 1800)

JOBS_ENDED = SharedCounter(
    "imagegen_jobs_ended",
    "Generations that ended.",
    ("status", "kind", "model", "user_class", "error_code"),
)
JOB_QUEUE_SECONDS = SharedHistogram(
    "imagegen_job_queue_seconds", "From creation to the start of the last attempt.", ("model",), _SECONDS
)
JOB_SECONDS = SharedHistogram(
    "imagegen_job_seconds",
    "From the start of the last attempt to the stored pictures, of generations that succeeded.",
    ("kind", "model"),
    _SECONDS,
)
JOB_STEP_SECONDS = SharedHistogram(
    "imagegen_job_step_seconds",
    "The same, divided by the steps: decoding and storing included.",
    ("model",),
    (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
JOBS_DRAWN = SharedCounter(
    "imagegen_jobs_drawn",
    "Generations that were drawn, by whether they joined others in the middle of it, and whether any shared a step.",
    ("model", "joined", "shared"),
)
JOB_BATCH_SIZE = SharedHistogram(
    "imagegen_job_batch_size", "Pictures drawn at once.", ("model",), (1, 2, 4, 8, 16, 32)
)
ORDER_SECONDS = SharedHistogram(
    "imagegen_order_seconds",
    "From an order to a worker (load, unload, attach, detach, drain) to its end; a load includes its download.",
    ("kind", "model", "status"),
    _SECONDS,
)
MODEL_SWAP_SECONDS = SharedHistogram(
    "imagegen_model_swap_seconds",
    "From the wish for a model to its being ready on the device, from `disk` or from host `memory`.",
    ("model", "source"),
    (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300),
)
LEASES_EXPIRED = SharedCounter(
    "imagegen_leases_expired", "Generations whose worker stopped renewing, by what became of them.", ("to",)
)
SWEEP_ACTIONS = SharedCounter("imagegen_sweep_actions", "What sweeps put right.", ("action",))
SHARED = (
    JOBS_ENDED,
    JOB_QUEUE_SECONDS,
    JOB_SECONDS,
    JOB_STEP_SECONDS,
    JOBS_DRAWN,
    JOB_BATCH_SIZE,
    ORDER_SECONDS,
    MODEL_SWAP_SECONDS,
    LEASES_EXPIRED,
    SWEEP_ACTIONS,
)


def user_class(user: User) -> str:
    """By which way a user came: `staff`, `hub` (a Hub account) or `local`."""
    if user.is_staff:
        return "staff"
    return "hub" if HubAccount.objects.filter(user=user).exists() else "local"


def generation_measure(generation: Generation) -> None:
    """Counts a generation that has just ended."""
    model = generation.checkpoint_id
    owner_class = user_class(generation.owner)
    counts = [
        JOBS_ENDED.adding(generation.status, generation.kind, model, owner_class, generation.error_code)
    ]
    if generation.queue_ms is not None:
        counts.append(JOB_QUEUE_SECONDS.observing(generation.queue_ms / 1000, model))
    if generation.status == Status.SUCCEEDED and generation.latency_ms is not None:
        seconds = generation.latency_ms / 1000
        environment = (generation.receipt or {}).get("environment", {})
        own = environment.get("batch_shape", [generation.num_images])[0]
        others = environment.get("batched_with", 0)
        joined, shared = str(bool(environment.get("joined"))).lower(), str(others > 0).lower()
        counts += [
            JOB_SECONDS.observing(seconds, generation.kind, model),
            JOB_STEP_SECONDS.observing(seconds / generation.total_steps, model),
            JOB_BATCH_SIZE.observing(own + others, model),
            JOBS_DRAWN.adding(model, joined, shared),
        ]
    count(*counts)


def order_measure(command: WorkerCommand, *, status: str) -> None:
    """Counts an order that has just ended."""
    seconds = (timezone.now() - command.created_at).total_seconds()
    ORDER_SECONDS.observe(max(0.0, seconds), command.kind, command.checkpoint_id or "", status)
