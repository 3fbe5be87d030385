"""The client's side: WebSocket on one end, Redis on the other.

settings      what the operator may set
credentials   API keys; what a client presents -> what it may do
tokens        temporary tokens: asked for, minted, read
access        the keys that settings name, read again when their file changes
certificates  TLS of the clients' port, its files taken again when they change
watched       files: were they changed?
handshake     a request, decided: accept with parameters, refuse with an error, or answer with a token
session       one client session, decided: messages, worker events and time in, effects out
decoding      what the client encoded -> PCM                          (framing: packets out of slices)
audio         client PCM at any rate -> 16 kHz, streamed
webhook       posts what a session heard to where its client wants it, when it has ended
admission     whether a pool has room for one more
offers        offers sessions to their pools, as many in one round trip as wait
license       what the licence's status allows, decided: who may begin, when the node must stop
laps          what a session has used, told in cumulative records
dues          performs both: status heard, laps written
pools         which pools are served now, as far as this node knows
ledger        what the sessions' audio logs should hold, to be written again if Redis loses it
giveway       which replays end, which may begin
replay        what a resumable session has told, to be told again
carried       what such a session takes along to another node        (restarts: where its decoder begins anew there)
keeper        writes that, together with the audio
arrivals      sessions that come from another node
heart         tells workers that this node lives, and hears where they thought otherwise
consent       whether a session is recorded
tape          what is recorded of it: its inputs and what followed from them
recorder      performs both: recordings begun, noted, ended, kept within their limits
outbox        gathers what the node has to tell Redis, and writes it once per tick
connection    a client's WebSocket: a short way for audio, the library's for the rest
server        performs what the others decide
"""
