"""Whether a new model may take the place of the accepted one: a policy, its checks, and what is written of them."""
