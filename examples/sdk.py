"""The official SDK for Python against a server of your own. python sdk.py talk.wav"""

import os
import sys
import wave

from assemblyai.streaming import v3

url = os.environ.get("STENO_URL", "ws://localhost:8080")
client = v3.StreamingClient(v3.StreamingClientOptions(api_key="self-hosted", api_host=url))
client.on(v3.StreamingEvents.Turn, lambda _, turn: turn.end_of_turn and print(turn.transcript))
client.on(v3.StreamingEvents.Error, lambda _, error: print(error, file=sys.stderr))
with wave.open(sys.argv[1]) as wav:
    client.connect(v3.StreamingParameters(sample_rate=wav.getframerate(), format_turns=True))
    client.stream(iter(lambda: wav.readframes(wav.getframerate() // 10), b""))
client.disconnect(terminate=True)
