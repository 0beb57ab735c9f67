"""Images in, activations out, shard by shard."""
