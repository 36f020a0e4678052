-- Renew leases.
--
-- KEYS: base, leases
-- ARGV: lease, items...
--   item: id, fence
-- Returns: a letter a lease: H held, C held and asked to cancel, L lost.
--! include clock
--! include arguments
--! include chunks

local now = clock()
local codes, until_then = {}, {}
-- A full store refuses a script whose first write may need memory; a lease must be kept then too.
redis.call('ZREM', leases, '')
while items < #ARGV do
  local id, fence = take(), take()
  local live = redis.pcall('HMGET', base .. 's:' .. id, 's', 'f', 'z')
  if live.err or live[1] ~= 'a' or live[2] ~= fence then
    codes[#codes + 1] = 'L'
  else
    codes[#codes + 1] = live[3] and 'C' or 'H'
    until_then[#until_then + 1] = now + lease
    until_then[#until_then + 1] = id
  end
end
in_chunks('ZADD', leases, until_then)
return table.concat(codes)
