"""The operator's desk: the command `steno` and what it shows.

main          every command, its options and help; nothing heavy is imported before a command needs it
up            the whole stack on this machine, as processes of their own
child         a child process that never outlives its parent, and ports for those about to start
redis_server  a Redis server of our own, found or fetched, kept in memory
redis_fleet   Redis servers that tests and benchmarks hurt: alone, with Sentinel, as a cluster
proxy         what lies between two processes, to be made worse
audio_file    any sound file -> 16 kHz mono chunks
client        the client's side of a session, shared by transcribe, mic, demo and bench
resuming      what a client keeps to go on after a lost connection
latencies     what a session's messages say about delays
display       a session on a terminal, in a log, or as JSON lines
dues          licensing and usage: the services, licences as files, the reference issuer and tracker
replay        recorded sessions: `steno replay` (replay_show, _files, _report, _diff, _run, _play: what its commands do)
served        what a running server has deployed: `steno models served`
scenes        what the demo plays, a scene for each pool
spoken        recordings in nine languages, for the demo and the benchmarks
transcribe, mic, models, demo   the commands of these names
bench         `steno bench`: bench_X is what X measures; bench_shown what all print and write, bench_scale the commands
              bus, nodes, startup, all; bench_model, _plan, _reach, _capacity: from results to CAPACITY.md
"""
