"""Calls a running service as its OpenAPI document allows, and as it does not: `python -m benchmarks.conformance`.

Starts `standalone` in a throw-away folder, without limits that would only answer 429 and with the built-in model alone
(the others would have to come from the Hub), and runs Schemathesis with all its checks but one until `--seconds` are
over. Ends with its exit status: 0 means no server error and no answer that the document does not describe. A 504 is no
error here: it says that a picture takes longer than a request may wait, and where to ask for it.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from signal import SIGTERM

from tests.support.service import Service

NO_LIMITS = {
    "AUTH_FAILURES": "0",
    "MAX_QUEUED": "0",
    "MAX_QUEUED_PER_USER": "0",
    "WORK_LIMIT": "0",
    "STORAGE_QUOTA_MB": "0",
    "THROTTLE_MODELS": "0",
    "THROTTLE_ORDERS": "0",
    "THROTTLE_TICKETS": "0",
    "THROTTLE_UPLOADS": "0",
    "WAIT_LIMIT_S": "1",
    "LOG_LEVEL": "WARNING",
}


CONFIGURATION = """
[checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx", "504"]
"""
BUILTIN_ONLY = "UPDATE models_registry_checkpoint SET enabled = false WHERE id <> 'builtin' RETURNING id"


def command(service: Service, configuration: Path, *, seconds: int) -> list[str]:
    """Schemathesis against a service, as its local user."""
    token = (service.data_dir / "token").read_text().strip()
    return [
        *(str(Path(sys.executable).with_name("schemathesis")), "--config-file", str(configuration)),
        *("run", f"http://127.0.0.1:{service.port}/api/schema?format=json"),
        *("--header", f"Authorization: Bearer {token}"),
        *("--checks", "all", "--max-time", str(seconds), "--request-timeout", "30", "--continue-on-failure"),
        # A document cannot say all of what makes a request good: ids that exist, one model's sizes, states.
        *("--exclude-checks", "positive_data_acceptance"),
    ]


def main() -> None:
    """Runs it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=600, help="how long to go on (default 600)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="imagegen-conformance-") as folder:
        service = Service(Path(folder) / "data", **NO_LIMITS)
        try:
            service.wait_ready()
            service.sql(BUILTIN_ONLY)
            configuration = Path(folder) / "schemathesis.toml"
            configuration.write_text(CONFIGURATION)
            words = command(service, configuration, seconds=arguments.seconds)
            done = subprocess.run(words, cwd=folder, check=False)  # noqa: S603 - made above
        finally:
            service.end(SIGTERM)
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
