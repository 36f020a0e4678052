-- Read one page of the jobs in one state.
--
-- KEYS: base, work, live, grouped, leases
-- ARGV: index, state, newest, score, member, limit, looks, task, tag, cause, error
--   index: the name of the sorted set that has the jobs of this state;
--   score and member: the last entry of the page before; '' for the first page;
--   looks: how many entries are looked at for the `limit` rows;
--   task, tag, cause, error: what the stored strings of a wanted job have in them, or ''
-- Returns: {now, score, member, row...}: the cursor of the next page (false: this was the last),
--   then as `lib/rows.lua` makes them, false where an index names a job that is not there. The
--   reader looks closer: what is wanted may stand in a payload, too.
--! include clock
--! include chunks
--! include stamp
--! include rows

local BY_STAMP = {d = true, b = true, a = true}

-- Leases are ordered by their end, which moves at every renewal, so a walk over active jobs goes
-- by creation. There are only as many as workers hold.
local function active_by_stamp()
  local ids, members = redis.call('ZRANGE', leases, 0, -1), {}
  local jobs = look_up(work, ids)
  for i = 1, #ids do
    if jobs[i] then
      members[#members + 1] = string.sub(jobs[i], 1, STAMP) .. ids[i]
    end
  end
  table.sort(members)
  return members
end

local function of_list(members)
  return {size = #members, at = function(rank)
    return 0, members[rank + 1]
  end}
end

local function of_key(key)
  return {size = redis.call('ZCARD', key), at = function(rank)
    local found = redis.call('ZRANGE', key, rank, rank, 'WITHSCORES')
    return tonumber(found[2]), found[1]
  end}
end

local function is_before(one, name, other, other_name)
  return one < other or (one == other and name < other_name)
end

-- The rank of the first entry beyond the cursor, or of the cursor's own place with `inclusive`.
local function rank_of_cursor(walk, inclusive)
  local low, high, after = 0, walk.size, tonumber(score)
  while low < high do
    local middle = math.floor((low + high) / 2)
    local at, name = walk.at(middle)
    if is_before(after, member, at, name) or (inclusive and name == member and at == after) then
      high = middle
    else
      low = middle + 1
    end
  end
  return low
end

local step = newest == '1' and -1 or 1

-- Go to an entry: its score and name, or none beyond the end.
local function go_to(walk, rank)
  walk.rank, walk.score, walk.name = rank, nil, nil
  if rank >= 0 and rank < walk.size then
    walk.score, walk.name = walk.at(rank)
  end
end

local function begin(walk)
  if step < 0 then
    go_to(walk, (score == '' and walk.size or rank_of_cursor(walk, true)) - 1)
  else
    go_to(walk, score == '' and 0 or rank_of_cursor(walk, false))
  end
  return walk
end

-- Waiting jobs stand in two indexes, which are walked side by side.
local walks = {begin(state == 'a' and of_list(active_by_stamp()) or of_key(base .. index))}
if state == 'w' then
  walks[2] = begin(of_key(grouped))
end

local function next_walk()
  local one, other = walks[1], walks[2]
  if not (other and other.name) then
    return one
  elseif not one.name then
    return other
  end
  local first = is_before(one.score, one.name, other.score, other.name)
  return first == (step > 0) and one or other
end

local function has(text, wanted)
  return wanted == '' or (text and string.find(text, wanted, 1, true))
end

local function is_wanted(job, state)
  return not job or (has(job, task) and has(job, tag) and has(state, cause) and has(state, error))
end

local reply = {clock(), false, false}
local last_score, last_member
local looked = 0
while looked < tonumber(looks) and #reply < limit + 3 do
  local walk = next_walk()
  if not walk.name then
    break
  end
  looked = looked + 1
  last_score, last_member = walk.score, walk.name
  local id = BY_STAMP[state] and string.sub(last_member, STAMP + 1) or last_member
  local job, now_live = redis.call('HGET', work, id), redis.call('HGET', live, id)
  if is_wanted(job, now_live) then
    reply[#reply + 1] = row(id, job, now_live)
  end
  go_to(walk, walk.rank + step)
end
if last_score and next_walk().name then
  reply[2], reply[3] = string.format('%.0f', last_score), last_member
end
return reply
