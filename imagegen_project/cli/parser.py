"""The command line's grammar: commands, options, and help that teaches by examples."""

import argparse
from pathlib import Path
from textwrap import dedent
from typing import Final, TypeAlias

from imagegen_project.cli.exits import MEANINGS

# Django's commands that people type, by their names here: what each is in Django, and what it does.
SERVICE_COMMANDS: Final = {
    "demo": ("standalone", "the whole service on this machine, with nothing else installed"),
    "standalone": ("standalone", "the same"),
    "web": ("web", "one web process"),
    "gpu-worker": ("gpu_worker", "one GPU worker"),
    "task-worker": ("task_worker", "one task worker: downloads models, and sweeps"),
    "webhook-worker": ("webhook_worker", "one webhook worker"),
    "migrate": ("migrate", "bring the database up to date"),
    "create-token": ("create_token", "the same as `tokens create`"),
    "create-superuser": ("createsuperuser", "a user for the admin pages"),
    "prefetch-models": ("prefetch_models", "download models before they are needed"),
    "prune-generations": ("prune_generations", "delete generations that ended long ago"),
    "prune-cache": ("prune_cache", "bring the LoRA folder within its budget"),
    "tell-schedulers": ("tell_schedulers", "note what older LoRA were distilled for"),
    "sweep": ("sweep", "put right what crashes left behind"),
    "wait-for": ("wait_for", "wait for database, redis or migrations"),
    "worker-alive": ("worker_alive", "a container's health check"),
}

EXAMPLES: Final = {
    "generate": (
        'imagegen generate "a large red circle on a white background"',
        'imagegen generate "a blue star" --out star.png --seed 7 --steps 20 --size 512x512',
        'imagegen generate "a blue star" --image out.png --strength 0.7',
        'imagegen generate "a green heart" --image out.png --mask mask.png',
        'imagegen generate "a blue star" --lora pastel:0.8 --set guidance_scale=4 --json',
        'imagegen generate "a lighthouse" --url https://images.example.com --model sd-xl-base',
    ),
    "tail": ("imagegen tail", "imagegen tail 0198c5d2-7a51-7c3e-9a40-5f1d8a1c2b3d --json"),
    "models": ("imagegen models", "imagegen models --json"),
    "load": ("imagegen load sd-xl-base", "imagegen load builtin --all"),
    "unload": ("imagegen unload sd-xl-base",),
    "status": ("imagegen status", "imagegen status --json"),
    "workers": ("imagegen workers",),
    "tokens": (
        "imagegen tokens list --user ada",
        "imagegen tokens create ada --days 30",
        "imagegen tokens revoke 0198c5d2-7a51-7c3e-9a40-5f1d8a1c2b3d",
    ),
    "doctor": ("imagegen doctor", "imagegen doctor --json", "imagegen doctor --port 9000"),
}
SHELLS: Final = ("bash", "zsh", "fish", "powershell")
_MAX_SIDE = 16384

_Commands: TypeAlias = (
    "argparse._SubParsersAction[argparse.ArgumentParser]"  # noqa: SLF001 - it has no other name
)


