-- Lease waiting jobs to a worker, in order.
--
-- KEYS: base, work, live, ready, delayed, leases, sequence, settings, marker, corrupt, ops
-- ARGV: origin, number, worker, limit, lease, start, promote
-- Returns: {now, next due instant or false, blocked by, repeated, then for each job id, work,
--   state, notes}: as they were before the claim, the last two false where there are none. Of a
--   repeat, rows follow as `lib/rows.lua` makes them.
--
-- The first write frees memory, so a full store can still be drained.
--! include clock
--! include chunks
--! include memory
--! include order
--! include stamp
--! include live
--! include rows
--! include wake

local now = clock()
local reply = {now, false, false, 0}

local function answer()
  reply[2] = redis.call('ZRANGE', delayed, 0, 0, 'WITHSCORES')[2] or false
  return reply
end

local function set_aside(id)
  redis.call('HSET', corrupt, id, now)
end

-- The same jobs again, as far as they are still held under the same fence.
local function again(known)
  local held = cjson.decode(known)
  reply[4] = 1
  for i = 1, #held, 2 do
    local id, fence = held[i], held[i + 1]
    local state = redis.call('HGET', live, id)
    if state and string.sub(state, 1, 1) == 'a' and string.sub(state, 5, 17) == fence then
      reply[#reply + 1] = row(id, redis.call('HGET', work, id), state)
    end
  end
  return answer()
end

local function promote_due()
  local due = redis.call('ZRANGEBYSCORE', delayed, '-inf', now, 'LIMIT', 0, promote)
  if #due == 0 then
    return
  end
  redis.call('ZREM', delayed, unpack(due))
  local turn = redis.call('INCRBY', sequence, #due) - #due
  local ids, line, states = {}, {}, {}
  for i = 1, #due do
    ids[i] = string.sub(due[i], STAMP + 1)
  end
  local found = look_up(live, ids)
  for i = 1, #ids do
    local state = found[i]
    local fields = state and string.sub(state, 1, 1) == 'd' and parse(fields_text(state))
    if fields then
      states[#states + 1] = ids[i]
      states[#states + 1] = 'w' .. string.sub(state, 2)
      line[#line + 1] = (fields.l and front or back)(tonumber(fields.p or PRIORITY), turn + i)
      line[#line + 1] = ids[i]
    else
      set_aside(ids[i])
    end
  end
  in_chunks('HSET', live, states)
  in_chunks('ZADD', ready, line)
end

local held, until_then, states = {}, {}, {}
local me = string.format('%03d', #worker) .. worker
local asked_for, to_start, lease_end = tonumber(limit), 2 * tonumber(start), digits(now + lease)
local sub, format = string.sub, string.format

local function lease_out(id, job, state, score)
  local fence, flags, fields, notes = nil, '0', '', false
  if state then
    fence, flags, fields = tonumber(sub(state, 5, 17)), sub(state, 4, 4), fields_text(state)
    notes = flags == '1' and redis.call('HGETALL', base .. 'n:' .. id)
  else
    fence = tonumber(sub(job, 1, 13))
  end
  if not (fence and fields) then
    set_aside(id)
    return
  end
  local at, next_fence = #held, format('%013.0f', fence + 1)
  states[at + 1], states[at + 2] = id, (at < to_start and 'a01' or 'a00') .. flags .. next_fence
    .. sub(NOWHERE .. score, -16) .. me .. fields
  until_then[at + 1], until_then[at + 2] = lease_end, id
  held[at + 1], held[at + 2] = id, next_fence
  at = 4 + 2 * at
  reply[at + 1], reply[at + 2], reply[at + 3], reply[at + 4] = id, job, state, notes
end

local known = recall()
if known then
  return again(known)
end
if redis.call('HGET', settings, 'paused') == '1' then
  reply[3] = 'paused'
  return answer()
end
promote_due()
-- Unreadable jobs leave room for others, within a bound.
for _ = 1, 100 do
  local popped = redis.call('ZPOPMIN', ready, asked_for - #held / 2)
  local ids = {}
  for i = 1, #popped, 2 do
    ids[#ids + 1] = popped[i]
  end
  local jobs, before = look_up(work, ids), look_up(live, ids)
  for i = 1, #ids do
    if jobs[i] then
      lease_out(ids[i], jobs[i], before[i], popped[2 * i])
    else
      set_aside(ids[i])
    end
  end
  if #popped == 0 or #held / 2 == asked_for then
    break
  end
end
in_chunks('HSET', live, states)
in_chunks('ZADD', leases, until_then)
-- What this claim leaves behind wakes another waiter, and its claim the next.
if redis.call('ZCARD', ready) > 0 then
  wake(1)
else
  redis.call('DEL', marker)
end
remember(now, cjson.encode(held))
return answer()
