"""Where documents and arrays lie: a local directory or object storage. Nothing outside asks which."""
