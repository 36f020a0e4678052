-- Create jobs, or name the owner of an id or deduplication key.
--
-- KEYS: base, ready, delayed, blocked, dedup, sequence, settings, marker, ops, replies
-- ARGV: origin, number, count, items...
--   item: id, work, pairs, then that many field and value pairs of `s:<id>`; the field `delay`
--   (milliseconds until a delayed job is due) becomes `r`, the instant.
-- Returns: {codes, owner...}: a letter a job, C created, U duplicate, D deduplicated (then its
--   owner follows), M moved (the new store's URL follows, once).
--
-- The first write may need memory, so a full store refuses the whole batch and keeps nothing.
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
  return cjson.decode(known)
end
count = tonumber(count)
local url = redis.call('HGET', settings, 'moved')
if url then
  return {string.rep('M', count), url}
end

local now = clock()
local turn = redis.call('INCRBY', sequence, count) - count
local reply, codes = {''}, {}
local line, timetable, held = {}, {}, {}
local soonest = math.huge

local function append(list, score, member)
  list[#list + 1] = score
  list[#list + 1] = member
end

local function fields_of(pairs_count)
  local live, stored = {}, {}
  for _ = 1, pairs_count do
    local name, value = take(), take()
    live[name] = value
    if name == 'delay' then
      name, value = 'r', now + value
      live.r = value
    end
    append(stored, name, value)
  end
  return live, stored
end

local function enter(id, stamp, live)
  if live.s == 'd' then
    append(timetable, live.r, stamp .. id)
    soonest = math.min(soonest, live.r)
  elseif live.s == 'b' then
    append(held, now, stamp .. id)
  else
    append(line, (live.l and front or back)(tonumber(live.p or PRIORITY), turn), id)
  end
end

local function create(id, work, live, stored)
  if redis.call('EXISTS', base .. 'j:' .. id) == 1 then
    return 'U'
  end
  local owner = live.k and redis.call('HGET', dedup, live.k)
  if owner then
    reply[#reply + 1] = owner
    return 'D'
  end
  local stamp = stamp_of(now, turn)
  redis.call('SET', base .. 'j:' .. id, stamp .. work)
  redis.call('DEL', base .. 's:' .. id)
  if #stored > 0 then
    in_chunks('HSET', base .. 's:' .. id, stored)
  end
  if live.k then
    redis.call('HSET', dedup, live.k, id)
  end
  enter(id, stamp, live)
  return 'C'
end

for i = 1, count do
  local id, work = take(), take()
  turn = turn + 1
  codes[i] = create(id, work, fields_of(tonumber(take())))
end
in_chunks('ZADD', ready, line)
in_chunks('ZADD', delayed, timetable)
in_chunks('ZADD', blocked, held)
wake(#line / 2 + (due_before(soonest) and 1 or 0))
reply[1] = table.concat(codes)
remember(now, cjson.encode(reply))
return reply
