"""Runs all checks, from the ground up: what rests on something broken is skipped."""

from argparse import Namespace
from collections.abc import Iterator
from dataclasses import asdict

from imagegen_project.cli.doctor.findings import Check, Finding, State, fault, first_line, skipped
from imagegen_project.cli.exits import Exit
from imagegen_project.cli.output import counted, say, say_json

_MARKS = {State.OK: "ok", State.NOTE: "note", State.FAULT: "FAULT", State.SKIPPED: "skipped"}


def doctor(options: Namespace) -> Exit:
    """Prints what was found; FAILED where there is a fault."""
    found = list(findings(port=options.port))
    faults = [finding for finding in found if finding.state is State.FAULT]
    if options.json:
        say_json({"faults": len(faults), "findings": [asdict(finding) for finding in found]})
        return Exit.FAILED if faults else Exit.DONE
    for finding in found:
        if options.all or finding.state is not State.OK:
            say(f"{_MARKS[finding.state]:8} {finding.check}: {finding.said}")
            if finding.remedy:
                say(f"         -> {finding.remedy}")
    well = sum(finding.state is State.OK for finding in found)
    notes = sum(finding.state is State.NOTE for finding in found)
    checks = f"{counted(well, 'check')} {'is' if well == 1 else 'are'} well"
    say(f"{counted(len(faults), 'fault')}, {counted(notes, 'note')}, {checks}.")
    return Exit.FAILED if faults else Exit.DONE


def findings(*, port: int) -> Iterator[Finding]:
    """What all checks say, in the order in which things rest on each other."""
    try:
        # It reads every variable, and raises what says which one is wrong.
        from imagegen_project.cli.doctor import ground
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the finding
        yield fault(
            "settings",
            first_line(error),
            "Correct that variable, in the environment or in .env; docs/settings.md explains each.",
        )
        return
    yield from _all((ground.packages, ground.gpu, ground.compiler))
    settings = list(ground.settings_usable())
    yield from settings
    if any(finding.state is State.FAULT for finding in settings):
        yield skipped("the rest", "nothing more can be looked at without settings")
        return
    # They import Django's models, which settings come before.
    from imagegen_project.cli.doctor import deployment, jobs, servers

    yield from _all((deployment.security, deployment.folders, deployment.disks, deployment.hub))
    yield from _all((lambda: deployment.port(port), servers.redis))
    database = list(_all((servers.postgresql,)))
    yield from database
    if any(finding.state is State.FAULT for finding in database):
        yield skipped("jobs", "migrations, workers, models and pictures are known to PostgreSQL alone")
        return
    migrations = list(_all((servers.migrations,)))
    yield from migrations
    yield from _all((servers.clock,))
    if any(finding.state is State.FAULT for finding in migrations):
        yield skipped("jobs", "workers, models and pictures can be looked at once the database fits")
        return
    yield from _all((jobs.workers, jobs.queue, jobs.helpers, jobs.models, jobs.pictures))


def _all(checks: tuple[Check, ...]) -> Iterator[Finding]:
    for check in checks:
        try:
            yield from check()
        except Exception as error:  # noqa: BLE001 - one that breaks does not keep the others from looking
            yield fault(
                getattr(check, "__name__", "check"),
                f"could not be looked at ({type(error).__name__}: {first_line(error)})",
                "Mend what the message names, and look again.",
            )
