"""Who does a cell's work: processes of this machine or tasks of a Ray cluster, and what each of them does."""
