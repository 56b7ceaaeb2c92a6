"""Several processes: what they exchange, and weights that are sharded over them."""
