-- The commands that must not be done by whoever merely asks: each first compares who holds what.
--
-- op "renew" | "settle" | "give_back"   KEYS: offers stream             ARGV: op, group, worker, offer id
--     A pending entry of the offers stream is the lease. XCLAIM and XACK succeed for anyone, so a worker that
--     slept past its lease would take it back; the owner is compared first. Returns 1, or 0 for a lost lease.
-- op "take"                             KEYS: session state             ARGV: op, ttl ms, offer id
--     One more take of the session: its generation grows and fences every earlier holder. Returns
--     {offer, generation, checkpoint or '', takes}, or nil when the session is gone, or is held by another offer: one
--     whose making was not answered may be made twice.
-- op "publish"                          KEYS: events, state, audio      ARGV: op, generation, ttl ms, log length,
--                                       checkpoint or '', first audio id to keep or '', then sequence, event, ...
--     Events, checkpoint and trim in one go, only for the holder of the newest generation.
--     Returns the session's ingress, or 0 when a newer holder exists, or -1 when the session is gone.
-- op "touch"                            KEYS: state, audio, events      ARGV: op, ttl ms
--     Keep the session's keys. Returns the number of the log's newest entry, 0 for none, or -1 when the session is gone.
-- op "restore"                          KEYS: state, audio              ARGV: op, ttl ms, stamp, offer, ingress,
--                                       generation, checkpoint or '', then audio id, entry, ...
--     The session as its ingress knows it, in place of whatever Redis has kept of it; every holder is fenced. Done once
--     for each stamp: one that comes late, over a connection that was given up, changes nothing. Returns 1.
-- op "append"                           KEYS: audio, once per entry    ARGV: op, log length, ttl s, then entry, its id, 1 if
--                                       the log is to live so long from now on (else 0), ...
--     Entries of many sessions for the price of one command. Fails as a whole where Redis refuses one; what was appended
--     before stays, and is not appended again with the next try, since it has the same id.
-- op "enter" | "stay" | "remain"       KEYS: places of an API key or the licence  ARGV: op, session, ttl ms, most sessions
--     A session's place among those its key may have at once. "enter" is refused when they are taken, "stay" never is:
--     a session that runs goes on, also after Redis came back empty. "remain", for replays, is refused to those that
--     have none any more: another has been given it. The server's clock alone decides which places are over, so that
--     nodes with clocks of their own agree. Returns 1, or 0 when refused.
-- op "keep"                             KEYS: resume, audio, told       ARGV: op, moves, ttl ms, node, who or '',
--                                       place or '', log lengths (audio, told), number of entries, (id, entry)...,
--                                       (number, text)...
--     What a node has taken from the client and told it, and its place by then, in one go, and only by the node that
--     the session is on: each move to another one raises `moves`. Returns 1, 0 when the session has moved on, or 2
--     when Redis has lost `who` and needs it again.
-- op "move"                             KEYS: resume, state             ARGV: op, moves, ttl ms, node
--     The session goes on on this node, if it has not moved since `moves` was read; its worker's events go there from now
--     on. Returns {place, the node before}, or 0.
-- op "release"                          KEYS: resume, state, audio, events  ARGV: op, moves, ttl ms
--     The session is over: its keys go soon, unless it has moved on. Returns 1, or 0.
local op = ARGV[1]

local function now_ms()
  local time = redis.call("TIME")
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Never sooner than it would have anyway.
local function outlive(key, ttl)
  if redis.call("PTTL", key) < tonumber(ttl) then redis.call("PEXPIRE", key, ttl) end
end

if op == "renew" or op == "settle" or op == "give_back" then
  local stream, group, worker, id = KEYS[1], ARGV[2], ARGV[3], ARGV[4]
  local pending = redis.pcall("XPENDING", stream, group, id, id, 1)
  if pending.err then  -- Redis came back without the group: nobody holds anything
    if string.find(pending.err, "NOGROUP") then return 0 end
    return pending
  end
  if #pending == 0 or pending[1][2] ~= worker then return 0 end
  if op == "renew" then
    redis.call("XCLAIM", stream, group, worker, 0, id, "JUSTID")
  elseif op == "give_back" then
    -- Idle for longer than any lease: the next XAUTOCLAIM of another worker takes it at once.
    redis.call("XCLAIM", stream, group, worker, 0, id, "IDLE", 86400000, "JUSTID")
  else
    redis.call("XACK", stream, group, id)
    redis.call("XDEL", stream, id)
  end
  return 1
end

if op == "take" then
  local offer = redis.call("HGET", KEYS[1], "offer")
  local held = redis.call("HGET", KEYS[1], "held")
  if not offer or (held and held ~= ARGV[3]) then return nil end
  redis.call("HSET", KEYS[1], "held", ARGV[3])
  local generation = redis.call("HINCRBY", KEYS[1], "generation", 1)
  local takes = redis.call("HINCRBY", KEYS[1], "takes", 1)
  outlive(KEYS[1], ARGV[2])
  return {offer, generation, redis.call("HGET", KEYS[1], "checkpoint") or "", takes}
end

