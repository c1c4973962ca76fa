"""Translations over HTTP, batched across requests."""
