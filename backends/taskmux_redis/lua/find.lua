-- Read one page of the jobs in one state.
--
-- KEYS: base, index, leases
-- ARGV: state, newest, score, member, limit
--   score and member: the last entry of the page before; '' for the first page
-- Returns: {score, member, row...}: the cursor of the next page (false: this was the last), then
--   {id, string, lease end or false, fields and values}, or 0 where a record is unreadable.
--! include stamp
--! include records

local BY_STAMP = {d = true, b = true, a = true}

-- Leases are ordered by their end, which moves at every renewal, so a walk over active jobs goes
-- by creation. There are only as many as workers hold.
local function active_by_stamp()
  local ids, members = redis.call('ZRANGE', leases, 0, -1), {}
  for i = 1, #ids do
    local stamp = redis.pcall('GETRANGE', base .. 'j:' .. ids[i], 0, STAMP - 1)
    if type(stamp) == 'string' and #stamp == STAMP then
      members[#members + 1] = stamp .. ids[i]
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
  local job, live = read(id)
  reply[#reply + 1] = job and {id, job, redis.call('ZSCORE', leases, id), live} or 0
  rank = rank + step
end
if last_score and rank >= 0 and rank < size then
  reply[1], reply[2] = last_score, last_member
end
return reply