if op == "publish" then
  local events, state, audio = KEYS[1], KEYS[2], KEYS[3]
  local generation, ttl, length, checkpoint, keep = ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
  local newest = redis.call("HGET", state, "generation")
  if not newest then return -1 end
  if newest ~= generation then return 0 end
  for index = 7, #ARGV, 2 do
    -- Refused as "equal or smaller" when the holder publishes again because its first answer was lost: it is there.
    local added = redis.pcall("XADD", events, "MAXLEN", "~", length, generation .. "-" .. ARGV[index], "e", ARGV[index + 1])
    if added.err and not string.find(added.err, "equal or smaller") then return added end
  end
  if #ARGV > 7 then outlive(events, ttl) end
  if checkpoint ~= "" then redis.call("HSET", state, "checkpoint", checkpoint) end
  if keep ~= "" then redis.call("XTRIM", audio, "MINID", keep) end
  return redis.call("HGET", state, "ingress") or ""
end

if op == "keep" then
  local resume, audio, told = KEYS[1], KEYS[2], KEYS[3]
  local moves, ttl, who, place, entries = ARGV[2], ARGV[3], ARGV[5], ARGV[6], tonumber(ARGV[9])
  local newest = redis.call("HGET", resume, "moves")
  if newest and newest ~= moves then return 0 end
  redis.call("HSET", resume, "moves", moves, "node", ARGV[4])
  if who ~= "" then redis.call("HSET", resume, "who", who) end
  if place ~= "" then redis.call("HSET", resume, "place", place) end
  local first_text = 10 + 2 * entries
  for index = 10, first_text - 1, 2 do
    local added = redis.pcall("XADD", audio, "MAXLEN", "~", ARGV[7], ARGV[index], "e", ARGV[index + 1])
    if added.err and not string.find(added.err, "equal or smaller") then return added end
  end
  for index = first_text, #ARGV, 2 do
    -- Refused as "equal or smaller" when it was written before and the answer was lost.
    local added = redis.pcall("XADD", told, "MAXLEN", "~", ARGV[8], ARGV[index] .. "-0", "e", ARGV[index + 1])
    if added.err and not string.find(added.err, "equal or smaller") then return added end
  end
  for _, key in ipairs(KEYS) do outlive(key, ttl) end
  return redis.call("HEXISTS", resume, "who") == 1 and 1 or 2
end

if op == "move" then
  local resume, state, moves = KEYS[1], KEYS[2], redis.call("HGET", KEYS[1], "moves")
  if moves ~= ARGV[2] then return 0 end
  local node = redis.call("HGET", resume, "node") or ""
  redis.call("HSET", resume, "moves", moves + 1, "node", ARGV[4])
  outlive(resume, ARGV[3])
  if redis.call("EXISTS", state) == 1 then
    redis.call("HSET", state, "ingress", ARGV[4])
    outlive(state, ARGV[3])
  end
  return {redis.call("HGET", resume, "place") or "", node}
end

if op == "release" then
  local newest = redis.call("HGET", KEYS[1], "moves")
  if newest and newest ~= ARGV[2] then return 0 end
  for index = 2, #KEYS do redis.call("PEXPIRE", KEYS[index], ARGV[3]) end
  return 1
end

if op == "touch" then
  local state, audio = KEYS[1], KEYS[2]
  for _, key in ipairs(KEYS) do outlive(key, ARGV[2]) end
  if redis.call("EXISTS", state) == 0 then return -1 end
  if redis.call("EXISTS", audio) == 0 then return 0 end
  local info = redis.call("XINFO", "STREAM", audio)
  for index = 1, #info, 2 do
    if info[index] == "last-generated-id" then return tonumber(string.match(info[index + 1], "^%d+")) end
  end
end

if op == "restore" then
  local state, audio = KEYS[1], KEYS[2]
  local ttl, stamp, offer, ingress, known, checkpoint = ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7]
  if tonumber(redis.call("HGET", state, "restored") or "0") >= tonumber(stamp) then return 1 end
  local newest = math.max(tonumber(redis.call("HGET", state, "generation") or "0"), tonumber(known))
  redis.call("DEL", state, audio)
  for index = 8, #ARGV, 2 do redis.call("XADD", audio, ARGV[index], "e", ARGV[index + 1]) end
  if #ARGV > 7 then redis.call("PEXPIRE", audio, ttl) end
  if checkpoint ~= "" then redis.call("HSET", state, "checkpoint", checkpoint) end
  redis.call("HSET", state, "offer", offer, "ingress", ingress, "takes", 1)
  redis.call("HSET", state, "generation", newest + 1000, "restored", stamp)  -- also above takes that were forgotten
  redis.call("PEXPIRE", state, ttl)
  return 1
end

if op == "append" then
  for number, audio in ipairs(KEYS) do
    local place = 3 * number + 1
    local added = redis.pcall("XADD", audio, "MAXLEN", "~", ARGV[2], ARGV[place + 1], "e", ARGV[place])
    if added.err and not string.find(added.err, "equal or smaller") then return added end
    if ARGV[place + 2] == "1" then redis.call("EXPIRE", audio, ARGV[3]) end
  end
  return #KEYS
end

if op == "enter" or op == "stay" or op == "remain" then
  local places, session, ttl = KEYS[1], ARGV[2], tonumber(ARGV[3])
  local now = now_ms()
  redis.call("ZREMRANGEBYSCORE", places, "-inf", now)
  if op ~= "stay" and not redis.call("ZSCORE", places, session)
    and (op == "remain" or redis.call("ZCARD", places) >= tonumber(ARGV[4])) then return 0 end
  redis.call("ZADD", places, now + ttl, session)
  redis.call("PEXPIRE", places, ttl)
  return 1
end

return redis.error_reply("unknown op")
