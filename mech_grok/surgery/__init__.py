"""Beginning a run from a checkpoint of another one, under another placement."""
