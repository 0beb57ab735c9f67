"""What every request passes: the access check, security headers, size limits, the log."""
