"""The operator's window: a web console that looks and never changes anything.

settings    what the operator may set
door        who may look: the token, the cookie it becomes, where requests come from
measured    other services' /metrics: read, and delays estimated from their histograms
overview    what is known of the stack, as the pages get it
desk        asks Redis and the services, at most once a second, however many look
live        a page's audio to an ingress and its messages back; the key stays here
retold      a recording, turn by turn: words as they became known, decisions, times
drawing     sound and speech probability as paths of SVG
markup      HTML that text cannot break out of
score       turns drawn in lines under their sound
report      a recording as one page that needs nothing else
sound       its audio as FLAC
picture     the page as PNG, by this machine's Chromium
site        every address, its headers, and which files there are (static/)
server      listens, until it is told to stop; the only file that knows uvicorn
"""
