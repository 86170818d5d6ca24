"""How lists are paged."""

from rest_framework.exceptions import ValidationError
from rest_framework.pagination import CursorPagination
from rest_framework.request import Request


class NewestFirstPagination(CursorPagination):
    """Cursor pages, newest first: time-ordered keys stay stable while new rows arrive."""

    ordering = "-id"
    page_size = 20
    page_size_query_param = "limit"
    max_page_size = 100

    def get_page_size(self, request: Request) -> int | None:
        """The wanted size, or the greatest there is. Raises ValidationError, where DRF would take no notice."""
        given = request.query_params.getlist("limit")
        if given and not (
            len(given) == 1 and given[0].isascii() and given[0].isdigit() and int(given[0][:9])
        ):
            raise ValidationError({"limit": "Must be given once, as a whole number of 1 or more."})
        return super().get_page_size(request)
