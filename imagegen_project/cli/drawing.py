"""`imagegen generate` and `imagegen tail`: a job from its prompt to its file, and the feed of any job."""

import base64
import contextlib
import json
from argparse import Namespace
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from imagegen_project.cli.client import ENDINGS, ServiceClient
from imagegen_project.cli.connection import client_of
from imagegen_project.cli.exits import CliError, Exit
from imagegen_project.cli.output import age, say, say_json

_BAR_FORMAT = "{desc} step {n_fmt}/{total_fmt} |{bar:40}| {elapsed}"


def generate(options: Namespace) -> Exit:
    """Draws one picture and writes it to `--out`. Raises CliError."""
    client = client_of(options)
    folder = options.out.resolve().parent
    if not folder.is_dir():
        raise _usage(f"There is no folder {folder} to write {options.out.name} into.")
    job = picture_draw(client, request_of(options), options.out)
    receipt = client.get(f"/api/v1/generations/{job['id']}/receipt")
    if options.json:
        say_json({"file": str(options.out), "generation": job, "receipt": receipt})
        return Exit.DONE
    say(str(options.out))
    for line in receipt_lines(job, receipt):
        say(f"  {line}")
    return Exit.DONE


def request_of(options: Namespace) -> dict[str, Any]:
    """The request's body. Raises CliError."""
    request: dict[str, Any] = {"prompt": options.prompt, "seed": options.seed}
    for name in ("model", "steps", "strength"):
        if (value := getattr(options, name)) is not None:
            request[name] = value
    if options.size:
        request["width"], request["height"] = options.size
    for name, field in (("image", "image"), ("mask", "mask_image")):
        if path := getattr(options, name):
            request[field] = _picture(path)
    if options.lora:
        request["loras"] = [_lora(text) for text in options.lora]
    for text in options.set:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise _usage(f"--set takes FIELD=VALUE, not {text!r}.")
        with contextlib.suppress(ValueError):  # what is no JSON is text
            value = json.loads(value)
        request[name] = value
    return request


def picture_draw(client: ServiceClient, request: Mapping[str, Any], out: Path) -> dict[str, Any]:
    """Has one picture drawn, with a progress bar, writes it to `out` and returns its generation. Raises CliError."""
    job_id = str(client.post("/api/v1/generations", request)["id"])
    with _bar() as bar:
        for event in client.events(job_id):
            _show(bar, event)
    job = client.get(f"/api/v1/generations/{job_id}")
    if job["status"] != "succeeded":
        error = job.get("error") or {}
        reason = error.get("detail") or error.get("code") or "no reason given"
        raise CliError(
            f"The generation ended as {job['status']}: {reason}", code=error.get("code") or job["status"]
        )
    picture = client.request("GET", f"/api/v1/generations/{job_id}/images/0")
    try:
        out.write_bytes(picture)
    except OSError as error:
        raise _usage(f"{out} cannot be written ({error.strerror}).") from error
    return job


@contextlib.contextmanager
def _bar() -> Iterator[Any]:
    # Of what draws only: other commands start without it.
    from tqdm import tqdm

    with tqdm(total=None, bar_format=_BAR_FORMAT, leave=True, desc="queued") as bar:
        yield bar


def _show(bar: Any, event: Mapping[str, Any]) -> None:
    words = event.get("phase") or event.get("status") or event["type"]
    if event.get("total_bytes"):
        words = f"downloading {100 * (event.get('downloaded_bytes') or 0) / event['total_bytes']:.0f} %"
    if event.get("total_steps"):
        bar.total, bar.n = int(event["total_steps"]), int(event.get("step") or 0)
    bar.set_description_str(str(words))


def receipt_lines(job: Mapping[str, Any], receipt: Mapping[str, Any]) -> list[str]:
    """What a picture was made with, and what was changed of the request."""
    environment, timings = receipt.get("environment") or {}, receipt.get("timings") or {}
    lines = [
        f"seed {job['seed']}, model {job['model']}, {job['width']}x{job['height']}, {job['num_inference_steps']} steps"
        + (f", {job['scheduler']}" if job.get("scheduler") else ""),
        f"drawn in {age((timings.get('latency_ms') or 0) / 1000)} on {environment.get('device', 'its device')}"
        f", after {age((timings.get('queue_ms') or 0) / 1000)} in the queue",
        f"job {job['id']}",
    ]
    lines += [f"changed: {warning['param']}: {warning['reason']}" for warning in job.get("warnings") or []]
    return lines


def tail(options: Namespace) -> Exit:
    """Prints a job's events until it ends; FAILED unless it succeeded. Raises CliError."""
    client = client_of(options)
    job_id = options.job or _newest(client)
    client.get(f"/api/v1/generations/{job_id}")
    last = ""
    for event in client.events(job_id):
        event.pop("preview", None)
        if options.json:
            say_json(event, indent=None)
        else:
            say(event_line(event))
        last = event.get("status") or event["type"]
    return Exit.DONE if last == "succeeded" else Exit.FAILED


def event_line(event: Mapping[str, Any]) -> str:
    """An event in words."""
    words = [str(event.get("at", ""))[11:19], str(event["type"])]
    if event.get("total_steps"):
        words.append(f"step {event.get('step') or 0} of {event['total_steps']}")
    if event.get("eta_s"):
        words.append(f"{age(event['eta_s'])} left")
    if event.get("total_bytes"):
        words.append(f"{event.get('downloaded_bytes') or 0} of {event['total_bytes']} bytes")
    words += [f"{name} {event[name]}" for name in ("phase", "worker", "model", "reason") if event.get(name)]
    if error := event.get("error"):
        words.append(f"{error.get('code')}: {error.get('detail')}")
    words += [f"{warning['param']}: {warning['reason']}" for warning in event.get("warnings") or []]
    return "  ".join(filter(None, words))


def _newest(client: ServiceClient) -> str:
    results = client.get("/api/v1/generations?limit=1")["results"]
    if not results:
        raise _usage("You have no generation yet: `imagegen generate` makes one.")
    waiting = [job for job in results if job["status"] not in ENDINGS]
    return str((waiting or results)[0]["id"])


def _picture(path: Path) -> str:
    try:
        return base64.b64encode(path.read_bytes()).decode("ascii")
    except OSError as error:
        raise _usage(f"{path} cannot be read ({error.strerror}).") from error


def _lora(text: str) -> dict[str, Any]:
    name, colon, scale = text.rpartition(":")
    if not colon:
        return {"lora": text}
    try:
        return {"lora": name, "scale": float(scale)}
    except ValueError:
        raise _usage(f"--lora takes NAME or NAME:SCALE, such as pastel:0.8, not {text!r}.") from None


def _usage(detail: str) -> CliError:
    return CliError(detail, code="usage", exit_status=Exit.USAGE)
