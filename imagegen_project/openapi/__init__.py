"""What the API says of itself: OpenAPI for requests, AsyncAPI for sockets and events."""
