"""Run directories that several machines reach: who may write one, and copies of what is elsewhere."""
