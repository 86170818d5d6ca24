"""Each operation of the native API in one line, an example that runs as it stands, and the refusals of its own.

Both the OpenAPI document and the browsable pages say what stands here. Keys are a method and a path of the document.
"""

from dataclasses import dataclass
from typing import Any, Final

# 8 x 8 pixels of red, as PNG.
RED_SQUARE: Final = (
    "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAAFUlEQVR42mM8oaHBgA0wMeAAg1MCAOA4ASjhBhuDAAAAAElFTkSuQmCC"
)
NO_ID: Final = "00000000-0000-0000-0000-000000000000"
_SMALL: Final[dict[str, Any]] = {
    "prompt": "a red circle",
    "model": "builtin",
    "width": 256,
    "height": 256,
    "num_inference_steps": 4,
}
# What every request for a picture can meet, beside a body that is wrong.
_DRAWING: Final = (
    *("would_be_adjusted", "lora_incompatible", "lora_unavailable", "acceleration_unsupported"),
    *("idempotency_conflict", "queue_full", "user_queue_full", "work_limit_reached"),
    *("storage_quota_reached", "storage_unavailable"),
)
_RESULT: Final = ("unfinished", "canceled", "unsafe", "out_of_memory", "timeout", "model_unavailable")
_ORDER: Final = ("no_worker", "too_many_orders", "unfinished")
_GENERATION: Final = ("generation_not_found",)


@dataclass(frozen=True)
class Operation:
    """One route with one method."""

    summary: str
    # The example's body: of JSON, or of a form where the route only takes one. None: it takes no body.
    example: Any = None
    # Codes of refusals beside those that hold for all operations.
    refusals: tuple[str, ...] = ()


OPERATIONS: Final[dict[str, Operation]] = {
    "GET /api/v1/capabilities": Operation("What this service can do, and its limits"),
    "POST /api/v1/generate/txt2img": Operation(
        "Draw from text, and wait for the picture", _SMALL, _DRAWING + _RESULT
    ),
    "POST /api/v1/generate/img2img": Operation(
        "Draw from a picture, and wait for the result",
        _SMALL | {"image": RED_SQUARE, "strength": 0.7},
        _DRAWING + _RESULT,
    ),
    "GET /api/v1/generations": Operation("List generations, newest first"),
    "POST /api/v1/generations": Operation("Store a generation, and go on at once", _SMALL, _DRAWING),
    "POST /api/v1/generations/delete": Operation("Delete many generations", {"ids": [NO_ID]}),
    "GET /api/v1/generations/{generation_id}": Operation("Show a generation", None, _GENERATION),
    "PATCH /api/v1/generations/{generation_id}": Operation(
        "Mark a generation as a favorite", {"favorite": True}, _GENERATION
    ),
    "DELETE /api/v1/generations/{generation_id}": Operation("Delete a generation", None, _GENERATION),
    "POST /api/v1/generations/{generation_id}/cancel": Operation(
        "Cancel a generation", None, (*_GENERATION, "generation_ended")
    ),
    "POST /api/v1/generations/{generation_id}/retry": Operation(
        "Run an ended generation again", None, (*_GENERATION, "generation_active", *_DRAWING)
    ),
    "POST /api/v1/generations/{generation_id}/replay": Operation(
        "Draw a receipt again and compare the pixels", None, (*_GENERATION, "no_receipt", *_DRAWING)
    ),
    "GET /api/v1/generations/{generation_id}/receipt": Operation(
        "Everything needed to run it again", None, (*_GENERATION, "no_receipt")
    ),
    "GET /api/v1/generations/{generation_id}/result": Operation(
        "The pictures of a generation that succeeded", None, _GENERATION + _RESULT
    ),
    "GET /api/v1/generations/{generation_id}/images/{index}": Operation(
        "A picture's file, or a thumbnail of it",
        None,
        (*_GENERATION, "image_not_found", "address_expired", "storage_unavailable"),
    ),
    "GET /api/v1/generations/{generation_id}/input": Operation(
        "The picture that img2img started from", None, (*_GENERATION, "input_not_found")
    ),
    "GET /api/v1/generations/{generation_id}/mask": Operation(
        "The mask of an inpainting", None, (*_GENERATION, "input_not_found")
    ),
    "GET /api/v1/generations/{generation_id}/inputs/{index}": Operation(
        "One of the pictures that were edited", None, (*_GENERATION, "input_not_found")
    ),
    "GET /api/v1/generations/{generation_id}/shares": Operation(
        "List links to a generation", None, _GENERATION
    ),
    "POST /api/v1/generations/{generation_id}/shares": Operation(
        "Share a generation's pictures by a link",
        {"show_prompt": True},
        (*_GENERATION, "nothing_to_share", "too_many_shares"),
    ),
    "DELETE /api/v1/generations/{generation_id}/shares": Operation(
        "Revoke all links to a generation", None, _GENERATION
    ),
    "DELETE /api/v1/generations/{generation_id}/shares/{share_id}": Operation(
        "Revoke a link", None, (*_GENERATION, "share_not_found")
    ),
    "GET /api/v1/models": Operation("List models"),
    "GET /api/v1/models/{name}": Operation("Show a model", None, ("model_not_found",)),
    "POST /api/v1/models/load": Operation(
        "Load a model on a GPU worker",
        {"model": "builtin"},
        ("model_not_found", "model_unavailable", *_ORDER),
    ),
    "POST /api/v1/models/unload": Operation(
        "Unload a model from a GPU worker", {"model": "builtin"}, ("model_not_found", "model_in_use", *_ORDER)
    ),
    "GET /api/v1/models/orders/{order_id}": Operation(
        "How far an order to GPU workers is", None, ("order_not_found",)
    ),
    "GET /api/v1/loras": Operation("List LoRA"),
    "GET /api/v1/loras/{lora_id}": Operation("Show a LoRA", None, ("lora_not_found",)),
    "DELETE /api/v1/loras/{lora_id}": Operation("Delete a LoRA", None, ("lora_not_found", "lora_in_use")),
    "POST /api/v1/loras/upload": Operation(
        "Upload a LoRA's file",
        {"name": "my-style", "trigger_words": "my style"},
        ("invalid_lora", "lora_too_large", "lora_name_taken", "lora_storage_full"),
    ),
    "POST /api/v1/loras/load": Operation(
        "Fetch a LoRA from the Hub",
        {"lora_path": "org/style", "weight_name": "style.safetensors", "name": "style"},
        ("lora_name_taken", "lora_incompatible", "lora_unavailable", "lora_storage_full", *_ORDER),
    ),
    "POST /api/v1/loras/unload": Operation(
        "Take a LoRA off the GPU workers", {"lora": "outline"}, ("lora_not_found", *_ORDER)
    ),
    "POST /api/v1/png-info": Operation("Read a picture's settings back", {"image": RED_SQUARE}),
    "GET /api/v1/me": Operation("Who you are here"),
    "GET /api/v1/usage": Operation("What you have used, and what is left"),
    "POST /api/v1/webhook-secret": Operation("Make a signing secret for webhooks"),
    "POST /api/v1/tickets": Operation("Make a socket ticket", None, ("ticket_store_unavailable",)),
    "GET /api/v1/tokens": Operation("List your tokens"),
    "POST /api/v1/tokens": Operation(
        "Make a token",
        {"name": "my script", "expires_in_days": 30},
        ("session_required", "too_many_tokens"),
    ),
    "DELETE /api/v1/tokens/{token_id}": Operation("Revoke a token", None, ("token_not_found",)),
}
