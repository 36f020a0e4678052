-- Lease waiting jobs to a worker, as the turns of lines and the order within each say.
--
-- KEYS: base, work, live, ready, grouped, ring, parked, delayed, leases, sequence, settings, gate,
--   full, marker, corrupt, ops, events, numbers
-- ARGV: origin, number, worker, limit, lease, prefetch, promote, passed
--   passed: how many lines that may not give one claim passes over at most
-- Returns: {now, instant of the next chance or false, blocked by, repeated, limited, then for each
--   job id, work, state, notes}: as they were before the claim, the last two false where there
--   are none. Of a repeat, rows follow as `lib/rows.lua` makes them.
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
--! include lines
--! include tell

local now = clock()
local known = recall()
local set = redis.call('HMGET', settings, 'paused', 'limited', 'limits', 'groups', 'named', 'events')
local reply = {now, false, false, 0, set[2] == '1' and 1 or 0}
local leased, until_then, states, given = {}, {}, {}, {}

local function answer(blocked, opens)
  local due = redis.call('ZRANGE', delayed, 0, 0, 'WITHSCORES')[2]
  reply[2] = opens and not (due and tonumber(due) <= opens) and digits(opens) or due or false
  reply[3] = blocked or false
  if not known then
    remember(now, cjson.encode(leased))
  end
  return reply
end

local function set_aside(id)
  redis.call('HSET', corrupt, id, now)
end

-- The same jobs again, as far as they are still held under the same fence.
local function again()
  local before = cjson.decode(known)
  reply[4] = 1
  for i = 1, #before, 2 do
    local id, fence = before[i], before[i + 1]
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
--! include joining
  redis.call('GET', sequence) -- fails, if it is of another type, before anything is taken out
  redis.call('ZREM', delayed, unpack(due))
  local turn = redis.call('INCRBY', sequence, #due) - #due
  local ids, promoted, come = {}, {}, {}
  for i = 1, #due do
    ids[i] = string.sub(due[i], STAMP + 1)
  end
  local found = look_up(live, ids)
  for i = 1, #ids do
    local state = found[i]
    local fields = state and string.sub(state, 1, 1) == 'd' and parse(fields_text(state))
    if fields then
      promoted[#promoted + 1] = ids[i]
      come[#come + 1] = ids[i]
      promoted[#promoted + 1] = 'w' .. string.sub(state, 2)
      local score = (fields.l and front or back)(tonumber(fields.p or PRIORITY), turn + i)
      will_join(fields.g or '', score, ids[i], turn + i)
    else
      set_aside(ids[i])
    end
  end
  in_chunks('HSET', live, promoted)
  join_all()
  tell(set[6], now, 's', 'w', come)
end

-- A claim that gives nothing remembers that; a full store allows it after a write that may free.
local function blocked(why, opens)
  redis.call('ZREM', leases, '')
  if why == 'concurrency' then
    redis.call('SET', full, 1)
  end
  return answer(why, opens)
end

local me = string.format('%03d', #worker) .. worker
local lease_end = digits(now + lease)
local sub, format = string.sub, string.format

-- The fence after this one; nil if it is none. Jobs that were pushed together share theirs.
local raised = {}

local function raise(fence)
  if not raised[fence] then
    local number = tonumber(fence)
    raised[fence] = number and format('%013.0f', number + 1)
  end
  return raised[fence]
end

local function lease_out(id, job, state, score, group)
  local next_fence, flags, fields, notes = nil, '0', group, false
  if state then
    next_fence, flags, fields = raise(sub(state, 5, 17)), sub(state, 4, 4), fields_text(state)
    notes = flags == '1' and redis.call('HGETALL', base .. 'n:' .. id)
  else
    next_fence = raise(sub(job, 1, 13))
  end
  if not (next_fence and fields) then
    set_aside(id)
    return false
  end
  local at = #leased
  states[at + 1], states[at + 2] = id, 'a00' .. flags .. next_fence
    .. sub(NOWHERE .. score, -16) .. me .. fields
  until_then[at + 1], until_then[at + 2] = lease_end, id
  leased[at + 1], leased[at + 2] = id, next_fence
  given[#given + 1] = id
  at = 5 + 2 * at
  reply[at + 1], reply[at + 2], reply[at + 3], reply[at + 4] = id, job, state, notes
  return true
end

local function save()
  in_chunks('HSET', live, states)
  in_chunks('ZADD', leases, until_then)
  tell(set[6], now, 's', 'a', given)
end

local gates

local function claim_by_turns()
--! include gates
--! include turns
end

-- Take jobs of the common line, while nobody else has a turn. Returns whether some were unreadable.
local function take_common()
  local before = #leased / 2
  local popped, ids = redis.call('ZPOPMIN', ready, limit - before), {}
  for i = 1, #popped, 2 do
    ids[#ids + 1] = popped[i]
  end
  local jobs, lives = look_up(work, ids), look_up(live, ids)
  for i = 1, #ids do
    if jobs[i] then
      lease_out(ids[i], jobs[i], lives[i], popped[2 * i], '')
    else
      set_aside(ids[i])
    end
  end
  return before + #ids > #leased / 2
end

local function claim_common()
  for _ = 1, 100 do -- unreadable jobs leave room for others, within a bound
    if not take_common() then
      break
    end
  end
  save()
  -- What this claim leaves behind wakes another waiter, and its claim the next.
  if redis.call('ZCARD', ready) > 0 then
    wake(1)
  else
    redis.call('ZREM', ring, '')
    redis.call('DEL', marker)
  end
  return answer()
end

local function is_common_alone()
  gates = redis.call('MGET', gate, base .. 'gate:')
  if gates[1] or gates[2] or set[2] or set[3] or redis.call('EXISTS', parked) == 1 then
    return false
  end
  local first = redis.call('ZRANGE', ring, 0, 1)
  return first[2] == nil and (first[1] == nil or first[1] == '')
end

if known then
  return again()
elseif set[1] == '1' then
  return blocked('paused')
end
promote_due()
if is_common_alone() then
  return claim_common()
end
return claim_by_turns()
