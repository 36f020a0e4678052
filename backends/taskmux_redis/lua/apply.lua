-- Apply guarded transitions in order.
--
-- KEYS: base, ready, delayed, blocked, leases, completed, dead, cancelled, moved, expiry,
--   counted, dedup, sequence, marker, ops, replies
-- ARGV: origin, number, shapes, count, items...
--   first the shapes, what transitions of this batch share: states, to, run_at, delay, place,
--   age, keep, flags, set, unset (the last two name fields by a letter each);
--   then the transitions: shape, id, fence, a value for each letter of the shape's `set`.
-- Returns: two letters a transition: A applied, S stale, G gone, C conflict, Q requested,
--   P repeated; then the state, or `-` for none.
--! include clock
--! include arguments
--! include chunks
--! include memory
--! include order
--! include stamp
--! include due
--! include wake

local known = recall()
if known then
  return (string.gsub(known, 'A', 'P'))
end
count = tonumber(count)
local now = clock()
local FINAL = {c = completed, f = dead, k = cancelled, m = moved}
local INDEX = {w = ready, d = delayed, b = blocked, a = leases,
  c = completed, f = dead, k = cancelled, m = moved}
local BY_STAMP = {d = true, b = true}

-- Under maxmemory Redis refuses a script whose first write may need memory and lets one go on
-- whose first write frees some. Finished work must always be settled.
redis.call('ZREM', leases, '')
local turn = redis.call('INCRBY', sequence, count) - count

-- Index writes are collected and go as one command an index; a job that comes up a second time
-- finds the indexes as its first transition left them.
local leaving, entering, touched = {}, {}, {}
local woken, soonest = 0, math.huge

local function flush()
  for key, members in pairs(leaving) do
    in_chunks('ZREM', key, members)
  end
  for key, scored in pairs(entering) do
    in_chunks('ZADD', key, scored)
  end
  leaving, entering, touched = {}, {}, {}
end

