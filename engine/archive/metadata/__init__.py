"""What HTTP shows of every instance of a series, kept ready to be sent."""
