"""Activations that another program wrote: found, checked and read where they are; then clustered as any others."""
