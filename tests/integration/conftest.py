"""One running service for all tests that only need one."""

import time
from collections.abc import Iterator
from pathlib import Path
from signal import SIGTERM
from typing import Any

import httpx2
import pytest

from tests.integration.service import SAFETY_S, Service


class Live:
    """A client of the running service, as its local user."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.url = f"http://127.0.0.1:{service.port}"
        self.token = (service.data_dir / "token").read_text().strip()
        self.headers = {"Authorization": f"Bearer {self.token}"}
        self.http = httpx2.Client(base_url=self.url, headers=self.headers, timeout=SAFETY_S)

    def socket_url(self, job_id: str, query: str = "") -> str:
        """The address of a generation's feed."""
        return f"ws://127.0.0.1:{self.service.port}/ws/generations/{job_id}/{query}"

    def create(self, **fields: Any) -> dict[str, Any]:
        """Stores a quick generation."""
        request = {"prompt": "a red circle", "width": 256, "height": 256, "steps": 2} | fields
        response = self.http.post("/api/v1/generations", json=request)
        assert response.status_code == 202, response.text
        body: dict[str, Any] = response.json()
        return body

    def get(self, job_id: str) -> dict[str, Any]:
        """A generation as it stands."""
        body: dict[str, Any] = self.http.get(f"/api/v1/generations/{job_id}").json()
        return body

    def wait(self, job_id: str, *statuses: str) -> dict[str, Any]:
        """Waits for one of the statuses (by default for any end)."""
        wanted = statuses or ("succeeded", "failed", "canceled")
        deadline = time.monotonic() + SAFETY_S
        while (body := self.get(job_id))["status"] not in wanted:
            assert time.monotonic() < deadline, body
            time.sleep(0.1)
        return body

    def picture(self, job_id: str, index: int = 0) -> bytes:
        """A finished picture's file."""
        response = self.http.get(f"/api/v1/generations/{job_id}/images/{index}")
        assert response.status_code == 200, response.text
        return response.content


@pytest.fixture(scope="session")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """The whole service on embedded servers; small limits, so that tests reach them quickly."""
    data_dir: Path = tmp_path_factory.mktemp("live") / "data"
    service = Service(data_dir, LEASE_S="5", MAX_BODY_MB="1", WORKER_GRACE_S="1", WAIT_LIMIT_S="120")
    try:
        service.wait_ready()
        client = Live(service)
        with client.http:
            yield client
    finally:
        service.end(SIGTERM)
