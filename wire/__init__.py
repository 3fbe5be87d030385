"""The contract between processes: everything two rooms must agree on, and nothing else.

messages  what a client and the server say to each other (JSON text frames)
params    a session's parameters: query string and `UpdateConfiguration` -> one validated value
entries   what processes tell each other through Redis (msgpack)
errors    the exception tree; error codes and close codes
keys      every Redis key
streams   the only code that talks to Redis (with `leases.lua`)
metrics   every metric
service   how a process lives: settings, logging, probe, run until signalled
"""
