"""What goes to other systems: followers that hand over, in order, what has happened here."""
