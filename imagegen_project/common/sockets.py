"""What every socket route shares."""

from channels.generic.websocket import AsyncWebsocketConsumer


class RefuseConsumer(AsyncWebsocketConsumer):
    """There is nothing at this path: refuse, instead of an error in the log."""

    channel_layer_alias = "none"

    async def connect(self) -> None:
        """Refuses before the socket is accepted (HTTP 403)."""
        await self.close()
