-- Apply guarded transitions in order.
--
-- KEYS: base, work, live, ready, grouped, ring, parked, delayed, blocked, leases, completed, dead,
--   cancelled, moved, counted, ages, dedup, sequence, gate, full, marker, ops, settings, events, numbers
-- ARGV: origin, number, shapes, changes, count, plan, items...
--   plan: for each transition its shape (3 digits), the fields that it sets (3), its fence (13),
--   the lengths of its id (4) and of what it sets of its own (10), the id, and fields of its own;
--   items: the shapes, what transitions of this batch share: states, cause, to, run_at, delay,
--   place, age, keep, flags, unset (letters of the fields to drop); of the flags, `r` removes, `f`
--   asks an active job to cancel, for the reason among the fields, `z0` `z1` `g0` `g1` set whether it is asked to and has started,
--   `h` and `l` let the queue or the job's line rest for the milliseconds that follow;
--   then the fields to set, as live strings have them; then what events tell beside the state: a
--   transition's place, from 1, and text. Without states, the fence is the guard.
-- Returns: two letters a transition: A applied, S stale, G gone, C conflict, Q requested,
--   P repeated; then the state, or `-` for none.
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
--! include tell

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
local FINISHED, AT = field('e', digits(now)), string.format('%013.0f', now)

local sub, format = string.sub, string.format
--! include plan
local states, found = {}, look_up(live, ids)
for i = 1, count do
  states[ids[i]] = found[i]
end

-- Under maxmemory Redis refuses a script whose first write may need memory and lets one go on
-- whose first write frees some. Finished work must always be settled.
local was_full = redis.call('DEL', full) == 1
local turn = redis.call('INCRBY', sequence, count) - count
if turn == 0 then
  redis.call('DEL', sequence) -- no job was ever pushed here, and `push.lua` tells that by this key
end

-- Writes are collected and go as one command a key. A job that comes up a second time finds the
-- indexes as its first transition left them.
local leaving, entering, gone, written, touched = {}, {}, {}, {}, {}
local finished, freed, woken, stopped, soonest = {}, {}, 0, 0, math.huge
local item, stays = 0, {}

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

local function stamp_for(id)
  return sub(redis.call('HGET', work, id) or '', 1, STAMP)
end

-- A job stopped running: its line may give again.
local function stop(line, id)
  stopped = stopped + 1
  leave(leases, id)
  if line ~= '' then
    leave(running_key(line), id)
    if not freed[line] then
      freed[line] = true
      woken = woken + readmit(line, turn)
    end
  end
end

local function leave_state(state, job, id)
  if state == 'w' then
    quit(job.line, id)
  elseif state == 'a' then
    stop(job.line, id)
  else
    leave(INDEX[state], BY_STAMP[state] and stamp_for(id) .. id or id)
  end
  if FINAL[state] then
    leave(counted, id)
  end
end

-- What jobs with a deduplication key need.
local keyed

local function with_key()
  if keyed then
    return keyed
  end
  local function state_of(id)
    if states[id] == nil then
      return redis.call('HGET', live, id)
    end
    return states[id]
  end
  local function put_state(id, state)
    states[id], written[id] = state, state
  end
--! include owners
  keyed = {let_go = let_go, take_again = take_again}
  return keyed
end

local function enter_line(way, job, id)
  local priority = tonumber(job.fields.p or PRIORITY)
  woken = woken + 1
  if way.place == 'keep' and job.last ~= NOWHERE then
    join(job.line, moved_to(priority, job.last), id, turn)
  else
    join(job.line, (way.place == 'front' and front or back)(priority, turn), id, turn)
  end
end

