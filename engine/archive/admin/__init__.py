"""What people who look after an archive see and do, as plain data: for the command line and for HTTP."""
