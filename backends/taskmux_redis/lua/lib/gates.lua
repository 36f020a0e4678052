-- Gates: what rates and rests have left open, of the queue (`gate`) or a line (`gate:<line>`).
-- A gate is the level of its meter in jobs, the instant of that, and the end of a rest. Its key
-- expires once that says nothing any more. The arithmetic is that of taskmux.gcra: a bucket that
-- holds burst + 1, leaks at the even pace of the rate, and is filled by one with every start.
-- `rests` has the gates that rest, by when that ends, so that new settings find them.
-- Needs: base, now; live.lua for `digits`.
local EPSILON = 1e-6
local KEPT = 60000 -- milliseconds more, so that a slower rate set meanwhile counts what went
local FREE, OPEN = {}, {level = 0, at = 0, rests = 0}

local resting_gates = base .. 'rests'

local function gate_key(line)
  return base .. 'gate:' .. line
end

-- What holds for a queue or line, from its text in the settings.
local function limits_in(text)
  if not text then
    return FREE
  end
  local paused, most, count, per, burst = string.match(text, '^(%d):(%d*):(%d*):(%d*):(%d*)$')
  count = tonumber(count)
  local rate = count and {count = count, per = tonumber(per), burst = tonumber(burst)}
  return {paused = paused == '1', most = tonumber(most), rate = rate}
end

-- What holds for a line, by what its own field and that of every group say. The common line and
-- those of tasks (`@...`) are no groups.
local function limits_of(line, own, groups)
  if line == '' then
    return FREE
  end
  return limits_in(own or string.sub(line, 1, 1) ~= '@' and groups)
end

local function gate_in(text)
  if not text then
    return OPEN
  end
  local level, at, rests = string.match(text, '^(%S+) (%d+) (%d+)$')
  return {level = tonumber(level) or 0, at = tonumber(at) or 0, rests = tonumber(rests) or 0}
end

local function level(rate, gate)
  local full = math.min(gate.level, rate.burst + 1)
  return math.max(0, full - math.abs(now - gate.at) * rate.count / rate.per)
end

-- How many may start now.
local function room(rate, gate)
  if gate.rests > now then
    return 0
  end
  return rate and math.max(0, math.floor(rate.burst + 1 - level(rate, gate) + EPSILON))
    or math.huge
end

-- The instant from which one more may start.
local function opens_at(rate, gate)
  local over = rate and level(rate, gate) - rate.burst - EPSILON / 2 or 0
  return math.max(now, gate.rests, now + (rate and math.ceil(over * rate.per / rate.count) or 0))
end

local function store_gate(key, gate, lasts)
  local text = string.format('%.17g %.0f %.0f', gate.level, gate.at, gate.rests)
  redis.call('SET', key, text, 'PX', digits(math.max(lasts, gate.rests - now + KEPT, 1)))
end

-- Let so many start now; returns the gate as it is then.
local function spend(key, rate, gate, count)
  local spent = {level = level(rate, gate) + count, at = now, rests = gate.rests}
  store_gate(key, spent, math.ceil(spent.level * rate.per / rate.count) + KEPT)
  return spent
end

-- Let nothing start before an instant.
local function rest(key, ending)
  local gate = gate_in(redis.call('GET', key))
  local resting = {level = gate.level, at = gate.at, rests = math.max(gate.rests, ending)}
  store_gate(key, resting, redis.call('PTTL', key))
  redis.call('ZREMRANGEBYSCORE', resting_gates, '-inf', now)
  redis.call('ZADD', resting_gates, resting.rests, key)
  redis.call('PEXPIREAT', resting_gates, redis.call('ZRANGE', resting_gates, -1, -1, 'WITHSCORES')[2])
end

-- Let everything go that rests.
local function end_rests()
  for _, key in ipairs(redis.call('ZRANGE', resting_gates, 0, -1)) do
    local gate = gate_in(redis.call('GET', key))
    if gate.rests > now then
      gate.rests = 0
      store_gate(key, gate, redis.call('PTTL', key))
    end
  end
  redis.call('DEL', resting_gates)
end
