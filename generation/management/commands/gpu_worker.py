"""`manage.py gpu_worker`."""

import gc
import sys
from argparse import ArgumentParser
from importlib import import_module
from typing import Any

from django.core.management.base import BaseCommand

from generation.upkeep.sweep import SWEEP_EVERY_S, sweep_where_nobody_does
from imagegen_project import env
from imagegen_project.common.periodic import periodic_threads


class Command(BaseCommand):
    """Runs one GPU worker."""

    help = (
        "Runs a GPU worker: it claims queued generations from PostgreSQL and draws them, several at a time where that "
        "pays. Start one per GPU (CUDA_VISIBLE_DEVICES chooses it); without a GPU it uses the CPU (TORCH_THREADS). "
        "SIGTERM lets what runs finish within WORKER_GRACE_S seconds, then hands it back."
    )
    # They would import every page and view, for nothing that runs here.
    requires_system_checks = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        """The command's options."""
        parser.add_argument("--name", default="", help="Name of this worker; by default host and process id.")
        parser.add_argument(
            "--after-input",
            action="store_true",
            help="Import everything, and begin once standard input has ended: for what starts servers meanwhile.",
        )

    def handle(self, *args: Any, name: str, after_input: bool, **options: Any) -> None:
        """Runs until it is told to stop."""
        env.worker_process_ensure()
        env.configure_torch_process()  # before torch is imported
        # A million objects that stay: looked through again and again as they come, they take a tenth longer.
        gc.disable()
        if env.COMPILE_MODELS:
            import_module("torch._dynamo")  # the compiler, which the engine would leave out
        from generation.gpu_worker.worker import gpu_worker_run  # noqa: PLC0415

        gc.freeze()
        gc.enable()
        if after_input:
            sys.stdin.buffer.read()
        # In a thread of its own: a sweep that has much to do delays neither a cancel nor a lease.
        with periodic_threads(("sweep", sweep_where_nobody_does, SWEEP_EVERY_S)):
            gpu_worker_run(name=name)
