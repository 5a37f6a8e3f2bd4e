"""The asking side of the index: from a query to its matches. Writes nothing.

plan → condition, matching, moments     what is asked, as tests of stored values
access                                  which patients or studies to look at
walk → place, picking                   down from them to the matches, and what a match says
search                                  all of it, in pages and slices
"""
