"""Who is who: anonymous ids, renamed users, and everyone's traits (Segment's Spec: Identify and Alias).

**Linked when it is said.** A message with both ids says whose the anonymous id is. The first to say so has it; a second
user of one device does not take over what the first did. What an anonymous visitor did counts for the user from then
on, earlier and later, because the view over the messages looks links up as it is read.

**Renamed by alias.** `previousId` becomes `userId`, as user or as anonymous id. Links are never chains: those that led
to the old id are led on to the new one, so that a look-up is one step.

**Traits are merged.** The last that arrived wins, one by one; null takes a trait away. What an anonymous visitor or the
old name had is kept under what the user has.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from audience_sync.relay.bulk import insert_rows
from audience_sync.relay.messages import Message
from audience_sync.state.tables import relay_links, relay_profiles

ANONYMOUS, USER = "anonymous", "user"
Who = tuple[str, str]
"""A kind and an id."""


def remember(connection: Connection, messages: Sequence[Message]) -> None:
    """Write down what the messages say about who is who, in their order; in the caller's transaction and turn."""
    if messages:
        _Identities(connection, messages).write(messages)


class _Identities:
    """What state knows about the people of one batch, and what the batch adds."""

    def __init__(self, connection: Connection, messages: Sequence[Message]) -> None:
        self.connection = connection
        named = {(USER, m.user_id) for m in messages if m.user_id}
        named |= {(ANONYMOUS, m.anonymous_id) for m in messages if m.anonymous_id}
        named |= {(kind, m.previous_id) for m in messages if m.previous_id for kind in (USER, ANONYMOUS)}
        self.links = self._read(relay_links, relay_links.c.user_id, named)
        owners = {(USER, user_id) for (kind, _), user_id in self.links.items() if kind == ANONYMOUS} - named
        self.links |= self._read(relay_links, relay_links.c.user_id, owners)
        self.new_links: dict[Who, str] = {}
        self.users: set[str] = set()
        self.traits: dict[Who, dict[str, Any]] = {}
        self.in_state: set[Who] = set()
        self.changed: set[Who] = set()
        self.gone: set[Who] = set()
        self._read_traits({who for m in messages for who in self._touched(m)})

    def write(self, messages: Sequence[Message]) -> None:
        for message in messages:
            self._learn(message)
        self._delete(relay_profiles, self.gone & self.in_state)
        if self.users:
            seen = [{"kind": USER, "id": user_id, "traits": "{}"} for user_id in sorted(self.users)]
            insert_rows(self.connection, relay_profiles, seen, conflict=lambda insert: insert.on_conflict_do_nothing())
        if self.changed:
            insert_rows(
                self.connection,
                relay_profiles,
                [
                    {"kind": kind, "id": id_, "traits": orjson.dumps(self.traits[kind, id_]).decode()}
                    for kind, id_ in sorted(self.changed)
                ],
                conflict=lambda insert: insert.on_conflict_do_update(
                    index_elements=[relay_profiles.c.kind, relay_profiles.c.id],
                    set_={"traits": insert.excluded.traits},
                ),
            )
        if self.new_links:
            rows = [{"kind": kind, "id": id_, "user_id": user} for (kind, id_), user in self.new_links.items()]
            insert_rows(self.connection, relay_links, rows)

    def _learn(self, message: Message) -> None:
        if message.type == "alias":
            self._rename(str(message.previous_id), str(message.user_id))
        who = self._who(message)
        if message.user_id is not None:
            self.users.add(who[1])
            anonymous = (ANONYMOUS, message.anonymous_id or "")
            if message.anonymous_id and anonymous not in self.links:
                self._link(anonymous, message.user_id)
                self._merge_under(anonymous, who)
        if message.type == "identify" and message.details:
            merged = self._traits_of(who) | message.details
            self.traits[who] = {name: value for name, value in merged.items() if value is not None}
            self.changed.add(who)

    def _who(self, message: Message) -> Who:
        """Whom the message is about, as far as is known."""
        user_id = message.user_id or self.links.get((ANONYMOUS, message.anonymous_id or ""))
        if user_id is None:
            return (ANONYMOUS, message.anonymous_id or "")
        return (USER, self.links.get((USER, user_id), user_id))

    def _touched(self, message: Message) -> list[Who]:
        """Whose traits the message may change; for an alias they are read when its turn comes."""
        anonymous = (ANONYMOUS, message.anonymous_id or "")
        if message.user_id and message.anonymous_id and anonymous not in self.links:
            return [self._who(message), anonymous]
        return [self._who(message)] if message.type == "identify" else []

    def _rename(self, previous: str, user_id: str) -> None:
        """`previous` is `user_id` from now on. Of a user renamed back and forth the newest name holds."""
        target = self.links.get((USER, user_id), user_id)
        if target == previous:
            self._unlink((USER, user_id))
            target = user_id
        if target == previous:
            return
        for who, to in list(self.links.items()):
            if who[0] == USER and to == previous:
                self.links[who] = target
                if who in self.new_links:
                    self.new_links[who] = target
        led_to = sa.and_(relay_links.c.kind == USER, relay_links.c.user_id == previous)
        self.connection.execute(sa.update(relay_links).where(led_to).values(user_id=target))
        self._unlink((USER, previous))
        self._link((USER, previous), target)
        if (ANONYMOUS, previous) not in self.links:
            self._link((ANONYMOUS, previous), target)
        for kind in (ANONYMOUS, USER):
            self._merge_under((kind, previous), (USER, target))
        self.users.discard(previous)

    def _link(self, who: Who, user_id: str) -> None:
        self.links[who] = self.new_links[who] = user_id

    def _unlink(self, who: Who) -> None:
        self.links.pop(who, None)
        self.new_links.pop(who, None)
        self._delete(relay_links, [who])

    def _merge_under(self, old: Who, new: Who) -> None:
        under = self._traits_of(old)
        self.traits[old] = {}
        self.changed.discard(old)
        self.gone.add(old)
        if under:
            self.traits[new] = under | self._traits_of(new)
            self.changed.add(new)

    def _traits_of(self, who: Who) -> dict[str, Any]:
        if who not in self.traits:
            self._read_traits({who})
        return self.traits[who]

    def _read_traits(self, wanted: set[Who]) -> None:
        found = self._read(relay_profiles, relay_profiles.c.traits, wanted)
        self.in_state |= found.keys()
        self.traits |= {who: orjson.loads(found.get(who, "{}")) for who in wanted}

    def _read(self, table: sa.Table, value: sa.Column[Any], wanted: Iterable[Who]) -> dict[Who, str]:
        found: dict[Who, str] = {}
        for kind in (USER, ANONYMOUS):
            ids = [id_ for of, id_ in wanted if of == kind]
            if ids:
                query = sa.select(table.c.id, value).where(table.c.kind == kind, table.c.id.in_(ids))
                found |= {(kind, row[0]): row[1] for row in self.connection.execute(query)}
        return found

    def _delete(self, table: sa.Table, whom: Iterable[Who]) -> None:
        for kind, id_ in whom:
            self.connection.execute(sa.delete(table).where(table.c.kind == kind, table.c.id == id_))
