"""Reading rows from files and from the hub, whatever their format."""
