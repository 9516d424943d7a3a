"""What a cell will cost: seconds of every stage, bytes on disk."""
