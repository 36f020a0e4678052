-- Remove finished jobs whose retention has passed, and the memory of origins that are gone.
--
-- KEYS: base, completed, dead, cancelled, moved, expiry, counted, ops, replies
-- ARGV: limit, spare, memory
-- Returns: how many jobs went.
--! include clock

local FINAL = {c = completed, f = dead, k = cancelled, m = moved}
local now = clock()
local gone = 0

local function remove(id, index)
  redis.call('ZREM', expiry, id)
  redis.call('ZREM', counted, id)
  if index then
    redis.call('ZREM', index, id)
    redis.call('DEL', base .. 'j:' .. id, base .. 's:' .. id)
    gone = gone + 1
  end
end

local function index_of(id)
  local state = redis.pcall('HGET', base .. 's:' .. id, 's')
  return type(state) == 'string' and FINAL[state]
end

local expired = redis.call('ZRANGEBYSCORE', expiry, '-inf', now, 'LIMIT', 0, limit)
for i = 1, #expired do
  remove(expired[i], index_of(expired[i]))
end

-- Kept by count: the oldest are looked at first; `spare` lets a waiting reader have the result.
local spared = redis.call('ZRANGEBYSCORE', counted, '-inf', now - spare, 'LIMIT', 0, limit - gone)
for i = 1, #spared do
  local id = spared[i]
  local index = index_of(id)
  local newer = index and redis.call('ZREVRANK', index, id)
  local keep = newer and redis.call('HGET', base .. 's:' .. id, 't')
  if not newer or (keep and newer >= tonumber(keep)) then
    remove(id, index)
  end
end

local scanned = redis.call('HSCAN', ops, 0, 'COUNT', 500)[2]
for i = 1, #scanned, 2 do
  if tonumber(string.match(scanned[i + 1], '%d+$')) + memory < now then
    redis.call('HDEL', ops, scanned[i])
    redis.call('HDEL', replies, scanned[i])
  end
end
return gone
