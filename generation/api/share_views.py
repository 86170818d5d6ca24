"""Links to pictures: made, listed and revoked by their owner, and the page that they open for anybody."""

from typing import Any
from uuid import UUID

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import re_path
from django.views.generic import View
from drf_spectacular.utils import extend_schema
from rest_framework import serializers, status
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from generation import services
from generation.api.image_views import PICTURE_RENDERERS, picture_response, styled_by_the_viewer, width_wanted
from generation.errors import ImageNotFoundError, ShareNotFoundError
from generation.models import Share
from generation.selectors import generation_get, share_get
from imagegen_project.common.context import base_url
from imagegen_project.common.serializers import StrictSerializer

TOKEN_REGEX = r"(?P<token>[0-9a-f]{32}\.[A-Za-z0-9_-]{20,100})"  # noqa: S105 - a pattern
# How long a browser may show a picture again without asking whether it is still shared.
_MAX_AGE_S = 60
_NOT_FOR_ROBOTS = "noindex, nofollow"


class ShareIn(StrictSerializer):
    """A link to make."""

    show_prompt = serializers.BooleanField(
        required=False, default=False, help_text="Whether its page says what was asked for."
    )


class ShareOut(serializers.ModelSerializer[Share]):
    """A link."""

    url = serializers.SerializerMethodField(help_text="The page, which anybody may open who has this.")

    class Meta:
        model = Share
        fields = ("id", "url", "show_prompt", "created_at")
        read_only_fields = fields

    def get_url(self, share: Share) -> str:
        """The page's address."""
        return f"{base_url.get()}{share.get_absolute_url()}"


class SharesOut(serializers.Serializer[Any]):
    """All links to a generation."""

    results = ShareOut(many=True)


class SharesView(APIView):
    """Links to a generation."""

    @extend_schema(operation_id="generations_shares_list", responses=SharesOut)
    def get(self, request: Request, generation_id: UUID) -> Response:
        """Those that have not been revoked."""
        generation = generation_get(user=request.user, generation_id=generation_id)
        return Response(SharesOut({"results": Share.objects.filter(generation=generation)}).data)

    @extend_schema(operation_id="generations_shares_create", request=ShareIn, responses={201: ShareOut})
    def post(self, request: Request, generation_id: UUID) -> Response:
        """A new link, under which anybody may see the pictures until it is revoked or they are deleted."""
        generation = generation_get(user=request.user, generation_id=generation_id)
        body = ShareIn(data=request.data)
        body.is_valid(raise_exception=True)
        share = services.share_create(generation=generation, **body.validated_data)
        return Response(ShareOut(share).data, status=status.HTTP_201_CREATED)

    @extend_schema(operation_id="generations_shares_delete", responses={204: None})
    def delete(self, request: Request, generation_id: UUID) -> Response:
        """Revokes all of them."""
        services.shares_revoke(generation=generation_get(user=request.user, generation_id=generation_id))
        return Response(status=status.HTTP_204_NO_CONTENT)


class ShareView(APIView):
    """One link."""

    @extend_schema(operation_id="generations_share_delete", responses={204: None})
    def delete(self, request: Request, generation_id: UUID, share_id: UUID) -> Response:
        """Revokes it."""
        generation = generation_get(user=request.user, generation_id=generation_id)
        services.shares_revoke(generation=generation, share_id=share_id)
        return Response(status=status.HTTP_204_NO_CONTENT)


class SharedPageView(View):
    """What a link opens: the pictures, and what was asked for where their owner wants to show it."""

    def get(self, request: HttpRequest, token: str) -> HttpResponse:
        """The page; one that says so where the link has ended."""
        try:
            share: Share | None = share_get(token)
        except ShareNotFoundError:
            share = None
        answer = render(request, "imagegen/share.html", {"share": share}, status=200 if share else 404)
        # Neither robots nor a page that it leads to learn the address, and no cache outlives a revocation. Without
        # the site's name, a browser would not say that the form to sign out is this site's own.
        answer.headers["X-Robots-Tag"] = _NOT_FOR_ROBOTS
        answer.headers["Referrer-Policy"] = "strict-origin"
        answer.headers["Cache-Control"] = "no-store"
        return answer


class SharedImageView(APIView):
    """A picture on that page."""

    authentication_classes = ()
    permission_classes = ()
    renderer_classes = PICTURE_RENDERERS

    @extend_schema(exclude=True)
    @styled_by_the_viewer
    def get(self, request: Request, token: str, index: str) -> HttpResponse:
        """Its bytes, or those of a thumbnail; with its prompt in them only where the page shows it too."""
        width = width_wanted(request)
        share = share_get(token)
        images = share.generation.images.all()
        image = next((image for image in images if image.index == int(index)), None)
        if image is None:
            raise ImageNotFoundError(f"There is no picture {index}.")
        answer = picture_response(
            request, image, width=width, max_age_s=_MAX_AGE_S, with_notes=share.show_prompt
        )
        answer.headers["X-Robots-Tag"] = _NOT_FOR_ROBOTS
        return answer


page_urlpatterns = [
    re_path(rf"^s/{TOKEN_REGEX}/$", SharedPageView.as_view(), name="shared"),
    re_path(rf"^s/{TOKEN_REGEX}/(?P<index>[0-9]{{1,3}})$", SharedImageView.as_view(), name="shared-image"),
]
