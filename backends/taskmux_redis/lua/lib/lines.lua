-- Waiting jobs stand in lines, by place: those of the common line, whose name is '', in `ready`;
-- those of a group in `line:<name>`, and for reading in order over all lines in `grouped`.
--
-- `ring` has the lines that may give, by their turns. `parked` has those that a claim found may
-- not, by the instant at which they are looked at again: +inf for a paused line. The instant of a
-- line that is only full is negative: such a line is let go when one of its jobs ends, and looked at
-- then in case a lease vanished, so no worker is told to come for it. One set and not two, because a
-- line is in one place then, and one range of it (-now to now) finds all whose time has come.
-- (The common line may be in both `ring` and `parked`: then the ring counts.)
-- Needs: base, ready, grouped, ring, parked; chunks.lua.

-- The group of a job. Its length and name stand before the packed work, whose first byte is no
-- digit. `at`: where the stamp, if any, ends.
local function group_in(job, at)
  if (string.byte(job, at + 1) or 255) > 57 then
    return ''
  end
  local length = tonumber(string.sub(job, at + 1, at + 3))
  return length and string.sub(job, at + 4, at + 3 + length) or ''
end

local function line_key(line)
  return line == '' and ready or base .. 'line:' .. line
end

-- The active jobs of a group, by when a claim last saw their lease. `leases` is the truth.
local function running_key(line)
  return base .. 'running:' .. line
end

-- A line that has its first job goes behind the others.
local function take_turn(line, turn)
  if line == '' or not redis.call('ZSCORE', parked, line) then
    redis.call('ZADD', ring, 'NX', turn, line)
  end
end

local function join(line, score, id, turn)
  redis.call('ZADD', line_key(line), score, id)
  if line ~= '' then
    redis.call('ZADD', grouped, score, id)
  end
  take_turn(line, turn)
end

-- A line that has no job left has no turn.
local function quit(line, id)
  redis.call('ZREM', line_key(line), id)
  if line ~= '' then
    redis.call('ZREM', grouped, id)
  end
  if redis.call('EXISTS', line_key(line)) == 0 then
    redis.call('ZREM', ring, line)
    redis.call('ZREM', parked, line)
  end
end

-- Let a parked line come back behind the others; returns how many did.
local function readmit(line, turn)
  if redis.call('ZREM', parked, line) == 0 then
    return 0
  end
  redis.call('ZADD', ring, turn, line)
  return 1
end
