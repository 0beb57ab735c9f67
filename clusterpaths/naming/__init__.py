"""Names of clusters and paths: from the data, from people, from a vision-language model."""
