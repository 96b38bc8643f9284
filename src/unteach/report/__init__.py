"""What people look at: runs gathered into a table, a trade-off picture and one HTML page."""
