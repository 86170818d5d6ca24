"""Calls a running service as its OpenAPI document allows, and as it does not: `python -m benchmarks.conformance`.

Starts `standalone` in a throw-away folder, without limits that would only answer 429, and runs Schemathesis with all
its checks but one until `--seconds` are over. Ends with its exit status: 0 means no server error and no answer that
the document does not describe.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from signal import SIGTERM

from tests.integration.service import Service

NO_LIMITS = {
    "AUTH_FAILURES": "0",
    "MAX_QUEUED": "0",
    "MAX_QUEUED_PER_USER": "0",
    "WORK_LIMIT": "0",
    "STORAGE_QUOTA_MB": "0",
    "THROTTLE_MODELS": "0",
    "THROTTLE_TICKETS": "0",
    "THROTTLE_UPLOADS": "0",
    "WAIT_LIMIT_S": "1",
    "LOG_LEVEL": "WARNING",
}


def command(service: Service, *, seconds: int) -> list[str]:
    """Schemathesis against a service, as its local user."""
    token = (service.data_dir / "token").read_text().strip()
    return [
        str(Path(sys.executable).with_name("schemathesis")),
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
            words = command(service, seconds=arguments.seconds)
            done = subprocess.run(words, check=False)  # noqa: S603 - made above
        finally:
            service.end(SIGTERM)
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
