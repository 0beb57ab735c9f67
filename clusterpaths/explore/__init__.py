"""Questions to a set, answered from its binary twins: what a server shows. No web framework here."""
