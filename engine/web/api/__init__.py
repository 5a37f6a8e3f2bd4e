"""The archive API under /api/: functions that PS3.18 lacks, for user interfaces. JSON requests and answers."""
