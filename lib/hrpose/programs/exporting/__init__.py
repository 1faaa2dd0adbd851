"""Ship a network: the graph that goes into the file, the file, and what it is worth."""
