"""A walk over every public callable with hostile arguments."""
