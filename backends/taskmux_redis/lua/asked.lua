-- Tell which held jobs are asked to cancel.
--
-- KEYS: base
-- ARGV: items...
--   item: id, fence
-- Returns: a letter a lease: C asked to cancel, H otherwise.
--! include arguments

local codes = {}
while items < #ARGV do
  local id, fence = take(), take()
  local live = redis.pcall('HMGET', base .. 's:' .. id, 's', 'f', 'z')
  local asked = not live.err and live[1] == 'a' and live[2] == fence and live[3]
  codes[#codes + 1] = asked and 'C' or 'H'
end
return table.concat(codes)
