"""Webhooks: the outbox, signatures, and delivery to addresses that strangers chose."""
