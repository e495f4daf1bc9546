"""A retouch as a thing of its own: applied fast, written as a table that other programs read."""
