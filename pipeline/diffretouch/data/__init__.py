"""Data sets: their schema, builders and synthetic experts."""
