-- Tell what a waiting job stands behind.
--
-- KEYS: base, work, live, ready, grouped, ring, parked, leases, settings, gate
-- ARGV: id
-- Returns: {ahead, line waiting, line active, active, lines, queue opens in, line opens in}; false
--   if the job is not waiting.
--! include clock
--! include chunks
--! include stamp
--! include live
--! include lines

local now = clock()
--! include gates

local job, state = redis.call('HGET', work, id), redis.call('HGET', live, id)
local fields = state and parse(fields_text(state)) or {}
local line = state and (fields.g or '') or group_in(job or '', STAMP)
local ahead = redis.call('ZRANK', line_key(line), id)
if not (job and ahead) then
  return false
end

local function group_of(of)
  local known = of and parse(fields_text(of))
  return known and known.g or ''
end

local function lines_waiting()
  local twice = redis.call('ZSCORE', ring, '') and redis.call('ZSCORE', parked, '')
  local known = redis.call('ZCARD', ring) + redis.call('ZCARD', parked) - (twice and 1 or 0)
  return math.max(1, known) -- its own has a turn again soon, whatever became of that
end

-- How many of a line are active. A group knows whose leases to look for; for the common line all
-- active jobs of the queue are looked at.
local function count_active()
  local count, active = 0, redis.call('ZRANGE', line == '' and leases or running_key(line), 0, -1)
  if line == '' then
    for _, of in ipairs(look_up(live, active)) do
      count = count + (group_of(of) == '' and 1 or 0)
    end
    return count
  end
  for _, of in ipairs(active) do
    count = count + (redis.call('ZSCORE', leases, of) and 1 or 0)
  end
  return count
end

local set = redis.call('HMGET', settings, 'limits', 'groups', 'l:' .. line)
local own = limits_of(line, set[3], set[2])
return {ahead, redis.call('ZCARD', line_key(line)), count_active(), redis.call('ZCARD', leases),
  lines_waiting(),
  opens_at(limits_in(set[1]).rate, gate_in(redis.call('GET', gate))) - now,
  opens_at(own.rate, gate_in(redis.call('GET', gate_key(line)))) - now}
