"""The A1111 API."""
