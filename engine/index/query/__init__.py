"""The reading side of the index: from a query to its matches. Writes nothing.

plan → condition, matching, date_time   what is asked, as tests of stored values
access                                  which patients or studies to look at
walk → place, sequences                 down from them to the matches, and what a match says
search                                  all of it, in pages and slices
listing, ledger_records, conflicts      what is no current instance, listed; records of the ledger; conflicts
"""
