-- Create jobs, or name the owner of an id or deduplication key.
--
-- KEYS: base, work, live, ready, delayed, blocked, dedup, sequence, settings, marker, ops
-- ARGV: origin, number, count, items...
--   item: id, work, state. The state of a plain waiting job is ''; else its letter, `1` if notes
--   follow (their count, then field and value pairs), and its fields; the field `d`, milliseconds
--   until a delayed job is due, becomes `r`, the instant.
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
--! include live
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
local turn = redis.call('INCRBY', sequence, count) - count
local reply, codes, keys = {''}, {}, {}
local line, timetable, held, new_work, new_live = {}, {}, {}, {}, {}
local soonest = math.huge

local function append(list, first, second)
  list[#list + 1] = first
  list[#list + 1] = second
end

local function enter(id, stamp, state, fields)
  if state == 'd' then
    fields.r = fields.r or digits(now + fields.d)
    fields.d = nil
    append(timetable, fields.r, stamp .. id)
    soonest = math.min(soonest, fields.r)
  elseif state == 'b' then
    append(held, now, stamp .. id)
  else
    append(line, (fields.l and front or back)(tonumber(fields.p or PRIORITY), turn), id)
  end
end

local function create_live(i, id, stamp)
  local state, flag = string.sub(states[i], 1, 1), string.sub(states[i], 2, 2)
  local fields = parse(string.sub(states[i], 3))
  local owner = fields.k and (keys[fields.k] or redis.call('HGET', dedup, fields.k))
  if owner then
    reply[#reply + 1] = owner
    return 'D'
  end
  if fields.k then
    keys[fields.k] = id
  end
  enter(id, stamp, state, fields)
  append(new_live, id, head(state, '00' .. flag, now, NOWHERE) .. NOBODY .. serialise(fields))
  return 'C'
end

local created = {}
for i = 1, count do
  local id = ids[i]
  turn = turn + 1
  if taken[i] or created[id] then
    codes[i] = 'U'
  else
    local stamp = stamp_of(now, turn)
    if states[i] == '' then
      append(line, PRIORITY * LINE + MIDDLE + turn, id)
      codes[i] = 'C'
    else
      codes[i] = create_live(i, id, stamp)
    end
    if codes[i] == 'C' then
      created[id] = true
      append(new_work, id, stamp .. works[i])
      if notes[i] then
        in_chunks('HSET', base .. 'n:' .. id, notes[i])
      end
    end
  end
end
in_chunks('HSET', work, new_work)
in_chunks('HSET', live, new_live)
for key, id in pairs(keys) do
  redis.call('HSET', dedup, key, id)
end
in_chunks('ZADD', ready, line)
in_chunks('ZADD', delayed, timetable)
in_chunks('ZADD', blocked, held)
wake(#line / 2 + (due_before(soonest) and 1 or 0))
reply[1] = table.concat(codes)
remember(now, cjson.encode(reply))
return reply
