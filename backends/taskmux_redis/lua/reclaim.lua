-- Lease jobs whose lease lapsed to the caller, oldest lapse first.
--
-- KEYS: base, leases, corrupt, ops, replies
-- ARGV: origin, number, worker, limit, lease
-- Returns: {job...}
--   job: {id, string, the former holder, fields and values of the hash, the lease's end}
--! include clock
--! include chunks
--! include memory
--! include records

local now = clock()

local function again(known)
  local jobs, before = {}, cjson.decode(known)
  for i = 1, #before, 3 do
    local id, fence, holder = before[i], before[i + 1], before[i + 2]
    local job, live = read(id)
    if job and field(live, 's') == 'a' and field(live, 'f') == fence then
      jobs[#jobs + 1] = {id, job, holder, live, redis.call('ZSCORE', leases, id)}
    end
  end
  return jobs
end

local known = recall()
if known then
  return again(known)
end
local lapsed = redis.call('ZRANGEBYSCORE', leases, '-inf', now, 'LIMIT', 0, limit)
in_chunks('ZREM', leases, lapsed)
local jobs, held, until_then = {}, {}, {}
for i = 1, #lapsed do
  local id, job, live = lapsed[i], read(lapsed[i])
  if not job or field(live, 's') ~= 'a' then
    set_aside(id, now)
  else
    local fence, holder = field(live, 'f') + 1, field(live, 'w')
    redis.call('HSET', base .. 's:' .. id, 'f', fence, 'w', worker)
    jobs[#jobs + 1] = {id, job, holder, redis.call('HGETALL', base .. 's:' .. id), now + lease}
    held[#held + 1] = id
    held[#held + 1] = string.format('%.0f', fence)
    held[#held + 1] = holder
    until_then[#until_then + 1] = now + lease
    until_then[#until_then + 1] = id
  end
end
in_chunks('ZADD', leases, until_then)
if #lapsed > 0 then
  remember(now, cjson.encode(held))
end
return jobs
