"""`imagegen`, the command that people type: a client of a service, looks at it from its host, Django's own."""
