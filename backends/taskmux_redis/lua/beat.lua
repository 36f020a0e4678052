-- Record a worker's heartbeat, and hand over what it was told.
--
-- KEYS: workers, about, told, given
-- ARGV: worker, ttl, data, token
--   data: the worker's own account; '' when it is going
-- Returns: {whether the worker was known, command...}, oldest first; a repeat with the same token
--   is given the same commands again.
--! include clock

local now = clock()
if data == '' then
  redis.call('ZREM', workers, worker)
  redis.call('HDEL', about, worker)
  redis.call('DEL', told, given)
  return {1}
end
local was_known = redis.call('ZADD', workers, now + ttl, worker) == 0 and 1 or 0
redis.call('HSET', about, worker, string.format('%013.0f', now) .. data)
for _, key in ipairs({workers, about}) do
  if redis.call('PTTL', key) < tonumber(ttl) then
    redis.call('PEXPIRE', key, ttl)
  end
end
if redis.call('LRANGE', given, 0, 0)[1] == token then
  return {was_known, unpack(redis.call('LRANGE', given, 1, -1))}
end
local commands = redis.call('LRANGE', told, 0, -1)
redis.call('DEL', told, given)
if #commands > 0 then
  redis.call('RPUSH', given, token, unpack(commands))
  redis.call('PEXPIRE', given, ttl)
end
return {was_known, unpack(commands)}
