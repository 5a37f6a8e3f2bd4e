"""Copies of the log elsewhere: backup and restore, replicas."""