def parser_make() -> argparse.ArgumentParser:
    """The whole grammar; `command` names what was chosen."""
    parser = argparse.ArgumentParser(
        prog="imagegen",
        usage="imagegen COMMAND [options]",
        description="A self-hosted image-generation service: run it, draw with it, and see how it is.",
        epilog=_overview(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="store_true", help="print the version, and end")
    # One list of all commands, by subject, is the epilog; completion knows them all the same.
    commands = parser.add_subparsers(
        prog="imagegen", dest="command", metavar="COMMAND", help="one of those below"
    )
    _client_commands(commands)
    _host_commands(commands)
    for name in (*SERVICE_COMMANDS, "manage"):
        service = commands.add_parser(name, add_help=False)
        service.add_argument("arguments", nargs=argparse.REMAINDER)
    return parser


def _overview() -> str:
    lines = [
        "draw and look, from any machine (options --url and --token):",
        "  generate          draw a picture into a file",
        "  tail              follow a job's events",
        "  models            the models there are, and where they are loaded",
        "  load, unload      bring a model onto a GPU worker, or off it",
        "",
        "operate, on the service's host:",
        "  doctor            find what is wrong, and say what to do about it",
        "  status            queue, running, failures of the last hour, workers",
        "  workers           GPU workers and the age of their heartbeats",
        "  tokens            list, create, revoke local tokens",
        "",
        "run the service (the same as `manage.py`; each has its own --help):",
        *(f"  {name:17} {words}" for name, (_command, words) in SERVICE_COMMANDS.items()),
        "  manage            any other of Django's commands",
        "",
        "  completion        print what makes a shell complete all this",
        "",
        "first steps:",
        "  imagegen demo",
        '  imagegen generate "a large red circle" --out circle.png',
        "  imagegen doctor",
        "",
        "exit status:",
        *(f"  {int(status):3}  {words}" for status, words in MEANINGS.items()),
    ]
    return "\n".join(lines)


def _add(commands: _Commands, name: str, words: str, more: str = "") -> argparse.ArgumentParser:
    examples = "\n".join(f"  {example}" for example in EXAMPLES.get(name, ()))
    return commands.add_parser(
        name,
        description=dedent(more).strip() or f"{words[0].upper()}{words[1:]}.",
        epilog=f"examples:\n{examples}" if examples else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _json(parser: argparse.ArgumentParser, words: str = "print one JSON document") -> None:
    parser.add_argument("--json", action="store_true", help=words)


def _server(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--url",
        default="",
        help="the service's address (default: IMAGEGEN_URL, else the one that `imagegen demo` runs here)",
    )
    parser.add_argument(
        "--token",
        default="",
        help="a token; IMAGEGEN_TOKEN keeps it out of the list of processes (default here: the data folder's)",
    )


def _client_commands(commands: _Commands) -> None:
    draw = _add(
        commands,
        "generate",
        "draw a picture into a file",
        """
        Sends a job to a running service, shows its progress, writes the picture, and prints what it was made with.
        Ctrl-C stops the watching; the job goes on, and `imagegen tail` follows it.
        """,
    )
    draw.add_argument("prompt", metavar="PROMPT")
    draw.add_argument("--out", type=Path, default=Path("out.png"), help="the file to write (default out.png)")
    draw.add_argument("--model", help="registry id or repository (default: the service's)")
    draw.add_argument("--steps", type=int, help="how many steps to draw in")
    draw.add_argument("--seed", type=int, default=-1, help="the seed (default: random)")
    draw.add_argument("--size", type=_size, metavar="WIDTHxHEIGHT", help="in pixels, such as 512x768")
    draw.add_argument("--image", type=Path, metavar="FILE", help="a picture to start from")
    draw.add_argument("--mask", type=Path, metavar="FILE", help="what is white in it is drawn anew")
    draw.add_argument("--strength", type=float, help="how much of --image may change, above 0 to 1")
    draw.add_argument(
        "--lora", action="append", default=[], metavar="NAME[:SCALE]", help="a LoRA; may be repeated"
    )
    draw.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="any other field of API_REFERENCE.md; may be repeated",
    )
    _server(draw)
    _json(draw)
    follow = _add(
        commands,
        "tail",
        "follow a job's events",
        "Prints a job's events until it ends. Without JOB: of your jobs the newest.",
    )
    follow.add_argument("job", nargs="?", default="", metavar="JOB", help="the job's id")
    _server(follow)
    _json(follow, "print one JSON document per event, a line each")
    models = _add(commands, "models", "the models there are, and where they are loaded")
    _server(models)
    _json(models)
    for name, words in (("load", "bring a model onto a GPU worker"), ("unload", "take a model off a worker")):
        order = _add(commands, name, words, f"{words.capitalize()}, and wait until that is done.")
        order.add_argument("model", metavar="MODEL", help="registry id or repository")
        order.add_argument("--all", action="store_true", help="on every worker")
        _server(order)
        _json(order)


def _host_commands(commands: _Commands) -> None:
    _json(_add(commands, "status", "queue, running, failures of the last hour, workers"))
    _json(_add(commands, "workers", "GPU workers and the age of their heartbeats"))
    tokens = _add(commands, "tokens", "list, create, revoke local tokens")
    verbs = tokens.add_subparsers(dest="verb", metavar="VERB", required=True)
    shown = verbs.add_parser("list", help="whose they are, and when they were used last; not what they say")
    shown.add_argument("--user", default="", help="only this user's")
    _json(shown)
    made = verbs.add_parser("create", help="make one, and the user where there is none; printed once")
    made.add_argument(
        "username", metavar="USER", help="whose; a user of that name is made where there is none"
    )
    made.add_argument("--days", type=int, default=90, help="days until it expires; 0: never (default 90)")
    made.add_argument("--staff", action="store_true", help="let the user manage the service through the API")
    _json(made)
    ended = verbs.add_parser("revoke", help="end one, and the sessions that it began")
    ended.add_argument("id", metavar="ID", help="as `imagegen tokens list` shows it")
    _json(ended)
    doctor = _add(
        commands,
        "doctor",
        "find what is wrong, and say what to do about it",
        """
        Looks at settings, disks, PostgreSQL, Redis, the Hub, the GPU and its driver, workers, models and versions.
        It changes nothing. Each finding comes with its remedy. Exit status 1 where there is a fault.
        """,
    )
    doctor.add_argument(
        "--port", type=int, default=8000, help="where the web process is to listen (default 8000)"
    )
    doctor.add_argument("--all", action="store_true", help="also say what is well")
    _json(doctor)
    completion = _add(
        commands,
        "completion",
        "print what makes a shell complete commands and options",
        """
        Prints what makes a shell complete commands and options: for bash and zsh, put
            eval "$(imagegen completion bash)"
        into ~/.bashrc (or zsh, and ~/.zshrc).
        """,
    )
    completion.add_argument("shell", choices=SHELLS)


def _size(text: str) -> tuple[int, int]:
    width, times, height = text.lower().partition("x")
    if not (times and width.isdigit() and height.isdigit() and 0 < max(int(width), int(height)) <= _MAX_SIDE):
        message = f"{text!r} is no size such as 512x768"
        raise argparse.ArgumentTypeError(message)
    return int(width), int(height)
