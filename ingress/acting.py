"""What happens to a session here: its decision, and what it wants done.

Clients' messages, workers' events and passing time all come to `Acting.apply`, which never raises: a bug in one session
ends that session. Audio that Redis is slow to take stops the reading from all clients, and TCP slows them down.
"""

import asyncio
import heapq
import logging
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import assert_never

from ingress.connection import Connection, Message
from ingress.dues import Dues
from ingress.keeper import Keeper
from ingress.outbox import Outbox
from ingress.places import Places
from ingress.reach import Reach
from ingress.recorder import Recorder
from ingress.roll import Client, Roll
from ingress.session import (
    Append,
    CloseWith,
    Dropped,
    Effect,
    Forget,
    MakeOffer,
    Missed,
    Notify,
    Reply,
    State,
    Withdraw,
)
from ingress.settings import IngressSettings
from ingress.webhook import Webhook, Webhooks
from wire import metrics
from wire.entries import SAMPLE_RATE, AudioEntry, AudioFrame
from wire.errors import ClientError, Close, EntryError, internal_error
from wire.service import session_id

logger = logging.getLogger(__name__)

#: How exactly deadlines, which are seconds, are met.
DEADLINE_GRAIN_S = 0.05


@dataclass(frozen=True)
class Node:
    """What those who act on sessions share. `now` is the clock of the loop, `unix_s` the nodes' common time; `tasks`
    end before the node does.
    """

    settings: IngressSettings
    now: Callable[[], float]
    unix_s: Callable[[], float]
    tasks: asyncio.TaskGroup
    reach: Reach
    roll: Roll
    keeper: Keeper
    outbox: Outbox
    places: Places
    dues: Dues
    recorder: Recorder
    webhooks: Webhooks


