"""What answers the rows of a table, one backend a file; `backend=NAME` names one."""
