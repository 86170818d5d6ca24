"""LitServe around diffusers, `BATCH` pictures at a time."""

import litserve
from drawing import BATCH, LONGEST_S, PORT, WAIT_S, Drawer
from fastapi import Response


class Drawing(litserve.LitAPI):
    """Draws what has come together within a moment."""

    def setup(self, device: str) -> None:
        """Loads the model."""
        self.drawer = Drawer()

    def decode_request(self, request: dict) -> dict:
        """The body as it is."""
        return request

    def batch(self, inputs: list[dict]) -> list[dict]:
        """A list of bodies."""
        return list(inputs)

    def unbatch(self, output: list[bytes]) -> list[bytes]:
        """A list of files."""
        return output

    def predict(self, bodies: list[dict] | dict) -> list[bytes] | bytes:
        """One call of the pipeline for all of them."""
        return self.drawer.draw(bodies) if isinstance(bodies, list) else self.drawer.draw([bodies])[0]

    def encode_response(self, output: bytes) -> Response:
        """The file."""
        return Response(output, media_type="image/png")


if __name__ == "__main__":
    api = Drawing(max_batch_size=BATCH, batch_timeout=WAIT_S if BATCH > 1 else 0.0, api_path="/generate")
    server = litserve.LitServer(api, accelerator="cpu", timeout=LONGEST_S)
    server.run(host="127.0.0.1", port=PORT, generate_client_file=False, log_level="warning")
