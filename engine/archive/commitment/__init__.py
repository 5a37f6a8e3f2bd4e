"""Storage commitment as the archive sees it: what has been asked and not been reported yet, and what the answer is."""
