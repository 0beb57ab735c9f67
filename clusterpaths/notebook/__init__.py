"""What a person calls from a notebook or a script: runs, sets, tables, figures."""
