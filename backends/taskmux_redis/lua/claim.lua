-- Lease waiting jobs to a worker, in order.
--
-- KEYS: base, ready, delayed, leases, sequence, settings, marker, corrupt, ops, replies
-- ARGV: origin, number, worker, limit, lease, start, promote
-- Returns: {now, next due instant or false, blocked by, repeated, job...}
--   job: {id, string, fence, fields and values of the hash as they were before}; of a repeat:
--   as they are, and the lease's end
--
-- The first write frees memory, so a full store can still be drained.
--! include clock
--! include chunks
--! include memory
--! include order
--! include stamp
--! include records
--! include wake

local now = clock()

local function answer(blocked_by, repeated, jobs)
  local first = redis.call('ZRANGE', delayed, 0, 0, 'WITHSCORES')
  local reply = {now, first[2] or false, blocked_by, repeated}
  for i = 1, #jobs do
    reply[4 + i] = jobs[i]
  end
  return reply
end

-- The same jobs again, as far as they are still held under the same fence.
local function again(known)
  local jobs, held = {}, cjson.decode(known)
  for i = 1, #held, 2 do
    local id, fence = held[i], held[i + 1]
    local job, live = read(id)
    if job and field(live, 's') == 'a' and field(live, 'f') == fence then
      jobs[#jobs + 1] = {id, job, fence, live, redis.call('ZSCORE', leases, id)}
    end
  end
  return answer(false, 1, jobs)
end

local function promote_due()
  local due = redis.call('ZRANGEBYSCORE', delayed, '-inf', now, 'LIMIT', 0, promote)
  if #due == 0 then
    return
  end
  redis.call('ZREM', delayed, unpack(due))
  local turn = redis.call('INCRBY', sequence, #due) - #due
  local line = {}
  for i = 1, #due do
    local id = string.sub(due[i], STAMP + 1)
    local live = redis.pcall('HMGET', base .. 's:' .. id, 's', 'p', 'l')
    if live.err or live[1] ~= 'd' then
      set_aside(id, now)
    else
      local place = live[3] and front or back
      redis.call('HSET', base .. 's:' .. id, 's', 'w')
      line[#line + 1] = place(tonumber(live[2] or PRIORITY), turn + i)
      line[#line + 1] = id
    end
  end
  in_chunks('ZADD', ready, line)
end

local function lease_out()
  local jobs, held, until_then = {}, {}, {}
  local rounds = 0
  limit, start = tonumber(limit), tonumber(start)
  repeat
    local popped = redis.call('ZPOPMIN', ready, limit - #jobs)
    for i = 1, #popped, 2 do
      local id, job, live = popped[i], read(popped[i])
      if not job then
        set_aside(id, now)
      else
        local fence = (#live > 0 and field(live, 'f') or created(job)) + 1
        local started = #jobs < start and 1 or 0
        redis.call('HSET', base .. 's:' .. id,
          's', 'a', 'f', fence, 'w', worker, 'g', started, 'q', popped[i + 1])
        jobs[#jobs + 1] = {id, job, fence, live}
        held[#held + 1] = id
        held[#held + 1] = string.format('%.0f', fence)
        until_then[#until_then + 1] = now + lease
        until_then[#until_then + 1] = id
      end
    end
    rounds = rounds + 1
  until #popped == 0 or #jobs == limit or rounds == 100
  in_chunks('ZADD', leases, until_then)
  return jobs, held
end

local known = recall()
if known then
  return again(known)
end
if redis.call('HGET', settings, 'paused') == '1' then
  return answer('paused', 0, {})
end
promote_due()
local jobs, held = lease_out()
-- What this claim leaves behind wakes another waiter, and its claim the next.
if redis.call('ZCARD', ready) > 0 then
  wake(1)
else
  redis.call('DEL', marker)
end
remember(now, cjson.encode(held))
return answer(false, 0, jobs)
