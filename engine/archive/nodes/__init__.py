"""An archive on several nodes: each has a whole index, fed by the logs of all."""
