-- Store a queue's settings if the revision is the stored one.
--
-- KEYS: settings, marker
-- ARGV: rev, token, paused, moved, data
-- Returns: 1 if they were stored (also by this very call before its reply was lost), else 0.
--! include wake

local stored = redis.call('HMGET', settings, 'rev', 'token')
if stored[2] == token then
  return 1
end
if tonumber(stored[1] or 0) ~= tonumber(rev) then
  return 0
end
redis.call('HSET', settings, 'rev', rev + 1, 'token', token, 'paused', paused, 'data', data)
if moved == '' then
  redis.call('HDEL', settings, 'moved')
else
  redis.call('HSET', settings, 'moved', moved)
end
wake(1)
return 1
