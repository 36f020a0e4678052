-- Remove finished jobs whose retention has passed, and the memory of origins that are gone.
--
-- KEYS: base, work, live, ready, grouped, ring, parked, delayed, blocked, completed, dead, cancelled,
--   moved, counted, looked, ages, dedup, sequence, marker, ops, settings, events, numbers
-- ARGV: limit, spare, memory
-- Returns: how many jobs went.
--
-- Finished jobs stand in a list for each age of retention, in the order they finished; those that
-- are kept by count, too, in one of their own (`<age>c`). An entry is the instant and the id; one
-- whose job has finished anew since, or is gone, says nothing, and goes when it is the first.
--! include clock
--! include chunks
--! include order
--! include stamp
--! include live
--! include fences
--! include wake
--! include lines
--! include tell

local FINAL = {c = completed, f = dead, k = cancelled, m = moved}
local now = clock()
local left, gone = tonumber(limit), {}

-- Returns the index, the fields and the fence of a finished job.
local function finished(id)
  local state = redis.call('HGET', live, id)
  local index = state and FINAL[string.sub(state, 1, 1)]
  if index then
    return index, parse(fields_text(state)) or {}, tonumber(string.sub(state, 5, 17)) or 0
  end
end

local function remove(id, index, fence)
  redis.call('ZREM', counted, id)
  redis.call('ZREM', index, id)
  redis.call('HDEL', work, id)
  redis.call('HDEL', live, id)
  redis.call('DEL', base .. 'n:' .. id)
  keep_fence(fence, now)
  left, gone[#gone + 1] = left - 1, id
end

local function remove_aged(age)
  local key, lasts = base .. 'age:' .. age, tonumber(string.match(age, '^%d+'))
  local entries = redis.call('LRANGE', key, 0, limit - 1)
  local passed = 0
  for i = 1, #entries do
    local at, id = string.sub(entries[i], 1, 13), string.sub(entries[i], 14)
    local index, fields, fence = finished(id)
    local counts = index and fields.e == at
    if counts and (at + lasts > now or left == 0) then
      break
    end
    passed = i
    if counts then
      remove(id, index, fence)
    end
  end
  redis.call('LTRIM', key, passed, -1)
  if redis.call('EXISTS', key) == 0 then
    redis.call('ZREM', ages, age)
  end
end

local known = redis.call('ZRANGE', ages, 0, -1)
for i = 1, #known do
  if left > 0 then
    remove_aged(known[i])
  end
end

-- Kept by count: they are looked at from the oldest on, a few in a call, and the next call goes on
-- there, since the oldest may be kept by a large count and newer ones go by a small one. `spare`
-- lets a waiting reader have the result.
local from = tonumber(redis.call('GET', looked) or 0)
local seen = redis.call('ZRANGE', counted, from, from + 2 * limit - 1, 'WITHSCORES')
local stayed = 0
for i = 1, #seen, 2 do
  local id = seen[i]
  if left == 0 or tonumber(seen[i + 1]) > now - spare then
    break
  end
  local index, fields, fence = finished(id)
  local newer = index and fields.t and redis.call('ZREVRANK', index, id)
  if not newer then
    redis.call('ZREM', counted, id)
  elseif newer >= tonumber(fields.t) then
    remove(id, index, fence)
  else
    stayed = stayed + 1
  end
end
if #seen == 4 * limit and from + stayed > 0 then
  redis.call('SET', looked, from + stayed)
else
  redis.call('DEL', looked)
end

-- Drop the stream if nothing has happened since an instant.
local function forget_events(since)
  local newest = redis.pcall('XREVRANGE', events, '+', '-', 'COUNT', 1)[1]
  local at = type(newest) == 'table' and tonumber(string.sub(newest[2][2], 1, 13))
  if at and at < since then
    redis.call('DEL', events)
  end
end

if #gone > 0 then
  tell(redis.call('HGET', settings, 'events'), now, 'x', '', gone)
elseif redis.call('EXISTS', work) == 0 then
  forget_events(now - memory)
end

-- Jobs stored before there were lines have had no turn.
if redis.call('EXISTS', ready) == 1 and not redis.call('ZSCORE', ring, '')
  and not redis.call('ZSCORE', parked, '') then
  redis.call('ZADD', ring, redis.call('INCR', sequence), '')
  wake(1)
end

-- Deduplication keys whose time is over go to their successors, or are free.
local function end_throttles(over)
  local function flush()
  end
  local function state_of(id)
    return redis.call('HGET', live, id)
  end
  local function put_state(id, state)
    redis.call('HSET', live, id, state)
  end
--! include owners
  for i = 1, #over do
    owner_of(over[i])
  end
end

local over = redis.call('ZRANGEBYSCORE', base .. 'throttled', '-inf', now, 'LIMIT', 0, limit)
if #over > 0 then
  end_throttles(over)
end
local origins = redis.call('HSCAN', ops, 0, 'COUNT', 100)[2]
for i = 1, #origins, 2 do
  if string.match(origins[i + 1], '^%d+ (%d+)') + memory < now then
    redis.call('HDEL', ops, origins[i])
  end
end
return limit - left
