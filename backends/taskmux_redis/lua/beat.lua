-- Record a worker's heartbeat.
--
-- KEYS: workers, about
-- ARGV: worker, ttl, data
--   data: the worker's own account; '' when it is going
--! include clock

local now = clock()
if data == '' then
  redis.call('ZREM', workers, worker)
  redis.call('HDEL', about, worker)
  return
end
redis.call('ZADD', workers, now + ttl, worker)
redis.call('HSET', about, worker, string.format('%013.0f', now) .. data)
for _, key in ipairs(KEYS) do
  if redis.call('PTTL', key) < tonumber(ttl) then
    redis.call('PEXPIRE', key, ttl)
  end
end
