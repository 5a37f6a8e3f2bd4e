"""Ingest, the one way into the archive: for C-STORE, import and HTTP.

live        the asyncio port of a server: many associations and requests at once, each answered when it is committed
batch       the blocking port of an import: many instances, one sync
request     the values that a front end passes, and those that it gets back
entry       an instance's index entry, made from its data set
decision    what happens to an instance whose SOP Instance UID is known: one pure function
resolver    finds the facts that this function needs, in the index and the log
stream      objects larger than memory, for both ports
committer   group commit, the threads that may block, sealing
writer      one writing process's log and index
unparseable refused data sets, kept in quarantine
"""
