"""How lists are paged."""

from uuid import UUID

from rest_framework.exceptions import NotFound, ValidationError
from rest_framework.pagination import Cursor, CursorPagination
from rest_framework.request import Request


class NewestFirstPagination(CursorPagination):
    """Cursor pages, newest first: time-ordered keys stay stable while new rows arrive."""

    ordering = "-id"
    page_size = 20
    page_size_query_param = "limit"
    max_page_size = 100

    def decode_cursor(self, request: Request) -> Cursor | None:
        """Where the page begins. Raises NotFound, also for what DRF would hand to the database as it is."""
        cursor: Cursor | None = super().decode_cursor(request)
        if cursor is not None and cursor.position is not None:
            try:
                UUID(str(cursor.position))
            except ValueError as error:
                raise NotFound(self.invalid_cursor_message) from error
        return cursor

    def get_page_size(self, request: Request) -> int | None:
        """The wanted size, or the greatest there is. Raises ValidationError, where DRF would take no notice."""
        given = request.query_params.getlist("limit")
        if given and not (
            len(given) == 1 and given[0].isascii() and given[0].isdigit() and int(given[0][:9])
        ):
            raise ValidationError({"limit": "Must be given once, as a whole number of 1 or more."})
        return super().get_page_size(request)
