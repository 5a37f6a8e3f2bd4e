"""The parts that all front ends of a process share: the engine, its thread pools, limits and memory budgets."""
