"""The endpoints of existing dashboards."""
