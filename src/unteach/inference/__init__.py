"""`unteach infer`: from the rows of a table to the results beside them."""