local function leave(key, member)
  local list = leaving[key] or {}
  leaving[key] = list
  list[#list + 1] = member
end

local function enter(key, score, member)
  local list = entering[key] or {}
  entering[key] = list
  list[#list + 1] = score
  list[#list + 1] = member
end

local function member_of(state, id)
  if BY_STAMP[state] then
    return redis.call('GETRANGE', base .. 'j:' .. id, 0, STAMP - 1) .. id
  end
  return id
end

local function leave_state(state, id)
  leave(INDEX[state], member_of(state, id))
  if FINAL[state] then
    leave(expiry, id)
    leave(counted, id)
  end
end

local function free_key(key, id)
  if key and redis.call('HGET', dedup, key) == id then
    redis.call('HDEL', dedup, key)
  end
end

local function line_score(shape, priority, last)
  woken = woken + 1
  if shape.place == 'keep' and last then
    return moved_to(priority, last)
  end
  return (shape.place == 'front' and front or back)(priority, turn)
end

-- Write the fields and the index entry of a job's new state.
local function enter_state(shape, target, id, job, fields)
  if target == 'w' then
    enter(ready, line_score(shape, job.priority, job.last), id)
  elseif target == 'd' then
    local due = shape.run_at ~= '' and shape.run_at or now + shape.delay
    fields[#fields + 1] = 'r'
    fields[#fields + 1] = due
    enter(delayed, due, member_of('d', id))
    soonest = math.min(soonest, due)
  elseif target == 'b' then
    local member = member_of('b', id)
    enter(blocked, created(member), member)
  elseif FINAL[target] then
    -- 2,048 finishes of one millisecond keep their order: exact until the year 2109
    enter(FINAL[target], now * 2048 + turn % 2048, id)
    enter(expiry, now + shape.age, id)
    fields[#fields + 1] = 'e'
    fields[#fields + 1] = now
    if shape.keep ~= '' then
      enter(counted, now, id)
      fields[#fields + 1] = 't'
      fields[#fields + 1] = shape.keep
    end
  end
end

local function changed(shape, job)
  local fields = {}
  for letter in string.gmatch(shape.set, '.') do
    local value = take()
    fields[#fields + 1] = letter
    fields[#fields + 1] = value
    if letter == 'p' then
      job.priority = tonumber(value)
      job.moved = true
    end
  end
  return fields
end

local function target_of(shape, job)
  if shape.to == '' then
    return job.state
  end
  if job.state == 'a' and job.asked and shape.to ~= 'a' and not FINAL[shape.to] then
    return 'k'
  end
  return shape.to
end

local function write(shape, id, job, target, fields)
  local drop = {}
  for letter in string.gmatch(shape.unset, '.') do
    drop[#drop + 1] = letter
  end
  if shape.to ~= '' and not (target == 'a' and job.state == 'a') then
    if job.state == 'w' then
      job.last = redis.call('ZSCORE', ready, id)
      fields[#fields + 1] = 'q'
      fields[#fields + 1] = job.last
    elseif job.state == 'b' and target ~= 'b' then
      drop[#drop + 1] = 'c'
    elseif FINAL[job.state] and not FINAL[target] then
      drop[#drop + 1] = 'e'
    end
    fields[#fields + 1] = 's'
    fields[#fields + 1] = target
    leave_state(job.state, id)
    enter_state(shape, target, id, job, fields)
  elseif job.state == 'w' and job.moved then
    enter(ready, moved_to(job.priority, redis.call('ZSCORE', ready, id)), id)
  end
  if #fields > 0 then
    redis.call('HSET', base .. 's:' .. id, unpack(fields))
  end
  if #drop > 0 then
    redis.call('HDEL', base .. 's:' .. id, unpack(drop))
  end
end

local function holds(shape, fence, job)
  if fence ~= '' then
    return job.state == 'a' and job.fence == fence
  end
  if shape.to == 'a' and job.state ~= 'a' then
    return false -- only a claim makes a job active: without a lease it would be stuck
  end
  return string.find(shape.states, job.state, 1, true) ~= nil
end

local function load(id)
  local live = redis.pcall('HMGET', base .. 's:' .. id, 's', 'f', 'z', 'k', 'p', 'q')
  if live.err or (not live[1] and redis.call('EXISTS', base .. 'j:' .. id) == 0) then
    return nil
  end
  return {
    state = live[1] or 'w',
    fence = live[2],
    asked = live[3],
    key = live[4],
    priority = tonumber(live[5] or PRIORITY),
    last = live[6],
  }
end

local function settle(shape, id, fence)
  local job = load(id)
  local fields = changed(shape, job or {})
  if not job then
    return 'G-'
  elseif shape.flag and job.state == 'a' then
    redis.call('HSET', base .. 's:' .. id, 'z', 1)
    return 'Qa'
  elseif not holds(shape, fence, job) then
    return 'S' .. job.state
  elseif shape.remove then
    leave_state(job.state, id)
    free_key(job.key, id)
    redis.call('DEL', base .. 'j:' .. id, base .. 's:' .. id)
    return 'A-'
  end
  local target = target_of(shape, job)
  if job.key and not FINAL[target] then
    local owner = redis.call('HGET', dedup, job.key)
    if owner and owner ~= id then
      return 'C' .. job.state
    end
    redis.call('HSET', dedup, job.key, id)
  end
  write(shape, id, job, target, fields)
  if FINAL[target] then
    free_key(job.key, id)
  end
  return 'A' .. target
end

local ways = {}
for i = 1, tonumber(shapes) do
  local way = {states = take(), to = take(), run_at = take(), delay = take(), place = take(),
    age = take(), keep = take()}
  local flags = take()
  way.remove, way.flag = string.find(flags, 'r') ~= nil, string.find(flags, 'f') ~= nil
  way.set, way.unset = take(), take()
  ways[i] = way
end
local codes = {}
for i = 1, count do
  local way, id, fence = ways[tonumber(take())], take(), take()
  if touched[id] then
    flush()
  end
  touched[id] = true
  turn = turn + 1
  codes[i] = settle(way, id, fence)
end
flush()
wake(woken + (due_before(soonest) and 1 or 0))
local reply = table.concat(codes)
remember(now, reply)
return reply
