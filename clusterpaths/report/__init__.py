"""Pages that show a set to a person, without a server and without the network; `page.py` makes report.html."""
