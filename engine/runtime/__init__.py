"""What every front end of a process shares: the engine, its thread pools, its limits and its share of the memory."""
