"""The native API: translation between HTTP and the services."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from django.http import HttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema, extend_schema_view
from rest_framework import mixins, status
from rest_framework.decorators import action
from rest_framework.exceptions import NotAcceptable, ValidationError
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView
from rest_framework.viewsets import GenericViewSet

from generation import services
from generation.api.filters import GenerationFilter
from generation.api.idempotency import HEADER as IDEMPOTENCY_HEADER
from generation.api.idempotency import Answer, answer_once
from generation.api.image_views import PICTURE_RENDERERS, PictureRenderer
from generation.api.serializers import (
    GenerationDetailOut,
    GenerationMarkIn,
    GenerationOut,
    GenerationResultOut,
    GenerationsDeletedOut,
    GenerationsDeleteIn,
    ReceiptOut,
)
from generation.choices import Kind, OutputFormat
from generation.models import Generation
from generation.pictures.files import image_read, picture_disposition
from generation.requests.creation import generation_submit
from generation.requests.serializers import GenerationCreateIn, GenerationFormIn
from generation.selectors import (
    generation_get,
    generation_result,
    generations_listed,
    receipt_of,
)
from imagegen_project.common.http import Preference, caller
from imagegen_project.common.ids import UUID_REGEX
from imagegen_project.common.serializers import MAX_NAME_SHOWN, did_you_mean
from imagegen_project.common.waiting import Wait, has_waited

PREFER = OpenApiParameter(
    "Prefer",
    str,
    OpenApiParameter.HEADER,
    description="`respond-async` answers 202 at once; `wait=N` waits N seconds for the end (RFC 7240).",
)

MAX_FIELDS_NAMED = 100

IDEMPOTENCY_KEY = OpenApiParameter(
    IDEMPOTENCY_HEADER,
    str,
    OpenApiParameter.HEADER,
    description="For 24 hours the same key with the same request makes nothing anew and is answered as before.",
)

CREATE_BODY = {
    "application/json": GenerationCreateIn,
    "application/x-www-form-urlencoded": GenerationCreateIn,
    "multipart/form-data": GenerationFormIn,
}


def _create(request: Request, *, kinds: tuple[Kind, ...] = tuple(Kind)) -> Generation:
    return generation_submit(owner=caller(request), data=request.data, kinds=kinds)


def _accepted(generation: Generation, *, headers: dict[str, str] | None = None) -> Response:
    location = {"Location": generation.get_absolute_url(), "X-Job-Id": str(generation.id)}
    body = GenerationDetailOut(generation).data
    return Response(body, status=status.HTTP_202_ACCEPTED, headers=location | (headers or {}))


def _wait(generation: Generation, preference: Preference, path: str) -> Wait:
    return Wait(
        (generation.id,),
        preference.wait_seconds,
        path,
        cancel_on_disconnect=generation.cancel_on_disconnect,
    )


def wants_picture(request: Request) -> bool:
    """Whether the `Accept` header asks for a picture itself."""
    return isinstance(request.accepted_renderer, PictureRenderer)


def _picture_check(request: Request, data: Mapping[str, Any]) -> None:
    """Raises ValidationError where a request that asks for a picture itself would not get one, or another kind."""
    errors = {}
    if str(data.get("num_images") or 1) != "1":
        errors["num_images"] = (
            "With `Accept: image/…` the answer is one picture; ask for 1, or for application/json."
        )
    wanted = request.accepted_media_type or ""
    given = data.get("output_format") or OutputFormat.PNG
    if wanted != PictureRenderer.media_type and wanted != f"image/{given}":
        errors["output_format"] = (
            f"The Accept header asks for {wanted}: ask for the same here, or accept image/*."
        )
    if errors:
        raise ValidationError(errors)


class GenerateView(APIView):
    """One of the ways to draw, answered with the pictures."""

    renderer_classes = PICTURE_RENDERERS
    kinds: tuple[Kind, ...]

    @extend_schema(
        request=CREATE_BODY,
        parameters=[PREFER, IDEMPOTENCY_KEY],
        responses={
            (200, "application/json"): GenerationResultOut,
            (200, "image/png"): OpenApiResponse(
                OpenApiTypes.BINARY, "The picture, if `Accept` asks for one."
            ),
            202: GenerationDetailOut,
        },
    )
    def post(self, request: Request) -> Response:
        """Waits for the pictures and answers them as base64; 504 with the job's address when that takes too long.

        With `Accept: image/png` (or the type of `output_format`, or `image/*`) the answer is the picture itself.
        """
        if wants_picture(request) and isinstance(request.data, Mapping):
            _picture_check(request, request.data)
        preference = Preference.of(request)

        def answer(generation: Generation) -> Answer:
            if preference.respond_async and preference.wait_s is None:
                return Answer(_accepted(generation, headers={"Preference-Applied": "respond-async"}))
            path = f"{generation.get_absolute_url()}/result"
            return Answer(_accepted(generation), _wait(generation, preference, path))

        return answer_once(request, create=partial(_create, request, kinds=self.kinds), answer=answer)


@extend_schema_view(post=extend_schema(operation_id="generate_txt2img"))
class Txt2ImgView(GenerateView):
    """Text to image."""

    kinds = (Kind.TXT2IMG,)


@extend_schema_view(post=extend_schema(operation_id="generate_img2img"))
class Img2ImgView(GenerateView):
    """Image to image; with a mask, inpainting; with a model that edits, editing."""

    kinds = (Kind.IMG2IMG, Kind.INPAINT, Kind.EDIT)


def _fields_wanted(request: Request) -> list[str] | None:
    """The fields that `?fields=` names; None where it does not stand. Raises ValidationError."""
    given = request.query_params.getlist("fields")
    if not given:
        return None
    names = [name.strip() for name in ",".join(given).split(",", maxsplit=MAX_FIELDS_NAMED)]
    known = GenerationOut.Meta.fields
    for name in names:
        if name not in known:
            detail = f"There is no field {name[:MAX_NAME_SHOWN]!r}.{did_you_mean(name, known)}"
            raise ValidationError({"fields": f"{detail} Known: {', '.join(known)}."})
    return names


@extend_schema_view(
    list=extend_schema(
        description="Your generations, newest first (staff: everyone's).",
        parameters=[
            OpenApiParameter("fields", str, description="Only these fields of each, separated by commas.")
        ],
    ),
    retrieve=extend_schema(description="One generation as it stands."),
)
class GenerationViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, GenericViewSet[Generation]):
    """Durable generations."""

    serializer_class = GenerationOut
    filterset_class = GenerationFilter
    queryset = Generation.objects.none()
    lookup_value_regex = UUID_REGEX
    lookup_url_kwarg = "generation_id"

    def get_queryset(self) -> Any:
        """What this user may see, with as much of it as is shown."""
        fields = _fields_wanted(self.request)
        if fields is None:
            return generations_listed(self.request.user)
        shown = {"loras": "adapters"}
        return generations_listed(self.request.user, with_their={shown.get(name, name) for name in fields})

    def get_serializer(self, *args: Any, **kwargs: Any) -> Any:
        """Of a list only those fields that were asked for."""
        if self.action == "list":
            kwargs["fields"] = _fields_wanted(self.request)
        return super().get_serializer(*args, **kwargs)

    def get_object(self) -> Generation:
        """One of them. Raises GenerationNotFoundError."""
        return generation_get(user=self.request.user, generation_id=self.kwargs["generation_id"])

    @extend_schema(
        request=CREATE_BODY,
        parameters=[PREFER, IDEMPOTENCY_KEY],
        responses={202: GenerationDetailOut, 200: GenerationDetailOut},
    )
    def create(self, request: Request) -> Response:
        """Stores a generation and answers 202 with its address; with `Prefer: wait=N`, 200 if it ends in time."""
        preference = Preference.of(request)

        def answer(generation: Generation) -> Answer:
            wait = None
            if preference.wait_s is not None:
                wait = _wait(generation, preference, generation.get_absolute_url())
            return Answer(_accepted(generation), wait)

        return answer_once(request, create=partial(_create, request), answer=answer)

    @extend_schema(responses={200: GenerationDetailOut, 202: GenerationDetailOut})
    def retrieve(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """One generation as it stands; 202 instead of 200 only as the late answer to a `Prefer: wait=N`."""
        generation = self.get_object()
        if has_waited(request) and not generation.is_terminal:
            return _accepted(generation)
        return Response(GenerationDetailOut(generation).data, headers={"X-Job-Id": str(generation.id)})

    @extend_schema(request=GenerationMarkIn, responses=GenerationOut)
    def partial_update(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Marks it as a favorite, or takes the mark away."""
        generation = self.get_object()
        body = GenerationMarkIn(data=request.data)
        body.is_valid(raise_exception=True)
        services.generation_mark(generation=generation, **body.validated_data)
        return Response(GenerationOut(generation).data)

    @extend_schema(request=GenerationsDeleteIn, responses=GenerationsDeletedOut, filters=False)
    @action(detail=False, methods=["post"], url_path="delete", pagination_class=None)
    def delete_many(self, request: Request, **kwargs: Any) -> Response:
        """Deletes your own generations of these, pictures included; one that has not ended is canceled first."""
        body = GenerationsDeleteIn(data=request.data)
        body.is_valid(raise_exception=True)
        ids = list(dict.fromkeys(body.validated_data["ids"]))
        deleted = services.generations_delete(owner=caller(request), ids=ids)
        gone = set(deleted)
        return Response({"deleted": deleted, "not_found": [one for one in ids if one not in gone]})

    @extend_schema(responses={204: None})
    def destroy(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Deletes a generation and its pictures; one that has not ended is canceled first."""
        services.generation_delete(generation=self.get_object())
        return Response(status=status.HTTP_204_NO_CONTENT)

    @extend_schema(request=None, responses=GenerationOut)
    @action(detail=True, methods=["post"])
    def cancel(self, request: Request, **kwargs: Any) -> Response:
        """Cancels: a queued generation at once, a running one within a second or one step."""
        return Response(GenerationOut(services.generation_cancel(generation=self.get_object())).data)

    @extend_schema(request=None, parameters=[IDEMPOTENCY_KEY], responses={202: GenerationDetailOut})
    @action(detail=True, methods=["post"])
    def retry(self, request: Request, **kwargs: Any) -> Response:
        """Runs an ended generation's request again, seed included, as a new generation linked to it."""
        return self._again(request, services.generation_retry)

    @extend_schema(request=None, parameters=[IDEMPOTENCY_KEY], responses={202: GenerationDetailOut})
    @action(detail=True, methods=["post"])
    def replay(self, request: Request, **kwargs: Any) -> Response:
        """Runs a receipt again, alone; the new generation's `replay_verdict` says how close it came."""
        return self._again(request, services.generation_replay)

    def _again(self, request: Request, service: Callable[..., Generation]) -> Response:
        create = partial(service, generation=self.get_object(), owner=caller(request))
        return answer_once(request, create=create, answer=lambda generation: Answer(_accepted(generation)))

    @extend_schema(responses=ReceiptOut)
    @action(detail=True, methods=["get"])
    def receipt(self, request: Request, **kwargs: Any) -> Response:
        """Everything needed to run it again."""
        return Response(ReceiptOut(receipt_of(self.get_object())).data)

    @extend_schema(
        responses={
            (200, "application/json"): GenerationResultOut,
            (200, "image/png"): OpenApiResponse(
                OpenApiTypes.BINARY, "The picture, if `Accept` asks for one."
            ),
        }
    )
    @action(detail=True, methods=["get"], renderer_classes=PICTURE_RENDERERS)
    def result(self, request: Request, **kwargs: Any) -> HttpResponse | Response:
        """The pictures as base64; the failure's problem if it failed, 409 (or 504 after a wait) while it runs.

        With `Accept: image/png` the picture itself, where there is one.
        """
        generation = generation_result(self.get_object(), waited=has_waited(request))
        headers = {"X-Job-Id": str(generation.id)}
        if not wants_picture(request):
            return Response(GenerationResultOut(generation).data, headers=headers)
        first, *others = generation.images.all()
        if others:
            raise NotAcceptable(f"It has {len(others) + 1} pictures, which JSON or their own addresses give.")
        headers["Content-Disposition"] = picture_disposition(first, first.content_type)
        return HttpResponse(image_read(first), content_type=first.content_type, headers=headers)
