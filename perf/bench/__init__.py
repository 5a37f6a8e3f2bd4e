"""`filmroom bench`: load tests of any DIMSE or DICOMweb server, judged and reported.

`profiles` describe loads and `targets` describe hardware, both as TOML. `trial` does what was asked for; `runner` sends
one load: `arrivals` says when each request is due, `dimse` and `dicomweb` send requests, `recorder` counts, `observer`
watches server and generator. A `result` is plain data: `verdicts` judges it, `warnings` doubts it, `page` and `junit`
show it. `clean` finds and deletes what was stored.
"""
