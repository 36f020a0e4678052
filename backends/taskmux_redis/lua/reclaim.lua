-- Lease jobs whose lease lapsed to the caller, oldest lapse first.
--
-- KEYS: base, work, live, leases, corrupt, full, marker, ops, settings, events, numbers
-- ARGV: origin, number, worker, limit, lease
-- Returns: {former holder, row...}, in turn; rows as `lib/rows.lua` makes them
--
-- The first write frees memory, so a full store can still be drained.
--! include clock
--! include chunks
--! include memory
--! include live
--! include rows
--! include wake
--! include tell

local now = clock()
local reply = {}

local function again(known)
  local before = cjson.decode(known)
  for i = 1, #before, 3 do
    local id, fence, holder = before[i], before[i + 1], before[i + 2]
    local state = redis.call('HGET', live, id)
    if state and string.sub(state, 1, 1) == 'a' and string.sub(state, 5, 17) == fence then
      reply[#reply + 1] = holder
      reply[#reply + 1] = row(id, redis.call('HGET', work, id), state)
    end
  end
  return reply
end

local known = recall()
if known then
  return again(known)
end
local me = string.format('%03d', #worker) .. worker
local lapsed = redis.call('ZRANGEBYSCORE', leases, '-inf', now, 'LIMIT', 0, limit)
in_chunks('ZREM', leases, lapsed)
local states, taken, given = look_up(live, lapsed), {}, {}
for i = 1, #lapsed do
  local id, state = lapsed[i], states[i] or ''
  local job, fields = redis.call('HGET', work, id), fields_text(state)
  local fence = tonumber(string.sub(state, 5, 17))
  if not (job and fields and fence) or string.sub(state, 1, 1) ~= 'a' then
    redis.call('HSET', corrupt, id, now)
  else
    local holder = string.sub(state, 37, #state - #fields)
    fence = string.format('%013.0f', fence + 1)
    state = string.sub(state, 1, 4) .. fence .. string.sub(state, 18, 33) .. me .. fields
    redis.call('HSET', live, id, state)
    redis.call('ZADD', leases, now + lease, id)
    reply[#reply + 1] = holder
    reply[#reply + 1] = row(id, job, state)
    taken[#taken + 1] = id
    given[#given + 1] = id
    taken[#taken + 1] = fence
    taken[#taken + 1] = holder
  end
end
-- A lease that nobody takes over leaves room in a queue that was full.
if 3 * #lapsed > #taken and redis.call('DEL', full) == 1 then
  wake(1)
end
if #lapsed > 0 then
  tell(redis.call('HGET', settings, 'events'), now, 'r', '', given)
  remember(now, cjson.encode(taken))
end
return reply
