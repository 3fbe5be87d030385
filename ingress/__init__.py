"""The client's side: WebSocket on one end, Redis on the other.

settings   what the operator may set
handshake  an upgrade request, decided: accept with parameters, or refuse with an error
session    one client session, decided: messages, worker events and time in, effects out
audio      client PCM at any rate -> 16 kHz, streamed
outbox     gathers what the node has to tell Redis, and writes it once per tick
server     performs what the others decide; the only file that knows websockets
"""
