-- Writing to a recording, as long as there is one: what was erased must not come back.
--
-- op "append"  KEYS: log, facts  ARGV: op, batch    One more batch, unless the recording would grow beyond its limit.
-- op "end"     KEYS: log, facts  ARGV: op, end      How the session ended.
--     Returns 1; 0 where the limit is reached, which is marked; -1 where the recording is gone. Each write lets the
--     recording be kept for its whole time again.
local log, facts, op, value = KEYS[1], KEYS[2], ARGV[1], ARGV[2]
local known = redis.call("HMGET", facts, "most", "size", "keep")
if not known[1] then return -1 end
local size = tonumber(known[2] or "0") + #value
if op == "append" then
  if size > tonumber(known[1]) then
    redis.call("HSET", facts, "cut", "1")
    return 0
  end
  redis.call("XADD", log, "*", "e", value)
  redis.call("HSET", facts, "size", size)
else
  redis.call("HSET", facts, "end", value)
end
redis.call("PEXPIRE", log, known[3])
redis.call("PEXPIRE", facts, known[3])
return 1
