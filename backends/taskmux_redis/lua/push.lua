-- Create jobs, or name the owner of an id or deduplication key.
--
-- KEYS: base, work, live, ready, grouped, ring, parked, delayed, blocked, dedup, sequence, settings,
--   marker, ops, events, numbers
-- ARGV: origin, number, count, items...
--   item: id, work, state. Work begins with the job's group, if any, as `lib/lines.lua` reads it.
--   The state of a plain waiting job is ''; else its letter, `1` if notes follow (their count,
--   then field and value pairs), and its fields; the field `d`, milliseconds until a delayed job
--   is due, becomes `r`, the instant.
-- Returns: {codes, owner...}: a letter a job, C created, U duplicate, D deduplicated (then its
--   owner follows), R replaced (then the job that has its content follows), F its line is full,
--   M moved (the new store's URL follows, once). Before them
--   stands `+` if the queue never had a job before.
--
-- The first write may need memory, so a full store refuses the whole batch and keeps nothing.
--! include clock
--! include arguments
--! include chunks
--! include memory
--! include order
--! include stamp
--! include live
--! include fences
--! include due
--! include wake
--! include lines
--! include joining
--! include tell

local memories = redis.call('HMGET', ops, origin, OF_REMOVED)
local known = reply_in(memories[1])
if known then
  return cjson.decode(known)
end
count = tonumber(count)
local set = redis.call('HMGET', settings, 'moved', 'size', 'events')
if set[1] then
  return {string.rep('M', count), set[1]}
end
local size = tonumber(set[2])

local ids, works, states, notes = {}, {}, {}, {}
for i = 1, count do
  ids[i], works[i], states[i] = take(), take(), take()
  if string.sub(states[i], 2, 2) == '1' then
    notes[i] = {}
    for j = 1, 2 * take() do
      notes[i][j] = take()
    end
  end
end
local taken = look_up(work, ids)
local now = clock()
local fence = math.max(now, fence_in(memories[2]) + 1)
local turn = redis.call('INCRBY', sequence, count) - count
local is_first = turn == 0
local reply, codes, keys = {''}, {}, {}
local timetable, blocking, new_work, new_live = {}, {}, {}, {}
local soonest, waiting = math.huge, 0

local function append(list, first, second)
  list[#list + 1] = first
  list[#list + 1] = second
end

-- Whether a group has as many waiting jobs as it may, with those before in the batch. The common
-- line and those of tasks are no groups.
local function is_full(line)
  if not size or line == '' or string.sub(line, 1, 1) == '@' then
    return false
  end
  local before = joining[line] and #joining[line] / 2 or 0
  return redis.call('ZCARD', line_key(line)) + before >= size
end

local function stand(line, score, id)
  will_join(line, score, id, turn)
  waiting = waiting + 1
end

local function enter(id, line, stamp, state, fields)
  if state == 'd' then
    fields.r = fields.r or digits(now + fields.d)
    fields.d = nil
    append(timetable, fields.r, stamp .. id)
    soonest = math.min(soonest, fields.r)
  elseif state == 'b' then
    append(blocking, now, stamp .. id)
  else
    stand(line, (fields.l and front or back)(tonumber(fields.p or PRIORITY), turn), id)
  end
end

-- What jobs with a deduplication key need.
local keyed

-- Jobs of this batch by id, and the letters of the states that they began in.
local created, letters, is_any = {}, {}, false

-- Write what was collected.
local function flush()
  in_chunks('HSET', work, new_work)
  in_chunks('HSET', live, new_live)
  for key, one in pairs(keys) do
    keyed.own(key, one.id, one.ttl)
  end
  join_all()
  in_chunks('ZADD', delayed, timetable)
  in_chunks('ZADD', blocked, blocking)
  new_work, new_live, keys, timetable, blocking = {}, {}, {}, {}, {}
end

local function with_keys()
  local function state_of(id)
    return redis.call('HGET', live, id)
  end
  local function put_state(id, state)
    redis.call('HSET', live, id, state)
  end
--! include owners
--! include meeting
  return {read = dedup_in, own = own, owner_of = owner_of, meet = meet, follow = follow}
end

local function create_live(i, id, line, stamp)
  local state, flag = string.sub(states[i], 1, 1), string.sub(states[i], 2, 2)
  local fields = parse(string.sub(states[i], 3))
  local key, ttl
  if fields.k then
    keyed = keyed or with_keys()
    key, ttl = keyed.read(fields.k)
    local owner = keys[key] and keys[key].id or keyed.owner_of(key)
    if owner then
      local code, other = keyed.meet(owner, i, fields)
      if code ~= 'S' then
        reply[#reply + 1] = other
        return code
      end
      keyed.follow(key, id, i, fields)
      key, state = nil, 'b'
      states[i] = 'b' .. string.sub(states[i], 2)
    end
  end
  if state == 'w' and is_full(line) then
    return 'F'
  end
  if key then
    keys[key] = {id = id, ttl = ttl}
  end
  if line ~= '' then
    fields.g = line
  end
  enter(id, line, stamp, state, fields)
  append(new_live, id, head(state, '00' .. flag, fence, NOWHERE) .. NOBODY .. serialise(fields))
  return 'C'
end

local function create(i, id, line, stamp)
  if states[i] == '' and fence > now then
    states[i] = 'w0' -- a plain job's fence is the time
  end
  if states[i] ~= '' then
    return create_live(i, id, line, stamp)
  elseif is_full(line) then
    return 'F'
  end
  stand(line, PRIORITY * LINE + MIDDLE + turn, id)
  return 'C'
end

for i = 1, count do
  local id = ids[i]
  turn = turn + 1
  if taken[i] or created[id] then
    codes[i] = 'U'
  else
    local stamp = stamp_of(now, turn)
    codes[i] = create(i, id, group_in(works[i], 0), stamp)
    if codes[i] == 'C' then
      created[id] = i
      append(new_work, id, stamp .. works[i])
      letters[i], is_any = states[i] == '' and 'w' or string.sub(states[i], 1, 1), true
      if notes[i] then
        in_chunks('HSET', base .. 'n:' .. id, notes[i])
      end
    end
  end
  letters[i] = letters[i] or '-'
end
flush()
wake(waiting + (due_before(soonest) and 1 or 0))
reply[1] = table.concat(codes)
remember(now, cjson.encode(reply))
if is_any then
  tell(set[3], now, 'p', table.concat(letters), ids)
end
if is_first then
  reply[1] = '+' .. reply[1]
end
return reply
