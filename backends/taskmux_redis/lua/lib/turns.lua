-- A claim of a queue with groups or limits: lines give by turns, as far as they may. This goes into
-- a function of `claim.lua`, so that a claim without them does not pay for making all this.
-- Needs: what claim.lua has; gates.lua.

-- Parked lines whose time has come go behind the others.
local function readmit_due()
  local due = redis.call('ZRANGEBYSCORE', parked, -now, now, 'LIMIT', 0, passed)
  if #due == 0 then
    return
  end
  redis.call('ZREM', parked, unpack(due))
  local turn, turns = redis.call('INCRBY', sequence, #due) - #due, {}
  for i = 1, #due do
    turns[2 * i - 1], turns[2 * i] = turn + i, due[i]
  end
  redis.call('ZADD', ring, unpack(turns))
end

-- -- which lines give -----------------------------------------------------------------------------

local PAGE = 1000
local SAMPLE, RECHECK, NEVER = 32, 1000, '9007199254740992'
local has_parked, others = false, 0
local to_pass = tonumber(passed)

-- Read the next lines of the ring, and what says whether each may give.
local function read_page(walk)
  local page = redis.call('ZRANGE', ring, walk.read, walk.read + walk.size - 1)
  walk.page, walk.at = page, 1
  walk.read, walk.all = walk.read + #page, #page < walk.size
  if page[1] == nil or (page[1] == '' and page[2] == nil) then
    walk.gates, walk.limits = {gates[2]}, {}
    return
  end
  local keys, limits = {}, {}
  for i = 1, #page do
    keys[i], limits[i] = gate_key(page[i]), 'l:' .. page[i]
  end
  walk.gates = redis.call('MGET', unpack(keys))
  walk.limits = (set[4] or set[5]) and look_up(settings, limits) or {}
end

-- How many of a line are active, counted by the leases, and until when that surely is so. Of a
-- long line only some are checked at a time, those seen longest ago first.
local function count_running(line, most)
  local key, ends, gone, seen = running_key(line), math.huge, {}, {}
  local count = redis.call('ZCARD', key)
  if count < most then
    return count
  end
  for _, id in ipairs(redis.call('ZRANGE', key, 0, SAMPLE - 1)) do
    local lease_end = redis.call('ZSCORE', leases, id)
    if lease_end then
      ends = math.min(ends, lease_end)
      seen[#seen + 1] = now
      seen[#seen + 1] = id
    else
      gone[#gone + 1] = id
    end
  end
  redis.call('ZREM', key, '', unpack(gone))
  if count > SAMPLE then
    in_chunks('ZADD', key, seen)
  end
  return count - #gone, ends
end

-- What the line that was read last may give.
local function look(line, walk)
  local at = walk.at - 1
  local own = limits_of(line, walk.limits[at], set[4])
  local one = {line = line, own = own, gate = gate_in(walk.gates[at]), given = 0, taken = 0,
    active = 0, left = redis.call('ZCARD', line_key(line))}
  one.room = own.paused and 0 or room(own.rate, one.gate)
  if one.room > 0 and own.most then
    one.active, one.ends = count_running(line, own.most)
    one.room = math.min(one.room, own.most - one.active)
  end
  return one
end

local function next_line(walk)
  if walk.at > #walk.page and not walk.all then
    read_page(walk)
  end
  if walk.at <= #walk.page then
    walk.at = walk.at + 1
    local one = look(walk.page[walk.at - 1], walk)
    walk.looked[#walk.looked + 1] = one
    return one
  end
  walk.first = walk.first + 1
  return walk.back[walk.first - 1]
end

local function is_alone(walk)
  return walk.all and walk.at > #walk.page and walk.first > #walk.back
end

-- Go round the ring until so many jobs are found. Lines that gave come `back` behind the others.
local function go_round(wanted)
  local walk = {size = math.min(wanted + 1, PAGE), read = 0, page = {}, at = 1, all = false,
    looked = {}, back = {}, first = 1, runs = {}}
  while wanted > 0 and to_pass > 0 do
    local one = next_line(walk)
    if not one then
      break
    end
    local may = math.min(one.room, one.left) - one.given
    if may > 0 then
      may = is_alone(walk) and math.min(may, wanted) or 1
      walk.runs[#walk.runs + 1] = {one, may}
      one.given, wanted = one.given + may, wanted - may
      if one.left > one.given then
        walk.back[#walk.back + 1] = one
      end
    else
      one.parks, to_pass = true, to_pass - 1
    end
  end
  return walk
end

-- Where a line that may not give is parked; nil if it may.
local function parking_place(one)
  if room(one.own.rate, one.gate) <= 0 then
    return digits(opens_at(one.own.rate, one.gate))
  elseif one.own.paused then
    return '+inf'
  elseif one.own.most and one.active + one.taken >= one.own.most then
    return digits(-math.max(now + RECHECK, one.ends or now + lease))
  end
end

-- Write what the round did to lines.
local function settle_lines(walk)
  local out, places, turns = {}, {}, {}
  for _, one in ipairs(walk.looked) do
    if one.own.rate and one.taken > 0 then
      one.gate = spend(gate_key(one.line), one.own.rate, one.gate, one.taken)
    end
    local place = one.parks and one.left > one.given and parking_place(one)
    if place or one.left <= one.given then
      out[#out + 1] = one.line
    end
    if place then
      places[#places + 1] = place
      places[#places + 1] = one.line
    end
  end
  local came_back = #walk.back - walk.first + 1
  if came_back > 0 and not (walk.all and walk.read == 1) then
    local turn = redis.call('INCRBY', sequence, came_back) - came_back
    for i = 1, came_back do
      turns[2 * i - 1], turns[2 * i] = turn + i, walk.back[walk.first + i - 1].line
    end
  end
  in_chunks('ZREM', ring, out)
  in_chunks('ZADD', ring, turns)
  in_chunks('ZADD', parked, places)
  has_parked = has_parked or #places > 0
  others = walk.all and walk.read - #out or redis.call('ZCARD', ring)
end

-- Take the jobs of a round out of their lines, in the order of the turns.
local function pop(walk)
  local ids, scores, owners, of_groups = {}, {}, {}, {}
  for _, one in ipairs(walk.looked) do
    one.popped, one.next = one.given > 0 and redis.call('ZPOPMIN', line_key(one.line), one.given), 1
    one.group = one.line ~= '' and field('g', one.line) or ''
    one.running = {}
  end
  for _, run in ipairs(walk.runs) do
    local one = run[1]
    for _ = 1, run[2] do
      local at = #ids + 1
      ids[at], scores[at], owners[at] = one.popped[one.next], one.popped[one.next + 1], one
      one.next = one.next + 2
      if one.line ~= '' then
        of_groups[#of_groups + 1] = ids[at]
      end
    end
  end
  in_chunks('ZREM', grouped, of_groups)
  return ids, scores, owners
end

-- Returns how many jobs of the round were unreadable.
local function take_round(wanted)
  local walk = go_round(wanted)
  local ids, scores, owners = pop(walk)
  local jobs, lives = look_up(work, ids), look_up(live, ids)
  local before = #leased / 2
  for i = 1, #ids do
    local one = owners[i]
    if not jobs[i] then
      set_aside(ids[i])
    elseif lease_out(ids[i], jobs[i], lives[i], scores[i], one.group) then
      one.taken = one.taken + 1
      if one.line ~= '' then
        one.running[#one.running + 1] = now
        one.running[#one.running + 1] = ids[i]
      end
    end
  end
  for _, one in ipairs(walk.looked) do
    in_chunks('ZADD', running_key(one.line), one.running)
  end
  settle_lines(walk)
  return #ids - (#leased / 2 - before)
end

-- -- the claim ------------------------------------------------------------------------------------

local all, gate_now = limits_in(set[3]), gate_in(gates[1])
local free = all.most and all.most - redis.call('ZCARD', leases) or math.huge
if free <= 0 then
  return blocked('concurrency')
end
local open = room(all.rate, gate_now)
if open <= 0 then
  return blocked('rate', opens_at(all.rate, gate_now))
end
local most = math.min(limit - (reply[5] == 1 and prefetch or 0), free, open)
if redis.call('ZCARD', parked) > 0 then
  has_parked = true
  readmit_due()
end
-- Unreadable jobs leave room for others, within a bound.
redis.call('ZREM', leases, '') -- a write that frees comes first: see `blocked`
for _ = 1, 100 do
  local missed = take_round(most - #leased / 2)
  save() -- a next round counts the leases of this one
  if missed == 0 then
    break
  end
end
if all.rate and #leased > 0 then
  spend(gate, all.rate, gate_now, #leased / 2)
end
-- What this claim leaves behind wakes another waiter, and its claim the next.
if others == 0 then
  redis.call('DEL', marker)
elseif #leased / 2 == free then
  redis.call('SET', full, 1)
else
  wake(1)
end
if #leased > 0 or most <= 0 then
  return answer()
elseif others > 0 then
  return answer(nil, now)
end
if not has_parked or redis.call('ZCARD', parked) == 0 then
  return answer()
end
local first = redis.call('ZRANGEBYSCORE', parked, '(0', NEVER, 'WITHSCORES', 'LIMIT', 0, 1)
return answer('lines', tonumber(first[2]))
