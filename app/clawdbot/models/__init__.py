"""Model services."""
