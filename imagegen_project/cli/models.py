"""`imagegen models`, `load` and `unload`: which models a running service has, and orders to its workers."""

import time
from argparse import Namespace
from collections.abc import Mapping
from typing import Any

from imagegen_project.cli.connection import client_of
from imagegen_project.cli.exits import CliError, Exit
from imagegen_project.cli.output import say, say_json, say_table, size

_POLL_S = 0.5


def models(options: Namespace) -> Exit:
    """Prints a table of the models that requests may name. Raises CliError."""
    found = client_of(options).get("/api/v1/models")["data"]
    if options.json:
        say_json(found)
        return Exit.DONE
    say_table(
        ("MODEL", "FAMILY", "SIZE", "FILES", "WHERE", "DRAWS"),
        [
            (
                f"{model['id']}{' (default)' if model.get('is_default') else ''}",
                model["family"],
                size(model["size_bytes"]) if model.get("size_bytes") else "-",
                _files(model),
                _places(model["workers"]),
                ", ".join(model.get("kinds") or []),
            )
            for model in found
        ],
    )
    return Exit.DONE


def _files(model: Mapping[str, Any]) -> str:
    state = str(model["state"])
    return f"{state} {model.get('percent')} %" if state == "downloading" else state


def _places(workers: list[dict[str, Any]]) -> str:
    held = [f"{one['tier']} on {one['worker']}" for one in workers if one["tier"] != "cold"]
    return ", ".join(held) or "-"


def order(options: Namespace) -> Exit:
    """Orders a model onto workers, or off them, and waits for the end. Raises CliError."""
    client = client_of(options)
    body = {"model": options.model, "workers": "all" if options.all else "one"}
    given = client.post(f"/api/v1/models/{options.command}", body, prefer="respond-async")
    said = ""
    while given["status"] in ("pending", "running"):
        if not options.json and given["status"] != said:
            said = given["status"]
            say(f"{options.model}: {options.command} is {said} ({_workers(given)})")
        time.sleep(_POLL_S)
        given = client.get(f"/api/v1/models/orders/{given['id']}")
    if given["status"] == "failed":
        failed = next(part for part in given["commands"] if part["status"] == "failed")
        raise CliError(f"{failed['worker']}: {failed['detail']}", code=failed["error_code"] or "failed")
    if options.json:
        say_json(given)
    else:
        say(f"{options.model}: {options.command}ed ({_workers(given)})")
    return Exit.DONE


def _workers(given: Mapping[str, Any]) -> str:
    return ", ".join(part["worker"] for part in given["commands"])
