"""LiveKit's AssemblyAI plugin against a server of your own. python livekit_agent.py talk.wav

In an agent: AgentSession(stt=assemblyai.STT(base_url=..., api_key=...), ...).
"""

import asyncio
import os
import sys
import wave

import aiohttp
from livekit import rtc
from livekit.plugins import assemblyai


async def main() -> None:
    url = os.environ.get("STENO_URL", "ws://localhost:8080")
    async with aiohttp.ClientSession() as http:
        stt = assemblyai.STT(
            base_url=url, api_key="self-hosted", http_session=http, model="universal-streaming-english"
        )
        stream = stt.stream()
        with wave.open(sys.argv[1]) as wav:
            while audio := wav.readframes(800):
                stream.push_frame(rtc.AudioFrame(audio, 16_000, 1, len(audio) // 2))
        stream.end_input()
        async for event in stream:
            if event.type == "final_transcript":
                print(event.alternatives[0].text)
        await stream.aclose()


asyncio.run(main())