local function enter_final(way, state, id)
  -- 2,048 finishes of one millisecond keep their order: exact until the year 2109
  enter(FINAL[state], now * 2048 + turn % 2048, id)
  local age = way.keep == '' and way.age or way.age .. 'c'
  local list = finished[age] or {}
  finished[age] = list
  list[#list + 1] = AT .. id
end

local function finish(way, state, job, id)
  enter_final(way, state, id)
  if way.keep ~= '' then
    enter(counted, now, id)
    job.text = job.text .. field('t', way.keep)
    job.fields.t = way.keep
  end
  job.text = job.text .. FINISHED
  job.fields.e = digits(now)
end

local function enter_state(way, state, job, id)
  if state == 'w' then
    enter_line(way, job, id)
  elseif state == 'd' then
    job.fields.r = way.run_at ~= '' and way.run_at or digits(now + way.delay)
    job.dirty = true
    soonest = math.min(soonest, job.fields.r)
    enter(delayed, job.fields.r, stamp_for(id) .. id)
  elseif state == 'b' then
    local stamp = stamp_for(id)
    enter(blocked, created(stamp), stamp .. id)
  elseif FINAL[state] then
    finish(way, state, job, id)
  end
end

-- Merge the fields to set and to drop. A job that finishes at its first run has none before:
-- then their text is taken as it is.
local function change(way, job, target, setting, unset)
  job.flags = (way.asked or sub(job.flags, 1, 1))
    .. (way.started or sub(job.flags, 2, 2)) .. sub(job.flags, 3)
  if job.text == '' and unset == '' and FINAL[target] and way.to == target then
    job.text = setting
    return
  end
  for name, value in pairs(parse(setting)) do
    job.fields[name] = value
  end
  for letter in string.gmatch(unset, '.') do
    job.fields[letter] = nil
  end
  job.dirty = true
end

local function save(job, id, state)
  local text = job.dirty and serialise(job.fields) or job.text
  local value = head(state, job.flags, job.fence, job.last) .. job.worker .. text
  states[id] = value
  written[id] = value
end

local function let_rest(way, line)
--! include gates
  if way.rest then
    rest(gate, now + way.rest)
  else
    rest(gate_key(line), now + way.rest_line)
  end
end

-- Who asked to cancel a job said why: that stays if it is cancelled for it, and goes if it
-- completes. Returns what is set and what is dropped then.
local function without_reason(way, target, setting)
  local fields = parse(setting)
  fields.u = nil
  return serialise(fields), string.gsub(way.unset, 'u', '') .. (target == 'c' and 'u' or '')
end

local function move(way, job, id, target, setting)
  local state, priority, unset = job.state, job.fields.p, way.unset
  local is_asked = state == 'a' and sub(job.flags, 1, 1) == '1'
  stays[item] = state == target or nil
  if is_asked and (target == 'c' or (target == 'k' and way.to ~= 'k')) then
    setting, unset = without_reason(way, target, setting)
  end
  change(way, job, target, setting, unset)
  if way.to ~= '' and not (target == 'a' and state == 'a') then
    if state == 'w' then
      job.last = redis.call('ZSCORE', line_key(job.line), id) or NOWHERE
    elseif state == 'a' then
      job.worker = NOBODY
      job.flags = sub(job.flags, 1, 1) .. '0' .. sub(job.flags, 3)
    elseif FINAL[state] then
      job.fields.e, job.fields.t, job.dirty = nil, nil, true
    end
    if target ~= 'b' and job.fields.c then
      job.fields.c, job.dirty = nil, true
    end
    if not (state == 'w' and target == 'w') then -- or else a line that it stays in keeps its turn
      leave_state(state, job, id)
    end
    enter_state(way, target, job, id)
  elseif state == 'w' and job.fields.p ~= priority then
    local score = redis.call('ZSCORE', line_key(job.line), id)
    join(job.line, moved_to(tonumber(job.fields.p or PRIORITY), score), id, turn)
  end
  if way.rest or way.rest_line then
    let_rest(way, job.line)
  end
  save(job, id, target)
end

local function allows(way, fence, job)
  if way.states == '' then
    return job.state == 'a' and tonumber(fence) == job.fence
  end
  if way.to == 'a' and job.state ~= 'a' then
    return false -- only a claim makes a job active: without a lease it would be stuck
  end
  if not string.find(way.states, job.state, 1, true) then
    return false
  end
  return way.cause == '' or job.state ~= 'b' or job.fields.c == way.cause
end

-- The job as it is now, or nil if there is none.
local function load(id)
  local state = states[id]
  if not state then
    local job = not gone[id] and redis.call('HGET', work, id)
    local fence = job and tonumber(sub(job, 1, 13))
    local line = fence and group_in(job, STAMP)
    return fence and {state = 'w', flags = '000', fence = fence, last = NOWHERE, worker = NOBODY,
      line = line, text = line == '' and '' or field('g', line),
      fields = {g = line ~= '' and line or nil}}
  end
  local text = fields_text(state)
  local fields, fence = parse(text), tonumber(sub(state, 5, 17))
  if not (fields and fence and INDEX[sub(state, 1, 1)]) then
    return nil
  end
  return {state = sub(state, 1, 1), flags = sub(state, 2, 4), fence = fence, last = sub(state, 18, 33),
    worker = sub(state, 34, #state - #text), line = fields.g or '', text = text, fields = fields}
end

local function remove(job, id)
  leave_state(job.state, job, id)
  redis.call('HDEL', work, id)
  redis.call('HDEL', live, id)
  if sub(job.flags, 3) == '1' then
    redis.call('DEL', base .. 'n:' .. id)
  end
  keep_fence(job.fence, now)
  states[id], written[id], gone[id] = false, nil, true
  if job.fields.k then
    with_key().let_go(job.fields.k, id, true)
  end
  return 'A-'
end

local function target_of(way, job)
  if way.to == '' then
    return job.state
  end
  local asked = sub(job.flags, 1, 1) == '1'
  if job.state == 'a' and asked and way.to ~= 'a' and not FINAL[way.to] then
    return 'k'
  end
  return way.to
end

--! include plain_end

local function settle(way, id, fence, setting, kind)
  local code = finish_plainly(way, id, fence, setting, kind)
  if code then
    return code
  end
  local job = load(id)
  if not job then
    return 'G-'
  elseif way.flag and job.state == 'a' then
    job.flags = '1' .. sub(job.flags, 2)
    job.fields.u = parse(setting).u or job.fields.u
    job.dirty = true
    save(job, id, 'a')
    return 'Qa'
  elseif not allows(way, fence, job) then
    return 'S' .. job.state
  elseif way.remove then
    return remove(job, id)
  end
  local target, key = target_of(way, job), job.fields.k
  local was_final = FINAL[job.state]
  if key and was_final and not FINAL[target] and not with_key().take_again(key, id) then
    return 'C' .. job.state
  end
  move(way, job, id, target, setting)
  if key and FINAL[target] and not was_final then
    with_key().let_go(key, id)
  end
  return 'A' .. target
end

local codes = {}
for i = 1, count do
  local id, at = ids[i], starts[i]
  if touched[id] then
    flush()
  end
  touched[id] = true
  turn, item = turn + 1, i
  local kind = sub(plan, at, at + 5)
  local setting = sets[sub(kind, 4)]
  codes[i] = settle(ways[sub(kind, 1, 3)], id, sub(plan, at + 6, at + 18),
    owns[i] and setting .. owns[i] or setting, kind)
end
flush()
-- Retention comes before the state: an entry without the state says nothing, but a state without the
-- entry would stay for ever.
for age, list in pairs(finished) do
  redis.call('ZADD', ages, string.match(age, '^%d+'), age)
  in_chunks('RPUSH', base .. 'age:' .. age, list)
end
local values = {}
for id, value in pairs(written) do
  values[#values + 1] = id
  values[#values + 1] = value
end
in_chunks('HSET', live, values)
if was_full and stopped == 0 then
  redis.call('SET', full, 1)
end
wake(woken + (was_full and stopped or 0) + (due_before(soonest) and 1 or 0))
local reply = table.concat(codes)
remember(now, reply)
for i in pairs(stays) do
  codes[i] = '--'
end
local letters = next(stays) and table.concat(codes) or reply
if string.find(letters, 'A', 1, true) then
  tell(redis.call('HGET', settings, 'events'), now, 'c', letters, ids, unpack(ARGV, items + 1))
end
return reply
