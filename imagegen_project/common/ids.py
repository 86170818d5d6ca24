"""How ids are written in addresses."""

from typing import Final

UUID_REGEX: Final = r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}"
