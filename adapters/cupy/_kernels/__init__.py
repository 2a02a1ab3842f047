"""How the arithmetic of a sync runs on a GPU."""
