"""The contract between processes: everything two rooms must agree on, and nothing else.

messages  what a client and the server say to each other (JSON text frames)
speech_models  the models a client may name: pool, family, defaults
params    a session's parameters: query string and `UpdateConfiguration` -> one validated value
entries   what processes tell each other through Redis (msgpack)
recorded  what a recording holds, item by item (msgpack)
recordings  a recording as a whole, and its exported form
delays    where the time went between a word and its message, out of a recording
strides   how far each step of a recorded session went, for a replay
webhook_url  where a webhook may go, and what it may carry
errors    the exception tree; error codes and close codes
keys      every Redis key
acl       what each service may do in Redis
servers   the forms of REDIS_URL, and a client for each
line      a connection of our own, for what is asked of Redis every few milliseconds
streams   the only code that talks to Redis (with `leases.lua`)
presence  being seen: a process that dies loses its connections at once
clock     one time for all processes: that of their Redis
refused   entries that cannot be read: counted, each reason logged once
accounts  licence and usage in Redis, over the connections of streams
moves     where resumable sessions are, and their moves from node to node, over the same connections
archive   recordings in Redis, over the connections of streams (with `recordings.lua`)
scribe    writes recordings beside what it must not disturb
sealing   encryption of recordings
heap      free memory goes back to the system, but for what is taken again at once
release   which release this is
metrics   every metric
service   how a process lives: settings, logging, probe, run until signalled
ticks     a call once a second for the slow services, by arq
outbound  the only connection to somewhere outside, and the list of what may be sent
web       a small HTTP server for the reference servers
census    who is being served now, for operators: read only
"""
