"""Route: a learned gater picks one frozen expert per fresh input, at the latency that you can afford."""
