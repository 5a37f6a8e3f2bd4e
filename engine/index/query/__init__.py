"""The reading side of the index: from a query to its matches. Writes nothing.

plan → condition, matching, date_time   the keys of a query as tests of stored values
access                                  finds candidates: patients or studies that may match
walk → place, sequences                 goes from the candidates down to the matches, and reads their attributes
search                                  runs all steps, in pages
listing, ledger_records, conflicts      list everything but current instances; ledger records; conflicts
"""