class Acting:
    """`run` for the node's life."""

    def __init__(self, node: Node) -> None:
        self._settings = node.settings
        self._now = node.now
        self._tasks = node.tasks
        self._roll = node.roll
        self._outbox = node.outbox
        self._keeper = node.keeper
        self._places = node.places
        self._dues = node.dues
        self._recorder = node.recorder
        self._webhooks = node.webhooks
        self._held: set[Client] = set()  # not read from, until Redis has taken what waits
        self._uncounted_bytes = 0  # of audio; counting each frame costs a twentieth of all that a frame does
        self._deadlines: list[tuple[float, str]] = []

    # -------------------------------------------------------------------------------------------- deciding, performing

    def apply(
        self, client: Client, decide: Callable[..., list[Effect]], *arguments: object, arm: bool = True
    ) -> None:
        """Let the session decide and perform what it wants. Never raises."""
        now, token = self._now(), session_id.set(client.session.id)
        try:
            try:
                effects = decide(*arguments, now)
            except ClientError as error:
                effects = client.session.refuse(error, now)
            except EntryError as error:
                logger.warning("Event refused", extra={"reason": str(error)})
                effects = [Dropped("illegal")]
            except Exception:
                logger.exception("Session crashed")
                effects = client.session.refuse(internal_error(), now)
            self.perform(client, effects)
            self._recorder.note(client.session.id, arguments[0] if arguments else None, effects)
            if arm:
                self.arm(client)
            self._outbox.mark(client.session.id)
        except Exception:  # not even an orderly end is possible
            logger.exception("Session cut off")
            client.connection.transport.abort()
        finally:
            session_id.reset(token)

    def refuse(self, client: Client, error: ClientError) -> None:
        """End the session with the error."""
        self.apply(client, client.session.refuse, error)

    def refuse_all(self, error: ClientError) -> None:
        """End every session with the error."""
        for client in list(self._roll.clients.values()):
            self.refuse(client, error)

    def perform(self, client: Client, effects: Iterable[Effect]) -> None:
        """Do what the session wants."""
        for effect in effects:
            match effect:
                case Append(entry):
                    self._append(client, entry)
                case Reply(text):
                    self._reply(client, text)
                case CloseWith(code, reason):
                    if code is not Close.NORMAL:
                        metrics.CLIENT_ERRORS.labels(int(code)).inc()
                    self._tasks.create_task(client.connection.end(code, reason))
                case Withdraw():
                    self.withdraw(client)
                case Notify(finals):
                    self._notify(client, finals)
                case Forget():
                    self._outbox.forget(client.session.id)
                    self._dues.end(client.session.id)  # one that waits to be resumed uses nothing more
                case Missed():
                    metrics.EVENTS_DROPPED.labels("missed").inc()
                    self.restore(client)
                case Dropped(reason):
                    metrics.EVENTS_DROPPED.labels(reason).inc()
                case MakeOffer():
                    pass  # who serves the connection makes it, since it has to wait for Redis
                case _:
                    assert_never(effect)

    def _append(self, client: Client, entry: AudioEntry) -> None:
        self._outbox.append(client.session.id, entry)
        if isinstance(entry, AudioFrame):
            self._uncounted_bytes += len(entry.pcm)

    def _count_audio(self) -> None:
        metrics.AUDIO_SECONDS.inc(self._uncounted_bytes / 2 / SAMPLE_RATE)
        self._uncounted_bytes = 0

    def _reply(self, client: Client, text: str) -> None:
        client.connection.tell(text)
        self.cut_off_if_unread(client)

    def cut_off_if_unread(self, client: Client) -> None:
        """End the session of a client that does not read what it is sent."""
        if client.connection.transport.get_write_buffer_size() > self._settings.max_unread_bytes:
            text = "Session Cancelled: The client does not read its messages"
            self.refuse(client, ClientError(Close.SERVER_ERROR, text))

    def withdraw(self, client: Client) -> None:
        """Its offer, if that was made; else it is still on its way, and whoever makes it sees to it."""
        if client.offer_id is not None:
            self._outbox.withdraw(client.offer, client.offer_id)

    def _notify(self, client: Client, finals: Sequence[str]) -> None:
        params = client.session.params
        name, value = params.webhook_auth_header_name, params.webhook_auth_header_value
        self._webhooks.post(
            Webhook(params.webhook_url, name or None, value or None, client.session.id, finals)
        )

    def restore(self, client: Client) -> None:
        """Let the session be written and offered anew, from what this node knows of it."""
        if not client.alive or client.offer_id is None:
            return

        def restored(offer_id: bytes | None) -> None:
            if offer_id is None:
                self.refuse(client, internal_error())
                return
            client.offer_id = offer_id
            logger.warning("Session restored in Redis", extra={"session": client.session.id})
            if client.session.state is State.CLOSED:  # in the meantime
                self.withdraw(client)

        generation = client.session.newest_generation
        self._outbox.restore(client.offer, client.offer_id, generation, restored)

    # --------------------------------------------------------------------------------------------------- being heard

    def hear(self, client: Client, connection: Connection, message: Message) -> None:
        """One message, from a client that is read no faster than its audio can be carried away.

        What an older connection still has to say, when a newer one took the session over, is dropped: the client was
        told to send it again.
        """
        if client.connection is not connection or client.away:
            return
        if isinstance(message, bytes):
            # Audio moves no deadline to an earlier time: the heap need not hear of it.
            self.apply(client, client.session.client_audio, message, arm=False)
        else:
            self.apply(client, client.session.client_text, message)
        if self._must_wait(client):
            connection.hold()
            self._held.add(client)

    def _release(self) -> None:
        """Read again from those that were held, where there is room again."""
        now = self._now()
        for client in list(self._held):
            client.session.held(now)
            if not self._must_wait(client):
                client.connection.release()
                self._held.discard(client)

    def _must_wait(self, client: Client) -> bool:
        full = self._outbox.pending_bytes > self._settings.max_pending_bytes
        return full and client.session.state is not State.CLOSED

    # --------------------------------------------------------------------------------------------------------- ending

    def end(self, client: Client) -> None:
        """The client has gone, or is given up: nothing of its session is left here."""
        self.apply(client, client.session.client_gone)
        session = client.session
        for holder in self._places.holders(client):
            self._outbox.free(holder, session.id)
        self._dues.end(session.id)
        if session.state is not State.CLOSED:  # not even an orderly end was possible
            self._keeper.drop(session.id)
        self.let_go(client)

    def let_go(self, client: Client) -> None:
        """The session is not this node's any more."""
        session = client.session
        if client.away:
            self._recorder.let_go(session.id)
        else:
            self._recorder.end(session.id, session.outcome or "crashed", session.received_ms)
        self._held.discard(client)
        self._count_audio()
        self._roll.leave(client)

    # ----------------------------------------------------------------------------------------------------------- time

    def arm(self, client: Client) -> None:
        """Stand in the heap for the session's next deadline. One that moves later is left to be found too early."""
        deadline = client.session.next_deadline()
        if deadline is not None and deadline < client.armed:
            client.armed = deadline
            heapq.heappush(self._deadlines, (deadline, client.session.id))

    async def run(self) -> None:
        """Call sessions when they want to be called; read again from clients that had to wait."""
        while True:
            await asyncio.sleep(DEADLINE_GRAIN_S)
            self._release()
            self._count_audio()
            now = self._now()
            while self._deadlines and self._deadlines[0][0] <= now:
                _, name = heapq.heappop(self._deadlines)
                if (client := self._roll.clients.get(name)) is not None:
                    client.armed = math.inf
                    self.apply(client, client.session.tick)
