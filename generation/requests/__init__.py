"""The one way in, whichever door a request came through."""
