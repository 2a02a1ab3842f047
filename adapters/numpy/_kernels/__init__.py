"""How the arithmetic of a sync runs on arrays that can be written to."""
