-- Writing to recordings, as long as there are any: what was erased must not come back.
--
-- KEYS: log, facts, once per part   ARGV: what the parts are, a letter each, then the parts
-- "b"   One more batch, unless the recording would grow beyond its limit.
-- "e"   How the session ended.
--     Returns for each part 1; 0 where the limit is reached, which is marked; -1 where the recording is gone. Each write
--     lets the recording be kept for its whole time again. Many parts for the price of one command; a part that is
--     written twice, since the first answer was lost, counts once for whoever reads.
local function write(log, facts, what, value)
  local known = redis.call("HMGET", facts, "most", "size", "keep")
  if not known[1] then return -1 end
  local size = tonumber(known[2] or "0") + #value
  if what == "b" then
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
end

local results = {}
for part = 1, #ARGV - 1 do
  local what = string.sub(ARGV[1], part, part)
  results[part] = write(KEYS[2 * part - 1], KEYS[2 * part], what, ARGV[part + 1])
end
return results
