"""What a hospital says of its patients, visits, orders and procedure steps, and what it means for the archive."""
