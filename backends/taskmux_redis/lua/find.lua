-- Read one page of the jobs in one state.
--
-- KEYS: base, work, live, index, leases
-- ARGV: state, newest, score, member, limit
--   score and member: the last entry of the page before; '' for the first page
-- Returns: {score, member, row...}: the cursor of the next page (false: this was the last), then
--   as `lib/rows.lua` makes them, false where an index names a job that is not there.
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

local members = state == 'a' and active_by_stamp()
local size = members and #members or redis.call('ZCARD', index)

local function entry(rank)
  if members then
    return '0', members[rank + 1]
  end
  local found = redis.call('ZRANGE', index, rank, rank, 'WITHSCORES')
  return found[2], found[1]
end

-- The rank of the first entry beyond the cursor, or of the cursor's own place with `inclusive`.
local function rank_of_cursor(inclusive)
  local low, high, after = 0, size, tonumber(score)
  while low < high do
    local middle = math.floor((low + high) / 2)
    local at, name = entry(middle)
    at = tonumber(at)
    if at > after or (at == after and (name > member or (inclusive and name == member))) then
      high = middle
    else
      low = middle + 1
    end
  end
  return low
end

local rank, step = 0, 1
if newest == '1' then
  rank, step = (score == '' and size or rank_of_cursor(true)) - 1, -1
elseif score ~= '' then
  rank = rank_of_cursor(false)
end
local reply = {false, false}
local last_score, last_member
for _ = 1, tonumber(limit) do
  if rank < 0 or rank >= size then
    break
  end
  last_score, last_member = entry(rank)
  local id = BY_STAMP[state] and string.sub(last_member, STAMP + 1) or last_member
  reply[#reply + 1] = row(id, redis.call('HGET', work, id), redis.call('HGET', live, id))
  rank = rank + step
end
if last_score and rank >= 0 and rank < size then
  reply[1], reply[2] = last_score, last_member
end
return reply
