"""Links under which anybody may see a generation's pictures."""

from typing import Final
from uuid import UUID

from django.core.signing import BadSignature, Signer
from django.db import models
from uuid_utils.compat import uuid7

from generation.models.generations import Generation

_SALT: Final = "imagegen.share"


class Share(models.Model):
    """A link to a generation's pictures. It is signed, not kept, and ends with its row."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    generation = models.ForeignKey(Generation, on_delete=models.CASCADE, related_name="shares")
    show_prompt = models.BooleanField(help_text="Whether the page says what was asked for.")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ("id",)

    def __str__(self) -> str:
        return f"{self.generation_id} shared"

    def get_absolute_url(self) -> str:
        """The page's path."""
        return f"/s/{self.token}/"

    @property
    def token(self) -> str:
        """What the link says: the row's id, signed."""
        return Signer(salt=_SALT, sep=".").sign(self.id.hex)


def share_id(token: str) -> UUID | None:
    """The id that a link's token says; None where it is not signed here."""
    try:
        return UUID(Signer(salt=_SALT, sep=".").unsign(token))
    except (BadSignature, ValueError):
        return None
