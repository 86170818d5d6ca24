"""The whole service over HTTP: daphne, PostgreSQL, Redis, an RQ worker and a diffusers pipeline."""

import base64
import io
import json
import signal
import subprocess
import sys
from pathlib import Path

import httpx2
import psutil
from PIL import Image

from tests.support.live import Live
from tests.support.service import REPOSITORY, SAFETY_S, environment, wait_for


def worker_process(live: Live) -> psutil.Process:
    """The GPU worker."""
    wait_for(lambda: any("gpu_worker" in process.cmdline() for process in alive(live)), "a GPU worker")
    return next(process for process in alive(live) if "gpu_worker" in process.cmdline())


def alive(live: Live) -> list[psutil.Process]:
    """The service's processes that still have a command line."""
    found = []
    for process in live.service.family():
        try:
            if process.cmdline():
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_the_plans_three_calls(live: Live) -> None:
    """Text to image with its four fields, a model load, and the models without a token."""
    request = {
        "prompt": "a large red circle on a white background",
        "model_id": "builtin",
        "num_inference_steps": 2,
        "guidance_scale": 7.5,
    }
    answer = live.http.post("/api/v1/generate/txt2img", json=request)
    body = answer.json()
    with Image.open(io.BytesIO(base64.b64decode(body["images"][0]["b64_json"]))) as picture:
        assert (picture.format, picture.size) == ("PNG", (512, 512))
    assert body["status"] == "succeeded"
    stored = live.service.sql(f"SELECT request_id FROM generation_generation WHERE id = '{body['id']}'")
    assert stored == [(answer.headers["X-Request-Id"],)]
    loaded = live.http.post("/api/v1/models/load", json={"model_id": "builtin"})
    assert (loaded.status_code, loaded.json()["status"]) == (200, "succeeded")
    models = httpx2.get(f"{live.url}/api/v1/models")
    assert models.status_code == 200
    assert "builtin" in {model["id"] for model in models.json()["data"]}


def test_a_picture_can_be_the_answer_itself(live: Live) -> None:
    """As it is stored, with the job's id beside it; what goes wrong is said in JSON all the same."""
    request = {"prompt": "a red circle", "width": 256, "height": 256, "steps": 2, "output_format": "webp"}
    headers = {"Accept": "image/webp"}
    answer = live.http.post("/api/v1/generate/txt2img", json=request, headers=headers)
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "image/webp")
    assert answer.content == live.picture(answer.headers["X-Job-Id"])
    with Image.open(io.BytesIO(answer.content)) as picture:
        assert (picture.format, picture.size) == ("WEBP", (256, 256))
    late = live.http.post(
        "/api/v1/generate/txt2img", json=request | {"steps": 100}, headers=headers | {"Prefer": "wait=0"}
    )
    assert (late.status_code, late.headers["Content-Type"]) == (504, "application/problem+json")
    live.http.post(f"{late.json()['location']}/cancel")


def test_equal_requests_give_equal_files(live: Live) -> None:
    """The same seed the same bytes, another seed other ones; a random seed is recorded and reproduces."""
    jobs = [live.create(seed=seed)["id"] for seed in (5, 5, 6, -1)]
    ended = [live.wait(job) for job in jobs]
    files = [live.picture(job) for job in jobs]
    assert files[0] == files[1]
    assert files[0] != files[2]
    again = live.wait(live.create(seed=ended[3]["seed"])["id"])
    assert live.picture(again["id"]) == files[3]


def test_the_file_says_how_it_was_made(live: Live) -> None:
    """Prompt, seed and model; no ids and no times."""
    job = live.wait(live.create(seed=5)["id"])
    with Image.open(io.BytesIO(live.picture(job["id"]))) as picture:
        picture.load()
        text = picture.text  # type: ignore[attr-defined]  # a PNG has it
    made = json.loads(text["imagegen"])
    assert (made["prompt"], made["seed"], made["model"]) == ("a red circle", 5, "builtin")
    assert job["id"] not in str(text)
    assert job["created_at"][:10] not in str(text)


def test_a_replay_gives_the_same_pixels(live: Live) -> None:
    """On the same machine and build; the receipt names both."""
    job = live.wait(live.create(num_images=2)["id"])
    receipt = live.http.get(f"/api/v1/generations/{job['id']}/receipt").json()
    assert receipt["environment"]["batch_shape"] == [2, 3, 256, 256]
    replay = live.http.post(f"/api/v1/generations/{job['id']}/replay").json()
    ended = live.wait(replay["id"])
    assert (ended["status"], ended["pixels_match"]) == ("succeeded", True)
    assert [image["seed"] for image in ended["images"]] == [job["seed"], (job["seed"] + 1) % 2**32]


