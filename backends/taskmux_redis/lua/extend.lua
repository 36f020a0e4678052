-- Renew leases.
--
-- KEYS: live, leases
-- ARGV: lease, items...
--   item: id, fence
-- Returns: a letter a lease: H held, C held and asked to cancel, L lost.
--! include clock
--! include chunks
--! include lease
--! include pairs

local now = clock()
local codes, until_then = {}, {}
local ids, fences, states = leases_asked()
for i = 1, #ids do
  if not is_held(states[i], fences[i]) then
    codes[i] = 'L'
  else
    codes[i] = is_asked(states[i]) and 'C' or 'H'
    until_then[#until_then + 1] = now + lease
    until_then[#until_then + 1] = ids[i]
  end
end
-- A full store refuses a script whose first write may need memory; a lease must be kept then too.
redis.call('ZREM', leases, '')
in_chunks('ZADD', leases, until_then)
return table.concat(codes)
