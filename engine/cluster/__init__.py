"""What the nodes of one archive agree on, in PostgreSQL: who they are, what each has stored, who may do what.

It knows neither records nor instances. `database` speaks to PostgreSQL; `schema` makes the tables; `nodes`, `chains`
and `leases` are what is agreed on; `wake` tells of it at once. `cluster` opens all of them.
"""
