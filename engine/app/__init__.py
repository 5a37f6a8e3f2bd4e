"""The composition root of `filmroom serve`: puts the server and its fronts together.

Only this package connects the server with protocols: `serving` is the first process; `ports` has the addresses to
listen on and the checks of the first bytes of connections; `worker` creates the fronts of a worker process; `messages`
is the process that receives HL7.
"""
