"""What came before the open turn, as the text a model is given: key terms, prompt, turns before, the agent's words.

Whisper goes on in the manner of the text before it: spelled as there, with the names that stand there (Radford et al.
2022, arXiv 2212.04356, 2.3 and 4.5: the transcript of the preceding window is its prompt). There is room for half of
its decoder. What is most worth gets it first:

    order of the text     key terms, prompt, turns before (oldest first), what the agent said
    order of their worth  key terms, prompt, what the agent said, turns before (newest first)
"""

from collections.abc import Callable, Sequence

from workers.recognizer import SlotOptions

Encode = Callable[[str], Sequence[int]]

#: Key terms and prompt leave this share of the room to the conversation.
CONVERSATION_SHARE = 0.4


def before(options: SlotOptions, said: Sequence[str], encode: Encode, room: int) -> list[int]:
    """At most `room` tokens. `said`: texts of the turns before, oldest first."""
    terms = encode(_glossary(options.keyterms))
    prompt = encode(_sentence(options.prompt))
    agent = encode(_sentence(options.agent_context))
    conversation = min(
        round(CONVERSATION_SHARE * room), len(agent) + sum(len(encode(_sentence(t))) for t in said)
    )
    subject = [*terms, *prompt][: room - conversation]
    left = room - len(subject)
    agent = agent[-left:] if left else []
    left -= len(agent)
    turns: list[int] = []
    for text in reversed(said):
        tokens = encode(_sentence(text))
        if len(turns) + len(tokens) > left:
            break
        turns = [*tokens, *turns]
    return [*subject, *turns, *agent]


def _glossary(terms: Sequence[str]) -> str:
    return f" Glossary: {', '.join(terms)}." if terms else ""


def _sentence(text: str) -> str:
    """A text begins with a space."""
    return f" {text.strip()}" if text.strip() else ""