def test_wait_prefers(live: Live) -> None:
    """`Prefer: wait=N` answers 200 when it ends in time, else 202 (or 504 where pictures were asked for)."""
    quick = {"prompt": "a", "width": 256, "height": 256, "steps": 1}
    done = live.http.post("/api/v1/generations", json=quick, headers={"Prefer": "wait=100"})
    assert (done.status_code, done.json()["status"]) == (200, "succeeded")
    slow = quick | {"steps": 100, "width": 1024, "height": 1024, "num_images": 4}
    late = live.http.post("/v1/generations/", json=slow, headers={"Prefer": "wait=1"})
    assert late.status_code == 202
    timed_out = live.http.post("/v1/txt2img", json=quick, headers={"Prefer": "wait=1"})
    assert (timed_out.status_code, timed_out.json()["code"]) == (504, "unfinished")
    assert timed_out.headers["Location"] == f"/api/v1/generations/{timed_out.json()['job_id']}"
    for job_id in (late.json()["id"], timed_out.json()["job_id"]):
        live.http.post(f"/api/v1/generations/{job_id}/cancel")
        live.wait(job_id)


def test_a_running_job_is_canceled_within_a_step(live: Live) -> None:
    """It ends canceled, has no picture, and the worker goes on."""
    job = live.create(steps=100, width=768, height=768)
    live.wait(job["id"], "running")
    answer = live.http.post(f"/api/v1/generations/{job['id']}/cancel").json()
    assert answer["cancel_requested"]
    ended = live.wait(job["id"])
    assert (ended["status"], ended["images"]) == ("canceled", [])
    assert ended["step"] < 100
    assert live.wait(live.create()["id"])["status"] == "succeeded"


def test_deleting_a_running_job_leaves_nothing(live: Live) -> None:
    """Neither row nor file, and the worker goes on."""
    job = live.create(steps=100, width=768, height=768)
    live.wait(job["id"], "running")
    assert live.http.delete(f"/api/v1/generations/{job['id']}").status_code == 204
    assert live.http.get(f"/api/v1/generations/{job['id']}").status_code == 404
    assert live.wait(live.create()["id"])["status"] == "succeeded"
    assert not list((live.service.data_dir / "media").rglob(f"*{job['id']}*/*"))


def test_a_job_over_its_limit_fails_with_timeout(live: Live) -> None:
    """504 for the client that waits."""
    request = {"prompt": "a", "steps": 100, "width": 1024, "height": 1024, "timeout_s": 1}
    response = live.http.post("/api/v1/generate/txt2img", json=request)
    assert (response.status_code, response.json()["code"]) == (504, "timeout")
    assert live.get(response.json()["job_id"])["status"] == "failed"


def test_a_model_without_files_is_unavailable(live: Live) -> None:
    """The job fails with a code; the worker goes on."""
    response = live.http.post("/api/v1/generate/txt2img", json={"prompt": "a", "model": "sd-1-5"})
    assert (response.status_code, response.json()["code"]) == (503, "model_unavailable")
    assert live.wait(live.create()["id"])["status"] == "succeeded"


def test_models_are_unloaded_and_loaded(live: Live) -> None:
    """The answer comes when it is done, and the list says where the model is."""

    def tier() -> str:
        model = live.http.get("/api/v1/models/builtin").json()
        return str(model["workers"][0]["tier"])

    for order, expected in (("unload", "cold"), ("load", "resident")):
        answer = live.http.post(f"/api/v1/models/{order}", json={"model": "builtin"})
        assert (answer.status_code, answer.json()["status"]) == (200, "succeeded")
        assert tier() == expected
    later = live.http.post(
        "/api/v1/models/load", json={"model": "builtin"}, headers={"Prefer": "respond-async"}
    )
    assert later.status_code == 202
    address = later.headers["Location"]
    wait_for(lambda: live.http.get(address).json()["status"] == "succeeded", "the load")


def test_a_killed_worker_loses_nothing(live: Live) -> None:
    """SIGKILL in mid-job: the job runs again with its seed and succeeds, once."""
    job = live.create(steps=40, width=512, height=512, seed=11)
    live.wait(job["id"], "running")
    wait_for(lambda: live.get(job["id"])["step"] > 0, "a first step")
    worker_process(live).kill()
    ended = live.wait(job["id"])
    assert (ended["status"], ended["attempt"], ended["seed"]) == ("succeeded", 2, 11)
    files = list((live.service.data_dir / "media").rglob(f"{job['id']}/*"))
    assert [file.name for file in files] == ["2-0.png"]


