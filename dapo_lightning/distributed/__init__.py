"""Training with several processes: the data that they exchange, and sharded weights."""
