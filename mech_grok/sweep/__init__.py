"""A study on any number of workers and machines: each cell done once, all of them accounted for."""