def test_a_stopped_worker_hands_its_job_back(live: Live) -> None:
    """SIGTERM: what does not finish within the grace returns to the queue; it never fails."""
    job = live.create(steps=100, width=768, height=768)
    live.wait(job["id"], "running")
    wait_for(lambda: live.get(job["id"])["step"] > 0, "a first step")
    worker = worker_process(live)
    worker.send_signal(signal.SIGTERM)
    worker.wait(SAFETY_S)
    wait_for(lambda: live.get(job["id"])["attempt"] == 2, "a second attempt")
    live.http.post(f"/api/v1/generations/{job['id']}/cancel")
    assert live.wait(job["id"])["status"] == "canceled"


def test_an_oversized_body_is_413(live: Live) -> None:
    """Declared or not."""
    body = b'{"prompt": "' + b"x" * 2_000_000 + b'"}'
    for content in (body, iter([body])):
        response = live.http.post(
            "/api/v1/generations", content=content, headers={"Content-Type": "application/json"}
        )
        assert (response.status_code, response.json()["code"]) == (413, "body_too_large")


def test_pages_and_their_static_files_are_served_from_here(live: Live) -> None:
    """Swagger UI, the schema, the admin and the browsable API, with nothing from elsewhere."""
    docs = httpx2.get(f"{live.url}/api/docs/").text
    assert "https://" not in docs.replace(live.url, "")
    for path in (
        "/static/drf_spectacular_sidecar/swagger-ui-dist/swagger-ui-bundle.js",
        "/static/admin/css/base.css",
    ):
        assert httpx2.get(f"{live.url}{path}").status_code == 200, path
    assert "/static/drf_spectacular_sidecar/" in docs
    assert httpx2.get(f"{live.url}/api/schema/").status_code == 200
    assert httpx2.get(f"{live.url}/", follow_redirects=True).url.path == "/api/docs/"
    assert httpx2.get(f"{live.url}/sign-in/").status_code == 200


def test_health(live: Live) -> None:
    """Live, ready, ready with a worker."""
    assert httpx2.get(f"{live.url}/health").json()["status"] == "ok"
    worker_process(live)
    wait_for(lambda: httpx2.get(f"{live.url}/health/ready?worker=1").status_code == 200, "a live worker")
    body = httpx2.get(f"{live.url}/health/ready").json()
    assert body["checks"] == {"database": "ok", "redis": "ok", "storage": "ok"}
    assert body["workers"] >= 1


def test_every_log_line_of_the_service_is_json_without_the_token(live: Live) -> None:
    """With the request's id from the web process in the worker's line too."""
    response = live.http.post(
        "/api/v1/generate/txt2img",
        json={"prompt": "logged", "width": 256, "height": 256, "steps": 1},
        headers={"X-Request-Id": "find-me-again"},
    )
    assert response.status_code == 200
    logs: Path = live.service.data_dir / "logs"

    def lines(name: str) -> list[dict[str, object]]:
        text = (logs / f"{name}.log").read_text()
        assert live.token not in text
        return [json.loads(line) for line in text.splitlines()]

    def logged(name: str) -> bool:
        return any(line.get("request_id") == "find-me-again" for line in lines(name))

    wait_for(lambda: lines("task-worker"), "a line of the task worker")
    for name in ("web", "gpu-worker"):
        wait_for(lambda name=name: logged(name), f"the request in {name}'s log")
    (line,) = [
        line for line in lines("gpu-worker") if line.get("request_id") == "find-me-again" and "prompt" in line
    ]
    assert (line["prompt"], line["user"], line["model_id"]) == ("logged", "local", "builtin")


def test_a_killed_workers_name_is_free_at_once(live: Live) -> None:
    """A container that restarts gives its worker the same name again, with no pause."""
    variables = environment() | {"DATA_DIR": str(live.service.data_dir)}
    start = [sys.executable, str(REPOSITORY / "manage.py"), "gpu_worker", "--name", "the-same"]

    def pids() -> list[int]:
        return [
            row[0] for row in live.service.sql("SELECT pid FROM generation_worker WHERE name = 'the-same'")
        ]

    for end in (signal.SIGKILL, signal.SIGTERM):
        worker = subprocess.Popen(start, env=variables, stderr=subprocess.DEVNULL)
        try:
            wait_for(lambda worker=worker: pids() == [worker.pid], "the worker's row")
            # Alive and listening: it draws what nobody else could.
            with live.undrawn():
                live.wait(live.create(steps=1)["id"], "succeeded")
            assert worker.poll() is None
        finally:
            worker.send_signal(end)
            worker.wait(SAFETY_S)
    assert pids() == []
